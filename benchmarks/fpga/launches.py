"""What the host spends on one run of a kernel, started anew and by doorbell: the software alone.

    python benchmarks/fpga/launches.py [RUNS]

The driver's own code on the real Xilinx Runtime (Debian's libxrt1) with its *noop* device: buffers are host memory and
a started run is over at once, so links and hardware add to every number here. A start clears the mailbox, sets all
arguments, starts, waits, and reads the answer; a doorbell is one word written and one answer read, which the noop
device never gives, so the two halves of the driver's ``ring`` are timed without the loop around them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import chosen
from hetcc.backends.fpga.emit import emit_stages
from hetcc.backends.fpga.memory.memory_map import DOORBELL_OFFSET
from hetcc.backends.fpga.samples import scans
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.xrt.driver import KernelDriver
from hetcc.backends.fpga.xrt.xclbin import unpack

LIBRARIES = ("libxrt_noop.so.2", "libxrt_core.so.2")
WARM = 100
BATCHES = 10


def environment(folder: Path) -> dict[str, str]:
    """Where the runtime finds its noop device."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    places = {line.split()[0]: line.split()[-1] for line in listed.splitlines() if "=>" in line}
    (folder / "lib").mkdir()
    for name in LIBRARIES:
        if name not in places:
            sys.exit(f"{name} is not installed: apt-get install libxrt1")
        (folder / "lib" / name).symlink_to(places[name])
    return {"XILINX_XRT": str(folder), "XCL_EMULATION_MODE": "noop"}


def seconds(action: object, runs: int) -> tuple[float, float]:
    """Mean of all calls, and of the fastest batch."""
    assert callable(action)
    for _ in range(WARM):
        action()
    batches = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        for _ in range(runs // BATCHES):
            action()
        batches.append((time.perf_counter() - start) / (runs // BATCHES))
    return statistics.mean(batches), min(batches)


def measure(runs: int, folder: Path) -> None:
    """Print a row per way to launch and sample kernel."""
    from hetcc.backends.fpga.xrt.xrt_library import LibraryXrt

    print("| kernel | arguments | start, wait, answer: mean (best) | doorbell, answer: mean (best) |")
    print("|---|---|---|---|")
    for name, region in (("indexer, 64 rows of 16", scans.single_scan(16, 64, 4)),
                         ("weighted scan, 16 rows", scans.weighted_scan(1, 1, 2, 4, 16, 4))):
        graph = compose(region)
        assert isinstance(graph, StageGraph)
        graph = chosen(graph)
        made = emit_stages(graph, with_verilog=False)
        path = folder / "kernel.xclbin"
        path.write_bytes(made.files[made.entry])
        driver = KernelDriver(LibraryXrt, path, unpack(path.read_bytes()).kernel, graph)
        # What a run waits for is never in memory that nothing computes on, so the status is not looked at.
        driver._checked = lambda answer: answer  # type: ignore[method-assign]
        word = numpy.array([1], "<u4").view(numpy.uint8)

        def ring(driver: KernelDriver = driver, word: numpy.ndarray = word) -> None:
            driver._put(driver._mailbox, word, DOORBELL_OFFSET)
            driver._answer()

        started, rung = seconds(driver.run, runs), seconds(ring, runs)
        print(f"| {name} | {len(driver._buffers)} | {started[0] * 1e6:.1f} us ({started[1] * 1e6:.1f} us) | "
              f"{rung[0] * 1e6:.1f} us ({rung[1] * 1e6:.1f} us) |", flush=True)


def main() -> None:
    """Start the measurement in a process of its own, since XRT reads its environment once."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        if os.environ.get("XCL_EMULATION_MODE") == "noop":
            measure(runs, Path(folder))
            return
        shim = Path(folder)
        subprocess.run([sys.executable, __file__, str(runs)], env={**os.environ, **environment(shim)}, cwd=shim,
                       check=True)


if __name__ == "__main__":
    main()
