"""Kernels that write streams and sums: scores, pooled blocks, products with weights, attention; hardware and model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose import weights
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import choose
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.formats import format_of, with_policy
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.rtl import limits
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.samples.attention import fused_attention, memory_attention
from hetcc.backends.fpga.stages import attention, numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.packed import argument_of, pack
from hetcc.backends.fpga.stages.stage_graph import BufferRole, InnerProduct, Parallelism, StageGraph
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of

PATTERNS = ("random", "tied", "extreme")


def composed(region: Graph, policy: str = "exact") -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    graph = with_policy(graph, policy)
    assert isinstance(graph, StageGraph), graph
    return graph


def fill(pattern: str, count: int, random: numpy.random.Generator) -> numpy.ndarray:
    if pattern == "tied":
        return random.integers(-1, 2, count).astype(numpy.float32)
    if pattern == "extreme":
        return random.choice(numpy.array([1e-30, -1e-38, 1e-42, 3e38, math.inf, math.nan, 0.0, -0.0, 1.0],
                                         numpy.float32), count)
    if pattern == "-inf":
        return numpy.full(count, -math.inf, numpy.float32)
    if pattern == "empty":
        return numpy.zeros(count, numpy.float32)
    scales = 2.0 ** random.integers(-8, 9, count)
    return (random.standard_normal(count) * scales).astype(numpy.float32)


def buffers_of(graph: StageGraph, pattern: str, seed: int = 0) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    found = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif not argument_of(buffer).element.is_floating:
            found[buffer.name] = random.permutation(8)[:count].astype(kind)
        else:
            whole = argument_of(buffer)
            values = fill(pattern, math.prod(whole.shape), random)
            found[buffer.name] = values if buffer.packing is None else pack(buffer, values).reshape(-1)
    return found


def stored(graph: StageGraph, values: numpy.ndarray) -> numpy.ndarray:
    """What leaves the core, laid out as the only store writes it."""
    from hetcc.backends.fpga.rtl.memory.stream_output import stored_loops
    from hetcc.backends.fpga.stages.functional import addresses
    from hetcc.backends.fpga.stages.stage_graph import Store

    store = graph.of_kind(Store)[0]
    size = math.prod(graph.buffer(store.target.buffer).shape)
    out = numpy.zeros(size, numpy.uint32)
    loops = stored_loops(graph, store)
    where = numpy.broadcast_to(addresses(store.target, loops), [axis.extent for axis in loops])
    out[where.reshape(-1)] = values
    return out


def check(graph: StageGraph, pattern: str, *, stall: float = 0.0, lanes: int = 0, together: int = 1) -> list[int]:
    """The hardware in Amaranth's simulator against the functional model; cycles of each instance."""
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    buffers = buffers_of(graph, pattern)
    got = simulate(graph, {name: array.copy() for name, array in buffers.items()}, lanes or choose(graph).lanes,
                   stall=stall, seed=3, together=together)
    execute(graph, buffers)
    output = next(buffer.name for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT)
    values = numpy.concatenate([one.values for one in got])
    assert stored(graph, values).tolist() == buffers[output].view(numpy.uint32).tolist()
    return [one.cycles for one in got]


STREAMS = [
    (lambda: sample.score_scan(1, 4, 9), "exact", "random", 0.4, 1),
    pytest.param(lambda: sample.score_scan(4, 3, 6), "exact", "extreme", 0.0, 2, marks=pytest.mark.slow),
    (lambda: sample.score_scan(2, 4, 1), "exact", "random", 0.0, 1),
    (lambda: sample.score_scan(4, 5, 5, weighted=True), "quantised:int8", "tied", 0.4, 1),
    (lambda: sample.pooled_scan(3, 3, 4, "mean"), "exact", "random", 0.4, 1),
    pytest.param(lambda: sample.pooled_scan(3, 4, 3, "sum"), "exact", "extreme", 0.0, 1, marks=pytest.mark.slow),
    (lambda: sample.pooled_scan(2, 5, 2, "min"), "exact", "tied", 0.0, 1),
    (lambda: sample.weight_product(1, 16, 5), "exact", "random", 0.4, 1),
    # Long and packed rows.
    pytest.param(lambda: sample.weight_product(1, 20, 5, turned=False), "exact", "extreme", 0.0, 1,
                 marks=pytest.mark.slow),
    (lambda: sample.weight_product(1, 35, 5), "exact", "random", 0.4, 1),
    (lambda: sample.weight_product(1, 6, 7), "quantised:int8", "extreme", 0.4, 2),
    (lambda: sample.weight_product(1, 130, 5), "quantised:int8", "random", 0.0, 1),
    pytest.param(lambda: sample.weight_product(3, 64, 5, residual=False), "quantised:int8", "tied", 0.4, 2,
                 marks=pytest.mark.slow),
    pytest.param(lambda: sample.weight_product(1, 64, 5), "quantised:int16", "extreme", 0.0, 1, marks=pytest.mark.slow),
    (lambda: sample.weight_product(1, 1, 1), "quantised:int16", "random", 0.0, 1),
]


