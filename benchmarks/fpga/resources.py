"""Closed forms of resources against yosys (xcup): units of the library, and whole kernels.

    python benchmarks/fpga/resources.py [units|kernel|indexer] [PATTERN]

``units`` prints a line per unit; what was synthesised before comes from the cache. ``kernel`` takes a small kernel
three ways: by the closed forms, module by module, and flat (half an hour). ``indexer`` prints what share of the card an
indexer of 64 heads of 128 over 131,072 tokens takes, in every numeric policy, with the width the compiler chooses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hetcc.backends.fpga.costs.unit_resources import NAMES, Resources

FITTED: tuple[tuple[Any, ...], ...] = (
    ("multiply",), ("add",), ("factors", 1, 32), ("factors", 1, 16),
    ("block", 1, 32), ("block", 2, 32), ("block", 4, 32), ("block", 8, 32), ("block", 16, 32), ("block", 2, 16),
    ("block", 4, 16), ("block", 8, 16), ("block", 16, 16), ("block", 64, 16),
    ("dots", 8, 16, 1), ("dots", 16, 16, 1), ("dots", 8, 8, 2),
    ("quantise", 8, 16), ("quantise", 16, 16), ("quantise", 8, 8), ("float", 38, 16), ("float", 22, 8), ("sort", 2),
    ("sort", 4), ("merge", 1, 8), ("merge", 4, 16), ("merge", 1, 64), ("merge", 4, 64), ("keep", 4, 16),
    ("reader", 512, 64), ("reader", 64, 16), ("writer",), ("combiner", 4), ("combiner", 8), ("unpacker", 4),
    ("unpacker", 64), ("control", 5), ("control", 15), ("assembler", 128, 4),
)
SEEN: tuple[tuple[Any, ...], ...] = (
    ("dots", 32, 8, 2), ("quantise", 32, 16), ("quantise", 24, 8), ("float", 34, 16), ("sort", 8), ("sort", 16),
    ("merge", 2, 16),
    ("merge", 1, 32), ("merge", 8, 16), ("merge", 2, 64), ("merge", 1, 512), ("merge", 1, 1024), ("merge", 1, 4096),
    ("keep", 8, 16), ("keep", 1, 512), ("keep", 1, 2048), ("quantise", 64, 8), ("reader", 256, 64), ("combiner", 2),
    ("unpacker", 2), ("unpacker", 8), ("unpacker", 16), ("unpacker", 32), ("unpacker", 4, 8), ("unpacker", 4, 16),
    ("unpacker", 2, 4), ("unpacker", 8, 16), ("control", 9), ("assembler", 32, 16), ("lookup", 300, 1, 1),
    ("lookup", 300, 2, 1), ("lookup", 300, 4, 1), ("lookup", 1000, 4, 1), ("lookup", 4096, 1, 1),
    ("lookup", 4096, 2, 1), ("lookup", 1000, 4, 2), ("lookup", 4096, 4, 2), ("lookup", 8192, 4, 2),
    ("lookup", 30_522, 8, 2),
)
"""Known while the forms were written."""
HELD_OUT: tuple[tuple[Any, ...], ...] = (
    ("dots", 32, 16, 1), ("dots", 32, 8, 1), ("float", 30, 8), ("control", 12), ("assembler", 64, 8),
    ("reader", 128, 32), ("quantise", 12, 8), ("merge", 2, 32), ("keep", 2, 256), ("merge", 4, 128), ("dots", 24, 8, 2),
    ("block", 3, 32), ("block", 6, 32), ("block", 12, 32), ("block", 48, 16), ("block", 5, 16), ("factors", 8, 32),
    ("quantise", 48, 16), ("reader", 1024, 64), ("merge", 16, 128), ("keep", 16, 128), ("unpacker", 4, 64),
    ("unpacker", 8, 64), ("unpacker", 4, 8, 64), ("unpacker", 4, 32), ("lookup", 700, 2, 2), ("lookup", 2000, 1, 1),
)
"""Synthesised after the forms were written."""


def unit_of(name: str, *sizes: int) -> tuple[Any, tuple[Any, ...]]:
    """A unit and its ports."""
    from hetcc.backends.fpga.rtl.control import AxiLiteControl
    from hetcc.backends.fpga.rtl.cores.slices import LookupMemory
    from hetcc.backends.fpga.rtl.memory.axi import BurstReader, WordWriter, WriteCombiner
    from hetcc.backends.fpga.rtl.memory.axi_streams import OFFSET_BITS, Assembler, Unpacker
    from hetcc.backends.fpga.rtl.units.blocks import BlockDot, Factors
    from hetcc.backends.fpga.rtl.units.fp32 import Adder, Multiplier
    from hetcc.backends.fpga.rtl.units.library import Library
    from hetcc.backends.fpga.rtl.units.merge import RowSorter, RunMerger
    from hetcc.backends.fpga.rtl.units.products import IntegerDots
    from hetcc.backends.fpga.rtl.units.quantise import IntegerToFloat, VectorQuantiser
    from hetcc.backends.fpga.rtl.units.topk import ENTRY_BITS

    merger = ("clear", "valid_in", "row_in", "valid_out", "row_out")
    assembler = ("valid", "ready", "data", "beat_valid", "beat_ready", "beat_data")
    makers: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "multiply": (Multiplier, ("a", "b", "result")),
        "factors": (Factors, ("row", "factors")),
        "block": (lambda count, bits: BlockDot(Library(False), count, bits), ("row", "stationary", "result")),
        "add": (Adder, ("a", "b", "result")),
        "dots": (IntegerDots, ("row", "stationary", "total")),
        "quantise": (VectorQuantiser, ("row", "result", "exponent")),
        "float": (IntegerToFloat, ("total", "exponents", "bad", "result")),
        "sort": (lambda width: RowSorter(width, ENTRY_BITS), ("row", "result")),
        "merge": (lambda width, rows: RunMerger(width, ENTRY_BITS, rows, False), merger),
        "keep": (lambda width, rows: RunMerger(width, ENTRY_BITS, rows, True), merger),
        "reader": (BurstReader, (*BurstReader.INPUTS, *BurstReader.OUTPUTS)),
        "writer": (WordWriter, (*WordWriter.INPUTS, *WordWriter.OUTPUTS)),
        "combiner": (lambda size: WriteCombiner(size, OFFSET_BITS), (*WriteCombiner.INPUTS, *WriteCombiner.OUTPUTS)),
        "lookup": (LookupMemory, (*LookupMemory.INPUTS, "result")),
        "assembler": (lambda bits, beat: Assembler(bits, beat, 2 * beat), assembler),
    }
    if name == "unpacker":
        unit = Unpacker(sizes)
        inputs, outputs = unit.ports()
        return unit, tuple(getattr(unit, port) for port in (*inputs, *outputs))
    if name == "control":
        slave = AxiLiteControl([(16 + 12 * at, 64 if at < sizes[0] - 1 else 32) for at in range(sizes[0])])
        return slave, slave.ports()
    make, ports = makers[name]
    made = make(*sizes)
    return made, tuple(getattr(made, port) for port in ports)


def form_of(name: str, *sizes: int) -> Resources:
    """The closed form of a unit."""
    from hetcc.backends.fpga.costs import unit_resources as forms
    from hetcc.backends.fpga.costs.lookups import lookup_copies

    makers: dict[str, Callable[..., Resources]] = {
        "multiply": lambda: forms.MULTIPLY_FP32, "block": forms.block_dot,
        "factors": lambda depth, bits: forms.factor(bits).times(depth),
        "add": lambda: forms.ADD_FP32, "writer": lambda: forms.WORD_WRITER, "dots": forms.integer_dots,
        "quantise": forms.quantiser, "float": lambda width, _: forms.integer_to_float(width),
        "sort": forms.row_sorter, "merge": forms.run_merger,
        "lookup": lookup_copies,
        "keep": lambda width, rows: forms.run_merger(width, rows, keep=True), "reader": forms.burst_reader,
        "combiner": forms.write_combiner, "unpacker": lambda *granules: forms.unpacker(granules),
        "control": lambda count: forms.control_slave(count - 1, 1), "assembler": forms.assembler,
    }
    return makers[name](*sizes)


def units(pattern: str) -> None:
    """Print one line per unit: form, yosys, and the form's error."""
    from hetcc.backends.fpga.rtl.simulation.synthesis import synthesise
    from hetcc.store import Store

    print("| unit | LUT form / yosys | FF form / yosys | DSP, BRAM, URAM | |\n|---|---|---|---|---|")
    store = Store()
    for what, cases in (("fitted", FITTED), ("seen", SEEN), ("held out", HELD_OUT)):
        for case in (case for case in cases if pattern in f"{what} {case[0]}"):
            form, seen = form_of(*case), synthesise([unit_of(*case)], store)[0]
            memory = f"{form.dsp:g} / {seen.dsp:g}, {form.bram36:g} / {seen.bram36:g}, {form.uram:g} / {seen.uram:g}"
            print(f"| {case[0]} {', '.join(map(str, case[1:]))} | {_pair(form.lut, seen.lut)} | "
                  f"{_pair(form.register, seen.register)} | {memory} | {what} |", flush=True)


