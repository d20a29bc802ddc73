"""Rows that are longer than one adder tree, or packed: they pass the multipliers a word of memory at a time.

The decision is made from the stage graph alone, so that cycles, limits and hardware agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.packed import is_packed
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.stage_graph import InnerProduct, Scan, StageGraph

MAX_TREE = 256
"""Elements of a row that one tree of adders takes at once."""
MAX_LONG_DEPTH = 2**15
"""Elements of a long row."""
MAX_LONG_STATIONARY = 2**18
"""Elements of all its stationary vectors: 8 Mbit as they come, a ninth of the card's block RAM."""


@dataclass(frozen=True, slots=True)
class LongRows:
    """How the rows of a table pass in beats of one 64-byte word."""

    depth: int
    """Elements of a row."""
    bits: int
    """Of a packed integer; 0: binary32."""
    vectors: int
    """Stationary vectors, all multiplied at once."""
    row_bytes: int

    @property
    def per_beat(self) -> int:
        """Elements of a beat."""
        return WORD_BYTES * 8 // (self.bits or 32)

    @property
    def beats(self) -> int:
        """Beats of a row; the last may hold fewer elements and, of a packed row, holds its exponent."""
        return math.ceil(self.row_bytes / WORD_BYTES)

    @property
    def words(self) -> int:
        """32-bit words of a row."""
        return self.row_bytes // 4


def check_long(rows: LongRows) -> Rejected | None:
    """The limit of the hardware that long rows are beyond."""
    if rows.depth > MAX_LONG_DEPTH:
        return Rejected("a row is too long for the memory of its stationary vector", str(MAX_LONG_DEPTH),
                        str(rows.depth))
    if rows.depth * rows.vectors > MAX_LONG_STATIONARY:
        return Rejected("the stationary vectors of long rows are too large", str(MAX_LONG_STATIONARY),
                        str(rows.depth * rows.vectors))
    return None


def long_rows(graph: StageGraph) -> LongRows | None:
    """How the rows of the scanned table pass in beats; None where they pass as a whole."""
    for stage in graph.of_kind(InnerProduct):
        source = graph.stage(stage.source.stage)
        if not isinstance(source, Scan):
            continue
        depth = math.prod(graph.axis(name).extent for name in stage.over)
        vectors = math.prod(graph.axis(name).extent for name in stage.lanes)
        if is_packed(source):
            size = math.prod(graph.axis(name).extent for name in source.lanes)
            return LongRows(depth, stage.format.integer_bits, vectors, size)
        if depth > MAX_TREE and stage.format is NumberFormat.FP32 and stage.over == source.lanes:
            return LongRows(depth, 0, vectors, 4 * depth)
    return None


__all__ = ["MAX_LONG_DEPTH", "MAX_TREE", "LongRows", "check_long", "long_rows"]
