"""The streaming core for long or packed rows: a word of memory of each row per cycle, sums folded as they come.

What follows the first inner product is the same as in ``top``. Stationary vectors lie on chip in the order in which a
row passes; of a packed table they become integers after they have come, a group per cycle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import INTEGER_MULTIPLY_LATENCY, accumulator_bits, depth_of, product_latency
from hetcc.backends.fpga.costs.cycles_long import CONVERTED, EXPONENT_CYCLES, long_latency
from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.units.blocks import Factors, largest_of
from hetcc.backends.fpga.rtl.units.fold import Fold
from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.library import Library, delay
from hetcc.backends.fpga.rtl.units.merge import pulse
from hetcc.backends.fpga.rtl.units.products import IntegerDots, float_dots
from hetcc.backends.fpga.rtl.units.quantise import IntegerToFloat, integer_of
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import InnerProduct, Scan, StageGraph
from hetcc.errors import InternalError

BEAT_WORDS = 16
BEAT_BITS = 32 * BEAT_WORDS


class LongRowCore(StreamCore):
    """The hardware of a stage graph whose first inner product reads long or packed rows.

    Args:
        graph: the kernel.
        library: where units come from.
        together: rows that pass beside each other, each in beats of its own.
    """

    def __init__(self, graph: StageGraph, library: Library, together: int = 1) -> None:
        rows = long_rows(graph)
        if rows is None:
            raise InternalError("HET-I001", "the rows of the table are neither long nor packed")
        self._long = rows
        super().__init__(graph, library, rows.vectors, together, BEAT_WORDS * together)
        self.row_words, self.beats = rows.words, rows.beats
        self._loads_first = False

    def _rows(self, m: Module, loaded: Any, load_beat: Any) -> tuple[Point, Any]:
        """Beats in; inner products of every row come out of :meth:`_inner_product`."""
        loaded = loaded & ~self._fill(m, load_beat)
        beat, left, running = Signal(range(self.beats + 1)), Signal(range(self.steps + 1)), Signal()
        last, accept, sides_ready = Signal(), Signal(), Const(1, 1)
        for valid in self.side_valid:
            sides_ready = sides_ready & valid
        ends = sides_ready & self._room
        m.d.comb += [last.eq(beat == self.beats - 1), accept.eq(self.row_valid & self.row_ready),
                     self.row_ready.eq(running & loaded & ~self.start & (~last | ends))]
        m.d.comb += [ready.eq(accept & last) for ready in self.side_ready]
        sides = {f"side{at}": Signal(32 * self.together, name=f"held{at}") for at in range(len(self.sides))}
        data, arrived, complete = Signal(BEAT_BITS * self.together), Signal(), Signal()
        m.d.sync += [arrived.eq(accept), complete.eq(accept & last), data.eq(self.row_data)]
        m.d.sync += [held.eq(side) for held, side in zip(sides.values(), self.side_data, strict=True)]
        m.d.comb += [port.addr.eq(beat) for port in self._ports]
        with m.If(accept):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
            with m.If(last):
                m.d.sync += [left.eq(left - 1), running.eq(left != 1)]
        with m.If(self.start):
            m.d.sync += [beat.eq(0), left.eq(self.steps), running.eq(1), arrived.eq(0), complete.eq(0)]
        self._arrived = arrived
        point = Point([], complete, Const(0, 1), 1, sides, self.together, 1)
        self._latency += 1
        return point, data

    # ---- stationary vectors

    def _fill(self, m: Module, load_beat: Any) -> Any:
        """Memories of the stationary vectors; whether they are still being made."""
        long, load = self._long, self.loads[0]
        taken = self.load_valid & self.load_ready & (load_beat < load.beats)
        words, bits = [flushed(self.load_data.word_select(at, 32)) for at in range(load.granule)], long.bits or 32
        if long.bits:
            given, place, lane, busy = self._convert_vectors(m, taken, words)
        else:
            given, busy = Cat(*words), Const(0, 1)
            place, lane = self._count(m, taken, long.depth // load.granule)
        self._ports = []
        self._tables.insert(0, ([], 1))
        for at in range(long.vectors):
            memory = Memory(shape=bits * long.per_beat, depth=max(long.beats, 2), init=[])
            m.submodules += memory
            port = memory.write_port(granularity=len(given))
            slots = bits * long.per_beat // len(given)
            low = (slots - 1).bit_length()
            m.d.comb += [port.addr.eq(place >> low), port.data.eq(given.replicate(slots)),
                         port.en.eq(Mux(self._placed & (lane == at), 1 << place[:low], 0))]
            self._ports.append(memory.read_port(domain="sync"))
        return busy

    def _count(self, m: Module, advance: Any, extent: int) -> tuple[Any, Any]:
        """Place within a vector and number of the vector of what ``advance`` counts, ``extent`` to a vector."""
        place, lane = Signal(range(extent + 1)), Signal(range(self._long.vectors + 1))
        self._placed = advance
        with m.If(self.start):
            m.d.sync += [place.eq(0), lane.eq(0)]
        with m.Elif(advance):
            m.d.sync += place.eq(place + 1)
            with m.If(place == extent - 1):
                m.d.sync += [place.eq(0), lane.eq(lane + 1)]
        return place, lane

    def _convert_vectors(self, m: Module, taken: Any, words: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        """Words are kept until the largest of their vector is known, then converted, a group per cycle.

        Returns:
            the integers of a group, its number within the vector, the vector's number, and whether any are missing.
        """
        long, groups = self._long, math.ceil(self._long.depth / CONVERTED)
        coming, lane_in = self._count(m, taken, long.depth // len(words))
        self._keep_exponents(m, taken, lane_in, words)
        there, kept = self._kept(m, taken, Cat(*words), coming, groups * long.vectors)
        at_read, lane_read = self._count(m, there, groups)
        largest = Signal(8)
        for at, exponent in enumerate(self._exponents):
            with m.If(lane_read == at):
                m.d.comb += largest.eq(exponent)
        integers = Signal(long.bits * CONVERTED)
        m.d.comb += integers.eq(Cat(*(integer_of(m, kept.word_select(at, 32), largest, long.bits)
                                      for at in range(CONVERTED))))
        busy, done = Signal(), pulse(m, there, 2, self.start)
        place, lane = delay(m, at_read, 2), delay(m, lane_read, 2)
        self._placed = done
        with m.If(self.start):
            m.d.sync += busy.eq(1)
        with m.Elif(done & (place == groups - 1) & (lane == long.vectors - 1)):
            m.d.sync += busy.eq(0)
        return integers, place, lane, busy

    def _keep_exponents(self, m: Module, taken: Any, lane_in: Any, words: Sequence[Any]) -> None:
        """The largest exponent of every vector: that of the words which come, compared with those before."""
        coming = largest_of(m, [word[23:31] for word in words], EXPONENT_CYCLES)
        there, lane = pulse(m, taken, EXPONENT_CYCLES, self.start), delay(m, lane_in, EXPONENT_CYCLES)
        self._exponents = [Signal(8, name=f"largest{at}") for at in range(self._long.vectors)]
        for at, largest in enumerate(self._exponents):
            with m.If(self.start):
                m.d.sync += largest.eq(0)
            with m.Elif(there & (lane == at) & (coming > largest)):
                m.d.sync += largest.eq(coming)

    def _kept(self, m: Module, taken: Any, given: Any, coming: Any, total: int) -> tuple[Any, Any]:
        """The words of all vectors as they come, then in groups: (valid, words of a group).

        What is missing from the last group of a vector is never written and stays zero.
        """
        memory = Memory(shape=32 * CONVERTED, depth=max(total, 2), init=[])
        m.submodules += memory
        write, read = memory.write_port(granularity=len(given)), memory.read_port(domain="sync")
        where, fetched, reading = Signal(range(total + 1)), Signal(range(total + 1)), Signal()
        slots, granule = 32 * CONVERTED // len(given), len(given) // 32
        place = coming[:slots.bit_length() - 1]
        ends = taken & ((place == slots - 1) | (coming == self._long.depth // granule - 1))
        m.d.comb += [write.addr.eq(where), write.data.eq(given.replicate(slots)),
                     write.en.eq(Mux(taken, 1 << place, 0)), read.addr.eq(fetched)]
        # The exponent of the last granule is still on its way.
        filled = pulse(m, ends & (where == total - 1), EXPONENT_CYCLES, self.start)
        with m.If(self.start):
            m.d.sync += [where.eq(0), fetched.eq(0), reading.eq(0)]
        with m.Else():
            m.d.sync += [where.eq(where + ends), fetched.eq(fetched + reading)]
            with m.If(filled):
                m.d.sync += reading.eq(1)
            with m.If(reading & (fetched == total - 1)):
                m.d.sync += reading.eq(0)
        return pulse(m, reading, 1, self.start), read.data

    # ---- the first inner product

    def _inner_product(self, m: Module, point: Point, rows: Any, table: Any, stage: InnerProduct) -> Point:
        if not isinstance(self._graph.stage(stage.source.stage), Scan):
            return super()._inner_product(m, point, rows, table, stage)
        long = self._long
        values: list[Any] = []
        for at in range(self.together):
            beat = rows.word_select(at, BEAT_BITS)
            values += self._integers(m, point, beat) if long.bits else self._floats(m, point, beat)
        return self._later(m, point, values, long_latency(long) - 1)

    def _floats(self, m: Module, point: Point, beat: Any) -> list[Any]:
        """Binary32: a block per beat, then the fold over the beats of the row."""
        long = self._long
        missing = long.beats * long.per_beat - long.depth
        words = [flushed(beat.word_select(at, 32)) for at in range(long.per_beat)]
        for at in range(long.per_beat - missing, long.per_beat):
            words[at] = Mux(point.valid, 0, words[at])
        vectors = [self._library.place(m, f"hetcc_factors{long.per_beat}_32", lambda: Factors(long.per_beat, 32),
                                       {"row": port.data}, ("factors",), clocked=False)[0] for port in self._ports]
        found = []
        for total in float_dots(m, self._library, 32, Cat(*words), vectors, long.per_beat):
            there = pulse(m, self._arrived, product_latency(long.per_beat, NumberFormat.FP32), self.start)
            _, result = self._library.place(
                m, f"hetcc_fold{long.beats}", lambda: Fold(self._library, long.beats),
                {"clear": self.start, "valid": there, "values": total}, Fold.OUTPUTS)
            found.append(result)
        return found

    def _integers(self, m: Module, point: Point, beat: Any) -> list[Any]:
        """Exact sums over a beat are added up over the row, then become one binary32 number."""
        long, latency = self._long, INTEGER_MULTIPLY_LATENCY + depth_of(self._long.per_beat)
        width, whole = accumulator_bits(long.per_beat, long.bits), accumulator_bits(long.depth, long.bits)
        there = pulse(m, self._arrived, latency, self.start)
        ends = delay(m, point.valid, latency)
        first = Signal(init=1)
        with m.If(self.start):
            m.d.sync += first.eq(1)
        with m.Elif(there):
            m.d.sync += first.eq(ends)
        byte = long.depth * long.bits // 8 % 64
        row_exponent = delay(m, beat.word_select(byte, 8), latency + 1)
        size, found = 2 if long.bits == 8 else 1, []
        for start in range(0, long.vectors, size):
            ports = self._ports[start:start + size]
            count = len(ports)
            totals = self._library.place(
                m, f"hetcc_dot{long.per_beat}_int{long.bits}x{count}",
                partial(IntegerDots, long.per_beat, long.bits, count),
                {"row": beat, "stationary": Cat(*(port.data for port in ports))}, ("total",))[0]
            for at in range(count):
                part = totals.word_select(at, width).as_signed()
                total = Signal(whole)
                with m.If(there):
                    m.d.sync += total.eq(Mux(first, part, total.as_signed() + part))
                exponent = self._exponents[start + at]
                found.append(self._library.place(
                    m, f"hetcc_float{whole}_int{long.bits}", lambda: IntegerToFloat(whole, long.bits),
                    {"total": total, "exponents": row_exponent + exponent,
                     "bad": (row_exponent == 255) | (exponent == 255)}, ("result",))[0])
        return found


__all__ = ["BEAT_WORDS", "LongRowCore"]
