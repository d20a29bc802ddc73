"""Cycles and resources of a table kept on chip (``memory/resident.py``), as closed forms; all estimated."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hetcc.backends.fpga.costs.cycles import BANK_LATENCY
from hetcc.backends.fpga.costs.unit_resources import NOTHING, Resources, memory
from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.resident import Residency, is_resident, residency_of, resident_limit
from hetcc.backends.fpga.stages.loads import ultra_blocks, ultra_rows
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.stage_graph import Append, Parallelism, Scan, StageGraph, row_words

MAX_FILL_STRIPES = 2
"""Channels a table is filled from: at 300 MHz two of them bring more than a host's link of 16 GB/s."""
FILL_CYCLES = 4
"""Comparing addresses, the request, and the last row on its way into its bank."""


def resident_candidates(graph: StageGraph, lanes: list[int], most: int, masters: int) -> Iterator[Parallelism]:
    """Widths of a kernel whose table is kept on chip, all banks in ultra RAM.

    Args:
        graph: the kernel.
        lanes: results per cycle and row to choose among.
        most: rows of a step.
        masters: ports for the table.
    """
    for bit in range(most.bit_length()):
        together = 1 << bit
        if resident_limit(graph, together) is not None:
            continue
        held = residency_of(graph, together)
        if together > 1 and together * held.dealt >= 2 * held.rows:
            continue
        stripes = min(MAX_FILL_STRIPES, masters, 4 * row_words(graph) // WORD_BYTES)
        yield from (Parallelism(width, together, stripes, 0, together) for width in lanes)


def block_bank(held: Residency) -> Resources:
    """A bank in block RAM, and the register behind it."""
    return memory(max(held.depth, 65), held.row_bits).plus(Resources(0, held.row_bits, 0, 0, 0))


def ultra_bank(held: Residency) -> Resources:
    """A bank in ultra RAM, 72 bits of 4,096 rows each; beyond them something has to choose among blocks."""
    return Resources(held.row_bits * (ultra_rows(held.depth) - 1), held.row_bits, 0, 0,
                     ultra_blocks(held.depth, held.row_bits))


def banks(graph: StageGraph) -> Resources:
    """All banks of a kernel."""
    parallel = graph.parallel or Parallelism()
    if not is_resident(graph):
        return NOTHING
    held = residency_of(graph, parallel.together)
    return block_bank(held).times(parallel.block_banks).plus(ultra_bank(held).times(parallel.ultra_banks))


def fill_cycles(graph: StageGraph, beat: float, read: float) -> float:
    """Further cycles of a run that has to read the whole table first.

    Args:
        graph: the kernel.
        beat: cycles per word of a channel.
        read: cycles from a request to its first word.
    """
    if not is_resident(graph):
        return 0.0
    parallel = graph.parallel or Parallelism()
    layout = layout_of(graph, graph.of_kind(Scan)[0].table.buffer)
    rows = residency_of(graph, parallel.together).rows
    return read + rows * layout.unit_words / parallel.stripes * beat


def refresh_cycles(graph: StageGraph, beat: float, read: float) -> float:
    """Cycles in which the rows that were appended are read back, one after another, and written into their banks."""
    scan: Scan = graph.of_kind(Scan)[0]
    elements, layout, found = row_words(graph), layout_of(graph, scan.table.buffer), 0.0
    for stage in graph.of_kind(Append):
        if stage.table.buffer == scan.table.buffer:
            counted, strides = {name for name, _ in stage.positions.strides}, dict(stage.table.strides)
            rows = math.prod(axis.extent for axis in stage.axes
                             if axis.name in counted or strides.get(axis.name, 0) >= elements)
            found += read + (rows - 1) * max(layout.unit_words / layout.stripes * beat, 2.0)
    return found


RESIDENT_WAIT = 1 + BANK_LATENCY
"""Cycles from the last word of the operands to the first row at the multipliers, beside the pipeline: the last vector
is converted, which the pipeline counts although rows on chip are not."""


__all__ = ["FILL_CYCLES", "MAX_FILL_STRIPES", "RESIDENT_WAIT", "banks", "block_bank", "fill_cycles", "refresh_cycles",
           "resident_candidates", "ultra_bank"]
