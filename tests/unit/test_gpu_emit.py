"""Compiling regions: once per distinct program, the same bytes every time, and no crash that spreads."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.gpu import modules, tools
from hetcc.backends.gpu.emit import emit_many
from hetcc.backends.gpu.importer import ERROR_SUFFIX
from hetcc.backends.gpu.modules import module_key
from hetcc.backends.gpu.refusals import may_pass_again
from hetcc.errors import ToolError, UserError
from hetcc.ir import DType, Graph, Node, Operand, OperatorClass, Role, SourceOperator, TensorType, Value
from hetcc.ir.serialize import graph_from_bytes, graph_to_bytes
from hetcc.ir.subgraph import digest_of
from hetcc.store import Store

REAL_TOOLS = pytest.mark.skipif(importlib.util.find_spec("torch_mlir") is None, reason="torch-mlir is not installed")


def region(operator: str = "relu", prefix: str = "", extent: int = 4) -> Graph:
    kind = TensorType((2, extent), DType.FLOAT32)
    node = Node(f"{prefix}n", SourceOperator("aten", operator, "default"), OperatorClass.ELEMENTWISE, (f"{prefix}x",),
                (f"{prefix}y",), (Operand(0),))
    values = {f"{prefix}x": Value(f"{prefix}x", kind, Role.INPUT), f"{prefix}y": Value(f"{prefix}y", kind)}
    return Graph(f"{prefix}region", (node,), values, (f"{prefix}x",), (f"{prefix}y",))


def program(folder: Path, *lines: str) -> str:
    """A stand-in for iree-compile: a shell script that is given the same arguments."""
    path = folder / "stand-in"
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


WRITES_ITS_ARGUMENTS = ('while [ "$1" != -o ]; do shift; done', 'echo module > "$2"')


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Puts a quick importer in place of torch-mlir's; the sizes of the batches it was given."""
    batches: list[int] = []

    def run_importer(pairs: Sequence[tuple[Path, Path]], timeout_s: float = 1.0) -> tools.Outcome:
        batches.append(len(pairs))
        for source, destination in pairs:
            operator = graph_from_bytes(source.read_bytes()).nodes[0].operator.name
            if operator == "crash":
                return tools.Outcome(False, "crashed with SIGSEGV")
            if operator == "refuse":
                Path(f"{destination}{ERROR_SUFFIX}").write_text("no lowering", encoding="utf-8")
            else:
                destination.write_text("module {}", encoding="utf-8")
        return tools.Outcome(True)

    monkeypatch.setattr(tools, "run_importer", run_importer)
    monkeypatch.setattr(tools, "require_tools", lambda: None)
    return batches


def test_equal_regions_are_compiled_once(tmp_path: Path, imported: list[int]) -> None:
    told = []
    results = emit_many({"a": region(), "b": region(prefix="other."), "c": region(extent=8)}, ("llvm-cpu",), jobs=1,
                        progress=lambda done, total, name: told.append((done, total, name)),
                        store=Store(tmp_path / "store"), compiler=program(tmp_path, *WRITES_ITS_ARGUMENTS))
    assert imported == [2]
    assert results["a"] == results["b"]
    assert isinstance(results["a"], EmittedRegion)
    assert isinstance(results["c"], EmittedRegion)
    assert results["a"].entry != results["c"].entry
    assert [entry[:2] for entry in told] == [(1, 2), (2, 2)]
    assert digest_of(region())[:24] in results["a"].entry


def test_a_crash_or_refusal_rejects_one_region_only(tmp_path: Path, imported: list[int]) -> None:
    regions = {name: region(name, extent=extent) for extent, name in enumerate(("relu", "crash", "refuse", "exp"), 4)}
    results = emit_many(regions, ("llvm-cpu",), jobs=1, store=Store(tmp_path / "store"),
                        compiler=program(tmp_path, *WRITES_ITS_ARGUMENTS))
    assert isinstance(results["relu"], EmittedRegion)
    assert isinstance(results["exp"], EmittedRegion)
    crash, refusal = results["crash"], results["refuse"]
    assert isinstance(crash, Rejected)
    assert isinstance(refusal, Rejected)
    assert "SIGSEGV" in crash.actual
    assert "no lowering" in refusal.actual
    assert len(imported) == 2, "what was behind the crash got a new child"


@pytest.mark.parametrize(("lines", "reason"), [
    (("kill -SEGV $$",), "crashed with SIGSEGV"),
    (("kill -ABRT $$",), "crashed with SIGABRT"),
    (("echo 'x.mlir:1:2: error: failed to legalize' >&2", "exit 1"), "failed to legalize"),
    (("exit 3",), "exit status 3"),
    (("exit 0",), "the compiler wrote no module"),
])
def test_every_way_a_compiler_can_fail(tmp_path: Path, imported: list[int], lines: tuple[str, ...],
                                       reason: str) -> None:
    result = emit_many({"a": region()}, ("gfx90a", "llvm-cpu"), jobs=1, store=Store(tmp_path / "store"),
                       compiler=program(tmp_path, *lines))["a"]
    assert isinstance(result, Rejected)
    assert "gfx90a" in result.rule
    assert reason in result.actual


