"""Where a dense word of a dealt-out table is: part and word within it, by divisions by constants.

A word to be written waits here while its place is worked out; a row of new elements takes longer to come than that.
"""

from __future__ import annotations

import math
from typing import Any

from amaranth import Cat, Elaboratable, Module, Signal

from hetcc.backends.fpga.memory.layout import Layout
from hetcc.backends.fpga.rtl.memory.axi import BEAT_BITS, BEAT_BYTES
from hetcc.backends.fpga.stages.runs import WORD_BYTES


class _Divisions:
    """Quotients and remainders that are right some cycles after their dividend has come to rest."""

    def __init__(self, m: Module) -> None:
        self._m = m
        self.cycles = 0

    def by(self, value: Any, divisor: int) -> tuple[Any, Any]:
        """(quotient, remainder); exact, by a multiplication with a reciprocal of as many bits as that takes."""
        bits = len(value)
        if divisor == 1:
            return value, 0
        if divisor & (divisor - 1) == 0:
            shift = divisor.bit_length() - 1
            return value[shift:], value[:shift]
        shift = bits + divisor.bit_length()
        reciprocal = -(-(1 << shift) // divisor)
        product, quotient, remainder = Signal(bits + reciprocal.bit_length()), Signal(bits), Signal(range(divisor))
        self._m.d.sync += [product.eq(value * reciprocal), quotient.eq(product >> shift),
                           remainder.eq(value - quotient * divisor)]
        self.cycles += 3
        return quotient, remainder


class WordPlacer(Elaboratable):
    """Takes a word with its number in the dense table and hands it on with its place.

    Args:
        layout: of the table.
        word_bits: of a word's number as it comes.
    """

    INPUTS = ("valid", "word", "data", "strobe", "out_ready")
    OUTPUTS = ("ready", "empty", "out_valid", "stripe", "position", "out_data", "out_strobe")

    def __init__(self, layout: Layout, word_bits: int) -> None:
        self._layout = layout
        self.valid = Signal()
        self.ready = Signal()
        self.empty = Signal()
        self.word = Signal(word_bits)
        self.data = Signal(BEAT_BITS)
        self.strobe = Signal(BEAT_BYTES)
        self.out_valid = Signal()
        self.out_ready = Signal()
        self.stripe = Signal(range(max(layout.stripes, 2)))
        self.position = Signal(range(layout.segments * layout.segment_words + 1))
        self.out_data = Signal(BEAT_BITS)
        self.out_strobe = Signal(BEAT_BYTES)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        layout = self._layout
        held = Signal(range(math.ceil(layout.size_bytes / WORD_BYTES) + 1))
        full = Signal()
        divide = _Divisions(m)
        segment, within = divide.by(held, layout.units * layout.unit_words) if layout.segments > 1 else (0, held)
        unit, word = divide.by(within, layout.unit_words)
        block, place = divide.by(unit, layout.dealt)
        turn, group = divide.by(block, layout.groups)
        step = turn * layout.dealt + place
        inner = Signal(len(held) + layout.unit_words.bit_length())
        m.d.comb += inner.eq(step * layout.unit_words + word)
        position, stripe = divide.by(inner, layout.per_group)
        m.d.comb += [self.position.eq(segment * layout.segment_words + position),
                     self.stripe.eq(group * layout.per_group + stripe)]
        left = Signal(range(divide.cycles + 1))
        m.d.comb += [self.empty.eq(~full), self.out_valid.eq(full & (left == 0)),
                     self.ready.eq(~full | (self.out_valid & self.out_ready))]
        with m.If(self.valid & self.ready):
            m.d.sync += [full.eq(1), left.eq(divide.cycles), held.eq(self.word),
                         Cat(self.out_data, self.out_strobe).eq(Cat(self.data, self.strobe))]
        with m.Elif(self.out_valid & self.out_ready):
            m.d.sync += full.eq(0)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        return m


__all__ = ["WordPlacer"]
