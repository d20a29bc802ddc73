"""Arithmetic for one number or for an array of them.

The formulas of the cost model are written once. Given the numbers of a profile they price one device; given an array
for some of the numbers they price as many devices, which differ in those, at once (``hetcc.passes.robustness``).
"""

from __future__ import annotations

import math

_PLAIN = (float, int)


def is_plain(first: float, second: float = 0.0) -> bool:
    """Whether these are single numbers."""
    return type(first) in _PLAIN and type(second) in _PLAIN


def larger(first: float, second: float) -> float:
    """``max(first, second)``."""
    if type(first) in _PLAIN and type(second) in _PLAIN:
        return max(first, second)
    import numpy

    found: float = numpy.maximum(first, second)
    return found


def smaller(first: float, second: float) -> float:
    """``min(first, second)``."""
    if type(first) in _PLAIN and type(second) in _PLAIN:
        return min(first, second)
    import numpy

    found: float = numpy.minimum(first, second)
    return found


def ceiling(number: float) -> float:
    """``math.ceil``."""
    return _apply("ceil", number)


def floor(number: float) -> float:
    """``math.floor``."""
    return _apply("floor", number)


def logarithm(number: float) -> float:
    """``math.log``."""
    return _apply("log", number)


def exponential(number: float) -> float:
    """``math.exp``."""
    return _apply("exp", number)


def logarithm_above_one(number: float) -> float:
    """``math.log1p``."""
    return _apply("log1p", number)


def _apply(function: str, number: float) -> float:
    if is_plain(number):
        single: float = getattr(math, function)(number)
        return single
    import numpy

    found: float = getattr(numpy, function)(number)
    return found