def test_a_child_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    script = program(tmp_path, f'(sleep 1; touch "{mark}") &', "sleep 30")
    started = time.monotonic()
    outcome = tools.run_child([script], 0.2)
    assert time.monotonic() - started < 5
    assert outcome == tools.Outcome(False, "not finished after 0.2 s")
    time.sleep(1.2)
    assert not mark.exists()


def test_modules_come_from_the_store(tmp_path: Path, imported: list[int]) -> None:
    store = Store(tmp_path / "store")
    first = emit_many({"a": region()}, ("gfx90a", "llvm-cpu"), jobs=1, store=store,
                      compiler=program(tmp_path, *WRITES_ITS_ARGUMENTS))
    second = emit_many({"a": region()}, ("gfx90a", "llvm-cpu"), jobs=1, store=store, compiler="/nowhere")
    assert first == second
    assert imported == [1]


@pytest.mark.parametrize("operator", ["crash", "refuse"])
def test_what_the_importer_refused_is_not_tried_again(tmp_path: Path, imported: list[int], operator: str) -> None:
    store, told = Store(tmp_path / "store"), []
    compiler = program(tmp_path, *WRITES_ITS_ARGUMENTS)

    def emit(kept: Store) -> EmittedRegion | Rejected:
        return emit_many({"a": region(operator)}, ("gfx90a",), store=kept, compiler=compiler,
                         progress=lambda done, total, name: told.append(name))["a"]

    first = emit(store)
    assert isinstance(first, Rejected)
    assert emit(store) == first
    assert imported == [1]
    assert told == ["a", "a (refused before; --fresh tries it again)"]
    assert emit(Store(store.folder, fresh=True)) == first
    assert imported == [1, 1]


def test_what_the_compiler_refused_is_not_tried_again(tmp_path: Path, imported: list[int]) -> None:
    store, count = Store(tmp_path / "store"), tmp_path / "count"
    refuses = program(tmp_path, f'echo once >> "{count}"', "echo 'x.mlir:1:2: error: failed to legalize' >&2", "exit 1")
    first, second = (emit_many({"a": region()}, ("llvm-cpu",), store=store, compiler=refuses)["a"] for _ in range(2))
    assert isinstance(first, Rejected) and first == second
    assert count.read_text(encoding="utf-8") == "once\n"
    other = emit_many({"a": region()}, ("gfx90a",), store=store, compiler=program(tmp_path, *WRITES_ITS_ARGUMENTS))["a"]
    assert isinstance(other, EmittedRegion), "another target is another question"


def test_a_compiler_killed_from_outside_is_tried_again(tmp_path: Path, imported: list[int]) -> None:
    store = Store(tmp_path / "store")
    killed = emit_many({"a": region()}, ("llvm-cpu",), store=store, compiler=program(tmp_path, "kill -KILL $$"))["a"]
    assert isinstance(killed, Rejected) and "SIGKILL" in killed.actual
    again = emit_many({"a": region()}, ("llvm-cpu",), store=store,
                      compiler=program(tmp_path, *WRITES_ITS_ARGUMENTS))["a"]
    assert isinstance(again, EmittedRegion)


@pytest.mark.parametrize(("reason", "complained", "again"), [
    ("crashed with SIGSEGV", False, False), ("crashed with SIGKILL", True, True), ("crashed with SIGTERM", False, True),
    ("not finished after 900 s", False, False), ("failed to legalize", True, False),
    ("No module named 'torch_mlir'", False, True), ("exit status 3", False, True),
])
def test_which_refusals_are_kept(reason: str, complained: bool, again: bool) -> None:
    assert may_pass_again(reason, complained=complained) is again