def _pair(form: float, seen: float) -> str:
    return f"{form:,.0f} / {seen:,.0f} ({form / seen - 1:+.1%})" if seen else f"{form:,.0f} / 0"


def kernel(with_flat: bool) -> None:
    """A weighted scan of 256 rows of 16 with 4 heads, k = 32: one row per cycle, one channel."""
    from hetcc.backends.fpga.compose.compose import compose
    from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
    from hetcc.backends.fpga.rtl.simulation.synthesis import synthesise_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel
    from hetcc.backends.fpga.samples import scans as sample
    from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph
    from hetcc.store import Store

    graph = compose(sample.weighted_scan(1, 1, 4, 16, 256, 32))
    assert isinstance(graph, StageGraph)
    graph = replace(graph, parallel=Parallelism(4, 1, 1))
    verilog = write_kernel(graph, "k")
    _line("closed forms", total_of(kernel_resources(graph)))
    found = synthesise_kernel(verilog, "k", Store())
    _line(f"{len(found.modules)} modules, {sum(found.instances.values())} instances", found.total)
    if with_flat:
        start = time.monotonic()
        flat = synthesise_kernel(verilog, "k", Store(), flat=True).total
        _line(f"flat ({time.monotonic() - start:.0f} s)", flat)


def _line(name: str, found: Resources) -> None:
    print(f"{name:28s}", "  ".join(f"{field} {getattr(found, field):,.1f}" for field in NAMES), flush=True)


