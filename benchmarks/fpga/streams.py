"""Kernels that read a table once and write a stream or a sum: cycles of the simulated Verilog against the closed form.

    python benchmarks/fpga/streams.py [CASE ...]     CASE: matvec-int8, matvec-fp32, attention, scores, exponential

Whole kernels on the memory model, from ap_start to the interrupt, at 300 MHz. All figures are *simulated* or computed;
results are compared with the functional model bit for bit, which ends the run where they differ. ``exponential`` gives
the error of the exponential against binary64.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import chosen
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel, run_kernel
from hetcc.backends.fpga.rtl.verilog import write_kernel
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.samples.attention import memory_attention
from hetcc.backends.fpga.stages import attention, numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.packed import argument_of, pack
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.ir import Graph

CASES: dict[str, tuple[Callable[[], Graph], str, Parallelism | None]] = {
    "matvec-int8": (lambda: sample.weight_product(1, 1024, 1024), "quantised:int8", Parallelism(1, 4, 4)),
    "matvec-fp32": (lambda: sample.weight_product(1, 512, 256), "exact", Parallelism()),
    "attention": (lambda: memory_attention(2, 1, 32, 32, 512), "exact", Parallelism()),
    "scores": (lambda: sample.score_scan(1, 32, 4096), "quantised:int8", Parallelism()),
}


def main(names: list[str]) -> None:
    """Run the cases of these names, all when there are none."""
    for name in names or [*CASES, "exponential"]:
        if name == "exponential":
            exponential_error()
        else:
            run(name, *CASES[name])


def run(name: str, make: Callable[[], Graph], policy: str, parallel: Parallelism | None) -> None:
    """Build one kernel, simulate it once, compare results and cycles."""
    graph = compose(make())
    assert isinstance(graph, StageGraph), graph
    found = with_policy(graph, policy)
    assert isinstance(found, StageGraph), found
    graph = chosen(replace(found, parallel=parallel))
    buffers = buffers_of(graph)
    expected = {key: array.copy() for key, array in buffers.items()}
    execute(graph, expected)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hetcc-streams-") as folder:
        build_kernel(write_kernel(graph, "kernel"), "kernel", graph, Path(folder))
        built_s = time.perf_counter() - began
        done = run_kernel(graph, buffers, Path(folder))
    for key, array in buffers.items():
        if array.tobytes() != expected[key].tobytes():
            raise SystemExit(f"{name}: {key} differs from the functional model")
    cycles, form = done.cycles[0], kernel_cycles(graph).cycles
    read = 64 * sum(done.beats_read)
    print(f"{name}: {graph.parallel}, {cycles} cycles simulated, {form} predicted ({form / cycles - 1:+.1%}), "
          f"{cycles / DEFAULT_CLOCK_HZ * 1e6:.1f} us, {read * DEFAULT_CLOCK_HZ / cycles / 1e9:.1f} GB/s read; "
          f"built in {built_s:.0f} s", flush=True)


def buffers_of(graph: StageGraph) -> dict[str, Array]:
    """Normal data of a fixed seed in every buffer."""
    random = numpy.random.default_rng(0)
    found: dict[str, Array] = {}
    for buffer in graph.buffers:
        whole = argument_of(buffer)
        count = math.prod(whole.shape)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, numbers.storage_type(buffer.element))
            continue
        values = random.standard_normal(count).astype(numpy.float32)
        found[buffer.name] = values if buffer.packing is None else pack(buffer, values).reshape(-1)
    return found


def exponential_error() -> None:
    """Error of the exponential over its range, in units in the last place of the exact result."""
    random = numpy.random.default_rng(0)
    spread = numpy.concatenate([random.uniform(0, 87.3, 4_000_000), 2.0 ** random.uniform(-30, 6.4, 4_000_000)])
    values = (-spread).astype(numpy.float32)
    exact = numpy.exp(values.astype(numpy.float64))
    kept = exact >= 2.0**-126
    unit = numpy.exp2(numpy.floor(numpy.log2(exact[kept])) - 23)
    error = (attention.exponential(values)[kept] - exact[kept]) / unit
    print(f"exponential: {kept.sum()} values, largest error {numpy.abs(error).max():.3f}, root mean square "
          f"{math.sqrt(float((error**2).mean())):.3f}, mean {error.mean():+.4f} units in the last place", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
