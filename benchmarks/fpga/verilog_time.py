"""How long a region of model size takes to become Verilog: composing, choosing, elaborating, yosys.

    python benchmarks/fpga/verilog_time.py [REPEATS]

The region is an indexer of 64 heads of 128 over 131,072 rows, k = 2,048, policy exact. The first run on a machine also
compiles yosys, so one small kernel goes first. Seconds on the clock, and of processors (children included), which a
busy machine does not stretch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetcc.backends.fpga.stages.stage_graph import StageGraph


def timed(what: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """The result, seconds on the clock, seconds of processors."""
    before, start = os.times(), time.perf_counter()
    result = what(*arguments)
    after = os.times()
    return result, time.perf_counter() - start, sum(after[:4]) - sum(before[:4])


def composed(*sizes: int) -> Callable[[], StageGraph]:
    """Composes an indexer of some sizes and chooses its width."""
    from hetcc.backends.fpga.compose.compose import compose
    from hetcc.backends.fpga.costs.choice import chosen
    from hetcc.backends.fpga.samples import scans as sample
    from hetcc.backends.fpga.stages.stage_graph import StageGraph

    region = sample.weighted_scan(*sizes)

    def make() -> StageGraph:
        graph = compose(region)
        assert isinstance(graph, StageGraph)
        return chosen(graph)

    return make


def main() -> None:
    """Print a line per part."""
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    small, region = (composed(*sizes) for sizes in ((), (1, 1, 64, 128, 131072, 2048)))
    write_kernel(small(), "warm")
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        graph, clock_s, processor_s = timed(region)
        print(f"region to stage graph, width chosen: {clock_s:.2f} s ({processor_s:.2f} s of processors)")
        verilog, clock_s, processor_s = timed(write_kernel, graph, "kernel")
        print(f"stage graph to Verilog: {clock_s:.2f} s ({processor_s:.2f} s of processors), {len(verilog):,} bytes, "
              f"{graph.parallel}", flush=True)


if __name__ == "__main__":
    main()
