"""What units of the library take, as closed forms; measured against yosys by ``benchmarks/fpga/resources.py``.

Coefficients were read off small sizes; docs/fpga.md has the error on others. No placement, no routing, no clock rate.
"""

from __future__ import annotations

from dataclasses import dataclass


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

    def times(self, count: int) -> Resources:
        """Of several equal units."""
        return Resources(self.lut * count, self.register * count, self.dsp * count, self.bram36 * count,
                         self.uram * count)


MULTIPLY_FP32 = Resources(133, 199, 2, 0, 0)
MULTIPLY_BF16 = Resources(68, 116, 1, 0, 0)
ADD_FP32 = Resources(524, 260, 0, 0, 0)


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


__all__ = ["ADD_FP32", "MULTIPLY_BF16", "MULTIPLY_FP32", "Resources", "integer_dots"]