def test_a_module_that_spills_is_compiled_another_way(tmp_path: Path, imported: list[int],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags of a retry end up in the module here, and 'split' ones spill less, but only the second not at all."""
    compiler = program(tmp_path, "flags=$*", 'while [ "$1" != -o ]; do shift; done', 'echo "$flags" > "$2"')
    tried: list[str] = []

    def spilled(module: bytes) -> int:
        tried.append(module.decode())
        return 0 if b"reduction=8" in module else 3 if b"reduction=4" in module else 7

    monkeypatch.setattr(modules, "spilled_registers", spilled)
    result = emit_many({"a": region()}, ("gfx90a", "llvm-cpu"), jobs=1, store=Store(tmp_path / "store"),
                       compiler=compiler)["a"]
    assert isinstance(result, EmittedRegion)
    kept = next(data for path, data in result.files.items() if path.endswith("gfx90a.vmfb"))
    assert b"reduction=8" in kept
    assert len(tried) == 3, "what does not spill ends the search, and the processor of the host has no retries"


def test_the_least_spills_win_when_all_spill(tmp_path: Path, imported: list[int],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = program(tmp_path, "flags=$*", 'case "$flags" in *reduction=8*) exit 1;; esac',
                       'while [ "$1" != -o ]; do shift; done', 'echo "$flags" > "$2"')
    monkeypatch.setattr(modules, "spilled_registers", lambda module: 3 if b"reduction=4" in module else 7)
    result = emit_many({"a": region()}, ("gfx90a",), jobs=1, store=Store(tmp_path / "store"),
                       compiler=compiler)["a"]
    assert isinstance(result, EmittedRegion)
    assert b"reduction=4" in next(data for path, data in result.files.items() if path.endswith("vmfb"))


def test_keys_tell_programs_targets_and_tools_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "toolchain_identity", lambda: "one")
    keys = {module_key(digest, tools.target_named(target)) for digest in ("a", "b") for target in tools.TARGETS}
    assert len(keys) == 2 * len(tools.TARGETS)
    monkeypatch.setattr(tools, "toolchain_identity", lambda: "two")
    assert module_key("a", tools.target_named("gfx90a")) not in keys


def test_targets_do_not_depend_on_the_machine() -> None:
    assert {"gfx90a", "gfx942", "sm_80", "sm_90", "llvm-cpu"} <= set(tools.TARGETS)
    assert not any("=host" in flag for target in tools.TARGETS.values() for flag in target.flags)
    assert [target.name for target in tools.TARGETS.values() if target.emulates] == ["llvm-cpu", "interpreter"]
    with pytest.raises(UserError, match="gfx90a"):
        tools.target_named("gfx000")


def test_a_missing_tool_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tools.iree_compile_path.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="iree-compile is not installed"):
        tools.require_tools()
    monkeypatch.undo()
    tools.iree_compile_path.cache_clear()


def test_regions_survive_the_wire() -> None:
    kind = TensorType((), DType.BFLOAT16)
    node = Node("n", SourceOperator("aten", "foo", "bar"), OperatorClass.OPAQUE, ("x",), ("y",),
                (Operand(0), None, True, 7, float("-inf"), "text", DType.INT8, (1, (Operand(0), 0.1))),
                (("dtype", DType.FLOAT16),), (("axes", (0, 1)), ("kind", "slice")))
    graph = Graph("g", (node,), {"x": Value("x", kind, Role.CACHE), "y": Value("y", kind)}, (), ("y",), ("x",))
    again = graph_from_bytes(graph_to_bytes(graph))
    assert again == graph
    assert digest_of(again) == digest_of(graph)
    assert again.nodes[0].arguments == node.arguments
    json.loads(graph_to_bytes(graph))


def test_the_importer_says_how_it_is_used() -> None:
    result = subprocess.run([sys.executable, "-m", "hetcc.backends.gpu.importer"], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 2
    assert "usage" in result.stderr


@REAL_TOOLS
def test_real_tools_give_the_same_bytes_in_every_folder(tmp_path: Path) -> None:
    regions = {"good": region("relu"), "bad": region("no_such_operator")}
    results = emit_many(regions, ("gfx90a", "llvm-cpu"), jobs=1, store=Store(tmp_path / "store"))
    good, bad = results["good"], results["bad"]
    assert isinstance(bad, Rejected)
    assert "no_such_operator" in bad.actual
    assert isinstance(good, EmittedRegion)
    assert good.engine == "iree llvm-cpu (emulated gpu)"
    stem = digest_of(regions["good"])[:24]
    assert set(good.files) == {f"{stem}.{target}.{kind}"
                               for target in ("gfx90a", "llvm-cpu") for kind in ("json", "vmfb")}
    assert good.entry == f"{stem}.llvm-cpu.json"
    digest = digest_of(regions["good"])
    folder = tmp_path / "another, longer name"
    folder.mkdir()
    pair = (folder / "region.json", folder / f"{digest}.mlir")
    pair[0].write_bytes(graph_to_bytes(region("relu", prefix="renamed.")))
    assert tools.run_importer([pair]).ok
    for target in ("gfx90a", "llvm-cpu"):
        module = folder / "module"
        assert tools.run_compiler(pair[1], module, tools.target_named(target)).ok
        assert module.read_bytes() == good.files[f"{stem}.{target}.vmfb"]


def test_a_linker_in_a_folder_with_a_space_gets_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once, also when several threads ask; the name has no white space and leads to the linker."""
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "iree-lld").write_text("the linker", encoding="utf-8")
    monkeypatch.setattr(tools, "iree_compile_path", lambda: str(folder / "iree-compile"))
    with ThreadPoolExecutor(8) as pool:
        flags = set(pool.map(lambda _: tools._linker_flags(), range(32)))
    (flag,), = flags
    name, _, path = flag.partition("=")
    assert name == "--iree-llvmcpu-embedded-linker-path"
    assert len(path.split()) == 1
    assert Path(path).read_text(encoding="utf-8") == "the linker"


def test_a_linker_elsewhere_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag is needed."""
    monkeypatch.setattr(tools, "iree_compile_path", lambda: "/usr/lib/iree/iree-compile")
    assert tools._linker_flags() == ()
