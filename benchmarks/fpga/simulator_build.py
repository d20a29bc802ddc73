"""What it takes to build the simulator of a kernel, and to run it: clock, processor time, C++ written, time per cycle.

    python benchmarks/fpga/simulator_build.py [--rows N] [--alone] [CASE ...]

Cases are those of ``scans.py``; nothing is taken from the cache. ``--alone`` also builds with what Verilator does when
nothing tells it which units to share, compiled without optimisation (as hetcc did before).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scans import CASES, kernel_of, random_buffers

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel, run_kernel
from hetcc.backends.fpga.rtl.simulation.structure import blocks_of, modules_of
from hetcc.backends.fpga.rtl.verilog import write_kernel
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.store import Store

TIMEOUT_S = 7200.0


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of processors that child processes took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def alone(folder: Path) -> None:
    """Build again, Verilator left alone."""
    tools.run(["verilator", "--cc", "--exe", "--build", "-fno-inline", "--output-split", "0", "-Wno-fatal", "-Wno-lint",
               "-Wno-style", "--top-module", "scan", "--prefix", "Vkernel", "--Mdir", "obj", "-CFLAGS", "-w",
               "-MAKEFLAGS", "VM_PARALLEL_BUILDS=0 OPT_SLOW=-O0 OPT_GLOBAL=-O0 OPT_FAST=-O0", "kernel.v", "bench.cpp"],
              folder, TIMEOUT_S)


def measured(name: str, how: str, graph: StageGraph, folder: Path, build: Callable[[], object]) -> None:
    """Build and run; print a line of the table."""
    clock_s, processor_s = timed(build)
    written = sum(file.stat().st_size for file in (folder / "obj").rglob("*.cpp") if "ALL" not in file.name)
    buffers = random_buffers(graph)
    expected = {key: content.copy() for key, content in buffers.items()}
    execute(graph, expected)
    began = time.monotonic()
    cycles = run_kernel(graph, buffers, folder).cycles[0]
    ran_s = time.monotonic() - began
    equal = all(content.tobytes() == expected[key].tobytes() for key, content in buffers.items())
    print(f"| {name} | {how} | {written / 1e6:.1f} MB | {processor_s:.0f} s | {clock_s:.0f} s | {cycles:,} | "
          f"{1e6 * ran_s / cycles:.0f} us | {'equal' if equal else 'DIFFERENT'} |", flush=True)


def measure(name: str, rows: int, *, also_alone: bool) -> None:
    """One case."""
    graph = kernel_of(CASES[name], rows)
    verilog = write_kernel(graph, "scan")
    blocks = blocks_of(modules_of(verilog.decode()), "scan")
    print(f"{name}: {graph.parallel}, {len(verilog):,} bytes of Verilog, made once: {', '.join(blocks) or 'nothing'}, "
          f"load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hetcc-build-") as place:
        folder, store = Path(place) / "built", Store(Path(place) / "store")
        measured(name, "shared", graph, folder, lambda: build_kernel(verilog, "scan", graph, folder, store=store,
                                                                     timeout_s=TIMEOUT_S))
        if also_alone:
            shutil.rmtree(folder / "obj")
            measured(name, "alone", graph, folder, lambda: alone(folder))


def main() -> None:
    """The cases named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["16 heads"])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--alone", action="store_true")
    given = parser.parse_args()
    print("| kernel | units | C++ | processors | clock | cycles | per cycle | results |")
    for name in given.cases:
        measure(name, given.rows, also_alone=given.alone)


if __name__ == "__main__":
    main()
