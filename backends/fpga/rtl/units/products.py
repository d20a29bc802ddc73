"""Inner products with a stationary vector, one per cycle, in each operand format."""

from __future__ import annotations

from functools import partial
from typing import Any

from amaranth import Cat, Elaboratable, Module, Signal

from hetcc.backends.fpga.costs.cycles import (
    INTEGER_MULTIPLY_LATENCY,
    accumulator_bits,
    block_latency,
    depth_of,
    product_latency,
)
from hetcc.backends.fpga.costs.unit_resources import factor_bits
from hetcc.backends.fpga.rtl.units.blocks import BlockDot, Factors
from hetcc.backends.fpga.rtl.units.library import Library, delay
from hetcc.backends.fpga.rtl.units.quantise import IntegerToFloat
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.numbers import GRIDS

_PACK_SHIFT = 18




class Dot(Elaboratable):
    """Of floating point vectors: a sum per block of neighbours, then the aligned tree over the blocks.

    Args:
        library: makes the units.
        depth: elements of a vector.
        bits: of the words that the factors were made of: 32, or 16 for bfloat16.
    """

    def __init__(self, library: Library, depth: int, bits: int) -> None:
        self._library, self._depth, self._bits = library, depth, bits
        self.row = Signal(factor_bits(bits) * depth)
        self.stationary = Signal(factor_bits(bits) * depth)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        size, sums = factor_bits(self._bits), []
        elements = min(GRIDS[self._bits].elements, self._depth)
        for start in range(0, self._depth, elements):
            count = min(elements, self._depth - start)
            part = slice(start * size, (start + count) * size)
            found = self._library.place(
                m, f"hetcc_block{count}_{self._bits}",
                partial(BlockDot, self._library, count, self._bits),
                {"row": self.row[part], "stationary": self.stationary[part]}, ("result",))[0]
            sums.append(delay(m, found, block_latency(elements) - block_latency(count)))
        value, _ = self._library.tree(m, "add", sums)
        m.d.comb += self.result.eq(value)
        return m


class IntegerDots(Elaboratable):
    """Of integer vectors, added exactly: one row with one stationary vector, or with two in the same multipliers.

    Two products with a common factor fit one multiplier of 27 x 18 bits when the integers have 8: the two others are
    18 bits apart, and a negative lower product takes one from the upper, which is given back.
    """

    def __init__(self, depth: int, bits: int, vectors: int) -> None:
        self._depth, self._bits, self._vectors = depth, bits, vectors
        self.row = Signal(bits * depth)
        self.stationary = Signal(bits * depth * vectors)
        self.total = Signal(accumulator_bits(depth, bits) * vectors)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        products = [self._products(m, at) for at in range(self._depth)]
        totals = []
        for vector in range(self._vectors):
            level = [found[vector] for found in products]
            while len(level) > 1:
                sums = []
                for at in range(0, len(level) - 1, 2):
                    total = level[at] + level[at + 1]
                    register = Signal(total.shape())
                    m.d.sync += register.eq(total)
                    sums.append(register)
                if len(level) % 2:
                    last = Signal(level[-1].shape())
                    m.d.sync += last.eq(level[-1])
                    sums.append(last)
                level = sums
            wide = Signal(accumulator_bits(self._depth, self._bits))
            m.d.comb += wide.eq(level[0])
            totals.append(wide)
        m.d.comb += self.total.eq(Cat(*totals))
        return m

    def _products(self, m: Module, at: int) -> list[Any]:
        bits = self._bits
        factors = [self.stationary.word_select(vector * self._depth + at, bits).as_signed()
                   for vector in range(self._vectors)]
        joined = factors[0] if len(factors) == 1 else factors[0] + (factors[1] << _PACK_SHIFT)
        left, right = Signal(self.row.word_select(at, bits).as_signed().shape()), Signal(joined.shape())
        m.d.sync += [left.eq(self.row.word_select(at, bits).as_signed()), right.eq(joined)]
        product = Signal((left * right).shape())
        m.d.sync += product.eq(left * right)
        if len(factors) == 1:
            later = Signal(product.shape())
            m.d.sync += later.eq(product)
            return [later]
        low, high = product[:_PACK_SHIFT].as_signed(), product[_PACK_SHIFT:].as_signed()
        found = []
        for value in (low, high + product[_PACK_SHIFT - 1]):
            register = Signal(factors[0].shape().width * 2)
            m.d.sync += register.eq(value)
            found.append(register.as_signed())
        return found


def float_dots(m: Module, library: Library, bits: int, row: Any, vectors: list[Any], depth: int) -> list[Any]:
    """The inner products of a row of flushed words of ``bits`` bits with vectors of factors."""
    factors = library.place(m, f"hetcc_factors{depth}_{bits}", lambda: Factors(depth, bits), {"row": row},
                            ("factors",), clocked=False)[0]
    return [library.place(m, f"hetcc_dot{depth}_{bits}", lambda: Dot(library, depth, bits),
                          {"row": factors, "stationary": vector}, ("result",))[0] for vector in vectors]


def floats_of(m: Module, library: Library, form: NumberFormat, row: Any, vectors: list[Any], depth: int) -> list[Any]:
    """The inner products of a row with vectors, ``product_latency(depth, form)`` cycles later.

    Args:
        m: where the units go.
        library: makes them.
        form: of both factors.
        row: ``depth`` words; of an integer format the exponent of the row follows them.
        vectors: the same for each result, in a floating point format as factors (``blocks.factor_of``).
        depth: length of the vectors.
    """
    bits = form.integer_bits
    if not bits:
        return float_dots(m, library, form.float_bits, row, vectors, depth)
    size = 2 if bits == 8 and len(vectors) > 1 else 1
    integers, width, found = bits * depth, accumulator_bits(depth, bits), []
    for start in range(0, len(vectors), size):
        chosen = vectors[start:start + size]
        count = len(chosen)
        totals = library.place(
            m, f"hetcc_dot{depth}_{form.value}x{count}",
            partial(IntegerDots, depth, bits, count),
            {"row": row[:integers], "stationary": Cat(*(vector[:integers] for vector in chosen))}, ("total",))[0]
        for at, vector in enumerate(chosen):
            exponents = [row[integers:integers + 8], vector[integers:integers + 8]]
            later = delay(m, Cat(*exponents), INTEGER_MULTIPLY_LATENCY + depth_of(depth))
            found.append(library.place(
                m, f"hetcc_float{width}_{form.value}", lambda: IntegerToFloat(width, bits),
                {"total": totals.word_select(at, width), "exponents": later[:8] + later[8:],
                 "bad": (later[:8] == 255) | (later[8:] == 255)}, ("result",))[0])
    return found


__all__ = ["Dot", "IntegerDots", "float_dots", "floats_of", "product_latency"]
