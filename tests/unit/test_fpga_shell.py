"""The hardware around the streaming core: registers, memory map, and whole kernels on simulated memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.memory import memory_map as places
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import Layout, is_wide
from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.runs import runs_of
from hetcc.backends.fpga.stages.stage_graph import Access, Axis, BufferRole, Parallelism, StageGraph
from hetcc.backends.fpga.vendor import packaging
from hetcc.backends.fpga.xrt.simulated import SimulatedXrt, Simulators
from hetcc.errors import UserError
from hetcc.ir import Graph

MOST_NEGATIVE = -3.4028234663852886e38


def composed(region: Graph) -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    return graph


# ---- memory map


@pytest.mark.parametrize(("segments", "units", "unit_words", "groups", "per_group"), [
    (1, 1, 1, 1, 1), (1, 63, 1, 1, 8), (1, 100, 8, 3, 10), (2, 37, 8, 3, 8), (3, 5, 4, 6, 4), (2, 9, 8, 1, 2),
    (1, 2, 1, 24, 1), (2, 1, 8, 3, 10),
])
@pytest.mark.parametrize("dealt", [1, 4])
def test_parts_of_a_table_come_together_again(segments: int, units: int, unit_words: int, groups: int,
                                              per_group: int, dealt: int) -> None:
    units *= dealt
    size = segments * units * unit_words * 64 - (0 if segments > 1 else 4)
    layout = Layout(size, segments, units, unit_words, groups, per_group, dealt)
    content = numpy.random.default_rng(units).integers(1, 255, size).astype(numpy.uint8)
    parts = layout.deal(content)
    assert len(parts) == groups * per_group == layout.stripes
    assert {part.size for part in parts} == {layout.part_bytes}
    assert layout.gather(parts).tobytes() == content.tobytes()
    # Read the first segment as the hardware does: for every step each group's words, from its stripes in turn.
    taken = [0] * layout.stripes
    for step in range(layout.steps):
        for group in range(groups):
            for word in range(unit_words):
                stripe = group * per_group + (step * unit_words + word) % per_group
                unit = (step // dealt * groups + group) * dealt + step % dealt
                found = parts[stripe].reshape(-1, 64)[taken[stripe]]
                taken[stripe] += 1
                dense = content[(unit * unit_words + word) * 64:][:64] if unit < units else numpy.zeros(0, numpy.uint8)
                assert found[:dense.size].tobytes() == dense.tobytes()
                assert not found[dense.size:].any()
    assert taken == [layout.words_of(stripe) for stripe in range(layout.stripes)]


def test_every_pointer_has_a_register_and_a_pseudo_channel_of_its_master() -> None:
    graph = replace(composed(sample.weighted_scan()), parallel=Parallelism(1, 1, 4))
    memory = memory_map(graph)
    offsets = [argument.offset for argument in memory.arguments]
    assert offsets == [0x10 + 12 * at for at in range(len(offsets))]
    table = next(buffer.name for buffer in graph.buffers if buffer.role is BufferRole.TABLE)
    assert [argument.stripe for argument in memory.of_buffer(table)] == [0, 1, 2, 3]
    assert len({memory.masters[argument.master].bank for argument in memory.of_buffer(table)}) == 4
    assert [argument.name for argument in memory.arguments[-2:]] == [places.MAILBOX, places.MODE]


def test_metadata_connections_and_packaging_name_the_same_masters() -> None:
    graph = composed(sample.weighted_scan())
    memory = memory_map(graph)
    root = ElementTree.fromstring(packaging.kernel_xml(graph, "k"))
    ports = [port.get("name") for port in root.iter("port")]
    assert ports == ["s_axi_control", *(f"m_axi_{master.name}" for master in memory.masters)]
    for found, argument in zip(root.iter("arg"), memory.arguments, strict=True):
        assert (found.get("name"), int(str(found.get("offset")), 0)) == (argument.name, argument.offset)
        assert found.get("addressQualifier") == ("1" if argument.master >= 0 else "0")
        assert found.get("port") in ports
    connections = packaging.connectivity(graph, "k", 300e6).decode()
    script = packaging.package_script(graph, "k").decode()
    for master in memory.masters:
        assert f"sp=k_1.m_axi_{master.name}:HBM[{master.bank}]" in connections
        assert f"-busif m_axi_{master.name} -clock ap_clk" in script
    for argument in memory.arguments:
        assert f"ipx::add_register {argument.name} $block]\nset_property address_offset {argument.offset:#x}" in script


def test_neighbouring_elements_become_one_run() -> None:
    dense = Access("t", 3, (("a", 12), ("b", 4), ("c", 1)))
    loops = [Axis("a", 2), Axis("b", 3), Axis("c", 4)]
    found = runs_of(dense, (), loops)
    assert (found.offset, found.inner, found.elements) == (3, (), 24)
    turned = runs_of(Access("t", 0, (("a", 1), ("b", 2))), [Axis("i", 5)], loops[:2])
    assert (turned.outer, turned.inner, turned.elements) == (((5, 0),), ((2, 1), (3, 2)), 1)


# ---- registers


async def write(unit: Any, context: Any, address: int, data: int, strobe: int = 15) -> None:
    for port, value in ((unit.awvalid, 1), (unit.awaddr, address), (unit.wvalid, 1), (unit.wdata, data),
                        (unit.wstrb, strobe), (unit.bready, 1)):
        context.set(port, value)
    await context.tick()
    context.set(unit.awvalid, 0)
    await context.tick()
    context.set(unit.wvalid, 0)
    assert context.get(unit.bvalid)
    await context.tick()


async def read(unit: Any, context: Any, address: int) -> int:
    for port, value in ((unit.arvalid, 1), (unit.araddr, address), (unit.rready, 1)):
        context.set(port, value)
    await context.tick()
    context.set(unit.arvalid, 0)
    assert context.get(unit.rvalid)
    data = int(context.get(unit.rdata))
    await context.tick()
    return data


async def finish(unit: Any, context: Any) -> None:
    context.set(unit.done, 1)
    await context.tick()
    context.set(unit.done, 0)


def test_the_control_registers_follow_the_protocol() -> None:
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.control import AxiLiteControl

    unit = AxiLiteControl([(0x10, 64), (0x1C, 32)])

    async def bench(context: Any) -> None:
        assert await read(unit, context, 0) == 0b0100
        await write(unit, context, 0x10, 0x89ABCDEF)
        await write(unit, context, 0x14, 0x01234567)
        await write(unit, context, 0x14, 0xFF000000, 0b1000)
        assert context.get(unit.values[0]) == 0xFF23456789ABCDEF
        await write(unit, context, 0x1C, 7)
        assert await read(unit, context, 0x1C) == 7
        await write(unit, context, 8, 1)
        await write(unit, context, 4, 1)
        await write(unit, context, 0, 1)
        assert await read(unit, context, 0) == 0b0001
        assert not context.get(unit.interrupt)
        await finish(unit, context)
        assert context.get(unit.interrupt)
        assert await read(unit, context, 0) == 0b1110
        assert await read(unit, context, 0) == 0b0100
        await write(unit, context, 0xC, 1)
        assert not context.get(unit.interrupt)
        await write(unit, context, 0, 0x81)
        await finish(unit, context)
        assert context.get(unit.start)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


# ---- whole kernels


def buffers_of(graph: StageGraph, pattern: str, seed: int = 5) -> dict[str, numpy.ndarray]:
    """Buffers full of a pattern; positions are rows of the table."""
    random = numpy.random.default_rng(seed)
    found: dict[str, numpy.ndarray] = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif not buffer.element.is_floating:
            found[buffer.name] = random.permutation(8)[:count].astype(kind)
        elif pattern == "tied":
            found[buffer.name] = random.integers(-1, 2, count).astype(numpy.float32)
        elif pattern == "ascending":
            found[buffer.name] = numpy.linspace(0.5, 2.0, count).astype(numpy.float32)
        elif pattern == "empty":
            found[buffer.name] = numpy.zeros(count, numpy.float32)
        elif pattern == "-inf":
            found[buffer.name] = numpy.full(count, -math.inf, numpy.float32)
        else:
            found[buffer.name] = random.standard_normal(count).astype(numpy.float32)
    return found


def build(region: Graph, folder: Path, parallel: Parallelism) -> StageGraph:
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    graph = replace(composed(region), parallel=parallel)
    build_kernel(write_kernel(graph, "kernel_under_test"), "kernel_under_test", graph, folder)
    return graph


def compare(graph: StageGraph, folder: Path, pattern: str, **options: Any) -> Any:
    """Every buffer, the table and the inputs included, must be what the functional model leaves."""
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import run_kernel

    got = buffers_of(graph, pattern)
    expected = {name: array.copy() for name, array in got.items()}
    execute(graph, expected)
    done = run_kernel(graph, got, folder, **options)
    assert done.status == places.STATUS_COMPLETED
    for name, array in got.items():
        assert array.tobytes() == expected[name].tobytes(), (pattern, name)
    return done


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize(("make", "parallel", "wide"), [
    (lambda: sample.weighted_scan(2, 3, 2, 4, 64, 4), Parallelism(2, 1, 1), False),
    (sample.block_scan, Parallelism(1, 1, 1), False),
    (lambda: sample.single_scan(1, 1, 1), Parallelism(1, 1, 1), False),
    (lambda: sample.weighted_scan(1, 1, 2, 24, 40, 8), Parallelism(1, 1, 2), False),
    (lambda: sample.single_scan(16, 100, 5), Parallelism(1, 3, 6), True),
    (lambda: sample.weighted_scan(2, 2, 4, 32, 50, 4), Parallelism(2, 3, 9), True),
    (lambda: sample.block_scan(2, 64, 8, 4, 2), Parallelism(1, 2, 4), True),
    (lambda: sample.single_scan(4, 64, 4), Parallelism(1, 8, 4), True),
    (lambda: sample.bound_scan(16, 20, 4), Parallelism(1, 2, 4), True),
])
def test_a_kernel_on_memory_is_the_functional_model(make: Callable[[], Graph], parallel: Parallelism, wide: bool,
                                                    tmp_path: Path) -> None:
    graph = build(make(), tmp_path, parallel)
    assert (is_wide(graph) is not None) == wide
    for pattern in ("random", "tied", "ascending", "-inf", "empty"):
        compare(graph, tmp_path, pattern)
        compare(graph, tmp_path, pattern, persistent=True, runs=2)
    for seed in range(4):
        compare(graph, tmp_path, "random", stall=0.4, seed=seed)


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_a_small_kernel_runs_once_and_by_doorbell(tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import run_kernel

    graph = build(sample.weighted_scan(1, 1, 1, 4, 16, 2), tmp_path, Parallelism())
    once = compare(graph, tmp_path, "random")
    # The closed form has the mean wait for refreshes; a run this short may meet none.
    assert once.cycles[0] == pytest.approx(kernel_cycles(graph).cycles, rel=0.05)
    rung = compare(graph, tmp_path, "tied", persistent=True, runs=3, stall=0.2, seed=1)
    assert len(rung.cycles) == 3
    outside = buffers_of(graph, "random")
    position = next(buffer.name for buffer in graph.buffers if not buffer.element.is_floating)
    for row in (16, -1, 2**40):
        outside[position][:] = row
        before = {name: array.copy() for name, array in outside.items()}
        assert run_kernel(graph, outside, tmp_path).status == places.STATUS_POSITION
        assert all(array.tobytes() == before[name].tobytes() for name, array in outside.items())
    said = tools.run(["verilator", "--lint-only", "-Wall", "-Wno-fatal", "--top-module", "kernel_under_test",
                      "kernel.v"], tmp_path)
    assert "%Error" not in said


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_the_driver_runs_simulated_hardware_unchanged() -> None:
    from hetcc.backends.contract import EmittedRegion
    from hetcc.backends.fpga.emit import emit

    region = sample.weighted_scan(1, 1, 1, 4, 16, 2)
    emitted = emit(region, "region", with_verilog=True)
    assert isinstance(emitted, EmittedRegion)
    files = {path.rpartition("/")[2]: content for path, content in emitted.files.items()}
    random = numpy.random.default_rng(2)
    arguments = {name: random.standard_normal(region.type_of(name).shape).astype(numpy.float32)
                 for name in (*region.inputs, *region.caches)}
    arguments["positions"] = numpy.array([3], numpy.int64)
    simulated = load_program(files, region, SimulatedXrt(files, Simulators(), "region"))
    modelled = load_program(files, region)
    for got, expected in zip(simulated.run(arguments).values(), modelled.run(arguments).values(), strict=True):
        assert numpy.array_equal(got, expected)
    assert simulated.executed_stages == modelled.executed_stages
    assert simulated.simulated_cycles > 0 == modelled.simulated_cycles
    started, simulated.by_doorbell = simulated.simulated_cycles, True
    for got, expected in zip(simulated.run(arguments).values(), modelled.run(arguments).values(), strict=True):
        assert numpy.array_equal(got, expected)
    assert simulated.was_rung
    forms = kernel_cycles(simulated._graph)
    assert started == pytest.approx(forms.cycles, rel=0.05)
    assert simulated.simulated_cycles - started == pytest.approx(forms.doorbell_cycles, rel=0.15)
    simulated.close()
    arguments["positions"] = numpy.array([16], numpy.int64)
    with pytest.raises(UserError, match="HET-R002"):
        simulated.run(arguments)


@pytest.mark.requires_tool("verilator")
def test_a_kernel_without_verilog_cannot_be_simulated() -> None:
    with pytest.raises(UserError, match="HET-F001"):
        SimulatedXrt({}, Simulators(), "region")


def test_the_memory_model_leaves_what_is_published_for_sequential_reads() -> None:
    model = HbmModel()
    assert 0.91 < model.sequential_fraction < 0.94
    assert model.beat_cycles(300e6) == pytest.approx(1.44, abs=0.02)
    assert model.beat_cycles(100e6) == 1.0
