"""The arithmetic of softmax and weighted sum, to the bit.

``rtl/units/exponential.py`` and ``rtl/cores/attention.py`` follow it.

Two passes over the rows. The first makes the scores and their maximum; the second, for every row, the exponential of
its score less the maximum. Exponentials, and their products with the row's elements, are added by the aligned pairwise
tree over all rows; at the end every sum of products is divided by the sum of exponentials.

:func:`exponential` works on whole numbers. With ``u = -x`` rounded to 26 places after the point, ``u log2(e)`` has a
whole part n and a fraction of 27 bits, three digits i, j, k of nine bits each. ``2**-fraction`` is the product of two
table entries for i and j and of ``1 - k ln(2) / 2**27``, each product rounded to 30 places, and the result is that
times ``2**-n``, rounded to nearest even.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.numbers import Floats
from hetcc.backends.fpga.stages.operations import larger

ARGUMENT_PLACES = 26
"""Binary places of the argument."""
LOG2E_PLACES = 45
DROPPED_PLACES = 16
"""Of the product of argument and log2(e), before the fraction is rounded."""
DIGIT_BITS = 9
FRACTION_BITS = 3 * DIGIT_BITS
TABLE_PLACES = 30
LARGEST_EXPONENT = 127 + 6
"""Biased exponent of the largest argument that is not certain to give zero: below 128."""
LN2_PLACES = 13
LN2_FACTOR = 45426
"""ln(2) * 2**3, with 13 places: what one unit of the last digit takes off, with 30 places."""


@lru_cache(maxsize=1)
def log2e() -> int:
    """log2(e) with :data:`LOG2E_PLACES` places, rounded."""
    with localcontext() as context:
        context.prec = 50
        return int((Decimal(2**LOG2E_PLACES) / Decimal(2).ln()).to_integral_value())


@lru_cache(maxsize=2)
def table(digit: int) -> tuple[int, ...]:
    """``2**-(i / 2**9)`` (digit 1) or ``2**-(j / 2**18)`` (digit 2) with 30 places, rounded."""
    with localcontext() as context:
        context.prec = 50
        step = -Decimal(2).ln() / 2 ** (DIGIT_BITS * digit)
        return tuple(int((Decimal(2**TABLE_PLACES) * (step * at).exp()).to_integral_value())
                     for at in range(2**DIGIT_BITS))


def exponential(values: Floats) -> Floats:
    """``e**x`` of numbers that are zero or less: zero below the normal range, NaN of NaN. What is positive gives NaN.

    Differences from a maximum are never positive; infinity less infinity is NaN.
    """
    bits = numpy.ascontiguousarray(values).view(numpy.uint32)
    exponent = ((bits >> numpy.uint32(23)) & numpy.uint32(255)).astype(numpy.int64)
    significand = ((bits & numpy.uint32(0x7FFFFF)) | numpy.uint32(0x800000)).astype(numpy.uint64)
    significand[exponent == 0] = 0
    argument = _fixed(significand, exponent)
    product = argument * numpy.uint64(log2e() >> DROPPED_PLACES)
    product += (argument * numpy.uint64(log2e() & (2**DROPPED_PLACES - 1))) >> numpy.uint64(DROPPED_PLACES)
    places = ARGUMENT_PLACES + LOG2E_PLACES - DROPPED_PLACES - FRACTION_BITS
    rounded = (product + numpy.uint64(1 << (places - 1))) >> numpy.uint64(places)
    result = _power(rounded >> numpy.uint64(FRACTION_BITS), rounded & numpy.uint64(2**FRACTION_BITS - 1))
    result = numpy.where(exponent > LARGEST_EXPONENT, numpy.float32(0), result)
    nan = numpy.isnan(values) | (values > 0)
    found: Floats = numpy.where(nan, numpy.float32(numpy.nan), result).astype(numpy.float32)
    return numbers.canonical(found)


def _fixed(significand: NDArray[numpy.uint64], exponent: NDArray[numpy.int64]) -> NDArray[numpy.uint64]:
    """The magnitude with :data:`ARGUMENT_PLACES` places, rounded (a half goes up)."""
    shift = exponent - (127 + 23 - ARGUMENT_PLACES)
    left = significand << numpy.clip(shift, 0, 9).astype(numpy.uint64)
    down = numpy.clip(-shift, 1, 26).astype(numpy.uint64)
    right = (significand + (numpy.uint64(1) << (down - numpy.uint64(1)))) >> down
    return numpy.where(shift >= 0, left, right)


def _power(whole: NDArray[numpy.uint64], fraction: NDArray[numpy.uint64]) -> Floats:
    """``2**-(whole + fraction / 2**27)``, rounded to nearest even; zero below the normal range."""
    digits = [(fraction >> numpy.uint64(DIGIT_BITS * at)) & numpy.uint64(2**DIGIT_BITS - 1) for at in (2, 1, 0)]
    half, places = numpy.uint64(1 << (TABLE_PLACES - 1)), numpy.uint64(TABLE_PLACES)
    first, second = (numpy.array(table(digit), numpy.uint64)[digits[digit - 1]] for digit in (1, 2))
    part = (first * second + half) >> places
    off = (digits[2] * numpy.uint64(LN2_FACTOR) + numpy.uint64(1 << (LN2_PLACES - 1))) >> numpy.uint64(LN2_PLACES)
    part = (part * (numpy.uint64(2**TABLE_PLACES) - off) + half) >> places
    # Both factors are above a half and at most one, so the leading bit is the 30th, or the 31st of one itself.
    rounded = numpy.rint(numpy.ldexp(part.astype(numpy.float64), -6))
    scaled = numpy.ldexp(rounded, -24 - whole.astype(numpy.int64).clip(0, 300))
    return numpy.where(scaled < 2.0**-126, 0.0, scaled).astype(numpy.float32)


def softmax_terms(scores: Floats) -> tuple[Floats, Floats]:
    """Exponentials of scores less their maximum, and their sums.

    Args:
        scores: ``[..., N]``, flushed.

    Returns:
        ``[..., N]`` and ``[...]``.
    """
    rows = numpy.ascontiguousarray(numpy.moveaxis(scores, -1, 0))
    largest = numbers.tree_fold(rows, larger)
    with numpy.errstate(invalid="ignore", over="ignore"):
        terms = exponential(numbers.flush(numbers.flush(rows) - largest))
    found: Floats = numpy.moveaxis(terms, 0, -1)
    return found, numbers.tree_sum(terms)


def all_masked(scores: Floats) -> NDArray[numpy.bool_]:
    """Where every score of an instance is minus infinity: ``[...]`` of ``[..., N]``."""
    return numpy.asarray(numpy.isneginf(scores).all(axis=-1), numpy.bool_)


def weighted_rows(terms: Floats, values: Floats) -> Floats:
    """Products of exponentials with the elements of their rows, added up over a block of rows.

    Args:
        terms: ``[..., N]``.
        values: ``[lanes..., N]``, flushed.

    Returns:
        ``[..., lanes...]``.
    """
    rows = numpy.ascontiguousarray(numpy.moveaxis(values, -1, 0))
    flat = terms.reshape(-1, terms.shape[-1])
    with numpy.errstate(invalid="ignore", over="ignore", under="ignore"):
        found = [numbers.tree_sum(numbers.flush(rows * vector.reshape((-1, *[1] * (rows.ndim - 1)))))
                 for vector in flat]
    return numpy.stack(found).reshape((*terms.shape[:-1], *rows.shape[1:]))


def quotients(sums: Floats, totals: Floats) -> Floats:
    """What a weighted sum gives: the sums of products divided by the sums of exponentials."""
    with numpy.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore"):
        return numbers.canonical(numbers.flush((sums / totals).astype(numpy.float32)))


__all__ = ["all_masked", "exponential", "log2e", "quotients", "softmax_terms", "table", "weighted_rows"]