@pytest.mark.parametrize(("make", "policy", "pattern", "stall", "rows"), STREAMS)
def test_a_whole_stream_is_what_the_model_writes(make: Callable[[], Graph], policy: str, pattern: str, stall: float,
                                                 rows: int) -> None:
    graph = composed(make(), policy)
    assert limits.check(graph) is None
    check(graph, pattern, stall=stall, together=rows, lanes=4 if rows == 2 else 1)


ATTENTION = [
    ((1, 1, 3, 3, 5), "random", 0.0, 1), ((1, 1, 3, 2, 1), "random", 0.0, 1), ((2, 1, 2, 3, 6), "tied", 0.3, 1),
    ((1, 2, 2, 4, 3), "extreme", 0.0, 1), pytest.param((1, 2, 2, 18, 3), "random", 0.3, 1, marks=pytest.mark.slow),
    pytest.param((1, 4, 3, 5, 4), "random", 0.3, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sizes", "pattern", "stall", "lanes"), ATTENTION)
def test_a_weighted_sum_is_what_the_model_writes(sizes: tuple[int, ...], pattern: str, stall: float,
                                                 lanes: int) -> None:
    graph = composed(memory_attention(*sizes))
    assert limits.check(graph) is None
    check(graph, pattern, stall=stall, lanes=lanes)


def test_an_instance_that_is_all_masked_gives_zeros_where_the_operator_does() -> None:
    graph = composed(fused_attention(1, 1, 2, 3, 4))
    assert limits.check(graph) is None
    check(graph, "-inf")
    check(graph, "random")


def run_unit(unit: Any, *operands: numpy.ndarray) -> numpy.ndarray:
    """Results of a unit with ports ``a``, perhaps ``b``, and ``result``, one operand after another."""
    from amaranth.sim import Simulator

    results: list[int] = []

    async def bench(context: Any) -> None:
        for at in range(len(operands[0]) + unit.latency - 1):
            if at < len(operands[0]):
                for port, words in zip(("a", "b"), operands, strict=False):
                    context.set(getattr(unit, port), int(words[at]))
            await context.tick()
            results.append(context.get(unit.result))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return numpy.array(results[unit.latency - 1:], numpy.uint32)


EDGES = numpy.array([
    0, 0x80000000, 1, 0x7FFFFF, 0x800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
    0x7F800001, 0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0xC2AEAC4F, 0xC2AEAC51, 0x4B800000, 0xCB7FFFFF,
], numpy.uint32)


def test_the_exponential_unit_is_the_model() -> None:
    from hetcc.backends.fpga.rtl.units.exponential import Exponential

    random = numpy.random.default_rng(0)
    # Whole powers of two and their neighbours, where the fraction wraps.
    near = (numpy.arange(1, 130) * math.log(2)).astype(numpy.float32).view(numpy.uint32) - numpy.uint32(1)
    values = numpy.concatenate([random.uniform(0, 100, 300), 2.0 ** random.uniform(-30, 7.2, 300)])
    minus = numpy.uint32(1 << 31)
    words = numpy.concatenate([EDGES, (-values).astype(numpy.float32).view(numpy.uint32),
                               *((near + numpy.uint32(step)) | minus for step in (0, 1, 2))])
    expected = attention.exponential(numbers.flush(words.view(numpy.float32))).view(numpy.uint32)
    assert run_unit(Exponential(), words).tolist() == expected.tolist()


def test_the_divider_rounds_as_ieee_does() -> None:
    from hetcc.backends.fpga.rtl.units.divide import Divider

    random = numpy.random.default_rng(1)
    left, right = (random.integers(0, 2**32, 500, dtype=numpy.uint32) for _ in range(2))
    # Close significands: quotients next to one, also at the ends of the range.
    near = (left & 0x7FFFFF) | 0x00800000
    left = numpy.concatenate([EDGES.repeat(len(EDGES)), left, near, near])
    right = numpy.concatenate([numpy.tile(EDGES, len(EDGES)), right, near + 1 + 0x3F000000, near - 1 + 0x3F000000])
    got = run_unit(Divider(), left, right.astype(numpy.uint32))
    with numpy.errstate(all="ignore"):
        exact = numbers.flush(left.view(numpy.float32)) / numbers.flush(right.astype(numpy.uint32).view(numpy.float32))
        expected = numbers.canonical(numbers.flush(exact)).view(numpy.uint32)
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize(("count", "contexts"), [(2, 1), (7, 1), (8, 2), (5, 3)])
def test_terms_one_after_another_are_added_as_the_tree_adds_them(count: int, contexts: int) -> None:
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.units.fold import Fold
    from hetcc.backends.fpga.rtl.units.library import Library

    random = numpy.random.default_rng(count)
    sums = 3
    terms = random.choice(numpy.array([1e30, -1e30, 1.5, -0.0, 1e-3, 2.0**-126], numpy.float32),
                          (sums, count, contexts))
    unit, found = Fold(Library(shared=False), count, contexts), []

    async def bench(context: Any) -> None:
        words = iter(terms.reshape(-1).view(numpy.uint32).tolist())
        for _ in range(3 * terms.size + 60):
            here = next(words, None) if random.random() < 0.7 else None
            context.set(unit.valid, int(here is not None))
            context.set(unit.values, here or 0)
            if context.get(unit.out_valid):
                found.append(context.get(unit.sums))
            await context.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    expected = numpy.stack([numbers.tree_sum(one) for one in terms])
    assert found == expected.reshape(-1).view(numpy.uint32).tolist()


@pytest.mark.parametrize(("make", "rule"), [
    (lambda: sample.weight_product(16, 2**15, 2, residual=False), "stationary vectors"),
    (lambda: memory_attention(1, 1, 300, 4, 8), "adder tree"), (lambda: memory_attention(1, 1, 4, 300, 8), "too long"),
    (lambda: memory_attention(1, 8, 4, 4, 2**17), "do not fit on chip"),
    (lambda: sample.weight_product(2, 16, 8), "one value per row"),
])
def test_limits_of_the_hardware_are_said(make: Callable[[], Graph], rule: str) -> None:
    verdict = limits.check(composed(make()))
    assert isinstance(verdict, Rejected)
    assert rule in verdict.rule


def test_a_weight_has_few_rows_of_activations() -> None:
    verdict = compose(sample.weight_product(weights.MAX_ACTIVATION_ROWS + 1, 4, 4))
    assert isinstance(verdict, Rejected)
    assert "few rows" in verdict.rule


# ---- packed weights


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("policy", ["exact", "quantised:int8", "quantised:int16"])
def test_packing_a_weight_changes_no_bit(policy: str, turned: bool) -> None:
    region = sample.weight_product(3, 70, 9, turned=turned)
    packed = composed(region, policy)
    plain = compose(region)
    assert isinstance(plain, StageGraph)
    form = format_of(policy)
    plain = replace(plain, stages=tuple(replace(stage, format=form) if isinstance(stage, InnerProduct) else stage
                                        for stage in plain.stages))
    assert StageGraph.from_json(packed.to_json()) == packed
    results = []
    for graph in (plain, packed):
        random = numpy.random.default_rng(8)
        buffers = {}
        for buffer in graph.buffers:
            values = fill("random", math.prod(argument_of(buffer).shape), random)
            if buffer.role is BufferRole.WEIGHT:
                # Rows of subnormals and zeros, an infinity, a NaN, and one of small numbers.
                rows = values.reshape(9, 70) if turned else values.reshape(70, 9).T
                rows[0] *= 1e-41
                rows[1], rows[2, 5], rows[3, 6] = 0, math.inf, math.nan
                rows[4] *= 2.0**-120
            buffers[buffer.name] = values if buffer.packing is None else pack(buffer, values).reshape(-1)
        execute(graph, buffers)
        results.append(buffers[graph.buffers[-1].name].view(numpy.uint32).tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize(("policy", "error"), [("exact", 1e-6), ("quantised:int16", 5e-4), ("quantised:int8", 5e-2)])
def test_a_loaded_product_with_a_weight_is_near_float64(policy: str, error: float) -> None:
    region = sample.weight_product(2, 300, 40, turned=False)
    emitted = emit(region, "region", policy=policy)
    assert not isinstance(emitted, Rejected), emitted
    program = load_program(emitted.files, region)
    random = numpy.random.default_rng(3)
    arguments = {name: random.standard_normal(region.type_of(name).shape).astype(numpy.float32)
                 for name in interface_of(region)}
    wide = {name: array.astype(numpy.float64) for name, array in arguments.items()}
    expected = numpy.maximum(wide["x"] @ wide["weight"] + wide["residual"], 0)
    for _ in range(2):
        found = program.run(arguments)[region.outputs[0]]
        assert numpy.abs(found - expected).max() < error * math.sqrt(300)
    # Another weight under the same name is another table.
    arguments["weight"] = -arguments["weight"]
    expected = numpy.maximum(wide["residual"] - wide["x"] @ wide["weight"], 0)
    assert numpy.abs(program.run(arguments)[region.outputs[0]] - expected).max() < error * math.sqrt(300)


# ---- whole kernels on memory


def build(graph: StageGraph, folder: Path) -> None:
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    text = write_kernel(graph, "kernel_under_test")
    build_kernel(text, "kernel_under_test", graph, folder)


def compare(graph: StageGraph, folder: Path, pattern: str, **options: float) -> int:
    """Every buffer must be what the functional model leaves; cycles of the run."""
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import run_kernel

    got = buffers_of(graph, pattern)
    expected = {name: array.copy() for name, array in got.items()}
    execute(graph, expected)
    done = run_kernel(graph, got, folder, **options)  # type: ignore[arg-type]
    assert done.status == 0
    for name, array in got.items():
        assert array.tobytes() == expected[name].tobytes(), (pattern, name)
    return done.cycles[0]


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize(("make", "policy", "parallel"), [
    (lambda: sample.score_scan(4, 8, 150), "exact", Parallelism()),
    (lambda: sample.score_scan(4, 8, 70), "quantised:int8", Parallelism(4, 4, 2)),
    (lambda: sample.pooled_scan(8, 20, 4, "mean"), "exact", Parallelism()),
    (lambda: sample.weight_product(1, 24, 90), "exact", Parallelism()),
    (lambda: sample.weight_product(1, 272, 33), "exact", Parallelism(1, 3, 3)),
    (lambda: sample.weight_product(3, 30, 33, turned=False, residual=False), "exact", Parallelism(1, 2, 2)),
    (lambda: sample.weight_product(1, 200, 150), "quantised:int8", Parallelism(1, 4, 4)),
    (lambda: sample.weight_product(1, 128, 70), "quantised:int16", Parallelism()),
    (lambda: memory_attention(2, 2, 8, 20, 37, appended=True), "exact", Parallelism()),
    (lambda: memory_attention(1, 4, 16, 20, 67), "quantised:int8", Parallelism(2, 1, 2)),
])
def test_a_whole_kernel_writes_its_stream_to_memory(make: Callable[[], Graph], policy: str, parallel: Parallelism,
                                                    tmp_path: Path) -> None:
    graph = replace(composed(make(), policy), parallel=parallel)
    build(graph, tmp_path)
    for pattern in (*PATTERNS, "-inf", "empty"):
        compare(graph, tmp_path, pattern)
    compare(graph, tmp_path, "random", stall=0.4, seed=2)


@pytest.mark.parametrize("function", ["mean", "sum", "max", "min"])
def test_scores_and_pooled_scores_are_those_of_float64(function: str) -> None:
    for graph, pooled in ((composed(sample.score_scan(3, 4, 40)), False),
                          (composed(sample.pooled_scan(4, 10, 8, function)), True)):
        random = numpy.random.default_rng(9)
        # Small whole numbers, so that every sum is exact.
        buffers = {buffer.name: random.integers(-3, 4, math.prod(buffer.shape)).astype(numpy.float32)
                   for buffer in graph.buffers}
        query = buffers["arg0"].reshape(-1, 4).astype(float)
        scores = query @ buffers["arg1"].reshape(-1, 4).astype(float).T
        expected = getattr(scores.reshape(1, 10, 8), function)(axis=2) if pooled else scores * 0.5
        execute(graph, buffers)
        assert buffers["out0"].tolist() == expected.reshape(-1).tolist()
