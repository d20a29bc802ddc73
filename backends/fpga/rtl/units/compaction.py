"""Threshold compaction in hardware: the indices of the flags that are set, in order, at ``width`` flags per cycle.

A row of flags becomes the numbers of its set lanes, pushed together by a network that moves each entry by one, two,
four ... lanes, as often as unset flags stand before it. The row is then rotated so that lane ``b`` holds what belongs
into bank ``b``, and every bank writes for itself: entry ``n`` of the list is in bank ``n mod width``. The only feedback
is the number of entries so far.

Entries leave while rows still come, one per cycle; the last one waits until all rows have been seen, and what is
missing from the capacity is filled up. The number of set flags is right once the last entry leaves.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles_selections import index_bits
from hetcc.backends.fpga.rtl.units.library import delay
from hetcc.backends.fpga.rtl.units.merge import pulse


class CompactUnit(Elaboratable):
    """Lists the set flags among ``count``.

    Pulse ``clear``, offer ``valid``/``flags`` ``ceil(count / width)`` times in index order (bit 0 has the lowest index;
    flags past ``count`` are ignored), then take ``max(capacity, 1)`` entries with ``out_valid`` and ``out_ready``.

    Args:
        count: flags of one run, at most ``cycles_selections.MAX_ROWS``.
        capacity: entries of the list; with 0 one entry leaves that only carries the count.
        fill: index of the entries behind the last.
        width: flags per cycle.
    """

    INPUTS = ("clear", "valid", "flags", "out_ready")
    OUTPUTS = ("out_valid", "out_last", "out_index", "out_count")

    def __init__(self, count: int, capacity: int, fill: int, width: int) -> None:
        self._count, self._capacity, self._fill, self._width = count, capacity, fill, width
        self._banks = 1 << (width - 1).bit_length()
        self._index_bits = index_bits(count)
        self._count_bits = self._index_bits + 1
        self.clear = Signal()
        self.valid = Signal()
        self.flags = Signal(width)
        self.out_valid = Signal()
        self.out_ready = Signal()
        self.out_last = Signal()
        self.out_index = Signal(signed(32))
        self.out_count = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        flags, first, valid = self._rows(m)
        entries, moves, number = self._numbered(m, flags, first)
        steps = (self._banks - 1).bit_length()
        for step in range(steps):
            entries, moves = self._pushed(m, entries, moves, step)
        valid, number = pulse(m, valid, 1 + steps, self.clear), delay(m, number, steps)
        total, seen = self._total(m, valid, number)
        self._write(m, entries, number, total, valid)
        self._send(m, total, seen)
        return m

    def _rows(self, m: Module) -> tuple[Any, Any, Any]:
        """One row of flags with those past the end unset, the index of its first lane, and whether it is there."""
        rows = -(-self._count // self._width)
        at, first, valid = Signal(range(rows + 1)), Signal(self._count_bits), Signal()
        rest = self._count - (rows - 1) * self._width
        inside = Mux(at == rows - 1, Const((1 << rest) - 1, self._width), Const((1 << self._width) - 1, self._width))
        taken = self.valid & (at != rows)
        flags, index = Signal(self._banks), Signal(self._count_bits)
        m.d.sync += [flags.eq(self.flags & inside), index.eq(first), valid.eq(taken & ~self.clear)]
        with m.If(self.clear):
            m.d.sync += [at.eq(0), first.eq(0)]
        with m.Elif(taken):
            m.d.sync += [at.eq(at + 1), first.eq(first + self._width)]
        return flags, index, valid

    def _numbered(self, m: Module, flags: Any, first: Any) -> tuple[list[Any], list[Any], Any]:
        """Every lane's flag and index, how many unset flags stand before it, and how many are set in all."""
        lane_bits = self._banks.bit_length()
        entries, moves, number = [], [], Signal(lane_bits)
        before: Any = Const(0, lane_bits)
        for lane in range(self._banks):
            entry, move = Signal(1 + self._index_bits), Signal(lane_bits)
            m.d.sync += [entry.eq(Cat(flags[lane], (first + lane)[:self._index_bits])), move.eq(before)]
            entries.append(entry)
            moves.append(move)
            before = (before + ~flags[lane])[:lane_bits] if lane + 1 < self._banks else before
        m.d.sync += number.eq(sum((flags[lane] for lane in range(self._banks)), Const(0, lane_bits)))
        return entries, moves, number

    def _pushed(self, m: Module, entries: list[Any], moves: list[Any], step: int) -> tuple[list[Any], list[Any]]:
        """Entries whose move has this bit go ``2**step`` lanes down; lower bits have moved before, so none collide."""
        made, left = [], []
        for lane in range(self._banks):
            entry, move = Signal(1 + self._index_bits), Signal.like(moves[lane])
            stays = entries[lane][0] & ~moves[lane][step]
            above = lane + (1 << step)
            if above < self._banks:
                comes = entries[above][0] & moves[above][step]
                m.d.sync += [entry.eq(Mux(comes, entries[above], Mux(stays, entries[lane], 0))),
                             move.eq(Mux(comes, moves[above], moves[lane]))]
            else:
                m.d.sync += [entry.eq(Mux(stays, entries[lane], 0)), move.eq(moves[lane])]
            made.append(entry)
            left.append(move)
        return made, left

    def _total(self, m: Module, valid: Any, number: Any) -> tuple[Any, Any]:
        """How many flags were set before this row, and whether all rows have been counted."""
        rows = -(-self._count // self._width)
        total, passed = Signal(self._count_bits), Signal(range(rows + 1))
        with m.If(self.clear):
            m.d.sync += [total.eq(0), passed.eq(0)]
        with m.Elif(valid):
            m.d.sync += [total.eq(total + number), passed.eq(passed + 1)]
        return total, passed == rows

    def _write(self, m: Module, entries: list[Any], number: Any, total: Any, valid: Any) -> None:
        """Rotate a row to its banks, one cycle per bit, and write it."""
        self._reads = []
        if not self._capacity:
            return
        bits = (self._banks - 1).bit_length()
        row: list[Any] = list(entries)
        place = total
        for step in range(bits):
            turned = [Signal(1 + self._index_bits) for _ in row]
            m.d.sync += [to.eq(Mux(place[step], row[(lane - (1 << step)) % self._banks], row[lane]))
                         for lane, to in enumerate(turned)]
            row, place = turned, delay(m, place, 1)
        written = pulse(m, valid, bits, self.clear)
        for bank, entry in enumerate(row):
            memory = Memory(shape=self._index_bits, depth=-(-self._capacity // self._banks), init=[])
            m.submodules[f"bank{bank}"] = memory
            port, read = memory.write_port(), memory.read_port(domain="sync")
            slot = Signal(self._count_bits - bits + 1)
            wraps = place[:bits] > bank if bits else Const(0, 1)
            m.d.comb += [slot.eq((place >> bits) + wraps), port.addr.eq(slot), port.data.eq(entry[1:]),
                         port.en.eq(written & entry[0] & ((slot << bits) + bank < self._capacity))]
            self._reads.append(read)

    def _send(self, m: Module, total: Any, seen: Any) -> None:
        """Entries leave once they are readable, the last one and what fills up once all rows have been seen."""
        bits = (self._banks - 1).bit_length()
        length = max(self._capacity, 1)
        sent, following = Signal(range(length + 1)), Signal(range(length + 1))
        # What a row adds can be read after its rotation and its write.
        there = total
        for _ in range(bits + 1):
            later = Signal(self._count_bits)
            m.d.sync += later.eq(Mux(self.clear, 0, there))
            there = later
        complete = pulse(m, seen, bits + 1, self.clear)
        step = self.out_valid & self.out_ready
        waits = (sent == length - 1) | (sent >= there)
        m.d.comb += [following.eq(sent + step), self.out_valid.eq((sent != length) & (complete | ~waits)),
                     self.out_last.eq(sent == length - 1), self.out_count.eq(there)]
        listed: Any = Const(0, self._index_bits)
        for read in self._reads:
            m.d.comb += [read.addr.eq(following >> bits), read.en.eq(1)]
        if self._reads:
            listed = Cat(*(read.data for read in self._reads)).word_select(sent[:bits], self._index_bits) if bits else (
                self._reads[0].data)
        m.d.comb += self.out_index.eq(Mux(sent < there, listed, self._fill))
        with m.If(self.clear):
            m.d.sync += sent.eq(0)
        with m.Else():
            m.d.sync += sent.eq(following)


def place_compaction(m: Module, core: Any, stage: Any, values: list[Any], valid: Any) -> None:
    """Feed a compaction and send its entries out through the core's ``out_*`` ports; the count goes with each.

    Args:
        m: the core's module.
        core: has ``start``, ``busy``, ``done``, ``candidates`` and the output ports.
        stage: the ``Compact``.
        values: flags of one cycle.
        valid: whether they are there.
    """
    unit = CompactUnit(core.candidates, stage.capacity, stage.fill, len(values))
    m.submodules.selection = unit
    m.d.comb += [
        unit.clear.eq(core.start), unit.valid.eq(valid & core.busy),
        unit.flags.eq(Cat(*(value[0] for value in values))),
        core.out_valid.eq(unit.out_valid & core.busy), unit.out_ready.eq(core.out_ready & core.busy),
        core.out_last.eq(unit.out_last), core.out_value.eq(unit.out_count), core.out_index.eq(unit.out_index),
    ]
    with m.If(core.start):
        m.d.sync += [core.busy.eq(1), core.done.eq(0)]
    with m.Elif(core.out_valid & core.out_ready & core.out_last):
        m.d.sync += [core.busy.eq(0), core.done.eq(1)]


__all__ = ["CompactUnit", "place_compaction"]
