"""Retrieving kernels: estimates at corpus size, the compaction unit at full width, and whole small kernels simulated.

    python benchmarks/fpga/retrieval.py estimates
    python benchmarks/fpga/retrieval.py compaction
    python benchmarks/fpga/retrieval.py kernels

Estimates are of the closed forms alone. The other two build with Verilator (minutes); kernels run on the memory model.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import chosen
from hetcc.backends.fpga.costs.cycles import estimate_cycles
from hetcc.backends.fpga.costs.cycles_selections import compact_cycles
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.samples import retrieval as sample_retrieval
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.operations import compacted
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.ir import DType, Graph

LARGE = {
    "threshold, 131,072 pooled keys of 128, capacity 4,096":
        lambda: sample_retrieval.threshold_scan(128, 131_072, 4096),
    "flat, 1,000,000 documents of 768, k = 64": lambda: sample_retrieval.flat_scan(768, 1_000_000, 64),
    "forward index, 1,000,000 documents of 128 entries, 65,536 words, k = 64":
        lambda: sample_retrieval.entry_scan(128, 1_000_000, 65_536, 64),
    "page bounds in two tables, 8,192 pages of 128, k = 256": lambda: sample_retrieval.bounds_scan(128, 8192, 256),
}
CONTENTS = 8
"""Of each kernel: other numbers."""
RUNS = 16
"""On each of them, one after the other, so that they meet refreshes of the memory at different moments."""
SMALL = {
    "threshold, 4,096 rows of 32, capacity 64, list full early": lambda: sample_retrieval.threshold_scan(32, 4096, 64),
    "threshold, 4,096 rows of 32, capacity 64, nothing passes":
        lambda: sample_retrieval.threshold_scan(32, 4096, 64, 1e9),
    "forward index, 1,000 rows of 32 entries, 4,096 words, k = 16":
        lambda: sample_retrieval.entry_scan(32, 1000, 4096, 16),
    "page bounds in two tables, 500 pages of 64, k = 16": lambda: sample_retrieval.bounds_scan(64, 500, 16),
    "top-k of 1,024 rows of 32, 16 rows of 96 fetched": lambda: sample_retrieval.fetching_scan(1, 32, 1024, 16, 96),
    "top-k of 256 rows of 16, 64 rows of 256 fetched": lambda: sample_retrieval.fetching_scan(1, 16, 256, 64, 256),
    "top-k of 512 rows of 16, 100 rows of 40 fetched": lambda: sample_retrieval.fetching_scan(1, 16, 512, 100, 40),
    "top-k of 700 rows of 16, 60 rows of 48 fetched": lambda: sample_retrieval.fetching_scan(1, 16, 700, 60, 48),
}


def composed(region: Graph) -> StageGraph:
    """The kernel of a region, its width chosen."""
    graph = compose(region)
    if not isinstance(graph, StageGraph):
        raise SystemExit(f"{region.name}: {graph}")
    return chosen(graph)


def estimates() -> None:
    """Cycles and time at corpus size."""
    for name, make in LARGE.items():
        graph = composed(make())
        found = estimate_cycles(graph)
        print(f"{name}: {found.cycles:,} cycles, {found.time_s * 1e3:.2f} ms, {found.row_interval_cycles:.2f} per row, "
              f"{found.dsp} DSP, {found.resources.uram} URAM, {graph.parallel}")


def compaction(count: int = 131_072, capacity: int = 4096, width: int = 16) -> None:
    """The unit alone: cycles until the last entry, against the closed form, for several patterns of flags."""
    from hetcc.backends.fpga.rtl.simulation.harness import UnitSimulator
    from hetcc.backends.fpga.rtl.units.compaction import CompactUnit
    from hetcc.backends.fpga.rtl.units.library import Library

    library = Library(shared=True)
    unit = CompactUnit(count, capacity, -1, width)
    random = numpy.random.default_rng(0)
    patterns = {"none": numpy.zeros(count, bool), "all": numpy.ones(count, bool), "1 %": random.random(count) < 0.01,
                "half": random.random(count) < 0.5, "last": numpy.arange(count) == count - 1}
    most = compact_cycles(count, capacity, width)
    with UnitSimulator(unit, library, CompactUnit.INPUTS, CompactUnit.OUTPUTS) as built:
        for name, flags in patterns.items():
            words = numpy.zeros((most + 2, built.input_words), numpy.uint32)
            words[0, 0], words[:, 3] = 1, 1
            rows = flags.reshape(-1, width) @ (1 << numpy.arange(width))
            words[1:1 + len(rows), 1], words[1:1 + len(rows), 2] = 1, rows
            found = built.run(words)[1:]
            left = numpy.flatnonzero(found[:, 0])
            expected, number = compacted(flags, capacity, -1)
            same = (numpy.array_equal(found[left, 2].astype(numpy.int32), expected)
                    and found[left[-1], 3] == number[0])
            print(f"{count:,} flags, {width} per cycle, capacity {capacity:,}, {name} set: {left[-1] + 1:,} cycles, "
                  f"at most {most:,}; {'equal' if same else 'DIFFERENT'}")


def arguments_of(graph: StageGraph, seed: int) -> dict[str, numpy.ndarray]:
    """Random buffers; positions are among the first 4,096."""
    random = numpy.random.default_rng(seed)
    found: dict[str, numpy.ndarray] = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        found[buffer.name] = (random.integers(0, 4096, count) if buffer.element is DType.INT32 else
                              random.standard_normal(count)).astype(kind)
    return found


def kernels(words: str = "") -> None:
    """Whole kernels on the memory model: mean cycles from ap_start to the interrupt, against the closed form.

    Args:
        words: only kernels whose names have them.
    """
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import APART_CYCLES, build_kernel, run_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    for name, make in SMALL.items():
        if words not in name:
            continue
        graph = composed(make())
        with tempfile.TemporaryDirectory(prefix="hetcc-retrieval-") as folder:
            build_kernel(write_kernel(graph, "kernel"), "kernel", graph, Path(folder))
            cycles: list[int] = []
            same = True
            for seed in range(CONTENTS):
                got = arguments_of(graph, seed)
                expected = {key: array.copy() for key, array in got.items()}
                execute(graph, expected)
                cycles += run_kernel(graph, got, Path(folder), runs=RUNS, apart=APART_CYCLES).cycles
                same &= all(array.tobytes() == expected[key].tobytes() for key, array in got.items())
            form, mean = kernel_cycles(graph), statistics.mean(cycles)
            predicted = form.cycles - (form.spared_cycles if "full early" in name else 0)
            print(f"{name}: {mean:,.0f} cycles ({min(cycles):,} to {max(cycles):,}), closed form {predicted:,} "
                  f"({predicted / mean - 1:+.1%}); {'equal' if same else 'DIFFERENT'}; {graph.parallel}", flush=True)


def main() -> None:
    """See the module text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("estimates", "compaction", "kernels"))
    parser.add_argument("words", nargs="?", default="", help="only kernels whose names have these words")
    chosen_part = parser.parse_args()
    if chosen_part.part == "kernels":
        kernels(chosen_part.words)
    else:
        {"estimates": estimates, "compaction": compaction}[chosen_part.part]()


if __name__ == "__main__":
    main()
