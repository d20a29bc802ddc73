"""What the compiler chooses for a kernel's width, and that the hardware of any width gives the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import Budget, choice_report, choose, chosen, rate_of
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ, DSP_BUDGET
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
from hetcc.backends.fpga.costs.unit_resources import CARD, MARGIN
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import is_wide, layout_of, wide_scan
from hetcc.backends.fpga.memory.memory_map import HBM_BANKS, memory_map
from hetcc.backends.fpga.samples import retrieval
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, Scan, StageGraph
from hetcc.ir import Graph

ROWS = 131_072


def composed(region: Graph, policy: str = "exact") -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    made = with_policy(graph, policy)
    assert isinstance(made, StageGraph), made
    return made


SCANS = [
    (lambda: sample.single_scan(128, ROWS, 64), "exact"),
    (lambda: sample.single_scan(128, ROWS, 64), "quantised:int16"),
    (lambda: sample.single_scan(128, ROWS, 64), "quantised:int8"), (lambda: sample.single_scan(64, ROWS, 64), "exact"),
    (lambda: sample.block_scan(1, 128, 2048, 64, 64), "exact"), (lambda: sample.bound_scan(128, 65_536, 16), "exact"),
    *((lambda heads=heads: sample.weighted_scan(1, 1, heads, 128, ROWS, 64), policy)
      for heads in (16, 64) for policy in ("exact", "quantised:bf16", "quantised:int16", "quantised:int8")),
]


@pytest.mark.parametrize(("make", "policy"), SCANS)
def test_scans_of_a_large_table_come_near_memory_or_slices(make: Callable[[], Graph], policy: str) -> None:
    graph = chosen(composed(make(), policy))
    parallel = graph.parallel
    assert parallel is not None
    rate, wide = rate_of(graph, parallel), wide_scan(graph)
    assert wide is not None
    others = len(memory_map(graph).masters) - parallel.stripes
    memory = HbmModel().beat_cycles(300e6) * wide.row_bytes / 64 / (HBM_BANKS - others)
    slices = rate.core_cycles * rate.dsp / DSP_BUDGET
    assert max(memory, slices) / rate.row_cycles >= 0.9
    shares = total_of(kernel_resources(graph)).shares(CARD)
    assert max(shares.values()) <= MARGIN
    assert len(memory_map(graph).masters) <= HBM_BANKS
    if rate.binds == "memory":
        assert parallel.stripes >= 24
    banks = [master.bank for master in memory_map(graph).masters]
    assert len(set(banks)) == len(banks)


@pytest.mark.parametrize("make", [
    lambda: retrieval.bounds_scan(128, 16_384, 64), lambda: retrieval.entry_scan(128, ROWS, 30_522, 64),
    lambda: retrieval.entry_scan(64, ROWS, 4096, 64),
])
def test_tables_that_pass_side_by_side_share_all_channels(make: Callable[[], Graph]) -> None:
    graph = chosen(composed(make()))
    parallel, tables = graph.parallel, [scan.table.buffer for scan in graph.of_kind(Scan)]
    assert parallel is not None
    assert {layout_of(graph, table).stripes for table in tables} == {parallel.together}
    banks = [master.bank for master in memory_map(graph).masters]
    assert len(set(banks)) == len(banks)
    assert max(total_of(kernel_resources(graph)).shares(CARD).values()) <= MARGIN
    words = math.prod(graph.axis(name).extent for name in graph.of_kind(Scan)[0].lanes) / 16 * len(tables)
    limit = (HBM_BANKS - 1) / HbmModel().beat_cycles(DEFAULT_CLOCK_HZ) / words
    rate = rate_of(graph, parallel)
    assert rate.binds == "memory"
    assert 1 / rate.row_cycles >= 0.9 * limit


def test_copies_of_many_entries_take_what_memory_there_is() -> None:
    graph = chosen(composed(retrieval.entry_scan(128, ROWS, 2**18, 64)))
    share = total_of(kernel_resources(graph)).uram / CARD.uram
    assert graph.parallel == Parallelism(1, 2, 2)
    # A row of 16 positions per cycle takes 8 copies of 8 Mbit, 32 blocks each.
    assert share == pytest.approx(2 * 8 * 32 / 960) and share <= MARGIN < share + 8 * 32 / 960


def test_two_thousand_multipliers_pass_a_key_of_16_heads_per_cycle() -> None:
    graph = composed(sample.weighted_scan(1, 1, 16, 128, ROWS, 64), "quantised:int16")
    parallel = choose(graph, Budget(replace(Budget().limits, dsp=2048 + 64)))
    assert parallel.lanes * parallel.together * 128 <= 2048
    assert rate_of(graph, parallel).row_cycles <= 1


def test_a_short_table_and_a_shared_card_get_less() -> None:
    long, short = (composed(sample.single_scan(128, rows, 8)) for rows in (ROWS, 64))
    assert choose(short).stripes < choose(long).stripes
    for kernels in (2, 5):
        graph = replace(long, parallel=choose(long, Budget().shared(kernels)))
        assert len(memory_map(graph).masters) <= HBM_BANKS // kernels
        assert max(total_of(kernel_resources(graph)).shares(CARD).values()) <= MARGIN / kernels
    assert choose(long, Budget(Budget().limits.times(0.0001))) == Parallelism()


def test_a_table_whose_rows_do_not_fill_words_is_not_dealt_out_wide() -> None:
    graph = chosen(composed(sample.weighted_scan(1, 1, 2, 24, 4096, 8)))
    assert is_wide(graph) is None
    assert layout_of(graph, "arg0").stripes == 1
    assert graph.parallel is not None
    assert graph.parallel.together == 1


def test_the_choice_is_part_of_the_kernel_and_of_its_report() -> None:
    graph = composed(sample.single_scan(128, 4096, 8))
    found = chosen(graph)
    assert StageGraph.from_json(found.to_json()) == found
    assert found.to_json() != graph.to_json()
    assert chosen(found) is found
    report = choice_report(found)
    assert report["bound_by"] == "memory"
    assert report["memory_channels"] == len(memory_map(found).masters)
    emitted = emit(sample.single_scan(128, 4096, 8), "region")
    text = emitted.files[f"{emitted.entry.rpartition('/')[0]}/report.json"].decode()
    assert '"bound_by": "memory"' in text


def buffers_of(graph: StageGraph) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(3)
    return {buffer.name: (random.integers(-2, 3, int(numpy.prod(buffer.shape))).astype(numpy.float32)
                          if buffer.element.is_floating else numpy.zeros(int(numpy.prod(buffer.shape)), numpy.int64))
            for buffer in graph.buffers}


@pytest.mark.parametrize(("make", "lanes", "together"), [
    (lambda: sample.single_scan(4, 10, 3), 1, 3), (lambda: sample.weighted_scan(1, 1, 4, 4, 11, 3), 2, 3),
    (lambda: sample.block_scan(1, 16, 4, 2, 2), 1, 3),
    (lambda: sample.bound_scan(4, 7, 7), 1, 5),
])
def test_bits_do_not_depend_on_the_rows_of_a_step(make: Callable[[], Graph], lanes: int, together: int) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(make())
    buffers = buffers_of(graph)
    got = simulate(graph, {name: array.copy() for name, array in buffers.items()}, lanes, together=together, stall=0.2)
    execute(graph, buffers)
    for buffer in graph.buffers:
        if buffer.role is BufferRole.OUTPUT and not buffer.element.is_floating:
            assert numpy.array_equal(numpy.concatenate([one.indices for one in got]), buffers[buffer.name])


@pytest.mark.parametrize(("given", "taken", "segment"), [(16, 3, 48), (1, 4, 9), (4, 4, 12), (2, 5, 14), (8, 3, 8)])
def test_elements_leave_in_groups_and_the_rest_by_itself(given: int, taken: int, segment: int) -> None:
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.memory.feed import Regrouper

    unit = Regrouper(given, taken, segment, 8)
    sent = [numpy.arange(segment) + base for base in (1, 101)]
    words = [part for one in sent for part in one.reshape(-1, given)]
    steps = -(-segment // taken)
    got: list[numpy.ndarray] = []

    async def bench(context: object) -> None:
        at, random = 0, numpy.random.default_rng(given)
        for _ in range(400):
            offered = at < len(words) and random.random() < 0.8
            context.set(unit.valid, int(offered))  # type: ignore[attr-defined]
            if offered:
                context.set(unit.data, int.from_bytes(words[at].astype(numpy.uint8).tobytes(), "little"))  # type: ignore[attr-defined]
            context.set(unit.out_ready, int(random.random() < 0.7))  # type: ignore[attr-defined]
            at += offered and context.get(unit.ready)  # type: ignore[attr-defined]
            if context.get(unit.out_valid) and context.get(unit.out_ready):  # type: ignore[attr-defined]
                raw = context.get(unit.out_data).to_bytes(taken, "little")  # type: ignore[attr-defined]
                got.append(numpy.frombuffer(raw, numpy.uint8))
            await context.tick()  # type: ignore[attr-defined]

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(got) == 2 * steps
    for one, first in zip(sent, (0, steps), strict=True):
        joined = numpy.concatenate(got[first:first + steps])[:segment]
        assert joined.tolist() == one.tolist()


@pytest.mark.parametrize(("words", "stripes", "units"), [(4, 1, 3), (4, 2, 3), (4, 3, 2), (6, 4, 5), (2, 3, 4),
                                                         (1, 2, 3)])
def test_a_segment_begins_at_the_first_stripe_though_the_next_one_waits(words: int, stripes: int, units: int) -> None:
    """All words of both segments lie in the buffers before the first one begins."""
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.memory.feed import GroupFeeder

    unit = GroupFeeder(words, stripes, units * words)
    waiting: list[list[int]] = [[] for _ in range(stripes)]
    for segment in (100, 200):
        for word in range(units * words):
            waiting[word % stripes].append(segment + word)
    got: list[int] = []

    async def bench(context: Any) -> None:
        for count in (units * words, 2 * units * words):
            for _ in range(5):
                await step(context, wanted=False)
            await step(context, wanted=False, begins=True)
            while len(got) < count:
                await step(context, wanted=True)

    async def step(context: Any, *, wanted: bool, begins: bool = False) -> None:
        context.set(unit.clear, int(begins))
        context.set(unit.beat_valid, sum(bool(held) << at for at, held in enumerate(waiting)))
        context.set(unit.beat_data, sum(held[0] << 512 * at for at, held in enumerate(waiting) if held))
        taken = wanted and context.get(unit.valid)
        context.set(unit.take, int(taken))
        if taken:
            got.extend(context.get(unit.data) >> 512 * at & (1 << 512) - 1 for at in range(words))
        ready = context.get(unit.beat_ready)
        for at, held in enumerate(waiting):
            if held and ready >> at & 1:
                held.pop(0)
        await context.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(2000e-6)
    assert got == [segment + word for segment in (100, 200) for word in range(units * words)]
