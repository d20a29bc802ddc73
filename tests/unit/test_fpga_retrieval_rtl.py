"""Retrieving kernels in hardware against the functional model, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.rtl import limits
from hetcc.backends.fpga.samples import retrieval as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Compact, StageGraph, Store
from hetcc.ir import DType, Graph

Buffers = dict[str, numpy.ndarray]
ODD = numpy.array([1e-30, -1e-38, 1e-42, 3e38, math.inf, -math.inf, math.nan, 0.0, -0.0, 0.5, 1.0], numpy.float32)


def composed(region: Graph) -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    verdict = limits.check(graph)
    assert verdict is None, verdict
    return graph


def filled(graph: StageGraph, pattern: str, seed: int = 3) -> Buffers:
    """Buffers full of a pattern."""
    random = numpy.random.default_rng(seed)
    found = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif buffer.element is DType.INT64:
            # Where new rows go.
            found[buffer.name] = random.permutation(8)[:count].astype(kind)
        elif buffer.element is DType.INT32:
            # Positions: some count from the end, some are outside.
            found[buffer.name] = random.integers(-24, 24, count).astype(kind)
        elif pattern == "tied":
            found[buffer.name] = random.integers(-1, 2, count).astype(kind)
        elif pattern == "extreme":
            found[buffer.name] = random.choice(ODD, count).astype(kind)
        elif pattern in ("all", "none"):
            found[buffer.name] = numpy.full(count, 2.0, kind) * (1 if pattern == "all" or len(found) else -1)
        else:
            found[buffer.name] = random.standard_normal(count).astype(kind)
    return found


def check(graph: StageGraph, simulate: Callable[[Buffers], list[Any]], buffers: Buffers) -> list[Any]:
    """What leaves the hardware, entry by entry, must be what the functional model writes."""
    got = simulate({name: array.copy() for name, array in buffers.items()})
    execute(graph, buffers)
    for store in graph.of_kind(Store):
        expected = buffers[store.target.buffer].reshape(len(got), -1)
        for instance, row in zip(got, expected, strict=True):
            if store.source.port == "count":
                assert instance.values[-1] == row[0]
            elif store.source.port == "indices":
                assert instance.indices.tolist() == row.tolist()
            else:
                assert instance.values.tolist() == row.view(numpy.uint32).tolist()
    return got


def simulated(graph: StageGraph, **options: Any) -> Callable[[Buffers], list[Any]]:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    return lambda buffers: simulate(graph, buffers, 1, **options)


# ---- thresholds


@pytest.mark.parametrize("pattern", ["random", "tied", "extreme", "all", "none"])
def test_a_threshold_scan_is_the_functional_model(pattern: str) -> None:
    graph = composed(sample.threshold_scan(4, 21, 6))
    check(graph, simulated(graph), filled(graph, pattern))


@pytest.mark.parametrize(("make", "options"), [
    (lambda: sample.threshold_scan(3, 10, 1, None, comparison="gt"), {"stall": 0.4, "seed": 1}),
    (lambda: sample.threshold_scan(3, 10, 6, None, comparison="gt"), {"together": 3}),
    (lambda: sample.threshold_scan(2, 7, 20, 0.0), {}),
    (lambda: sample.threshold_scan(2, 9, 3, -0.5, comparison="lt", counted=False, fill=0), {"together": 4}),
    (lambda: sample.threshold_scan(5, 1, 4, math.inf, comparison="le"), {}),
])
def test_every_threshold_streams(make: Callable[[], Graph], options: dict[str, Any]) -> None:
    graph = composed(make())
    check(graph, simulated(graph, **options), filled(graph, "tied"))


@pytest.mark.parametrize("pattern", ["random", "extreme"])
def test_a_choice_by_a_flag_waits_for_its_streams(pattern: str) -> None:
    """The score reaches the choice by two ways, one of them longer."""
    graph = composed(sample.kept_scan(1, 4, 12, 5, counted=False))
    check(graph, simulated(graph, stall=0.3), filled(graph, pattern))


def test_logic_on_flags() -> None:
    graph = composed(sample.banded_scan(3, 14, 8, -1.0, 1.0))
    buffers = filled(graph, "tied")
    scores = buffers["arg1"].reshape(14, 3).astype(float) @ buffers["arg0"].astype(float)
    check(graph, simulated(graph), buffers)
    inside = numpy.flatnonzero((scores > -1) & ~(scores >= 1))
    assert buffers["out0"].tolist() == [*inside, *[-1] * 8][:8]


def test_limits_of_fetched_rows_are_said() -> None:
    graph = compose(sample.fetched_documents())
    assert isinstance(graph, StageGraph)
    verdict = limits.check(graph)
    assert isinstance(verdict, Rejected)
    assert "nothing else reads" in verdict.rule


def test_limits_of_selections_are_said() -> None:
    graph = compose(sample.kept_scan())
    assert isinstance(graph, StageGraph)
    assert len(graph.of_kind(Compact)) == 1
    verdict = limits.check(graph)
    assert isinstance(verdict, Rejected)
    assert "at most one selection" in verdict.rule


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_the_emitted_file_lists_what_the_functional_model_lists(tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl import verilog
    from hetcc.backends.fpga.rtl.cores.top import StreamCore
    from hetcc.backends.fpga.rtl.simulation import verilate
    from hetcc.backends.fpga.rtl.units.library import Library

    graph = composed(sample.threshold_scan(16, 5000, 300, 0.5))
    text = verilog.write(graph, "kernel_under_test", 1)
    core = StreamCore(graph, Library(shared=True), 1)
    core._MustUse__used = True  # type: ignore[attr-defined] # only its port widths are needed
    verilate.build(text, "kernel_under_test", core, tmp_path)
    for pattern in ("random", "tied", "all", "none", "extreme"):
        check(graph, lambda buffers: verilate.run(graph, buffers, core, tmp_path), filled(graph, pattern))


# ---- whole kernels on simulated memory


def on_memory(region: Graph, folder: Path, patterns: Sequence[str]) -> None:
    """Every buffer of a whole kernel, by ap_start and by doorbell, with and without a busy memory."""
    from hetcc.backends.fpga.costs.choice import chosen
    from hetcc.backends.fpga.memory import memory_map as places
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel, run_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    graph = chosen(composed(region))
    build_kernel(write_kernel(graph, "kernel_under_test"), "kernel_under_test", graph, folder)
    for pattern in patterns:
        for options in ({}, {"persistent": True, "runs": 2}, {"stall": 0.4, "seed": 1}):
            got = filled(graph, pattern)
            expected = {name: array.copy() for name, array in got.items()}
            execute(graph, expected)
            done = run_kernel(graph, got, folder, **options)
            assert done.status == places.STATUS_COMPLETED
            for name, array in got.items():
                assert array.tobytes() == expected[name].tobytes(), (pattern, name)


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize("make", [
    lambda: sample.threshold_scan(16, 300, 40), lambda: sample.threshold_scan(24, 65, 3, None, comparison="gt"),
    lambda: sample.kept_scan(2, 16, 40, 5, counted=False), lambda: sample.flat_scan(32, 200, 9, queries=2),
    lambda: sample.entry_scan(32, 100, 300, 7), lambda: sample.entry_scan(6, 40, 20, 3, queries=2),
    lambda: sample.entry_scan(16, 50, 20, 3, weighted=False), lambda: sample.bounds_scan(16, 70, 6, groups=2),
    lambda: sample.entry_scan(48, 33, 64, 5, queries=3), lambda: sample.bounds_scan(32, 31, 6),
    lambda: sample.fetching_scan(2, 16, 40, 5, 24), lambda: sample.fetching_scan(1, 4, 30, 7, 6, listed=False),
    lambda: sample.fetching_scan(2, 16, 20, 3, 16, appended=True),
])
def test_a_retrieving_kernel_on_memory_is_the_functional_model(make: Callable[[], Graph], tmp_path: Path) -> None:
    on_memory(make(), tmp_path, ("random", "tied", "all", "none"))


# ---- tables side by side, and looked-up entries


@pytest.mark.parametrize("pattern", ["random", "tied", "extreme"])
def test_looked_up_entries_are_the_functional_model(pattern: str) -> None:
    graph = composed(sample.entry_scan(4, 13, 20, 4))
    check(graph, simulated(graph), filled(graph, pattern))


@pytest.mark.parametrize(("make", "options"), [
    (lambda: sample.entry_scan(12, 9, 11, 3), {"stall": 0.4, "seed": 1}),
    (lambda: sample.entry_scan(1, 9, 5, 9), {"together": 2}),
    (lambda: sample.entry_scan(6, 7, 20, 2, queries=2), {}),
    (lambda: sample.entry_scan(4, 7, 20, 3, weighted=False), {"together": 2, "stall": 0.2}),
    (lambda: sample.bounds_scan(12, 6, 2), {"stall": 0.3}), (lambda: sample.bounds_scan(32, 10, 3), {"together": 3}),
    (lambda: sample.entry_scan(48, 7, 20, 2, queries=2), {"together": 5, "stall": 0.2}),
])
def test_every_lookup_streams(make: Callable[[], Graph], options: dict[str, Any]) -> None:
    graph = composed(make())
    check(graph, simulated(graph, **options), filled(graph, "random"))
