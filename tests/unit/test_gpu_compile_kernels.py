"""Triton kernels to code objects: once each, the same bytes everywhere, and what goes wrong costs only itself."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.gpu.kernels import toolchain
from hetcc.backends.gpu.kernels.code_object import CodeObject, Parameter
from hetcc.backends.gpu.kernels.compile import code_key, compile_launches
from hetcc.backends.gpu.kernels.launches import Launch, Scalar
from hetcc.backends.gpu.resources import argument_sizes
from hetcc.backends.gpu.tools import Outcome
from hetcc.errors import ToolError, UserError
from hetcc.store import Store

from corpus import triton_kernels as kernels

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of small kernels, on the path of this process and of its children."""
    folder = tmp_path_factory.mktemp("a")
    kernels.write_package(folder)
    use(folder, monkeypatch)
    yield folder
    toolchain.sources_digest.cache_clear()


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.sources_digest.cache_clear()
    monkeypatch.delitem(sys.modules, kernels.PACKAGE, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def compiled(launches: list[Launch], target: str, store: Path, **settings: object) -> list[CodeObject | Rejected]:
    found = compile_launches(launches, target, package=kernels.PACKAGE, store=Store(store), **settings)  # type: ignore[arg-type]
    return [found[launch.code_digest] for launch in launches]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[CodeObject | Rejected]]:
    """Three kernels on four targets."""
    folder = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        kernels.write_package(folder)
        use(folder, patch)
        launches = [kernels.scale(), kernels.product(32, 32, warps=2), kernels.numbers()]
        return {target: compiled(launches, target, folder / "store") for target in toolchain.TARGETS}


@pytest.mark.parametrize("target", toolchain.TARGETS)
def test_code_objects_of_every_target(objects: dict[str, list[CodeObject]], target: str) -> None:
    chip = toolchain.TARGETS[target]
    scale, product, numbers = objects[target]
    for code, name, warps in ((scale, "scale", 4), (product, "product", 2), (numbers, "numbers", 4)):
        assert (code.kind, code.target, code.symbol, code.warps) == (chip.kind, target, name, warps)
        assert code.threads == warps * chip.threads_per_warp
        assert code.content.startswith(b"\x7fELF")
        assert code.file_name.startswith(f"{name}.") and code.file_name.endswith(f".{target}.{chip.kind}")
        assert CodeObject.from_bytes(code.to_bytes()) == code
        assert CodeObject.from_facts(code.facts(), code.content) == code
    assert scale.shared_bytes == 0 and product.shared_bytes > 0
    machine = struct.unpack_from("<H", scale.content, 18)[0]
    assert machine == (224 if target.startswith("gfx") else 190)


@pytest.mark.parametrize("target", toolchain.TARGETS)
def test_arguments_are_where_a_launch_puts_them(objects: dict[str, list[CodeObject]], target: str) -> None:
    scale, _, numbers = objects[target]
    assert scale.parameters == (
        Parameter("x", "*fp32"), Parameter("y", "*fp32"), Parameter("n", "i32"), Parameter("factor", "fp32"),
        Parameter("global_scratch", "*i8"), Parameter("profile_scratch", "*i8"))
    assert scale.visible == scale.parameters[:4]
    assert argument_sizes(scale.content, "scale") == (8, 8, 4, 4, 8, 8)
    assert argument_sizes(numbers.content, "numbers") == (8, 1, 2, 8, 4, 4, 8, 8, 8)
    with pytest.raises(ToolError, match="holds no kernel 'other'"):
        argument_sizes(scale.content, "other")


