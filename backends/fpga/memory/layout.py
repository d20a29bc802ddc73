"""How the scanned table is dealt out to memory channels, so that several rows reach the core in one cycle.

A *word* has 64 bytes. Where the rows of an instance (a *segment* of the table) lie one behind the other, they are dealt
out *wide*: the core takes ``groups`` units per step, a unit being a row of whole words, or one word that holds several
short rows. Unit ``r`` of a segment belongs to group ``r mod groups``, or where blocks of rows are reduced, whole blocks
go to the groups in turn; the words of a group's units, one behind the other, go to its ``per_group`` stripes in turn.
Every segment starts anew, in all stripes at the same word, so whatever the sizes are a step finds its words where the
step before did, moved on by a constant.

Any other table is dealt out word by word, the same thing with one group and one segment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy

from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.numbers import Array, storage_type
from hetcc.backends.fpga.stages.runs import WORD_BYTES, runs_of
from hetcc.backends.fpga.stages.slices import slice_words
from hetcc.backends.fpga.stages.stage_graph import Parallelism, Reduce, Scan, StageGraph


@dataclass(frozen=True, slots=True)
class WideScan:
    """A table whose segments are rows one behind the other."""

    rows: int
    """Of a segment."""
    row_bytes: int
    segments: int
    by_word: bool = False
    """Whether a row passes a word at a time (``long_rows``, ``slices``), so that a group is one stripe."""

    @property
    def unit_words(self) -> int:
        """Words of a unit."""
        return max(self.row_bytes // WORD_BYTES, 1)

    @property
    def beat_words(self) -> int:
        """Words of a unit that the core takes at a time."""
        return 1 if self.by_word else self.unit_words

    @property
    def unit_rows(self) -> int:
        """Rows of a unit."""
        return max(WORD_BYTES // self.row_bytes, 1)

    @property
    def units(self) -> int:
        """Of a segment; the last one may hold fewer rows."""
        return math.ceil(self.rows / self.unit_rows)

    def fits(self, parallel: Parallelism) -> bool:
        """Whether so many rows can be taken from so many stripes.

        A table kept on chip is read a row at a time, a word from every stripe, the first of each row from the first.
        """
        if parallel.block_banks + parallel.ultra_banks:
            return not self.by_word and self.unit_rows == 1 and self.unit_words % parallel.stripes == 0
        if self.by_word and parallel.stripes != parallel.together:
            return False
        groups, short = divmod(parallel.together, self.unit_rows)
        return not short and groups > 0 and parallel.stripes % groups == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the words of a dense buffer are."""

    size_bytes: int
    """Of the dense buffer."""
    segments: int
    units: int
    """Of a segment."""
    unit_words: int
    groups: int
    per_group: int
    """Stripes of a group."""
    dealt: int = 1
    """Units that go to one group before the next has its turn."""

    @property
    def stripes(self) -> int:
        """Parts of the buffer."""
        return self.groups * self.per_group

    @property
    def steps(self) -> int:
        """Times that every group gives a unit, for a segment."""
        return math.ceil(math.ceil(self.units / self.dealt) / self.groups) * self.dealt

    @property
    def segment_words(self) -> int:
        """Words of a segment in every part."""
        return math.ceil(self.steps * self.unit_words / self.per_group)

    @property
    def part_bytes(self) -> int:
        """Of every part."""
        return self.segments * self.segment_words * WORD_BYTES

    @property
    def plain(self) -> bool:
        """Whether the one part is the dense buffer itself."""
        return self.stripes == 1

    def words_of(self, stripe: int) -> int:
        """Words of a segment that a step takes from a stripe, over all steps."""
        return math.ceil((self.steps * self.unit_words - stripe % self.per_group) / self.per_group)

    def deal(self, content: Array) -> list[Array]:
        """The parts of a dense array, as bytes; what no word fills is zero.

        Args:
            content: contiguous, any type.
        """
        raw = numpy.ascontiguousarray(content).reshape(-1).view(numpy.uint8)
        dense = numpy.zeros((self.segments, self.units * self.unit_words, WORD_BYTES), numpy.uint8)
        dense.reshape(-1)[:raw.size] = raw
        whole = _longer(dense, self.steps * self.groups * self.unit_words)
        turned = whole.reshape(self.segments, -1, self.groups, self.dealt * self.unit_words, WORD_BYTES)
        lines = turned.transpose(2, 0, 1, 3, 4).reshape(self.groups * self.segments, -1, WORD_BYTES)
        shares = _longer(lines, self.segment_words * self.per_group)
        parts = shares.reshape(self.groups, self.segments, self.segment_words, self.per_group, WORD_BYTES)
        return list(numpy.ascontiguousarray(parts.transpose(0, 3, 1, 2, 4)).reshape(self.stripes, -1))

    def gather(self, parts: Sequence[Array]) -> Array:
        """The inverse of :meth:`deal`: the dense array, as bytes."""
        stacked = numpy.stack([numpy.asarray(part).view(numpy.uint8).reshape(-1) for part in parts])
        shape = (self.groups, self.per_group, self.segments, self.segment_words, WORD_BYTES)
        shares = stacked.reshape(shape).transpose(0, 2, 3, 1, 4)
        lines = shares.reshape(self.groups, self.segments, -1, WORD_BYTES)[:, :, :self.steps * self.unit_words]
        turned = lines.reshape(self.groups, self.segments, -1, self.dealt * self.unit_words, WORD_BYTES)
        whole = turned.transpose(1, 2, 0, 3, 4).reshape(self.segments, -1, WORD_BYTES)
        dense = numpy.ascontiguousarray(whole[:, :self.units * self.unit_words])
        found: Array = dense.reshape(-1)[:self.size_bytes]
        return found


