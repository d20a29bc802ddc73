"""The selection in hardware: a stable sort to the bit, in exactly the cycles of the closed form, whatever the data."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.costs.cycles import run_rows, sorter_stages, topk_cycles
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import select

SPECIAL = numpy.array([-2, -1, -0.0, 0.0, 1, 1.5, math.nan, math.inf, -math.inf, 7, 8, 9], numpy.float32)


def scores_of(order: str, count: int) -> numpy.ndarray:
    random = numpy.random.default_rng(count)
    scores = random.standard_normal(count).astype(numpy.float32)
    if order == "tied":
        return random.choice(SPECIAL, count)
    if order == "half masked":
        scores[::2] = -math.inf
    return {"ascending": numpy.sort(scores), "equal": numpy.ones(count, numpy.float32)}.get(order, scores)


def selected(scores: numpy.ndarray, k: int, largest: bool, width: int, pauses: float = 0.0,
             runs: int = 1) -> tuple[list[int], list[int], int]:
    """Indices, bits of the values, and cycles of the last of several runs on the same unit."""
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.units.library import Library
    from hetcc.backends.fpga.rtl.units.topk import TopKUnit

    unit = TopKUnit(Library(shared=False), k, largest, len(scores), width)
    random = numpy.random.default_rng(1)
    # What fills the last row up must not be selected, so it is better than everything.
    filler = numpy.full(-len(scores) % width, math.inf if largest else -math.inf, numpy.float32)
    rows = numpy.concatenate([scores, filler]).view(numpy.uint32).reshape(-1, width)
    found: dict[str, Any] = {}

    async def one_run(context: Any) -> None:
        indices: list[int] = []
        values: list[int] = []
        context.set(unit.clear, 1)
        await context.tick()
        context.set(unit.clear, 0)
        at = cycles = 0
        while len(indices) < k:
            offers, takes = at < len(rows) and random.random() >= pauses, random.random() >= pauses
            context.set(unit.valid, int(offers))
            if offers:
                context.set(unit.values, int.from_bytes(rows[at].tobytes(), "little"))
                at += 1
            context.set(unit.out_ready, int(takes))
            if context.get(unit.out_valid) and takes:
                indices.append(context.get(unit.out_index))
                values.append(context.get(unit.out_value))
            await context.tick()
            cycles += 1
            assert cycles < 4000, "the unit stands still"
        found.update(indices=indices, values=values, cycles=cycles)

    async def bench(context: Any) -> None:
        for _ in range(runs):
            await one_run(context)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found["indices"], found["values"], found["cycles"]


@pytest.mark.parametrize(("count", "k", "largest", "width", "pauses"), [
    (40, 6, True, 1, 0.0), (40, 21, False, 1, 0.4), (5, 5, True, 1, 0.0), (1, 1, False, 1, 0.0),
    (37, 9, True, 2, 0.0), (101, 20, False, 4, 0.4), (101, 20, True, 4, 0.0), (50, 9, True, 3, 0.0),
    (37, 7, False, 5, 0.3),
])
def test_the_selection_is_a_stable_sort(count: int, k: int, largest: bool, width: int, pauses: float) -> None:
    scores = scores_of("tied", count)
    # Twice, so that what the first run left behind must not show.
    indices, values, cycles = selected(scores, k, largest, width, pauses, runs=2)
    expected = select(scores, k, largest)
    assert indices == expected.tolist()
    assert values == numbers.canonical(scores[expected]).view(numpy.uint32).tolist()
    if not pauses:
        assert cycles == topk_cycles(count, k, width)


@pytest.mark.parametrize("order", ["random", "ascending", "equal", "half masked"])
def test_cycles_do_not_depend_on_the_data(order: str) -> None:
    scores = scores_of(order, 90)
    indices, _, cycles = selected(scores, 12, True, 2)
    assert indices == select(scores, 12, True).tolist()
    assert cycles == topk_cycles(90, 12, 2)


@pytest.mark.parametrize(("width", "limit"), [(1, 1.15 * 131_072), (16, 131_072 / 16 + 2 * 2048)])
def test_the_model_size_is_within_its_limit(width: int, limit: float) -> None:
    assert topk_cycles(131_072, 2048, width) <= limit


@pytest.mark.parametrize(("k", "width", "rows"), [(1, 1, 8), (8, 1, 8), (9, 1, 16), (2048, 16, 128), (4096, 1, 4096)])
def test_a_run_is_a_power_of_two_that_holds_k(k: int, width: int, rows: int) -> None:
    assert run_rows(k, width) == rows


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_the_sorting_network_sorts_every_row_of_zeros_and_ones(width: int) -> None:
    """By the 0-1 principle it then sorts everything."""
    from hetcc.backends.fpga.rtl.units.merge import sorting_network

    stages = sorting_network(width)
    assert len(stages) == sorter_stages(width)
    for pattern in range(2**width):
        row = [pattern >> at & 1 for at in range(width)]
        for pairs in stages:
            for high, low in pairs:
                row[high], row[low] = max(row[high], row[low]), min(row[high], row[low])
        assert row == sorted(row, reverse=True)


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize("order", ["random", "ascending", "equal", "half masked", "tied"])
def test_the_emitted_unit_selects_the_same_at_sixteen_scores_per_cycle(order: str) -> None:
    from hetcc.backends.fpga.rtl.simulation.harness import UnitSimulator
    from hetcc.backends.fpga.rtl.units.library import Library
    from hetcc.backends.fpga.rtl.units.topk import TopKUnit

    count, k, width = 5003, 300, 16
    library = Library(shared=True)
    unit = TopKUnit(library, k, True, count, width)
    scores = scores_of(order, count)
    rows = -(-count // width)
    with UnitSimulator(unit, library, ("clear", "valid", "values", "out_ready"), ("out_valid", "out_index")) as built:
        offered = numpy.zeros((1 + topk_cycles(count, k, width), built.input_words), numpy.uint32)
        offered[0, 0] = 1
        offered[1:1 + rows, 1] = 1
        offered[1:1 + rows, 2:2 + width] = numpy.concatenate(
            [scores, numpy.zeros(-count % width, numpy.float32)]).view(numpy.uint32).reshape(rows, width)
        offered[:, -1] = 1
        found = built.run(offered)
    assert found[found[:, 0] == 1][:, 1].tolist() == select(scores, k, True).tolist()


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_more_than_a_million_scores_have_longer_indices() -> None:
    from hetcc.backends.fpga.rtl.simulation.harness import UnitSimulator
    from hetcc.backends.fpga.rtl.units.compaction import CompactUnit
    from hetcc.backends.fpga.rtl.units.library import Library
    from hetcc.backends.fpga.rtl.units.topk import TopKUnit

    count, k, width = 2**20 + 37, 20, 16
    rows, cycles = -(-count // width), topk_cycles(count, k, width)
    library = Library(shared=True)
    unit = TopKUnit(library, k, True, count, width)
    scores = numpy.concatenate([scores_of("tied", count - 3), numpy.array([9, 10, math.nan], numpy.float32)])
    offered = numpy.zeros((1 + cycles, 3 + width), numpy.uint32)
    offered[0, 0] = offered[1:1 + rows, 1] = 1
    offered[1:1 + rows, 2:2 + width] = numpy.concatenate(
        [scores, numpy.zeros(-count % width, numpy.float32)]).view(numpy.uint32).reshape(rows, width)
    offered[:, -1] = 1
    with UnitSimulator(unit, library, ("clear", "valid", "values", "out_ready"), ("out_valid", "out_index")) as built:
        found = built.run(offered)
    assert found[found[:, 0] == 1][:, 1].tolist() == select(scores, k, True).tolist()
    # The same table, listed.
    flags = numpy.zeros((rows, width), bool)
    flags.reshape(-1)[[5, count - 2, count - 1, *range(count, rows * width)]] = True
    library = Library(shared=True)
    words = numpy.zeros((rows + 60, 4), numpy.uint32)
    words[0, 0], words[:, 3], words[1:1 + rows, 1] = 1, 1, 1
    words[1:1 + rows, 2] = flags @ (1 << numpy.arange(width))
    with UnitSimulator(CompactUnit(count, 8, -1, width), library, CompactUnit.INPUTS, CompactUnit.OUTPUTS) as built:
        found = built.run(words)[1:]
    left = found[found[:, 0] == 1]
    assert left[:, 2].astype(numpy.int32).tolist() == [5, count - 2, count - 1, -1, -1, -1, -1, -1]
    assert left[-1, 3] == 3
