"""Whole kernels as the compiler makes them, in Verilator on the HBM model: cycles against what memory and slices allow.

    python benchmarks/fpga/scans.py [--rows N] [CASE ...]

Nothing is set by hand: rows per step and stripes are what ``choice.choose`` takes within 70% of a U55C (one case has
a smaller budget). The limit of a case is the smaller of two rates: what its memory channels give in the model,
refreshes included, and what 70% of the card's DSP slices, or those of the case's budget, can multiply. ``streaming``
is measured between the first and the last word of the table, which the buffers take up to 512 words ahead of the
arithmetic where that is the slower; ``run`` is from ap_start to the interrupt. Results are compared with the
functional model, bit for bit.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import Budget, choose, rate_of
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ, DSP_BUDGET
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import layout_of, wide_scan
from hetcc.backends.fpga.memory.memory_map import HBM_BANKS, memory_map
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import KernelRun, build_kernel, run_kernel
from hetcc.backends.fpga.rtl.verilog import write_kernel
from hetcc.backends.fpga.samples import retrieval
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Lookup, Scan, StageGraph
from hetcc.ir import Graph


@dataclass(frozen=True)
class Case:
    """A scan, by its number of rows."""

    region: Callable[[int], Graph]
    policy: str = "exact"
    budget: Budget | None = None
    share: float = 1.0
    """Of the rows asked for."""


FEWER = Budget(replace(Budget().limits, dsp=2048 + 64))
"""2,048 multipliers, and a slice pair for each scale and weight of 16 heads."""
BUILD_TIMEOUT_S = 7200.0
"""Thousands of multipliers take Verilator and the C++ compiler long."""
SMALL = Budget(replace(Budget().limits, dsp=640 + 224))
CASES = {
    "one-head": Case(lambda rows: sample.single_scan(128, rows, 64)),
    "one-head int16": Case(lambda rows: sample.single_scan(128, rows, 64), "quantised:int16"),
    "one-head int8": Case(lambda rows: sample.single_scan(128, rows, 64), "quantised:int8"),
    "one-head 64": Case(lambda rows: sample.single_scan(64, rows, 64)),
    "blocks of 64": Case(lambda rows: sample.block_scan(1, 128, rows // 64, 64, 16)),
    "16 heads of 16, int16, 640 multipliers": Case(lambda rows: sample.weighted_scan(1, 1, 16, 16, rows, 32),
                                                  "quantised:int16", SMALL),
    "16 heads int16": Case(lambda rows: sample.weighted_scan(1, 1, 16, 128, rows, 64), "quantised:int16"),
    "16 heads int16, 2048 multipliers": Case(lambda rows: sample.weighted_scan(1, 1, 16, 128, rows, 64),
                                             "quantised:int16", FEWER),
    "16 heads": Case(lambda rows: sample.weighted_scan(1, 1, 16, 128, rows, 64), share=0.25),
    "16 heads bf16": Case(lambda rows: sample.weighted_scan(1, 1, 16, 128, rows, 64), "quantised:bf16"),
    "64 heads bf16": Case(lambda rows: sample.weighted_scan(1, 1, 64, 128, rows, 64), "quantised:bf16"),
    "64 heads int16": Case(lambda rows: sample.weighted_scan(1, 1, 64, 128, rows, 64), "quantised:int16", share=0.25),
    "64 heads": Case(lambda rows: sample.weighted_scan(1, 1, 64, 128, rows, 64), share=0.25),
    "page bounds in two tables": Case(lambda rows: retrieval.bounds_scan(128, rows, 64)),
    "forward index, 128 entries, 30,522 words": Case(lambda rows: retrieval.entry_scan(128, rows, 30_522, 64)),
}


def kernel_of(case: Case, rows: int) -> StageGraph:
    """The stage graph of a case, as wide as the compiler makes it."""
    composed = compose(case.region(rows))
    graph = with_policy(composed, case.policy) if isinstance(composed, StageGraph) else composed
    if not isinstance(graph, StageGraph):
        raise SystemExit(str(graph))
    return replace(graph, parallel=choose(graph, case.budget))


def random_buffers(graph: StageGraph) -> dict[str, Any]:
    """Buffers of a kernel: random numbers, zeros in outputs and positions, entries of the whole vocabulary."""
    random = numpy.random.default_rng(0)
    found = {}
    entries = {graph.stage(stage.source.stage).table.buffer: math.prod(graph.axis(name).extent for name in stage.over)
               for stage in graph.of_kind(Lookup)}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        floats = buffer.element.is_floating and buffer.role is not BufferRole.OUTPUT
        found[buffer.name] = random.standard_normal(count).astype(kind) if floats else numpy.zeros(count, kind)
        if buffer.name in entries:
            found[buffer.name] = random.integers(0, entries[buffer.name], count).astype(kind)
    return found


def simulated(graph: StageGraph, folder: Path) -> KernelRun:
    """One run on random contents, compared with the functional model.

    Raises:
        SystemExit: a buffer differs.
    """
    build_kernel(write_kernel(graph, "scan"), "scan", graph, folder, timeout_s=BUILD_TIMEOUT_S)
    got = random_buffers(graph)
    expected = {name: content.copy() for name, content in got.items()}
    execute(graph, expected)
    done = run_kernel(graph, got, folder)
    for name, content in got.items():
        if content.tobytes() != expected[name].tobytes():
            raise SystemExit(f"{name} differs from the functional model")
    return done


def measure(name: str, rows: int) -> None:
    """Build and run one case; print a line of the table."""
    case = CASES[name]
    began = time.monotonic()
    graph = kernel_of(case, max(int(rows * case.share), 64))
    parallel, rate = graph.parallel, rate_of(graph, graph.parallel)
    with tempfile.TemporaryDirectory(prefix="hetcc-scans-") as folder:
        done = simulated(graph, Path(folder))
    tables = [scan.table.buffer for scan in graph.of_kind(Scan)]
    wide, layout = wide_scan(graph), layout_of(graph, tables[0])
    assert wide is not None
    memory = memory_map(graph)
    spans = [done.read_span[argument.master] for table in tables for argument in memory.of_buffer(table)]
    streaming = max(last for _, last in spans) - min(first for first, _ in spans) + 1
    lut = total_of(kernel_resources(graph)).lut
    slices = case.budget.limits.dsp if case.budget else DSP_BUDGET
    dsp_rows = slices / rate.dsp / rate.core_cycles if rate.dsp else math.inf
    channel = HbmModel().beat_cycles(DEFAULT_CLOCK_HZ)
    words = wide.row_bytes / 64 * len(tables)
    all_rows = (HBM_BANKS - len(memory.masters) + layout.stripes * len(tables)) / channel / words
    limit = min(1 / rate.memory_cycles, dsp_rows)
    got = wide.rows / streaming
    predicted = kernel_cycles(graph).cycles
    print(f"| {name} | {wide.rows:,} | {parallel.lanes} x {parallel.together} | {layout.stripes} | {rate.dsp:,} | "
          f"{lut:,.0f} | {1 / rate.memory_cycles:.3f} | {dsp_rows:.3f} | {got:.3f} | {got / limit:.1%} | "
          f"{got / min(all_rows, dsp_rows):.1%} | {done.cycles[0]:,} | {predicted:,} "
          f"({predicted / done.cycles[0] - 1:+.1%}) | {time.monotonic() - began:.0f} s |", flush=True)


def main() -> None:
    """The cases named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rows", type=int, default=16_384)
    options = parser.parse_args()
    print("| scan | rows | results x rows per cycle | stripes | DSP | LUT | rows/cycle: memory | DSP at 70% | "
          "streaming | of the limit | of that with all channels | run, cycles | predicted | this took |")
    print("|" + "---|" * 14)
    for name in options.cases:
        measure(name, options.rows)


if __name__ == "__main__":
    main()