def _longer(lines: Array, words: int) -> Array:
    """The array with zeros behind its second axis."""
    found = numpy.zeros((lines.shape[0], words, WORD_BYTES), numpy.uint8)
    found[:, :lines.shape[1]] = lines
    return found


def portion_words(unit_words: int, per_group: int) -> int:
    """Words of a unit that are taken at a time: the most that divide it and lie in different stripes."""
    return max(words for words in range(1, unit_words + 1) if unit_words % words == 0 and words <= per_group)


def wide_scan(graph: StageGraph, table: str = "") -> WideScan | None:
    """The shape of a table that a kernel scans, where it can be dealt out wide.

    Tables that pass side by side are dealt out in the same way or not at all.

    Args:
        graph: the kernel.
        table: its buffer; the first one when absent.
    """
    scans = graph.of_kind(Scan)
    if not slice_words(graph):
        return _shape_of(graph, scans[0]) if len(scans) == 1 else None
    keys = {axis.name for axis in graph.keys}
    if any(keys & set(stage.over) for stage in graph.of_kind(Reduce)):
        return None
    shapes = {scan.table.buffer: _shape_of(graph, scan) for scan in scans}
    whole = all(slice_words(graph) * storage_type(scan.element).itemsize == WORD_BYTES for scan in scans)
    wide = shapes[table or scans[0].table.buffer]
    return replace(wide, by_word=True) if whole and wide is not None and None not in shapes.values() else None


def _shape_of(graph: StageGraph, scan: Scan) -> WideScan | None:
    """A table whose rows lie one behind the other, in whole words or several to a word."""
    size = storage_type(scan.element).itemsize
    lanes = [graph.axis(name) for name in scan.lanes]
    row = math.prod(axis.extent for axis in lanes)
    rows = math.prod(axis.extent for axis in graph.keys)
    runs = runs_of(scan.table, graph.instances, (*graph.keys, *lanes))
    bytes_of_row, segment = row * size, rows * row
    whole = math.prod(graph.buffer(scan.table.buffer).shape)
    dense = not runs.inner and runs.elements == segment and runs.offset == 0 and whole % segment == 0
    if not dense or any(stride % segment for _, stride in runs.outer):
        return None
    if bytes_of_row % WORD_BYTES and WORD_BYTES % bytes_of_row:
        return None
    if whole > segment and segment * size % WORD_BYTES:
        return None
    return WideScan(rows, bytes_of_row, whole // segment, long_rows(graph) is not None)


def layout_of(graph: StageGraph, buffer: str) -> Layout:
    """How a buffer of a kernel is dealt out.

    Args:
        graph: with its ``parallel`` chosen; without, every buffer is one part.
        buffer: its name.
    """
    found = graph.buffer(buffer)
    size = math.prod(found.shape) * storage_type(found.element).itemsize
    parallel = graph.parallel or Parallelism()
    scanned = {scan.table.buffer for scan in graph.of_kind(Scan)}
    words = max(math.ceil(size / WORD_BYTES), 1)
    if buffer not in scanned:
        return Layout(size, 1, words, 1, 1, 1)
    wide = is_wide(graph, buffer)
    if wide is None:
        return Layout(size, 1, words, 1, 1, parallel.stripes)
    if parallel.block_banks + parallel.ultra_banks:
        return Layout(size, wide.segments, wide.units, wide.unit_words, 1, parallel.stripes)
    groups = parallel.together // wide.unit_rows
    dealt = dealt_rows(graph) if groups > 1 else 1
    return Layout(size, wide.segments, wide.units, wide.unit_words, groups, parallel.stripes // groups, dealt)


def dealt_rows(graph: StageGraph) -> int:
    """Neighbouring rows that are dealt to one group: those that are reduced together, if rows are whole words."""
    wide = wide_scan(graph)
    if wide is None or wide.unit_rows > 1:
        return 1
    keys = {axis.name: axis.extent for axis in graph.keys}
    blocks = [math.prod(keys[name] for name in stage.over if name in keys) for stage in graph.of_kind(Reduce)]
    return max(blocks, default=1)


def is_wide(graph: StageGraph, table: str = "") -> WideScan | None:
    """The shape of a scanned table if it is dealt out wide with what was chosen; arguments as of :func:`wide_scan`."""
    wide = wide_scan(graph, table)
    return wide if wide is not None and wide.fits(graph.parallel or Parallelism()) else None


def segment_stride(graph: StageGraph, wide: WideScan) -> int:
    """Elements of a segment of the scanned table."""
    scan: Any = graph.of_kind(Scan)[0]
    return wide.rows * wide.row_bytes // storage_type(scan.element).itemsize


__all__ = ["Layout", "WideScan", "dealt_rows", "is_wide", "layout_of", "portion_words",
           "segment_stride", "wide_scan"]
