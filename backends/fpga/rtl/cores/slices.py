"""The streaming core for rows that pass a slice at a time: one beat of every table per cycle.

Beside the first table, whose beats come on ``row_*``, the others come on side ports of their own, beat for beat. A
lookup holds a copy of its operand for every word of a slice, since each is read at another place.
"""

from __future__ import annotations

from typing import Any

from amaranth import Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.cores.stationary import Load
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.units.merge import pulse
from hetcc.backends.fpga.stages.slices import LOOKUP_LATENCY, other_tables, slice_words
from hetcc.backends.fpga.stages.stage_graph import Access, Lookup, Scan, StageGraph

_NAN = 0x7FC00000


class LookupMemory(Elaboratable):
    """Entries on chip, read at a signed position, ``LOOKUP_LATENCY`` cycles later.

    A negative position counts from the end; one that is outside gives NaN.

    Args:
        entries: how many, at most ``2**31``.
    """

    INPUTS = ("write", "address", "data", "index")

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self.write = Signal()
        self.address = Signal(range(max(entries, 2)))
        self.data = Signal(32)
        self.index = Signal(32)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        m.submodules.entries = memory = Memory(shape=32, depth=self._entries, init=[])
        write, read = memory.write_port(), memory.read_port(domain="sync")
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.write), read.en.eq(1)]
        signed = self.index.as_signed()
        wrapped = Signal(34)
        m.d.comb += wrapped.eq(Mux(signed < 0, signed + self._entries, signed))
        place, outside = Signal(range(max(self._entries, 2))), Signal()
        missing = Signal()
        m.d.sync += [place.eq(wrapped), outside.eq(wrapped[33] | (wrapped[:33] >= self._entries)), missing.eq(outside)]
        m.d.comb += read.addr.eq(place)
        m.d.sync += self.result.eq(Mux(missing, _NAN, read.data))
        return m


class SlicedCore(StreamCore):
    """The hardware of a stage graph whose rows pass in slices.

    Args:
        graph: the kernel.
        library: where units come from.
        together: rows that pass beside each other.
    """

    def __init__(self, graph: StageGraph, library: Library, together: int = 1) -> None:
        self._slice = slice_words(graph)
        super().__init__(graph, library, 1, together, self._slice * together)
        self._whole_rows = False
        self._lanes = self._slice
        self.groups = self.beats
        self.own_sides = len(super()._find_sides())
        """Sides before those that are tables."""
        for at in range(self.own_sides, len(self.sides)):
            self.side_data[at] = Signal(32 * self.beat_words, name=f"side{at}_data")

    def _find_sides(self) -> list[Access]:
        return [*super()._find_sides(), *(scan.table for scan in other_tables(self._graph))]

    def _rows(self, m: Module, loaded: Any, _word: Any) -> tuple[Point, Any]:
        """One beat of every table per cycle; words of a row come with its last."""
        beat, left, running = Signal(range(self.beats + 1)), Signal(range(self.steps + 1)), Signal()
        last, accept, tables, ends = Signal(), Signal(), Const(1, 1), self._room
        for at, valid in enumerate(self.side_valid):
            if at < self.own_sides:
                ends = ends & valid
            else:
                tables = tables & valid
        m.d.comb += [last.eq(beat == self.beats - 1), accept.eq(self.row_valid & self.row_ready),
                     self.row_ready.eq(running & loaded & tables & ~self.start & (~last | ends))]
        m.d.comb += [ready.eq(accept if at >= self.own_sides else accept & last)
                     for at, ready in enumerate(self.side_ready)]
        data = {scan.name: Signal(32 * self.beat_words) for scan in self._graph.of_kind(Scan)}
        given = [self.row_data, *self.side_data[self.own_sides:]]
        m.d.sync += [held.eq(words) for held, words in zip(data.values(), given, strict=True)]
        sides = {f"side{at}": Signal(32 * self.together, name=f"held{at}") for at in range(self.own_sides)}
        m.d.sync += [held.eq(words) for held, words in zip(sides.values(), self.side_data, strict=False)]
        group = Signal(range(max(self.beats, 2)))
        m.d.sync += group.eq(beat)
        with m.If(accept):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
            with m.If(last):
                m.d.sync += [left.eq(left - 1), running.eq(left != 1)]
        with m.If(self.start):
            m.d.sync += [beat.eq(0), left.eq(self.steps), running.eq(1)]
        self._latency += 1
        return Point([], pulse(m, accept, 1, self.start), group, self.groups, sides, self.together, 1), data

    def _scanned(self, point: Point, row: Any) -> dict[str, Point]:
        found = {}
        for scan in self._graph.of_kind(Scan):
            words = [row[scan.name].word_select(at, 32) for at in range(self.beat_words)]
            values = [flushed(word) for word in words] if scan.element.is_floating else words
            found[scan.name] = Point(values, point.valid, point.group, point.groups, point.sides, point.rows, point.age)
        return found

    def _hold(self, m: Module, load: Load, width: int, base: int, word: Any, taken: Any) -> None:
        if not any(stage.table is load.operand for stage in self._graph.of_kind(Lookup)):
            super()._hold(m, load, width, base, word, taken)
            return
        address, write = Signal.like(word), Signal()
        m.d.comb += [address.eq(word - base), write.eq(taken & (word >= base) & (word < base + load.words))]
        self._tables.append(([write, address, flushed(self.load_data)], load.words))

    def _lookup(self, m: Module, point: Point, table: tuple[list[Any], int], _stage: Lookup) -> Point:
        held, entries = table
        found = [self._library.place(m, f"hetcc_lookup{entries}", lambda: LookupMemory(entries),
                                     dict(zip(LookupMemory.INPUTS, (*held, value), strict=True)), ("result",))[0]
                 for value in point.values]
        return self._later(m, point, found, LOOKUP_LATENCY)


__all__ = ["LookupMemory", "SlicedCore"]
