"""Operand formats in hardware: vectors of binary32 to integers with one power of two, to bfloat16, and back.

Bit for bit ``numbers.quantise``, ``numbers.integer_dots`` and ``numbers.round_to``.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed

from hetcc.backends.fpga.costs.cycles import TO_FLOAT_LATENCY, depth_of, quantise_latency
from hetcc.backends.fpga.rtl.units.fp32 import flushed, is_nan
from hetcc.backends.fpga.rtl.units.library import delay


class VectorQuantiser(Elaboratable):
    """``depth`` binary32 words to integers of ``bits`` bits and the largest biased exponent (255: not finite)."""

    def __init__(self, depth: int, bits: int) -> None:
        self._depth, self._bits = depth, bits
        self.latency = quantise_latency(depth)
        self.row = Signal(32 * depth)
        self.result = Signal(bits * depth)
        self.exponent = Signal(8)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        words = [self.row.word_select(at, 32) for at in range(self._depth)]
        level: list[Any] = [word[23:31] for word in words]
        while len(level) > 1:
            larger = [Signal(8) for _ in range((len(level) + 1) // 2)]
            for at, register in enumerate(larger):
                pair = level[2 * at:2 * at + 2]
                m.d.sync += register.eq(pair[0] if len(pair) == 1 else Mux(pair[0] > pair[1], *pair))
            level = larger
        levels = depth_of(self._depth)
        m.d.sync += self.exponent.eq(delay(m, level[0], 1))
        late = [delay(m, word, levels) for word in words]
        m.d.comb += self.result.eq(Cat(*(integer_of(m, word, level[0], self._bits) for word in late)))
        return m


def integer_of(m: Module, word: Any, largest: Any, bits: int) -> Any:
    """A binary32 word as an integer, two cycles later: shift to the common exponent, then round to even, cut off and
    give it its sign.

    Args:
        m: where the unit goes.
        word: flushed.
        largest: largest biased exponent of its vector.
        bits: of the integer.
    """
    distance = Signal(9)
    m.d.comb += distance.eq(largest - word[23:31])
    significand = Cat(word[:23], word[23:31] != 0)
    moved = Signal(24 + bits)
    wide = Cat(Const(0, bits), Mux(word[23:31] == 0, 0, significand))
    m.d.comb += moved.eq(wide >> Mux(distance > bits, bits, distance[:5]))
    whole, up, sign = Signal(bits - 1), Signal(), Signal()
    m.d.sync += [whole.eq(moved[25:]), up.eq(moved[24] & (moved[:24].any() | moved[25])), sign.eq(word[31])]
    rounded, magnitude, result = Signal(bits), Signal(bits), Signal(bits)
    m.d.comb += [rounded.eq(whole + up), magnitude.eq(Mux(rounded[bits - 1], 2 ** (bits - 1) - 1, rounded))]
    m.d.sync += result.eq(Mux(sign, -magnitude, magnitude))
    return result


class IntegerToFloat(Elaboratable):
    """``total * 2**(exponents - bias)`` rounded once to binary32; NaN when ``bad``.

    Args:
        width: bits of the two's complement total.
        bits: of the integers whose products were added up.
        infinite: whether there are ports that say the result is an infinity, and a negative one.
    """

    latency = TO_FLOAT_LATENCY

    def __init__(self, width: int, bits: int, *, infinite: bool = False) -> None:
        self._width = width
        # The exponent of a total of 2**p is p + exponents - 2 * (127 + bits - 2), and binary32 adds 127 to it.
        self._bias = 2 * (127 + bits - 2) - 127
        self.total = Signal(width)
        self.exponents = Signal(9)
        self.bad = Signal()
        self.infinite: Any = Signal(name="infinite") if infinite else Const(0, 1)
        self.negative: Any = Signal(name="negative") if infinite else Const(0, 1)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        width = max(self._width, 26)
        magnitude, sign = Signal(width), Signal()
        value = self.total.as_signed()
        m.d.sync += [magnitude.eq(Mux(self.total[-1], -value, value)), sign.eq(self.total[-1])]
        # How far to shift until the leading one is on top; the highest set bit decides.
        empty = Signal(range(width + 1))
        for bit in range(width):
            with m.If(magnitude[bit]):
                m.d.comb += empty.eq(width - 1 - bit)
        shifted, exponent, sign2 = Signal(width), Signal(signed(12)), Signal()
        m.d.sync += [shifted.eq(magnitude << empty), sign2.eq(sign),
                     exponent.eq(delay(m, self.exponents, 1) - empty + (width - 1 - self._bias))]
        rounded, final = Signal(25), Signal(signed(12))
        kept, guard, rest = shifted[width - 24:], shifted[width - 25], shifted[:width - 25]
        m.d.comb += [rounded.eq(kept + (guard & (rest.any() | kept[0]))), final.eq(exponent + rounded[24])]
        nothing = ~shifted[width - 1]
        infinite, negative = (delay(m, flag, 2) for flag in (self.infinite, self.negative))
        m.d.sync += self.result.eq(
            Mux(delay(m, self.bad, 2), 0x7FC00000,
                Mux(infinite, Cat(Const(0xFF << 23, 31), negative),
                    Mux(nothing, 0,
                        Mux(final <= 0, Cat(Const(0, 31), sign2),
                            Mux(final >= 255, Cat(Const(0xFF << 23, 31), sign2),
                                Cat(rounded[:23], final[:8], sign2)))))))
        return m


def to_bfloat16(word: Any) -> Any:
    """32 bits rounded to the 16 of a bfloat16; subnormals are zero, every NaN is ``7FC0``."""
    source = flushed(word)
    rounded = (source + 0x7FFF + source[16])[16:32]
    return Mux(is_nan(source), 0x7FC0, rounded)


__all__ = ["IntegerToFloat", "VectorQuantiser", "integer_of", "to_bfloat16"]
