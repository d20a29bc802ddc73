"""The streaming core of a table that is kept on chip: rows come from banks, side by side, instead of from memory.

``row_*`` is the way in: one row of binary32 numbers at a time, with its number in ``row_number``, whenever the shell
fills or refreshes the table (never while an instance runs). It is converted once, by the unit that also converts the
stationary vectors, and written into its bank. An instance then takes a row from every bank per step. Every bank is
wired to the multipliers of its own rows, so no signal is as wide as a step. What is in the banks survives ``start``.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import BANK_LATENCY, conversion_latency, quantise_latency
from hetcc.backends.fpga.memory.resident import residency_of
from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.cores.stationary import incoming_vector
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.library import Library, delay
from hetcc.backends.fpga.rtl.units.quantise import VectorQuantiser, to_bfloat16
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph, row_words

ROW_NUMBER_BITS = 32


class Bank(Elaboratable):
    """A memory of whole rows; ``data`` is the row at ``place`` of ``BANK_LATENCY`` cycles before.

    Args:
        bits: of a row.
        depth: rows.
        style: ``block`` or ``ultra``, for the vendor's synthesis.
    """

    INPUTS = ("write", "write_place", "write_data", "place")
    OUTPUTS = ("data",)

    def __init__(self, bits: int, depth: int, style: str) -> None:
        self._bits, self._depth, self._style = bits, depth, style
        self.write = Signal()
        self.write_place = Signal(range(max(depth, 2)))
        self.write_data = Signal(bits)
        self.place = Signal(range(max(depth, 2)))
        self.data = Signal(bits)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        memory = Memory(shape=self._bits, depth=max(self._depth, 2), init=[], attrs={"ram_style": self._style})
        m.submodules.rows = memory
        write, read = memory.write_port(), memory.read_port(domain="sync")
        m.d.comb += [write.addr.eq(self.write_place), write.data.eq(self.write_data), write.en.eq(self.write),
                     read.addr.eq(self.place), read.en.eq(1)]
        m.d.sync += self.data.eq(read.data)
        return m


class ResidentCore(StreamCore):
    """The hardware of a stage graph whose table is kept on chip.

    Args:
        graph: the kernel; its ``parallel`` says how many banks there are, and in which memory.
        library: where units come from.
        lanes: results of the first inner product per cycle and row.
    """

    def __init__(self, graph: StageGraph, library: Library, lanes: int) -> None:
        self._parallel = graph.parallel or Parallelism()
        together = self._parallel.block_banks + self._parallel.ultra_banks
        super().__init__(graph, library, lanes, together, row_words(graph))
        self.held = residency_of(graph, together)
        self.row_number = Signal(ROW_NUMBER_BITS)
        """Of the row that comes, over all segments."""
        self.base = Signal(range(max(self.held.depth, 2)))
        """Where the segment of the instance that starts begins in every bank."""

    def ports(self) -> tuple[Any, ...]:
        """All ports but clock and reset."""
        return (*super().ports(), self.row_number, self.base)

    def _rows(self, m: Module, loaded: Any, load_beat: Any) -> tuple[Point, Any]:
        """The start of the pipeline: a row from every bank."""
        write, number, row = self._fill(m, load_beat)
        # The last stationary vector is still being converted when its last word has come.
        wait = conversion_latency(self.row_words, self._form) + 1
        left = Signal(range(wait + 1), init=wait)
        with m.If(self.start):
            m.d.sync += left.eq(wait)
        with m.Elif(loaded & (left != 0)):
            m.d.sync += left.eq(left - 1)
        point, place = self._steps(m, loaded & (left == 0))
        held = self.held
        within, bank = (held.dealt - 1).bit_length(), (held.banks - 1).bit_length()
        write_place = Cat(number[:within], number[within + bank:])
        turn = number[within:within + bank] if bank else Const(0, 1)
        rows = []
        for at in range(held.banks):
            style = "block" if at < self._parallel.block_banks else "ultra"
            rows.append(self._library.place(
                m, f"hetcc_bank_{held.row_bits}_{held.depth}_{style}",
                lambda style=style: Bank(held.row_bits, held.depth, style),  # type: ignore[misc]
                {"write": write & (turn == at), "write_place": write_place[:len(place)], "write_data": row,
                 "place": place}, Bank.OUTPUTS)[0])
        return self._later(m, point, [], BANK_LATENCY), rows

    def _fill(self, m: Module, load_beat: Any) -> tuple[Any, Any, Any]:
        """Rows on their way into the banks: (a row is there, its number, the row as it is held)."""
        depth, bits = self.row_words, self._form.integer_bits
        given, arrived, number = Signal(32 * depth), Signal(), Signal(ROW_NUMBER_BITS)
        m.d.comb += self.row_ready.eq(1)
        m.d.sync += [arrived.eq(self.row_valid), number.eq(self.row_number),
                     given.eq(Cat(*(flushed(self.row_data.word_select(at, 32)) for at in range(depth))))]
        if not bits:
            if self._form is NumberFormat.BF16:
                return arrived, number, Cat(*(to_bfloat16(given.word_select(at, 32)) for at in range(depth)))
            return arrived, number, given
        vector, complete = incoming_vector(m, self, depth, load_beat)
        integers, exponent = self._library.place(
            m, f"hetcc_quantise{depth}_{self._form.value}", lambda: VectorQuantiser(depth, bits),
            {"row": Mux(complete, vector, given)}, ("result", "exponent"))
        latency, made = quantise_latency(depth), Cat(integers, exponent)
        self._keep_vectors(m, made, complete, latency)
        return delay(m, arrived, latency), delay(m, number, latency), made

    def _steps(self, m: Module, loaded: Any) -> tuple[Point, Any]:
        """Issues every step's groups, and where its rows are in the banks."""
        place, following = Signal(range(max(self.held.depth, 2))), Signal(range(max(self.held.depth, 2)))
        group, active = Signal(range(max(self.groups, 2))), Signal()
        left, running = Signal(range(self.steps + 1)), Signal()
        last, sides_ready = group == self.groups - 1, Const(1, 1)
        for valid in self.side_valid:
            sides_ready = sides_ready & valid
        advance = sides_ready & loaded & running & self._room & (~active | last)
        sides = {f"side{at}": Signal(32 * self.together, name=f"held{at}") for at in range(len(self.sides))}
        m.d.comb += [ready.eq(advance) for ready in self.side_ready]
        with m.If(advance):
            m.d.sync += [place.eq(following), following.eq(following + 1), group.eq(0), active.eq(1), left.eq(left - 1)]
            m.d.sync += [held.eq(data) for held, data in zip(sides.values(), self.side_data, strict=True)]
            with m.If(left == 1):
                m.d.sync += running.eq(0)
        with m.Elif(active):
            m.d.sync += group.eq(group + 1)
            with m.If(last):
                m.d.sync += [active.eq(0), group.eq(0)]
        with m.If(self.start):
            m.d.sync += [left.eq(self.steps), running.eq(1), active.eq(0), group.eq(0), following.eq(self.base)]
        return Point([], active, group, self.groups, sides, self.together), place


__all__ = ["ROW_NUMBER_BITS", "Bank", "ResidentCore"]
