"""Building simulators: which units are made once, that the answer stays the same, and that programs are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.rtl.simulation import structure
from hetcc.backends.fpga.rtl.simulation.simulator import build_simulator
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.errors import ToolError
from hetcc.store import Store

COMMENT = "// what a large unit would say here\n"


def module(name: str, parts: tuple[str, ...] = (), lines: int = 0) -> str:
    """A module of some length, written as yosys writes it."""
    ports = "  input clk;\n  wire clk;\n  input [7:0] a__b;\n  input signed [3:0] \\x.y ;\n  output [7:0] out;\n"
    inside = "".join(f"  {part} \\U${at}  (\n    .clk(clk)\n  );\n" for at, part in enumerate(parts))
    # A name that is no word ends with a space.
    space = " " if name.startswith("\\") else ""
    return f"module {name}{space}(clk, a__b, \\x.y , out);\n{ports}{inside}{COMMENT * lines}endmodule\n"


LARGE = structure.BLOCK_BYTES // len(COMMENT) + 1
MANY = structure.SAVED_BYTES // structure.BLOCK_BYTES + 1
FILE = "".join((
    module("top", ("dot",) * MANY + ("add", "lonely")), module("dot", ("add", "\\dot.tail"), LARGE),
    module("\\dot.tail"), module("add", lines=10), module("lonely", lines=100 * LARGE)))


def test_modules_and_how_often_they_are_there() -> None:
    modules = structure.modules_of(FILE)
    assert list(modules) == ["top", "dot", "dot.tail", "add", "lonely"]
    assert modules["dot"].inputs == ["a__b", "\\x.y"]
    assert structure.instances_of(modules, "top") == {"top": 1, "dot": MANY, "dot.tail": MANY, "add": MANY + 1,
                                                      "lonely": 1}
    assert structure.instances_of(modules, "lonely") == {"lonely": 1}


def test_large_units_that_are_often_there_are_made_once() -> None:
    modules = structure.modules_of(FILE)
    assert structure.blocks_of(modules, "top") == ["dot"], "not what is small, and not what is there once"
    fewer = structure.modules_of(FILE.replace("  dot ", "  add ", 2))
    assert structure.blocks_of(fewer, "top") == [], "too little would be saved"
    odd = structure.modules_of(
        module("top", ("\\a.b",) * MANY) + module("\\a.b", ("dot",), 1) + module("dot", (), LARGE))
    assert structure.blocks_of(odd, "top") == ["dot"], "a name that is no word is no name of a library"
    text = structure.control_file(FILE, "top")
    assert text.startswith('`verilator_config\nhier_block -module "dot"\n')
    assert 'public_flat_rd -module "add" -var "a*b"' in text and 'public_flat_rd -module "dot*tail" -var "x*y"' in text
    assert '"lonely"' not in text and '"clk"' not in text


def test_memories_of_zeros_are_written_as_a_loop() -> None:
    from hetcc.backends.fpga.rtl.verilog import _with_loops

    def initial(*values: str) -> bytes:
        words = "".join(f"    \\m.x [{at}] = {value};\n" for at, value in enumerate(values))
        return f"  initial begin\n{words}  end\n  always @*\n".encode()

    zeros = _with_loops(initial("8'h00", "8'h00", "8'h00") + initial("8'h00", "8'h00"))
    assert zeros.count(b"for (at = 0; at < ") == 2 and b"at < 3; at = at + 1)\n      \\m.x [at] = 8'h00;\n" in zeros
    assert b"hetcc_zeros_0" in zeros and b"hetcc_zeros_1" in zeros
    for kept in (initial("8'h00"), initial("8'h00", "8'h01"), initial("8'h01", "8'h00")):
        assert _with_loops(kept) == kept


# ---- with Verilator


def kernel(folder: Path, store: Store | None) -> StageGraph:
    """A small kernel with units that stand in several places, its simulator built."""
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    graph = compose(sample.weighted_scan(1, 1, 4, 4, 32, 4))
    assert isinstance(graph, StageGraph)
    graph = replace(graph, parallel=Parallelism(2, 1, 1))
    build_kernel(write_kernel(graph, "small"), "small", graph, folder, store=store)
    return graph


def answer(graph: StageGraph, folder: Path) -> tuple[dict[str, bytes], int]:
    """What a run leaves in its buffers, compared with the functional model; and its cycles."""
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import run_kernel

    random = numpy.random.default_rng(3)
    got: dict[str, Any] = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        floats = buffer.element.is_floating and buffer.role is not BufferRole.OUTPUT
        got[buffer.name] = random.standard_normal(count).astype(kind) if floats else numpy.zeros(count, kind)
    expected = {name: content.copy() for name, content in got.items()}
    execute(graph, expected)
    done = run_kernel(graph, got, folder)
    for name, content in got.items():
        assert content.tobytes() == expected[name].tobytes(), name
    return {name: content.tobytes() for name, content in got.items()}, done.cycles[0]


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_libraries_of_units_change_no_bit_and_no_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, least in (("some", 4000), ("none", 10**9)):
        monkeypatch.setattr(structure, "BLOCK_BYTES", least)
        monkeypatch.setattr(structure, "SAVED_BYTES", least)
        graph = kernel(tmp_path / name, Store(tmp_path / "store"))
        libraries = [path for path in (tmp_path / name / "obj").iterdir() if path.name.startswith("Vhetcc_")
                     and path.is_dir()]
        assert bool(libraries) == (name != "none")
        found.append(answer(graph, tmp_path / name))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_a_built_simulator_is_kept_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    first = answer(kernel(tmp_path / "first", store), tmp_path / "first")
    called = []
    run = tools.run
    monkeypatch.setattr(tools, "run", lambda arguments, *rest: called.append(arguments[0]) or run(arguments, *rest))
    again = kernel(tmp_path / "again", store)
    assert called == []
    assert answer(again, tmp_path / "again") == first
    verilog = (tmp_path / "first" / "kernel.v").read_bytes()
    bench = (tmp_path / "first" / "bench.cpp").read_text()
    for text, code in ((verilog + b"// changed\n", bench), (verilog, bench + "// changed\n")):
        called.clear()
        build_simulator(text, "small", code, tmp_path / "changed", store=store)
        assert called == ["verilator", "make"]
    for path in (tmp_path / "store").iterdir():
        path.write_bytes(b"damaged")
    assert answer(kernel(tmp_path / "repaired", store), tmp_path / "repaired") == first


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_a_failing_build_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="HET-T002"):
        build_simulator(b"module small(clk);\n  input clk;\nendmodule\n", "small", "#error no bench\n", tmp_path / "a",
                        store=Store(tmp_path / "store"))
    with pytest.raises(ToolError, match="HET-T002"):
        build_simulator(b"no Verilog\n", "small", "", tmp_path / "b", store=Store(tmp_path / "store"))
    assert not list((tmp_path / "store").glob("*"))
