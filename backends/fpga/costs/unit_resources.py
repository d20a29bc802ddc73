"""What units of the library take, as closed forms; measured against yosys by ``benchmarks/fpga/resources.py``.

Every form counts what the unit is built of (comparators, registers, memory blocks); the numbers per piece were read off
small sizes. docs/fpga_build.md has the error on others. No placement, no routing, no clock rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hetcc.backends.fpga.stages.numbers import GRIDS

ENTRY_BITS = 54
"""Of a candidate of a selection."""
_BEAT_BITS = 512
_GRANULE_LUT = {16: 256, 8: 192}
"""Of choosing a granule of so many bytes out of 64; smaller ones take more, and all about the same."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What hardware takes of the card."""

    lut: float
    register: float
    """Flip-flops."""
    dsp: float
    """DSP48E2 slices."""
    bram36: float
    """Block RAM of 36 Kibit; one of 18 is half."""
    uram: float

    def plus(self, other: Resources) -> Resources:
        """Both together."""
        return Resources(self.lut + other.lut, self.register + other.register, self.dsp + other.dsp,
                         self.bram36 + other.bram36, self.uram + other.uram)

    def times(self, count: float) -> Resources:
        """Of several equal units."""
        return Resources(self.lut * count, self.register * count, self.dsp * count, self.bram36 * count,
                         self.uram * count)

    def shares(self, card: Resources) -> dict[str, float]:
        """Part of a card's, by name of the resource."""
        return {name: getattr(self, name) / getattr(card, name) for name in NAMES}


NAMES = ("lut", "register", "dsp", "bram36", "uram")
NOTHING = Resources(0, 0, 0, 0, 0)
CARD = Resources(1_304_000, 2_607_000, 9024, 2016, 960)
"""Of the Alveo U55C, from its data sheet (DS978)."""
MARGIN = 0.7
"""Part of the card that may be planned for: what routing and the platform leave."""
MULTIPLY_FP32 = Resources(133, 199, 2, 0, 0)
ADD_FP32 = Resources(524, 260, 0, 0, 0)
WORD_WRITER = Resources(14, 648, 0, 0, 0)


def together(parts: Iterable[Resources]) -> Resources:
    """The sum of several."""
    found = NOTHING
    for part in parts:
        found = found.plus(part)
    return found


def memory(depth: int, bits: int) -> Resources:
    """A memory with one write and one read port.

    Up to 64 words lie in look-up tables, 8 of which hold 14 bits of 32 words or 7 bits of 64; deeper ones in block RAM,
    whose halves hold 36 bits of 512 words or 18 bits of 1,024; beyond 4,096 words something has to choose among blocks.
    """
    if depth <= 64:
        return Resources(8 * math.ceil(bits / (14 if depth <= 32 else 7)), 0, 0, 0, 0)
    halves = math.ceil(bits / 36) if depth <= 512 else math.ceil(bits / 18) * math.ceil(depth / 1024)
    return Resources(bits * (math.ceil(depth / 4096) - 1), 0, 0, halves / 2, 0)


def integer_dots(depth: int, bits: int, vectors: int) -> Resources:
    """One row of integers with one stationary vector, or with two of 8 bits in the same multipliers.

    A slice per product (of two in a pair); every adder of the exact tree has about the width of a product; a pair
    joins two factors before the slice and gives a carry back after it.
    """
    pair = vectors == 2
    adders = vectors * (depth - 1)
    lut = adders * (2 * bits + 1) + (8.5 * depth if pair else 0)
    register = depth * (91 if pair else 6 * bits) + adders * (2 * bits + 1.5)
    return Resources(lut, register, depth, 0, 0)


def factor_bits(bits: int) -> int:
    """Bits of a factor of words of ``bits`` bits: a signed significand, an exponent of 8 bits, and three flags."""
    return bits - 7 + 8 + 3


def factor(bits: int) -> Resources:
    """A word of 32 or 16 bits taken apart; its significand gets its sign."""
    return Resources(bits - 1, 0, 0, 0, 0)


def block_dot(count: int, bits: int) -> Resources:
    """The sum of a block of products of words of 32 or 16 bits: per product a slice or two, a comparison, a shifter
    and an adder; one rounding.
    """
    # Beyond sixteen a product waits a cycle longer for the largest exponent.
    late = 25 if count > 16 else 0
    each, rounding = (Resources(214, 273.5 + late, 2, 0, 0), Resources(148, 130, 0, 0, 0)) if bits == 32 else (
        Resources(121.6, 146.6 + late, 1, 0, 0), Resources(110, 140, 0, 0, 0))
    return each.times(count).plus(rounding)


