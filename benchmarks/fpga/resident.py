"""Scans of tables kept on chip: whole kernels as the compiler makes them, in Verilator on the HBM model.

    python benchmarks/fpga/resident.py choices
    python benchmarks/fpga/resident.py kernels [--rows N ...]
    python benchmarks/fpga/resident.py banks

``choices``: what ``choice.choose`` makes of one head of 128 when the table may stay on chip, and when it may not;
closed forms only. ``kernels``: one head of 128 16-bit integers, k = 64, at each number of rows; the first run reads the
table, the others do not, and the buffers after the last are compared with the functional model, bit for bit. What a
row costs while rows stream is the difference between the runs of two sizes (the median, since some meet a refresh of
the memory) over that of their rows. ``banks``: one bank by yosys against its form.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import Budget, choose, rate_of
from hetcc.backends.fpga.costs.cycles_resident import block_bank, ultra_bank
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
from hetcc.backends.fpga.costs.unit_resources import CARD
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.memory.resident import Residency
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import APART_CYCLES, build_kernel, run_kernel
from hetcc.backends.fpga.rtl.verilog import write_kernel
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, StageGraph

DEPTH, K, RUNS = 128, 64, 33
BUILD_TIMEOUT_S = 3600.0


def kernel_of(rows: int, policy: str, *, masked: bool = False, on_chip: bool = True) -> StageGraph:
    """One head, as wide as the compiler makes it."""
    composed = compose(sample.single_scan(DEPTH, rows, K, masked=masked))
    graph = with_policy(composed, policy) if isinstance(composed, StageGraph) else composed
    if not isinstance(graph, StageGraph):
        raise SystemExit(str(graph))
    return replace(graph, parallel=choose(graph, Budget(on_chip=on_chip)))


def choices() -> None:
    """A line of a table for every size and format."""
    print("| rows | format | banks: block RAM, ultra RAM | rows per cycle | LUT | DSP | BRAM | URAM | run, cycles | "
          "reading the table first | from memory: run, cycles |")
    print("|" + "---|" * 11)
    for rows in (1_024, 16_384, 65_536, 131_072):
        for policy in ("quantised:int16", "quantised:int8", "exact"):
            graph, streamed = kernel_of(rows, policy), kernel_of(rows, policy, on_chip=False)
            parallel, found = graph.parallel, kernel_cycles(graph)
            assert parallel is not None
            shares = total_of(kernel_resources(graph)).shares(CARD)
            print(f"| {rows:,} | {policy} | {parallel.block_banks}, {parallel.ultra_banks} | "
                  f"{1 / rate_of(graph, parallel).row_cycles:.2f} | {shares['lut']:.0%} | {shares['dsp']:.0%} | "
                  f"{shares['bram36']:.0%} | {shares['uram']:.0%} | {found.cycles:,} | +{found.fill_cycles:,} | "
                  f"{kernel_cycles(streamed).cycles:,} |")


def contents_of(graph: StageGraph) -> dict[str, numpy.ndarray]:
    """Random buffers."""
    random, found = numpy.random.default_rng(0), {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        floats = buffer.element.is_floating and buffer.role is not BufferRole.OUTPUT
        found[buffer.name] = random.standard_normal(count).astype(kind) if floats else numpy.zeros(count, kind)
    return found


def kernels(sizes: list[int]) -> None:
    """Build and run the kernel of each size; a line each, and the cycles of a row between neighbouring sizes."""
    before: tuple[int, float] | None = None
    for rows in sizes:
        began = time.monotonic()
        graph = kernel_of(rows, "quantised:int16")
        got = contents_of(graph)
        expected = {name: content.copy() for name, content in got.items()}
        execute(graph, expected)
        with tempfile.TemporaryDirectory(prefix="hetcc-resident-") as folder:
            text = write_kernel(graph, "scan")
            build_kernel(text, "scan", graph, Path(folder), timeout_s=BUILD_TIMEOUT_S)
            built = time.monotonic()
            done = run_kernel(graph, got, Path(folder), runs=RUNS, apart=APART_CYCLES)
        same = all(content.tobytes() == expected[name].tobytes() for name, content in got.items())
        further, predicted, parallel = done.cycles[1:], kernel_cycles(graph), graph.parallel
        median, mean = statistics.median(further), statistics.mean(further)
        assert parallel is not None
        print(f"{rows:,} rows of {DEPTH}, {parallel}: Verilog {len(text):,} bytes; first run {done.cycles[0]:,}, "
              f"further {mean:,.0f} ({min(further):,} to {max(further):,}, median {median:,.0f}); closed form "
              f"{predicted.cycles:,} ({predicted.cycles / mean - 1:+.1%}), with the table "
              f"{predicted.cycles + predicted.fill_cycles:,} "
              f"({(predicted.cycles + predicted.fill_cycles) / done.cycles[0] - 1:+.1%}); every buffer the model's: "
              f"{same}; {built - began:.0f} s to build, {time.monotonic() - built:.0f} s to run", flush=True)
        if before is not None:
            per_cycle = (rows - before[0]) / (median - before[1])
            print(f"  from {before[0]:,} to {rows:,} rows: {per_cycle:.2f} rows and {per_cycle * DEPTH:,.0f} "
                  "multiplications per cycle", flush=True)
        before = rows, median


def banks() -> None:
    """A bank of each kind by yosys."""
    from hetcc.backends.fpga.rtl.cores.resident import Bank
    from hetcc.backends.fpga.rtl.simulation.synthesis import synthesise

    for bits, depth in ((264, 128), (264, 512), (2_056, 512), (264, 2_048)):
        for style, form in (("block", block_bank), ("ultra", ultra_bank)):
            bank = Bank(bits, depth, style)
            ports = tuple(getattr(bank, name) for name in (*Bank.INPUTS, *Bank.OUTPUTS))
            print(f"{depth} rows of {bits} bits, {style}: form {form(Residency(bits, depth, depth, depth, 1, 1))}; "
                  f"yosys {synthesise([(bank, ports)])[0]}", flush=True)


def main() -> None:
    """The part named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("choices", "kernels", "banks"))
    parser.add_argument("--rows", type=int, nargs="+", default=[4_096, 16_384])
    options = parser.parse_args()
    if options.part == "kernels":
        kernels(options.rows)
    else:
        {"choices": choices, "banks": banks}[options.part]()


if __name__ == "__main__":
    main()
