"""Scans in Verilator with rows offered every cycle: keys and multiplications per cycle of the streaming core alone.

    python benchmarks/fpga/throughput.py [many-heads] [one-head]

``many-heads``: 16 heads of 128 16-bit integers, weighted rectified sum, k = 64. ``one-head``: one query, 15 keys per
cycle, k = 64; more rows of 128 binary32 numbers are more input bits than a module of Amaranth may have (65,536). Memory
is not part of this measurement: the rows come from the bench.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.rtl.simulation.stimulus import stimuli
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, StageGraph
from hetcc.ir import Graph

CASES = {
    # region, results of the first product per row, rows per cycle
    "many-heads": (lambda: sample.weighted_scan(1, 1, 16, 128, 4096, 64), 16, 1),
    "one-head": (lambda: sample.single_scan(128, 15_360, 64), 1, 15),
}


def kernel_of(region: Graph) -> StageGraph:
    """The stage graph of a region with 16-bit integers."""
    composed = compose(region)
    graph = with_policy(composed, "quantised:int16") if isinstance(composed, StageGraph) else composed
    if not isinstance(graph, StageGraph):
        raise SystemExit(str(graph))
    return graph


def buffers_of(graph: StageGraph) -> tuple[dict[str, numpy.ndarray], dict[str, numpy.ndarray]]:
    """Random contents of all buffers, tables as the kernel leaves them, and what the functional model makes of them."""
    random = numpy.random.default_rng(0)
    contents = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        contents[buffer.name] = (random.standard_normal(count).astype(kind) if buffer.element.is_floating
                                 else numpy.arange(count).astype(kind))
    reference = {name: content.copy() for name, content in contents.items()}
    execute(graph, reference)
    return {buffer.name: (reference if buffer.role is BufferRole.TABLE else contents)[buffer.name]
            for buffer in graph.buffers}, reference


def offered_words(stimulus: Any, words: int, together: int, width: int) -> tuple[numpy.ndarray, int]:
    """What each input of the core is given in each cycle, and the cycle of the first row."""
    groups, (loads, load_words) = len(stimulus.beats), stimulus.load.shape
    # Two rows wait in the core while the operands are loaded; the others follow one per cycle.
    offered = numpy.zeros((loads + groups + 4000, width), numpy.uint32)
    offered[0, 0] = 1
    offered[1:1 + loads, 1] = 1
    offered[1:1 + loads, 2:2 + load_words] = stimulus.load
    first, row = loads + 4, 2 + load_words
    offered[first:first + groups, row] = 1
    offered[first:first + groups, row + 1:row + 1 + words] = stimulus.beats
    offered[:, row + 1 + words] = 1
    at = row + 2 + words
    for side in stimulus.sides:
        # A side word is taken with its row, two cycles after the row was offered.
        offered[:, at] = 1
        offered[first + 1:first + 1 + groups, at + 1:at + 1 + together] = side
        at += 1 + together
    return offered, first


def measure(name: str) -> None:
    """Build, run and compare one case; print a line."""
    from hetcc.backends.fpga.rtl.cores.top import StreamCore
    from hetcc.backends.fpga.rtl.simulation.harness import UnitSimulator
    from hetcc.backends.fpga.rtl.units.library import Library

    make, lanes, together = CASES[name]
    graph = kernel_of(make())
    buffers, reference = buffers_of(graph)
    library, words = Library(shared=True), 128 * together
    core = StreamCore(graph, library, lanes, together, words)
    sides = [f"side{at}" for at in range(len(core.sides))]
    for at, side in enumerate(sides):
        setattr(core, f"{side}_valid", core.side_valid[at])
        setattr(core, f"{side}_data", core.side_data[at])
    inputs = ("start", "load_valid", "load_data", "row_valid", "row_data", "out_ready",
              *(f"{side}_{port}" for side in sides for port in ("valid", "data")))
    with UnitSimulator(core, library, inputs, ("row_ready", "out_valid", "out_value", "out_index")) as simulator:
        stimulus = next(iter(stimuli(graph, buffers, core)))
        offered, first = offered_words(stimulus, words, together, simulator.input_words)
        found = simulator.run(offered)
    report(name, graph, found, reference, (first, len(stimulus.beats), together, lanes))


def report(name: str, graph: StageGraph, found: numpy.ndarray, reference: dict[str, numpy.ndarray],
           sizes: tuple[int, int, int, int]) -> None:
    """Print what one case did; ``sizes``: first cycle, groups of rows, rows per group, lanes."""
    first, groups, together, lanes = sizes
    refused = int((found[first:first + groups, 0] == 0).sum())
    chosen = found[found[:, 1] == 1]
    last = int(numpy.flatnonzero(found[:, 1])[-1])
    outputs = [buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT]
    indices = next(buffer for buffer in outputs if not buffer.element.is_floating)
    same = numpy.array_equal(chosen[:, 3], reference[indices.name].reshape(-1).astype(numpy.uint32))
    rows = groups * together
    print(f"{name}: {rows} keys offered in {groups} cycles, {refused} refused, {rows / groups:g} keys and "
          f"{rows * lanes * 128 / groups:g} multiplications per cycle, {lanes * 128 * together} multipliers; "
          f"{last - first + 1} cycles from the first key to the last entry; same selection: {same}", flush=True)


def main() -> None:
    """The cases named, or all."""
    for name in sys.argv[1:] or CASES:
        measure(name)


if __name__ == "__main__":
    main()