def float_dot(depth: int, bits: int) -> Resources:
    """An inner product of floating point vectors: its blocks, and the adders that join them."""
    elements = GRIDS[bits].elements
    blocks, rest = divmod(depth, elements)
    last = block_dot(rest, bits) if rest else NOTHING
    return block_dot(elements, bits).times(blocks).plus(last).plus(ADD_FP32.times(blocks + (rest > 0) - 1))


def quantiser(depth: int, bits: int) -> Resources:
    """A vector of binary32 to integers: a shifter and a rounder per element; all wait while the largest is found."""
    levels = max(depth - 1, 0).bit_length()
    return Resources(depth * (6.44 * bits + 30.5), depth * (32 * levels + 2 * bits + 9) + 8, 0, 0, 0)


def integer_to_float(width: int) -> Resources:
    """A total of ``width`` bits to binary32."""
    return Resources(5.44 * width + 34, 2 * max(width, 26) + 56, 0, 0, 0)


def comparators_of_sorter(width: int) -> int:
    """Comparators of the odd-even merge sort of a row."""
    levels = (width - 1).bit_length()
    return (levels * (levels - 1) + 4) * width // 4 - 1 if width > 1 else 0


def row_sorter(width: int) -> Resources:
    """Comparators of two entries, and a register per stage and entry."""
    levels = (width - 1).bit_length()
    return Resources(comparators_of_sorter(width) * 8 * ENTRY_BITS / 3, width * ENTRY_BITS * levels * (levels + 1) / 2,
                     0, 0, 0)


def run_merger(width: int, rows: int, *, keep: bool = False) -> Resources:
    """Two memories per column, a comparison and a choice per column, a merging network, and reading positions."""
    levels, positions = (width - 1).bit_length(), 2 * width * ((2 * rows - 1).bit_length())
    length = (rows - 1).bit_length()
    columns = memory(2 * rows, ENTRY_BITS).times(2 * width)
    lut = width * 5 * ENTRY_BITS / 3 + width * levels * 4 * ENTRY_BITS / 3 + 1.4 * positions + 25
    register = width * ENTRY_BITS * (1 + levels) + positions + (4 * length + 9 if keep else 5 * length + 13)
    heads = 0 if columns.bram36 else 2 * width * ENTRY_BITS
    return columns.plus(Resources(lut, register + heads, 0, 0, 0))


def burst_reader(depth: int, burst: int) -> Resources:
    """A read channel with a buffer of ``depth`` beats."""
    buffer = memory(depth, _BEAT_BITS)
    held = 0 if buffer.bram36 else _BEAT_BITS
    bits = (depth - 1).bit_length()
    return buffer.plus(Resources(138 + 6 * bits + 3 * (burst - 1).bit_length(), 171 + 4 * bits + held, 0, 0, 0))


def write_combiner(element_bytes: int) -> Resources:
    """A word that elements are put into."""
    return Resources(145 if element_bytes != 4 else 120, 611, 0, 0, 0)


def unpacker(sizes: Iterable[int], stripes: int = 1) -> Resources:
    """A choice of one granule of a word for every size of granule (bytes)."""
    chosen = sum(8 * size if size >= 32 else _GRANULE_LUT.get(size, 288) for size in sizes)
    return Resources(99 + chosen + (_BEAT_BITS if stripes > 2 else 0), 92, 0, 0, 0)


def assembler(granule_bits: int, beat: int) -> Resources:
    """Granules held until the beat is whole."""
    held = granule_bits * (beat - 1) + 10
    return Resources(held, held, 0, 0, 0) if beat > 1 else NOTHING


def control_slave(pointers: int, scalars: int) -> Resources:
    """Argument registers that can be written and read."""
    words = 2 * pointers + scalars
    return Resources(24 * words, 32 * words + 56, 0, 0, 0)


__all__ = ["ADD_FP32", "CARD", "ENTRY_BITS", "MARGIN", "MULTIPLY_FP32", "NAMES", "NOTHING", "WORD_WRITER",
           "Resources", "assembler", "block_dot", "burst_reader", "control_slave", "factor", "factor_bits", "float_dot",
           "integer_dots", "integer_to_float", "memory", "quantiser", "row_sorter", "run_merger", "together",
           "unpacker", "write_combiner"]
