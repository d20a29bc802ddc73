"""The closed form of a kernel's cycles against simulated RTL, on sizes that were not looked at when it was written.

    python benchmarks/fpga/cycles_sweep.py [--from N]

For every case the hardware is what the compiler chooses, or where a width is given, that. Many runs from ap_start, then
as many by doorbell, so that they meet refreshes of the memory at different moments; the table has means, and the
fastest and slowest.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import choose
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import APART_CYCLES, build_kernel, run_kernel
from hetcc.backends.fpga.rtl.verilog import write_kernel
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.ir import Graph

RUNS = 128
CASES: list[tuple[str, Callable[[], Graph], Parallelism | None]] = [
    ("one head, 900 rows of 16, k = 7", lambda: sample.single_scan(16, 900, 7), None),
    ("one head, 3,000 rows of 32, k = 20", lambda: sample.single_scan(32, 3000, 20), Parallelism(1, 2, 10)),
    ("3 heads for 2 tokens, 333 rows of 16, k = 9", lambda: sample.weighted_scan(1, 2, 3, 16, 333, 9), None),
    ("4 heads of 2 sequences, 1,200 rows of 32, k = 33", lambda: sample.weighted_scan(2, 1, 4, 32, 1200, 33),
     Parallelism(2, 3, 6)),
    ("blocks of 16, 2 heads, 640 rows of 32, k = 5", lambda: sample.block_scan(2, 32, 40, 16, 5), Parallelism(1, 3, 9)),
    ("bounds of 500 pages of 8, k = 12", lambda: sample.bound_scan(8, 500, 12), None),
    ("2 heads, 150 rows of 24, k = 6, word by word", lambda: sample.weighted_scan(1, 1, 2, 24, 150, 6), None),
    ("one head, 5,000 rows of 8, k = 3, one row at a time", lambda: sample.single_scan(8, 5000, 3),
     Parallelism(1, 1, 1)),
]


def contents(graph: StageGraph) -> dict[str, numpy.ndarray]:
    """Random contents; positions are the first rows."""
    random = numpy.random.default_rng(1)
    found = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        floats = buffer.element.is_floating and buffer.role is not BufferRole.OUTPUT
        found[buffer.name] = random.standard_normal(count).astype(kind) if floats else numpy.arange(count).astype(kind)
    return found


def main() -> None:
    """All cases, or those from a number on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="first", type=int, default=0)
    print("| kernel | results x rows, stripes | ap_start to interrupt | closed form | doorbell to answer | "
          "closed form |")
    print("|" + "---|" * 6)
    for name, make, given in CASES[parser.parse_args().first:]:
        composed = compose(make())
        if not isinstance(composed, StageGraph):
            raise SystemExit(str(composed))
        graph = replace(composed, parallel=given or choose(composed))
        with tempfile.TemporaryDirectory(prefix="hetcc-sweep-") as folder:
            build_kernel(write_kernel(graph, "swept"), "swept", graph, Path(folder))
            started, rung = (run_kernel(graph, contents(graph), Path(folder), runs=RUNS, persistent=persistent,
                                         apart=APART_CYCLES).cycles
                             for persistent in (False, True))
        said, wide = kernel_cycles(graph), graph.parallel or Parallelism()
        print(f"| {name} | {wide.lanes} x {wide.together}, {wide.stripes} | {compared(started, said.cycles)} | "
              f"{compared(rung, said.doorbell_cycles)} |", flush=True)


def compared(found: tuple[int, ...], predicted: int) -> str:
    """Mean and range of what was simulated, and what was predicted."""
    mean = sum(found) / len(found)
    return f"{mean:,.0f} ({min(found):,} to {max(found):,}) | {predicted:,} ({predicted / mean - 1:+.1%})"


if __name__ == "__main__":
    main()