def test_the_same_bytes_from_another_folder_cache_and_process(
        objects: dict[str, list[CodeObject]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.write_package(tmp_path / "somewhere else")
    use(tmp_path / "somewhere else", monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "other cache"))
    monkeypatch.setenv("DISABLE_PTXAS_OPT", "1")  # a person's settings do not reach the compiler
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for target in ("gfx90a", "sm_80"):
        again = compiled([kernels.product(32, 32, warps=2)], target, tmp_path / "store")
        assert again == objects[target][1:2]
        assert str(tmp_path).encode() not in objects[target][1].content
    assert not (tmp_path / "other cache").exists()


def test_equal_launches_are_compiled_once_and_found_again(tmp_path: Path) -> None:
    launches = [kernels.scale(), kernels.scale(value=7.0, grid=12), kernels.scale(block=512)]
    assert launches[0].code_digest == launches[1].code_digest != launches[2].code_digest
    told: list[tuple[int, int, str]] = []
    first = compiled(launches, "gfx90a", tmp_path, progress=lambda *facts: told.append(facts))
    assert first[0] is first[1] and first[0] != first[2]
    assert told == [(1, 2, "scale"), (2, 2, "scale")]
    assert len(list(tmp_path.iterdir())) == 2
    told.clear()
    assert compiled(launches, "gfx90a", tmp_path, progress=lambda *facts: told.append(facts), timeout_s=0) == first
    assert len(told) == 2
    assert compile_launches([], "gfx90a", store=Store(tmp_path)) == {}


def test_one_crash_and_one_hang_cost_only_themselves(tmp_path: Path) -> None:
    launches = [kernels.bad("wrong"), kernels.bad("f", "crashing"), kernels.scale(), kernels.bad("f", "hanging"),
                kernels.bad("missing"), kernels.scale(block=512)]
    wrong, crashing, scale, hanging, missing, other = compiled(launches, "gfx90a", tmp_path, jobs=1, timeout_s=8)
    assert isinstance(scale, CodeObject) and isinstance(other, CodeObject)
    for result, said in ((wrong, "arange's range must be a power of 2"), (crashing, "crashed with SIGABRT"),
                         (hanging, "not finished after 8 s"), (missing, "no_such_thing is not defined")):
        assert isinstance(result, Rejected)
        assert result.rule == "Triton does not compile the kernel" and said in result.actual, result


def test_what_a_block_cannot_hold_is_refused(tmp_path: Path) -> None:
    scale = kernels.scale()
    launches = [kernels.scale(warps=32), replace(scale, arguments=scale.arguments[:3]),
                replace(scale, function="no_such_function"),
                replace(scale, arguments=(*scale.arguments[:3], ("factor", Scalar(1.0, "fp33"))))]
    threads, short, unknown, typed = compiled(launches, "gfx90a", tmp_path, jobs=1)
    assert threads == Rejected("a block has too many threads for gfx90a", "1024", "2048")
    assert isinstance(short, Rejected) and "takes (x, y, n, factor, BLOCK); not matched: factor" in short.actual
    assert isinstance(unknown, Rejected) and "no_such_function" in unknown.actual
    assert isinstance(typed, Rejected) and "fp33" in typed.actual
    assert not list(tmp_path.glob("*.vmfb")), "no code is kept"


def test_what_was_refused_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = [kernels.bad("wrong"), kernels.scale(warps=32)]
    first = compiled(launches, "gfx90a", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "run_compiling_child", lambda *facts: pytest.fail("a child was started"))
        assert compiled(launches, "gfx90a", tmp_path) == first
    found = compile_launches(launches, "gfx90a", package=kernels.PACKAGE, store=Store(tmp_path, fresh=True))
    assert list(found.values()) == first, "tried again, with the same end"
    wider = replace(toolchain.TARGETS["gfx90a"], shared_limit_bytes=1 << 20)
    monkeypatch.setitem(toolchain.TARGETS, "gfx90a", wider)  # type: ignore[arg-type]
    monkeypatch.setattr(toolchain, "LAUNCH_THREADS_LIMIT", 4096)
    assert isinstance(compiled(launches[1:], "gfx90a", tmp_path)[0], CodeObject), "other limits are another question"


def test_a_child_killed_from_outside_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "run_compiling_child", lambda *facts: Outcome(False, "crashed with SIGKILL"))
        (killed,) = compiled([kernels.scale()], "gfx90a", tmp_path)
        assert isinstance(killed, Rejected) and "SIGKILL" in killed.actual
    assert isinstance(compiled([kernels.scale()], "gfx90a", tmp_path)[0], CodeObject)


def test_too_much_shared_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = replace(toolchain.TARGETS["gfx90a"], shared_limit_bytes=100)
    monkeypatch.setitem(toolchain.TARGETS, "gfx90a", tight)  # type: ignore[arg-type]
    (result,) = compiled([kernels.product(32, 32, warps=2)], "gfx90a", tmp_path)
    assert isinstance(result, Rejected) and result.rule == "a block has too much shared memory for gfx90a"
    assert result.limit == "100 bytes"


def test_the_key_follows_the_text_of_all_modules_involved(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = kernels.scale()

    def key(target: str = "gfx90a") -> str:
        toolchain.sources_digest.cache_clear()
        return code_key(launch, target, kernels.PACKAGE)

    first = key()
    assert first == key() != key("gfx942")
    folder = package / kernels.PACKAGE
    (folder / "bad.py").write_text(kernels.SOURCES["bad"] + "# not imported\n", encoding="utf-8")
    assert key() == first
    (folder / "shared.py").write_text(kernels.SOURCES["shared"] + "# imported by good\n", encoding="utf-8")
    assert key() != first
    monkeypatch.setattr(toolchain, "triton_version", lambda: "9")
    assert key() != first


def test_what_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Triton makes no code objects for 'llvm-cpu'"):
        compiled([], "llvm-cpu", tmp_path)
    with pytest.raises(UserError, match=r"no kernel module 'hetcc_test_kernels\.nowhere'"):
        compiled([replace(kernels.scale(), module="nowhere")], "gfx90a", tmp_path)
    toolchain.triton_version.cache_clear()

    def absent(name: str) -> str:
        raise toolchain.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(toolchain.importlib.metadata, "version", absent)
    with pytest.raises(ToolError, match="the package triton is not installed") as caught:
        compiled([kernels.scale()], "gfx90a", tmp_path)
    assert caught.value.code == "HET-T001"
    monkeypatch.undo()
    toolchain.triton_version.cache_clear()
