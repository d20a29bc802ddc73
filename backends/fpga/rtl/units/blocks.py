"""Inner products of floating point vectors, a block of neighbours at a time: exact products on one grid, rounded once.

Bit for bit ``numbers.block_dots``. A *factor* is a flushed word taken apart (:func:`factor_of`), which is done once for
all products that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed

from hetcc.backends.fpga.costs.cycles import compare_latency, depth_of
from hetcc.backends.fpga.costs.unit_resources import factor_bits
from hetcc.backends.fpga.rtl.units.fp32 import is_infinite, is_nan
from hetcc.backends.fpga.rtl.units.library import Library, delay
from hetcc.backends.fpga.rtl.units.quantise import IntegerToFloat
from hetcc.backends.fpga.stages.numbers import GRIDS

EXPONENT_BITS = 9
"""Of a product: the sum of two biased exponents."""
_SLICE_FACTOR = 17
"""Bits of an unsigned factor of a multiplier slice."""


def factor_of(word: Any, bits: int) -> Any:
    """A flushed word (the upper ``bits`` of a binary32) as a factor; no register.

    Returns:
        the significand as two's complement (``bits - 7``), the biased exponent (8), and whether the word is zero,
        infinite, or a NaN.
    """
    places = bits - 9
    exponent, sign = word[places:places + 8], word[bits - 1]
    zero = exponent == 0
    magnitude = Cat(word[:places], ~zero)
    wide = Cat(Const(0, 32 - bits), word)
    value = Mux(sign, -magnitude, magnitude)[:places + 2]
    return Cat(value, exponent, zero, is_infinite(wide), is_nan(wide))


def largest_of(m: Module, values: Sequence[Any], cycles: int) -> Any:
    """The largest of unsigned numbers, ``cycles`` later, in each of which two levels of them are compared."""
    level = list(values)
    bits = len(level[0])
    for _ in range(cycles):
        for _ in range(2):
            level = [Mux(level[at] > level[at + 1], level[at], level[at + 1]) if at + 1 < len(level) else level[at]
                     for at in range(0, len(level), 2)]
        kept = [Signal(bits) for _ in level]
        m.d.sync += [register.eq(value) for register, value in zip(kept, level, strict=True)]
        level = kept
    return level[0]


class Factors(Elaboratable):
    """A row of flushed words taken apart, without a register.

    Args:
        depth: words.
        bits: of a word.
    """

    def __init__(self, depth: int, bits: int) -> None:
        self._depth, self._bits = depth, bits
        self.row = Signal(bits * depth)
        self.factors = Signal(factor_bits(bits) * depth)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        words = [self.row.word_select(at, self._bits) for at in range(self._depth)]
        m.d.comb += self.factors.eq(Cat(*(factor_of(word, self._bits) for word in words)))
        return m


class BlockDot(Elaboratable):
    """The inner product of a block in binary32, ``block_latency(count)`` cycles later.

    Args:
        library: makes the rounding unit.
        count: elements.
        bits: of the words that the factors were made of: 32, or 16 for bfloat16.
    """

    def __init__(self, library: Library, count: int, bits: int) -> None:
        self._library, self._count, self._bits = library, count, bits
        self._factor, self._places = factor_bits(bits), GRIDS[bits].places
        self.row = Signal(self._factor * count)
        self.stationary = Signal(self._factor * count)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        pairs = [(self._parts(self.row, at), self._parts(self.stationary, at)) for at in range(self._count)]
        exponents = [self._exponent(m, left, right) for left, right in pairs]
        largest = largest_of(m, exponents, compare_latency(self._count))
        terms = [self._aligned(m, self._product(m, left[0], right[0]), exponent, largest)
                 for (left, right), exponent in zip(pairs, exponents, strict=True)]
        total, levels = self._total(m, terms)
        bad, infinite, negative = self._specials(m, pairs)
        compares, width = compare_latency(self._count), len(total)
        rest = compares + 2 + levels
        m.d.comb += self.result.eq(self._library.place(
            m, f"hetcc_block{width}_{self._bits}_float",
            lambda: IntegerToFloat(width, self._places // 2 + 2, infinite=True),
            {"total": total, "exponents": delay(m, largest, rest - compares), "bad": delay(m, bad, rest),
             "infinite": delay(m, infinite, rest), "negative": delay(m, negative, rest)}, ("result",))[0])
        return m

    def _parts(self, factors: Any, at: int) -> tuple[Any, Any, Any, Any, Any]:
        """Significand, exponent, zero, infinite, NaN."""
        factor, top = factors.word_select(at, self._factor), self._bits - 7
        return factor[:top].as_signed(), factor[top:top + 8], factor[top + 8], factor[top + 9], factor[top + 10]

    @staticmethod
    def _exponent(m: Module, left: Any, right: Any) -> Any:
        """Of a product, a cycle later; zero of one that is zero, which is below all others."""
        exponent = Signal(EXPONENT_BITS)
        m.d.sync += exponent.eq(Mux(left[2] | right[2], 0, left[1] + right[1]))
        return exponent


    def _product(self, m: Module, left: Any, right: Any) -> Any:
        """The upper bits of the exact product, three cycles later: the places of the grid and what is above.

        One slice, or two of which the second adds what the first leaves above its factor of 17 bits.
        """
        places = 2 * (self._bits - 9)
        first, second = Signal(left.shape()), Signal(right.shape())
        m.d.sync += [first.eq(left), second.eq(right)]
        made, kept = Signal(signed(places + 3)), Signal(signed(self._places + 3))
        if self._bits == 16:
            product = Signal(signed(places + 3))
            m.d.sync += [product.eq(first * second), made.eq(product)]
            m.d.comb += kept.eq(made << (self._places - places))
            return kept
        low = Signal(signed(len(first) + _SLICE_FACTOR))
        first2, high2 = Signal(first.shape()), Signal(signed(len(second) - _SLICE_FACTOR))
        m.d.sync += [low.eq(first * second[:_SLICE_FACTOR]), first2.eq(first), high2.eq(second[_SLICE_FACTOR:])]
        above = Signal(signed(places + 3 - _SLICE_FACTOR))
        m.d.sync += above.eq(first2 * high2 + (low >> _SLICE_FACTOR))
        m.d.comb += kept.eq(above >> (places - self._places - _SLICE_FACTOR))
        return kept

    def _aligned(self, m: Module, product: Any, exponent: Any, largest: Any) -> Any:
        """A product on the grid of the largest one, two cycles after that is known.

        The last choice, a shift of 16, is left to the first adder, whose look-up tables have room for it.
        """
        compares, waiting = compare_latency(self._count), Signal(product.shape())
        late, arrived = delay(m, exponent, compares), delay(m, product, compares - 2)
        distance, far = Signal(EXPONENT_BITS), Signal(5)
        m.d.comb += distance.eq(largest - late)
        m.d.sync += [far.eq(Mux(distance[5:].any(), 31, distance[:5])), waiting.eq(arrived)]
        value = waiting
        for step in (1, 4):
            low, high = far[step.bit_length() - 1], far[step.bit_length()]
            nearer = Signal(product.shape())
            m.d.comb += nearer.eq(Mux(high, Mux(low, value >> 3 * step, value >> 2 * step),
                                      Mux(low, value >> step, value)))
            value = nearer
        moved, half = Signal(product.shape()), Signal()
        m.d.sync += [moved.eq(value), half.eq(far[4])]
        return Mux(half, moved >> 16, moved)

    @staticmethod
    def _total(m: Module, terms: list[Any]) -> tuple[Any, int]:
        level = terms
        while len(level) > 1:
            sums = []
            for at in range(0, len(level), 2):
                total = level[at] + level[at + 1] if at + 1 < len(level) else level[at]
                register = Signal(total.shape())
                m.d.sync += register.eq(total)
                sums.append(register)
            level = sums
        return level[0], depth_of(len(terms))

    @staticmethod
    def _specials(m: Module, pairs: list[Any]) -> tuple[Any, Any, Any]:
        """Whether a product is a NaN or infinities of both signs meet, whether one is infinite, and its sign."""
        nan, up, down = [], [], []
        for left, right in pairs:
            nan.append(left[4] | right[4] | (left[3] & right[2]) | (left[2] & right[3]))
            negative = left[0][-1] ^ right[0][-1]
            up.append((left[3] | right[3]) & ~negative)
            down.append((left[3] | right[3]) & negative)
        bad, above, below = Signal(), Signal(), Signal()
        m.d.sync += [bad.eq(Cat(*nan).any()), above.eq(Cat(*up).any()), below.eq(Cat(*down).any())]
        return bad | (above & below), above | below, below


__all__ = ["BlockDot", "Factors", "factor_of", "largest_of"]
