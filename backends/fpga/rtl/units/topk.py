"""Exact top-k in hardware at ``width`` candidates per cycle, whatever the data: rows are sorted, merged to runs of at
least k, and every run is merged with the best so far. See docs/fpga_stages.md for the algorithm and its cycles.

An entry is one number: real (1 bit), the score's sort key (32), the complement of its index (20; 25 beyond 2**20
candidates), and whether a zero was negative (1). So "larger" is the order wanted: score first, lower index first among
equals, and what only fills up a run last of all.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import row_width, run_rows, sorter_stages
from hetcc.backends.fpga.costs.cycles_selections import index_bits
from hetcc.backends.fpga.rtl.units.library import Library, sort_key
from hetcc.backends.fpga.rtl.units.merge import RowSorter, RunMerger, pulse

INDEX_BITS = 20
ENTRY_BITS = 1 + 32 + INDEX_BITS + 1


class TopKUnit(Elaboratable):
    """The k best of ``count`` candidates.

    Pulse ``clear``, offer ``valid``/``values`` ``ceil(count / offered)`` times in index order (lane 0 of ``values`` has
    the lowest index; lanes past ``count`` are ignored), then take k entries, best first, with ``out_valid`` and
    ``out_ready``. ``clear`` empties it at any time.

    Args:
        library: where the sorter and the mergers come from.
        k: entries to keep.
        largest: whether the largest or the smallest are best.
        count: candidates of one run, at most ``cycles_selections.MAX_ROWS``.
        offered: candidates per cycle; rows inside have the next power of two of entries.
    """

    def __init__(self, library: Library, k: int, largest: bool, count: int, offered: int = 1) -> None:
        self._library = library
        self._k, self._largest, self._count = k, largest, count
        self._offered, self._width = offered, row_width(offered)
        self._index_bits = index_bits(count)
        self._entry_bits = ENTRY_BITS - INDEX_BITS + self._index_bits
        self._kind = "" if self._index_bits == INDEX_BITS else f"_{self._index_bits}"
        self.clear = Signal()
        self.valid = Signal()
        self.values = Signal(32 * offered)
        self.out_valid = Signal()
        self.out_ready = Signal()
        self.out_last = Signal()
        self.out_value = Signal(32)
        self.out_index = Signal(self._index_bits)

    def ports(self) -> tuple[Any, ...]:
        """All ports but clock and reset."""
        return (self.clear, self.valid, self.values, self.out_valid, self.out_ready, self.out_last, self.out_value,
                self.out_index)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        rows = run_rows(self._k, self._width)
        valid, row, final = self._rows(m, rows)
        if self._width > 1:
            row = self._library.place(m, f"hetcc_sort{self._width}{self._kind}",
                                      lambda: RowSorter(self._width, self._entry_bits), {"row": row}, ("result",))[0]
            valid = pulse(m, valid, sorter_stages(self._width), self.clear)
        length = 1
        while length < rows:
            valid, row = self._merge(m, valid, row, length, False)
            length *= 2
        valid, row = self._merge(m, valid, row, rows, True)
        self._collect(m, valid, row, rows, final)
        return m

    def _rows(self, m: Module, rows: int) -> tuple[Any, Any, int]:
        """Candidates as rows of entries, with empty rows at the end until the last run is full.

        Returns:
            valid, row, and the number of the first row of the list that comes out last.
        """
        given = -(-self._count // self._offered)
        total = -(-given // rows) * rows
        at, ended = Signal(range(total + 1)), Signal()
        filling = (at >= given) & ~ended
        taken = (self.valid & (at < given)) | filling
        with m.If(self.clear):
            # Nothing is offered before the first clear, but filling must not start by itself.
            m.d.sync += [at.eq(0), ended.eq(0)]
        with m.Elif(taken):
            m.d.sync += at.eq(at + 1)
            with m.If(at == total - 1):
                m.d.sync += ended.eq(1)
        first = at
        if self._offered != self._width:
            first = Signal(self._index_bits)
            with m.If(self.clear):
                m.d.sync += first.eq(0)
            with m.Elif(taken):
                m.d.sync += first.eq(first + self._offered)
        entries = [self._entry(lane, first, at, given) for lane in range(self._offered)]
        row, valid = Signal(self._width * self._entry_bits), Signal()
        # What is missing from a row is an entry that is not real: zero.
        m.d.sync += [row.eq(Mux(filling, 0, Cat(*entries))), valid.eq(taken & ~self.clear)]
        return valid, row, total - rows

    def _entry(self, lane: int, first: Any, at: Any, given: int) -> Any:
        value = self.values.word_select(lane, 32)
        key = sort_key(value)
        ordered = (key if self._largest else ~key)[:32]
        if self._offered == self._width:
            bits = self._index_bits
            index = Cat(Const(lane, (self._width - 1).bit_length()), first, Const(0, bits))[:bits]
        else:
            index = (first + lane)[:self._index_bits]
        real: Any = Const(1, 1)
        if (given - 1) * self._offered + lane >= self._count:
            real = at != given - 1
        entry = Cat(value == 1 << 31, (~index)[:self._index_bits], ordered, Const(1, 1))
        return Mux(real, entry, 0)

    def _merge(self, m: Module, valid: Any, row: Any, rows: int, keep: bool) -> tuple[Any, Any]:
        name = f"hetcc_{'keep' if keep else 'merge'}{self._width}x{rows}{self._kind}"
        found = self._library.place(m, name, lambda: RunMerger(self._width, self._entry_bits, rows, keep),
                                    {"clear": self.clear, "valid_in": valid, "row_in": row}, ("valid_out", "row_out"))
        return found[0], found[1]

    def _collect(self, m: Module, valid: Any, row: Any, rows: int, final: int) -> None:
        """Keep the rows of the last list and send its first k entries, one per cycle."""
        memory = Memory(shape=self._width * self._entry_bits, depth=rows, init=[])
        m.submodules.result = memory
        write, read = memory.write_port(), memory.read_port(domain="sync")
        passed, written = Signal(range(final + rows + 1)), Signal(range(rows + 1))
        mine = valid & (passed >= final)
        m.d.comb += [write.addr.eq(written), write.data.eq(row), write.en.eq(mine), read.en.eq(1)]
        readable = Signal(range(rows + 1))
        m.d.sync += readable.eq(written)
        sent = Signal(range(self._k + 1))
        lane_bits = (self._width - 1).bit_length()
        following = Signal.like(sent)
        step = self.out_valid & self.out_ready
        m.d.comb += [following.eq(sent + step), read.addr.eq(following >> lane_bits),
                     self.out_valid.eq((sent < self._k) & ((sent >> lane_bits) < readable)),
                     self.out_last.eq(sent == self._k - 1)]
        with m.If(self.clear):
            m.d.sync += [passed.eq(0), written.eq(0), sent.eq(0), readable.eq(0)]
        with m.Else():
            m.d.sync += [passed.eq(passed + valid), written.eq(written + mine), sent.eq(following)]
        entry = Signal(self._entry_bits)
        m.d.comb += entry.eq(read.data.word_select(sent[:lane_bits], self._entry_bits) if lane_bits else read.data)
        negative_zero, index = entry[0], entry[1:1 + self._index_bits]
        key = entry[1 + self._index_bits:33 + self._index_bits]
        score = key if self._largest else (~key)[:32]
        plain = Mux(score[31], score[:31], (~score)[:32])
        m.d.comb += [
            self.out_index.eq((~index)[:self._index_bits]),
            self.out_value.eq(Mux(score == 0xFFFFFFFF, 0x7FC00000, Mux(negative_zero, 1 << 31, plain))),
        ]


__all__ = ["ENTRY_BITS", "INDEX_BITS", "TopKUnit"]