def indexer() -> None:
    """Shares of the card."""
    for policy, graph, shares in _indexers():
        wide = graph.parallel
        print(f"| {policy} | {wide.lanes} | {wide.together} | {wide.stripes} | "
              + " | ".join(f"{shares[name]:.1%}" for name in NAMES) + " |")


def _indexers() -> Iterator[tuple[str, Any, dict[str, float]]]:
    from hetcc.backends.fpga.compose.compose import compose
    from hetcc.backends.fpga.costs.choice import chosen
    from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
    from hetcc.backends.fpga.costs.unit_resources import CARD
    from hetcc.backends.fpga.formats import POLICIES, with_policy
    from hetcc.backends.fpga.samples import scans as sample
    from hetcc.backends.fpga.stages.stage_graph import StageGraph

    composed = compose(sample.weighted_scan(1, 1, 64, 128, 131072, 2048))
    assert isinstance(composed, StageGraph)
    for policy in POLICIES:
        graph = with_policy(composed, policy)
        assert isinstance(graph, StageGraph)
        graph = chosen(graph)
        yield policy, graph, total_of(kernel_resources(graph)).shares(CARD)


def main() -> None:
    """Print what was asked for."""
    words = sys.argv[1:] or ["units"]
    if words[0] == "kernel":
        kernel("--no-flat" not in words)
    elif words[0] == "indexer":
        indexer()
    else:
        units(words[1] if len(words) > 1 else "")


if __name__ == "__main__":
    main()
