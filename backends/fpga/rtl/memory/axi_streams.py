"""From strided accesses to element streams: loop counters, runs of neighbouring elements, and unpackers.

The loops of an access become counters (:class:`Nest`); loops whose elements are neighbours are one *run* (``runs.py``),
read as whole 64-byte words. An unpacker then hands on *granules* of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from hetcc.backends.fpga.rtl.memory.axi import BEAT_BITS, BEAT_BYTES
from hetcc.backends.fpga.stages.runs import Loop

OFFSET_BITS = 40
"""Of byte and element offsets within a buffer."""
DESCRIPTORS = 16


class Nest:
    """Counters of nested loops with the running sum of index times stride, made inside another module.

    Args:
        m: the module.
        loops: slowest first.
        inner: how many of the fastest loops make up one portion.
        clear: starts over.
        advance: goes on by one point.
    """

    def __init__(self, m: Module, loops: Sequence[Loop], inner: int, clear: Any, advance: Any, offset: int = 0) -> None:
        self.offset = Signal(OFFSET_BITS, init=offset)
        """Elements."""
        self.last: Any = Const(1, 1)
        """The last point of all."""
        self.portion_last: Any = Const(1, 1)
        """The last point of a portion."""
        delta, step, change = 0, Const(1, 1), Signal(OFFSET_BITS)
        m.d.comb += change.eq(0)
        for position, (extent, stride) in enumerate(reversed(loops)):
            index = Signal(range(extent))
            wraps = index == extent - 1
            with m.If(clear):
                m.d.sync += index.eq(0)
            with m.Elif(advance & step):
                m.d.sync += index.eq(Mux(wraps, 0, index + 1))
            with m.If(step & ~wraps):
                m.d.comb += change.eq(Const((stride + delta) % (1 << OFFSET_BITS), OFFSET_BITS))
            delta -= (extent - 1) * stride
            step = step & wraps
            self.last = step
            if position + 1 == inner:
                self.portion_last = step
        # Whatever the loops, one more step comes back to the first point.
        with m.If(step):
            m.d.comb += change.eq(Const(delta % (1 << OFFSET_BITS), OFFSET_BITS))
        with m.If(clear):
            m.d.sync += self.offset.eq(offset)
        with m.Elif(advance):
            m.d.sync += self.offset.eq(self.offset + change)


class Unpacker(Elaboratable):
    """Cuts runs out of 64-byte words, one granule per cycle.

    Args:
        sizes: bytes of a granule for each kind of run; powers of two, at most 64.
        stripes: how many readers the words come from in turn; a power of two.
    """

    def __init__(self, sizes: Sequence[int], stripes: int = 1) -> None:
        self._sizes, self._stripes = tuple(sizes), stripes
        self.run_valid = Signal()
        self.run_ready = Signal()
        self.run_kind = Signal(range(max(len(sizes), 2)))
        self.run_skip = Signal(6)
        """Granules before the first in its word."""
        self.run_count = Signal(32)
        """Granules."""
        self.run_turn = Signal(range(max(stripes, 2)))
        """Reader of the first word."""
        self.beat_valid = Signal(stripes)
        self.beat_ready = Signal(stripes)
        self.beat_data = Signal(BEAT_BITS * stripes)
        self.valid = Signal()
        self.ready = Signal()
        self.data = Signal(8 * max(sizes))

    def ports(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of inputs and outputs."""
        return (("run_valid", "run_kind", "run_skip", "run_count", "run_turn", "beat_valid", "beat_data", "ready"),
                ("run_ready", "beat_ready", "valid", "data"))

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        fields = Cat(self.run_kind, self.run_skip, self.run_count, self.run_turn)
        m.submodules.runs = runs = SyncFIFOBuffered(width=len(fields), depth=DESCRIPTORS)
        m.d.comb += [runs.w_en.eq(self.run_valid), runs.w_data.eq(fields), self.run_ready.eq(runs.w_rdy)]
        kind, skip, count, turn = (Signal.like(field) for field in (
            self.run_kind, self.run_skip, self.run_count, self.run_turn))
        m.d.comb += Cat(kind, skip, count, turn).eq(runs.r_data)
        active, at, left, now, reader = Signal(), Signal(6), Signal(32), Signal.like(kind), Signal.like(turn)
        here = Signal(BEAT_BITS)
        m.d.comb += here.eq(self.beat_data.word_select(reader, BEAT_BITS) if self._stripes > 1 else self.beat_data)
        arrived = self.beat_valid.bit_select(reader, 1) if self._stripes > 1 else self.beat_valid
        last_place = Signal(6)
        with m.Switch(now):
            for number, size in enumerate(self._sizes):
                with m.Case(number):
                    places = BEAT_BYTES // size
                    m.d.comb += [self.data.eq(here.word_select(at[:max((places - 1).bit_length(), 1)], 8 * size)
                                              if places > 1 else here), last_place.eq(places - 1)]
        moved, ended, drained = Signal(), Signal(), Signal()
        m.d.comb += [self.valid.eq(active & arrived), moved.eq(self.valid & self.ready), ended.eq(moved & (left == 1)),
                     drained.eq(moved & ((at == last_place) | (left == 1))), runs.r_en.eq(~active | ended)]
        m.d.comb += self.beat_ready.eq(drained << reader if self._stripes > 1 else drained)
        with m.If(moved):
            m.d.sync += [left.eq(left - 1), at.eq(Mux(drained, 0, at + 1))]
        with m.If(drained):
            m.d.sync += reader.eq(reader + 1)
        with m.If(runs.r_en):
            m.d.sync += active.eq(runs.r_rdy)
            with m.If(runs.r_rdy):
                m.d.sync += [at.eq(skip), left.eq(count), now.eq(kind), reader.eq(turn)]
        return m


class Assembler(Elaboratable):
    """Puts granules together into the beats of a core: ``row`` granules make a row, ``beat`` of them a beat.

    The last beat of a row may be short; what is missing is whatever was there.
    """

    def __init__(self, granule_bits: int, beat: int, row: int) -> None:
        self._bits, self._beat, self._row = granule_bits, beat, row
        self.valid = Signal()
        self.ready = Signal()
        self.data = Signal(granule_bits)
        self.beat_valid = Signal()
        self.beat_ready = Signal()
        self.beat_data = Signal(granule_bits * beat)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        held = [Signal(self._bits, name=f"granule{place}") for place in range(self._beat - 1)]
        place, in_row = Signal(range(self._beat + 1)), Signal(range(self._row + 1))
        ends = Signal()
        m.d.comb += [ends.eq((place == self._beat - 1) | (in_row == self._row - 1)),
                     self.beat_valid.eq(self.valid & ends), self.ready.eq(~ends | self.beat_ready)]
        with m.If(self.valid & self.ready):
            m.d.sync += [place.eq(Mux(ends, 0, place + 1)),
                         in_row.eq(Mux(in_row == self._row - 1, 0, in_row + 1))]
            for number, granule in enumerate(held):
                with m.If(place == number):
                    m.d.sync += granule.eq(self.data)
        words = [Mux(place == number, self.data, granule) for number, granule in enumerate(held)]
        m.d.comb += self.beat_data.eq(Cat(*words, self.data))
        return m


__all__ = ["OFFSET_BITS", "Assembler", "Nest", "Unpacker"]
