"""Stationary operands: how many words come together, and that hardware holds the same however they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.lookups import LOOKUP_PORTS, lookup_copies, lookup_style
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.samples import retrieval, scans
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.loads import load_cycles, load_words, loads_of
from hetcc.backends.fpga.stages.stage_graph import BufferRole, InnerProduct, Lookup, StageGraph
from hetcc.ir import Graph


def composed(region: Graph, policy: str = "exact") -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    found = with_policy(graph, policy)
    assert isinstance(found, StageGraph), found
    return found


def laid_out(graph: StageGraph, layout: str) -> StageGraph:
    """The kernel with its first inner product's stationary vectors elsewhere in their buffer."""
    product = graph.of_kind(InnerProduct)[0]
    lanes = {name: graph.axis(name).extent for name in (*product.lanes, *product.over)}
    access, at, step = product.stationary, 0, 1
    strides = dict(access.strides)
    if layout == "turned":
        for name, extent in lanes.items():
            strides[name], step = step, step * extent
    elif layout == "apart":
        strides = {name: stride * 2 for name, stride in strides.items()}
    else:
        at = {"a quarter on": 4, "one on": 1}[layout]
    moved = replace(access, offset=access.offset + at, strides=tuple(sorted(strides.items())))
    buffers = tuple(replace(buffer, shape=(2 * math.prod(buffer.shape) + at,)) if buffer.name == access.buffer
                    else buffer for buffer in graph.buffers)
    stages = tuple(replace(stage, stationary=moved) if stage is product else stage for stage in graph.stages)
    return replace(graph, buffers=buffers, stages=stages)


def contents(graph: StageGraph) -> dict[str, numpy.ndarray]:
    """Random numbers; positions are the first rows, entries are of the whole vocabulary and its negatives."""
    random, found = numpy.random.default_rng(5), {}
    positions = {stage.source.stage for stage in graph.of_kind(Lookup)}
    tables = {stage.table.buffer for stage in graph.stages if stage.name in positions}  # type: ignore[union-attr]
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif buffer.element.is_floating:
            found[buffer.name] = random.standard_normal(count).astype(kind)
        else:
            found[buffer.name] = (random.integers(-20, 20, count) if buffer.name in tables
                                  else numpy.arange(count)).astype(kind)
    return found


@pytest.mark.parametrize(("make", "granules"), [
    (lambda: scans.single_scan(128, 16, 4), [16]),
    (lambda: scans.single_scan(24, 16, 4), [8]),
    (lambda: scans.single_scan(3, 16, 3), [1]),
    (lambda: scans.weighted_scan(1, 2, 4, 32, 16, 4), [16, 1]),
    (lambda: scans.single_scan(300, 8, 4), [4]),
    (lambda: retrieval.entry_scan(8, 16, 20, 4), [2]), (lambda: retrieval.entry_scan(8, 16, 21, 4), [2]),
    (lambda: retrieval.entry_scan(8, 16, 21, 4, queries=2), [1]),
    (lambda: retrieval.entry_scan(8, 16, 30_522, 4), [8]),
    (lambda: retrieval.entry_scan(8, 16, 30_522, 4, queries=3), [2]),
    (lambda: retrieval.entry_scan(8, 16, 65_536, 4), [16]),
])
def test_neighbours_come_together(make: Callable[[], Graph], granules: list[int]) -> None:
    graph = composed(make())
    found = loads_of(graph)
    assert [load.granule for load in found] == granules
    assert load_cycles(graph) == sum(math.ceil(load.words / load.granule) for load in found)
    assert load_words(graph) == sum(load.words for load in found)
    # A channel that gives a word of memory every four cycles feeds 4 operands per cycle and no more.
    assert load_cycles(graph, 4.0) >= load_words(graph) / 4


@pytest.mark.parametrize(("layout", "granule"), [("turned", 1), ("apart", 1), ("a quarter on", 4), ("one on", 1)])
@pytest.mark.parametrize("policy", ["exact", "quantised:int16"])
def test_hardware_holds_the_same_however_operands_lie(layout: str, granule: int, policy: str) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = laid_out(composed(scans.weighted_scan(1, 2, 2, 16, 9, 3), policy), layout)
    assert loads_of(graph)[0].granule == granule
    buffers = contents(graph)
    done = simulate(graph, {name: array.copy() for name, array in buffers.items()}, 2, stall=0.3, seed=2)
    execute(graph, buffers)
    chosen = next(buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT)
    assert numpy.array_equal(numpy.concatenate([one.indices for one in done]), buffers[chosen.name].reshape(-1))


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize("layout", ["turned", "a quarter on", "one on"])
@pytest.mark.parametrize("policy", ["exact", "quantised:int8"])
def test_the_shell_reads_operands_however_they_lie(layout: str, policy: str, tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel, run_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    graph = laid_out(composed(scans.weighted_scan(2, 2, 4, 16, 12, 3), policy), layout)
    build_kernel(write_kernel(graph, "loading"), "loading", graph, tmp_path)
    for options in ({}, {"runs": 2, "stall": 0.4, "seed": 4}):
        got = contents(graph)
        expected = {name: array.copy() for name, array in got.items()}
        execute(graph, expected)
        run_kernel(graph, got, tmp_path, **options)  # type: ignore[arg-type]
        assert {name: array.tobytes() for name, array in got.items()} == {
            name: array.tobytes() for name, array in expected.items()}


@pytest.mark.parametrize("vocabulary", [3, 21, 40, 17_000])
def test_entries_that_come_together_are_looked_up_one_by_one(vocabulary: int) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = composed(retrieval.entry_scan(8, 16, vocabulary, 4))
    buffers = contents(graph)
    done = simulate(graph, {name: array.copy() for name, array in buffers.items()}, 1)
    execute(graph, buffers)
    best = next(buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT and buffer.element.is_floating)
    assert numpy.array_equal(done[0].values, buffers[best.name].reshape(-1).view(numpy.uint32))


@pytest.mark.parametrize(("entries", "granule", "style"), [
    (64, 2, "block"), (1023, 2, "block"), (4096, 4, "block"), (4096, 2, "ultra"), (30_522, 8, "ultra"),
    (65_536, 16, "ultra"),
])
def test_entries_lie_in_the_memory_that_is_the_smaller_part_of_the_card(entries: int, granule: int,
                                                                        style: str) -> None:
    assert lookup_style(entries, granule) == style
    copy = lookup_copies(entries, granule, LOOKUP_PORTS)
    assert (copy.uram > 0) == (style == "ultra") and (copy.bram36 > 0) == (style == "block")
    assert 36 * 1024 * copy.bram36 + 288 * 1024 * copy.uram >= 32 * entries
