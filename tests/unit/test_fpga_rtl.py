"""The hardware against the functional model, bit for bit, in Amaranth's simulator and, as emitted, in Verilator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import choose
from hetcc.backends.fpga.costs.cycles import estimate_cycles
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.errors import UserError
from hetcc.ir import Graph

EDGES = numpy.array([
    0, 0x80000000, 1, 0x7FFFFF, 0x800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
    0x7F800001, 0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x00FFFFFF, 0x3EFFFFFF, 0x4B800000, 0xCB7FFFFF,
], numpy.uint32)
MINUS_INFINITY, MOST_NEGATIVE = -math.inf, -3.4028234663852886e38


def operand_pairs(count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """All pairs of edge values, random bits, near cancellations, and products around the smallest normal number."""
    random = numpy.random.default_rng(0)
    left = random.integers(0, 2**32, 3 * count, dtype=numpy.uint32)
    right = random.integers(0, 2**32, 3 * count, dtype=numpy.uint32)
    near = random.integers(-(1 << 23), 2 << 23, count).astype(numpy.uint32)
    right[count:2 * count] = (left[count:2 * count] ^ 0x80000000) + near
    with numpy.errstate(all="ignore"):
        tiny = (numpy.float32(2.0**-126) / left[2 * count:].view(numpy.float32)).view(numpy.uint32)
    right[2 * count:] = tiny + random.integers(-2, 3, count).astype(numpy.uint32)
    return (numpy.concatenate([EDGES.repeat(len(EDGES)), left]),
            numpy.concatenate([numpy.tile(EDGES, len(EDGES)), right]))


def run_unit(unit: Any, left: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray:
    from amaranth.sim import Simulator

    results: list[int] = []

    async def bench(context: Any) -> None:
        for at in range(len(left) + unit.latency - 1):
            if at < len(left):
                context.set(unit.a, int(left[at]))
                context.set(unit.b, int(right[at]))
            await context.tick()
            results.append(context.get(unit.result))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return numpy.array(results[unit.latency - 1:], numpy.uint32)


@pytest.mark.parametrize(("name", "function"), [("Multiplier", numpy.multiply), ("Adder", numpy.add)])
def test_units_agree_with_ieee_and_flush(name: str, function: Callable[..., numpy.ndarray]) -> None:
    from hetcc.backends.fpga.rtl.units import fp32

    left, right = operand_pairs(700)
    got = run_unit(getattr(fp32, name)(), left, right)
    with numpy.errstate(all="ignore"):
        exact = function(numbers.flush(left.view(numpy.float32)), numbers.flush(right.view(numpy.float32)))
        expected = numbers.canonical(numbers.flush(exact)).view(numpy.uint32)
    wrong = numpy.flatnonzero(got != expected)
    assert not len(wrong), [tuple(map(hex, (left[at], right[at], got[at], expected[at]))) for at in wrong[:5]]


# ---- whole kernels


def composed(region: Graph) -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    return graph


def buffers_of(graph: StageGraph, pattern: str) -> dict[str, numpy.ndarray]:
    """Buffers full of a pattern; positions are distinct rows."""
    random = numpy.random.default_rng(4)
    found: dict[str, numpy.ndarray] = {}
    for buffer in graph.buffers:
        count = math.prod(buffer.shape)
        kind = numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif not buffer.element.is_floating:
            found[buffer.name] = random.permutation(8)[:count].astype(kind)
        else:
            found[buffer.name] = fill(pattern, count, random)
    if pattern in ("masked", "all masked"):
        mask = next(buffer for buffer in reversed(graph.buffers) if buffer.role is BufferRole.INPUT
                    and buffer.shape[-1] == math.prod(axis.extent for axis in graph.keys))
        values = found[mask.name]
        values[:] = 0
        values[:: 2 if pattern == "masked" else 1] = MOST_NEGATIVE
        values[1::5] = MINUS_INFINITY
    return found


def fill(pattern: str, count: int, random: numpy.random.Generator) -> numpy.ndarray:
    if pattern == "ascending":
        return numpy.linspace(0.5, 2.0, count).astype(numpy.float32)
    if pattern == "equal":
        return numpy.ones(count, numpy.float32)
    if pattern == "tied":
        return random.integers(-1, 2, count).astype(numpy.float32)
    if pattern == "extreme":
        return random.choice(numpy.array([1e-30, -1e-38, 1e-42, 3e38, math.inf, math.nan, 0.0, -0.0, 1.0],
                                         numpy.float32), count)
    return random.standard_normal(count).astype(numpy.float32)


def check(graph: StageGraph, simulate: Callable[[dict[str, numpy.ndarray]], list[Any]], pattern: str) -> list[Any]:
    """What the hardware selected must be what the functional model wrote."""
    buffers = buffers_of(graph, pattern)
    got = simulate({name: array.copy() for name, array in buffers.items()})
    execute(graph, buffers)
    outputs = [buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT]
    for buffer in outputs:
        stored = buffers[buffer.name].reshape(len(got), -1)
        for instance, expected in zip(got, stored, strict=True):
            if buffer.element.is_floating:
                assert numpy.array_equal(instance.values, expected.view(numpy.uint32)), pattern
            else:
                assert numpy.array_equal(instance.indices, expected), pattern
    return got


@pytest.mark.parametrize("pattern", ["random", "tied", "masked", "all masked", "ascending", "equal", "extreme"])
def test_a_kernel_is_the_functional_model(pattern: str) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(sample.weighted_scan(1, 1, 2, 4, 16, 4))
    check(graph, lambda buffers: simulate(graph, buffers, 2), pattern)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_bits_do_not_depend_on_the_lanes(lanes: int) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(sample.weighted_scan(1, 1, 4, 3, 9, 3))
    check(graph, lambda buffers: simulate(graph, buffers, lanes), "random")


@pytest.mark.parametrize("make", [
    sample.single_scan, lambda: sample.single_scan(5, 7, 7), sample.onnx_scan, lambda: sample.bound_scan(4, 10, 3),
    lambda: sample.block_scan(1, 3, 4, 3, 2, "max"), lambda: sample.block_scan(1, 3, 4, 3, 2, "sum"),
    lambda: sample.weighted_scan(1, 1, 2, 17, 5, 2), lambda: sample.weighted_scan(2, 1, 2, 2, 8, 2),
    pytest.param(lambda: sample.single_scan(272, 5, 3), marks=pytest.mark.slow),
    pytest.param(lambda: sample.weighted_scan(1, 1, 2, 258, 8, 3), marks=pytest.mark.slow),
])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_every_form_streams_with_and_without_pauses(make: Callable[[], Graph], stall: float) -> None:
    from hetcc.backends.fpga.rtl import limits
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(make())
    assert limits.check(graph) is None
    check(graph, lambda buffers: simulate(graph, buffers, choose(graph).lanes, stall=stall, seed=1), "random")


def test_rows_pass_at_the_estimated_rate() -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    cycles = {}
    for rows in (16, 48):
        graph = replace(composed(sample.single_scan(4, rows, 2)), parallel=Parallelism())
        cycles[rows] = simulate(graph, buffers_of(graph, "random"), 1)[0].cycles
        # The estimate adds the memory latency that an ideal memory does not have.
        assert cycles[rows] <= estimate_cycles(graph).cycles
    assert cycles[48] - cycles[16] == 32 * estimate_cycles(graph).row_interval_cycles


@pytest.mark.parametrize(("make", "rule"), [
    (lambda: sample.single_scan(depth=2**15 + 16), "too long"), (lambda: sample.bound_scan(depth=300), "whole rows"),
    (lambda: sample.bound_scan(depth=3), "whole rows"),
    (lambda: sample.block_scan(blocks=2, block=128), "reduced together"),
])
def test_limits_of_the_hardware_are_said(make: Callable[[], Graph], rule: str) -> None:
    from hetcc.backends.fpga.rtl import limits

    verdict = limits.check(composed(make()))
    assert isinstance(verdict, Rejected)
    assert rule in verdict.rule
    from hetcc.backends.fpga.rtl import verilog

    with pytest.raises(UserError, match="HET-F001"):
        verilog.write(composed(make()), "kernel", 1)


@pytest.mark.parametrize("together", [1, 2])
def test_rows_without_an_inner_product_pass_whole(together: int) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(sample.bound_scan(4, 8, 3))
    check(graph, lambda buffers: simulate(graph, buffers, 1, together=together), "extreme")


def test_page_bounds_are_those_of_binary64() -> None:
    graph = composed(sample.bound_scan(8, 40, 5))
    random = numpy.random.default_rng(9)
    # Small whole numbers, so that every sum is exact and ties occur.
    buffers = {buffer.name: random.integers(-3, 4, math.prod(buffer.shape)).astype(numbers.storage_type(buffer.element))
               for buffer in graph.buffers}
    query, bounds = buffers["arg0"].astype(float), buffers["arg1"].reshape(40, 2, 8).astype(float)
    expected = numpy.argsort(-(bounds * query).max(axis=1).sum(axis=1), kind="stable")[:5]
    execute(graph, buffers)
    assert buffers["out1"].tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_the_emitted_file_is_the_functional_model(tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl import verilog
    from hetcc.backends.fpga.rtl.cores.top import StreamCore
    from hetcc.backends.fpga.rtl.simulation import verilate
    from hetcc.backends.fpga.rtl.units.library import Library

    graph = composed(sample.weighted_scan(2, 1, 4, 4, 64, 8))
    lanes = 2
    text = verilog.write(graph, "kernel_under_test", lanes)
    assert text == verilog.write(graph, "kernel_under_test", lanes)
    core = StreamCore(graph, Library(shared=True), lanes)
    core._MustUse__used = True  # type: ignore[attr-defined] # only its port widths are needed
    verilate.build(text, "kernel_under_test", core, tmp_path)
    for pattern in ("random", "tied", "masked", "ascending", "extreme"):
        check(graph, lambda buffers: verilate.run(graph, buffers, core, tmp_path), pattern)
