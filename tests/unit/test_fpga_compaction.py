"""Threshold compaction in hardware: exactly the listed flags, in the cycles of the closed form, whatever the data."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.costs.cycles_selections import compact_cycles, compact_latency, compact_state_bits
from hetcc.backends.fpga.stages.operations import compacted


def flags_of(pattern: str, count: int) -> numpy.ndarray:
    random = numpy.random.default_rng(count)
    return {"random": random.random(count) < 0.4, "all": numpy.ones(count, bool), "none": numpy.zeros(count, bool),
            "last": numpy.arange(count) == count - 1, "alternating": numpy.arange(count) % 2 == 1}[pattern]


def compaction(flags: numpy.ndarray, capacity: int, width: int, fill: int = -1, pauses: float = 0.0,
               runs: int = 1) -> tuple[list[int], int, int]:
    """Indices, count and cycles of the last of several runs on the same unit."""
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.units.compaction import CompactUnit

    unit = CompactUnit(len(flags), capacity, fill, width)
    random = numpy.random.default_rng(1)
    # What fills the last row up is set, and must not be listed.
    rows = numpy.concatenate([flags, numpy.ones(-len(flags) % width, bool)]).reshape(-1, width)
    found: dict[str, Any] = {}

    async def one_run(context: Any) -> None:
        indices: list[int] = []
        context.set(unit.clear, 1)
        await context.tick()
        context.set(unit.clear, 0)
        at = cycles = count = 0
        while len(indices) < max(capacity, 1):
            offers, takes = at < len(rows) and random.random() >= pauses, random.random() >= pauses
            context.set(unit.valid, int(offers))
            # Whatever lies there in a cycle without a row must not matter.
            context.set(unit.flags, sum(int(flag) << lane for lane, flag in enumerate(rows[at])) if offers else
                        (1 << width) - 1)
            at += offers
            context.set(unit.out_ready, int(takes))
            if context.get(unit.out_valid) and takes:
                indices.append(context.get(unit.out_index))
                count = context.get(unit.out_count)
                assert context.get(unit.out_last) == (len(indices) == max(capacity, 1))
            await context.tick()
            cycles += 1
            assert cycles < 4000, "the unit stands still"
        found.update(indices=indices[:capacity], count=count, cycles=cycles)

    async def bench(context: Any) -> None:
        for _ in range(runs):
            await one_run(context)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found["indices"], found["count"], found["cycles"]


@pytest.mark.parametrize(("count", "capacity", "width", "pauses"), [
    (50, 7, 1, 0.4), (1, 1, 1, 0.0), (61, 40, 4, 0.0), (61, 3, 8, 0.0), (30, 64, 2, 0.4), (33, 0, 4, 0.0),
    (40, 9, 5, 0.4),
])
def test_the_listed_flags_are_those_of_a_loop(count: int, capacity: int, width: int, pauses: float) -> None:
    for pattern in ("random", "all", "none", "last", "alternating"):
        flags = flags_of(pattern, count)
        # Twice, so that what the first run left behind must not show.
        indices, total, cycles = compaction(flags, capacity, width, -1, pauses, runs=2)
        expected, number = compacted(flags, capacity, -1)
        assert (indices, total) == (expected.tolist(), int(number[0])), pattern
        if not pauses:
            assert cycles <= compact_cycles(count, capacity, width)


@pytest.mark.parametrize(("count", "capacity", "width"), [(50, 7, 1), (61, 40, 4), (64, 3, 8), (16, 0, 2)])
def test_the_closed_form_is_exact_at_both_ends(count: int, capacity: int, width: int) -> None:
    assert compaction(flags_of("none", count), capacity, width)[2] == compact_cycles(count, capacity, width)
    flags = numpy.arange(count) < capacity
    best = -(-count // width) + compact_latency(width) + 1
    # Entries leave one per cycle, so a long list in a short table takes its own length.
    assert compaction(flags, capacity, width)[2] <= max(best, capacity + compact_latency(width) + 2)


def test_the_list_is_filled_up_with_what_was_asked_for() -> None:
    assert compaction(flags_of("last", 9), 4, 2, fill=0)[0] == [8, 0, 0, 0]
    assert compaction(flags_of("last", 9), 4, 2, fill=-7)[0] == [8, -7, -7, -7]


def test_state_is_the_list_in_whole_banks() -> None:
    sizes = ((4096, 16), (5, 4), (0, 8))
    assert [compact_state_bits(9, capacity, width) for capacity, width in sizes] == [81920, 160, 0]
    assert compact_state_bits(2**20 + 1, 4096, 16) == 25 * 4096
