"""What rows that pass a word at a time take of the card (``long_rows``): the closed forms of their units, added up."""

from __future__ import annotations

import math

from hetcc.backends.fpga.costs.cycles import accumulator_bits, depth_of
from hetcc.backends.fpga.costs.cycles_long import CONVERTED
from hetcc.backends.fpga.costs.unit_resources import (
    ADD_FP32,
    Resources,
    block_dot,
    factor,
    integer_dots,
    integer_to_float,
    memory,
    together,
)
from hetcc.backends.fpga.stages.long_rows import LongRows


def long_products(rows: LongRows) -> Resources:
    """Products of one row with all vectors: integers with running sums and the conversion of the totals, or blocks of
    binary32 with a fold.
    """
    if not rows.bits:
        factors = factor(32).times(rows.per_beat)
        fold = ADD_FP32.plus(Resources(0, 32, 0, 0, 0)).times(depth_of(rows.beats))
        return factors.plus(factors.plus(block_dot(rows.per_beat, 32)).plus(fold).times(rows.vectors))
    width = accumulator_bits(rows.depth, rows.bits)
    pairs = rows.vectors // 2 if rows.bits == 8 else 0
    running = Resources(width, width, 0, 0, 0)
    return together((integer_dots(rows.per_beat, rows.bits, 1).times(rows.vectors - 2 * pairs),
                     integer_dots(rows.per_beat, rows.bits, 2).times(pairs),
                     running.plus(integer_to_float(width)).times(rows.vectors)))


def long_stationary(rows: LongRows) -> Resources:
    """Memories of the vectors in the order in which a row passes, and of integers the words as they came."""
    held = memory(rows.beats, (rows.bits or 32) * rows.per_beat).times(rows.vectors)
    return held.plus(memory(math.ceil(rows.depth / CONVERTED) * rows.vectors, 32 * CONVERTED)) if rows.bits else held


__all__ = ["long_products", "long_stationary"]
