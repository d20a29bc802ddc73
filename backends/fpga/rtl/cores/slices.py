"""The streaming core for rows that pass a slice at a time: one beat of every table per cycle.

Beside the first table, whose beats come on ``row_*``, the others come on side ports of their own, beat for beat. A
lookup holds a copy of its operand for every two words that pass together, since each is read at another place.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import extent_product
from hetcc.backends.fpga.costs.lookups import LOOKUP_PORTS, lookup_style
from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.units.merge import pulse
from hetcc.backends.fpga.stages.loads import Load
from hetcc.backends.fpga.stages.slices import LOOKUP_LATENCY, other_tables, slice_words
from hetcc.backends.fpga.stages.stage_graph import Access, Lookup, Scan, StageGraph

_NAN = 0x7FC00000


class LookupMemory(Elaboratable):
    """Entries on chip, read at signed positions, ``LOOKUP_LATENCY`` cycles later; not while they are written.

    A negative position counts from the end; one that is outside gives NaN.

    Args:
        entries: how many, at most ``2**31``.
        granule: how many are written together, a power of two; the last of them may be missing.
        ports: positions per cycle, one or two; the first shares its port of the memory with the writing.
    """

    INPUTS = ("write", "address", "data", "index")

    def __init__(self, entries: int, granule: int, ports: int) -> None:
        self._entries, self._granule, self._ports = entries, granule, ports
        self.write = Signal()
        self._rows = max(math.ceil(entries / granule), 2)
        self.address = Signal(range(self._rows))
        self.data = Signal(32 * granule)
        self.index = Signal(32 * ports)
        self.result = Signal(32 * ports)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        style = {"ram_style": lookup_style(self._entries, self._granule, self._ports)}
        memory = Memory(shape=32 * self._granule, depth=self._rows, init=[], attrs=style)
        m.submodules.entries = memory
        write = memory.write_port()
        shared = Signal.like(self.address)
        m.d.comb += [write.addr.eq(shared), write.data.eq(self.data), write.en.eq(self.write)]
        for port in range(self._ports):
            read = memory.read_port(domain="sync")
            place = self._look_up(m, port, read)
            address = place[self._granule.bit_length() - 1:]
            m.d.comb += read.en.eq(~self.write)
            if port:
                m.d.comb += read.addr.eq(address)
            else:
                m.d.comb += [shared.eq(Mux(self.write, self.address, address)), read.addr.eq(shared)]
        return m

    def _look_up(self, m: Module, port: int, read: Any) -> Any:
        """The position that a port reads; its entry goes to the result."""
        signed, wrapped = self.index.word_select(port, 32).as_signed(), Signal(34)
        m.d.comb += wrapped.eq(Mux(signed < 0, signed + self._entries, signed))
        place, outside = Signal(range(max(self._entries, 2))), Signal()
        low = self._granule.bit_length() - 1
        within, missing = Signal(low), Signal()
        m.d.sync += [place.eq(wrapped), outside.eq(wrapped[33] | (wrapped[:33] >= self._entries)), missing.eq(outside),
                     within.eq(place[:low]),
                     self.result.word_select(port, 32).eq(Mux(missing, _NAN, read.data.word_select(within, 32)))]
        return place


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

    def _rows(self, m: Module, loaded: Any, _load_beat: Any) -> tuple[Point, Any]:
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

    def _hold(self, m: Module, load: Load, width: int, base: int, beat: Any, taken: Any) -> None:
        if not any(stage.table is load.operand for stage in self._graph.of_kind(Lookup)):
            super()._hold(m, load, width, base, beat, taken)
            return
        address, write = Signal.like(beat), Signal()
        m.d.comb += [address.eq(beat - base), write.eq(taken & (beat >= base) & (beat < base + load.beats))]
        words = Cat(*(flushed(self.load_data.word_select(at, 32)) for at in range(load.granule)))
        self._tables.append(([write, address, words], load.granule))

    def _lookup(self, m: Module, point: Point, table: tuple[list[Any], int], stage: Lookup) -> Point:
        (held, granule), entries, found = table, extent_product(self._graph, stage.over), []
        for at in range(0, len(point.values), LOOKUP_PORTS):
            given = point.values[at:at + LOOKUP_PORTS]
            entry = self._library.place(
                m, f"hetcc_lookup{entries}_{granule}x{len(given)}", partial(LookupMemory, entries, granule, len(given)),
                dict(zip(LookupMemory.INPUTS, (*held, Cat(*given)), strict=True)), ("result",))[0]
            found += [entry.word_select(port, 32) for port in range(len(given))]
        return self._later(m, point, found, LOOKUP_LATENCY)


__all__ = ["LookupMemory", "SlicedCore"]
