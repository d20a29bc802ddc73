"""The arithmetic of the streaming hardware, said once and to the bit; the functional model and the RTL both follow it.

Everything is IEEE-754 binary32 with round to nearest even, and three decisions that keep the units small and fast:

* subnormals are zero: operands are flushed before an operation and results after it, with their sign kept;
* every NaN a unit makes is the quiet NaN ``0x7FC00000``;
* a sum of many terms is the *aligned pairwise tree*: neighbours 2i and 2i+1 are added, an odd last term passes, and so
  on until one is left. The order does not depend on how many lanes the hardware has, so neither do the bits.

Comparison (top-k, maximum, relu): -0 equals +0, and NaN is larger than everything, as in ``torch.topk``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy
from numpy.typing import NDArray

from hetcc.errors import InternalError
from hetcc.ir import DType

Floats = NDArray[numpy.float32]
Array = NDArray[numpy.generic]
Quantised = tuple[NDArray[numpy.int64], NDArray[numpy.int64], NDArray[numpy.bool_]]
"""Integers ``[D, N]``, exponents ``[N]``, and which vectors are not finite."""

SMALLEST_NORMAL = numpy.float32(2.0**-126)
QUIET_NAN_BITS = 0x7FC00000
# Products of operands at least this large are multiples of 2**-123, so that no sum of them can be subnormal.
_SAFE_MAGNITUDE = numpy.float32(2.0**-50)

_STORAGE: dict[DType, str] = {
    DType.FLOAT32: "<f4", DType.FLOAT16: "<f2", DType.BFLOAT16: "<u2", DType.INT64: "<i8", DType.INT32: "<i4",
    DType.BOOL: "|b1", DType.UINT8: "|u1",
}


def storage_type(element: DType) -> numpy.dtype[numpy.generic]:
    """How an element lies in device memory; bfloat16 is held as its 16 bits.

    Raises:
        InternalError: no stage has such an element; the composer should have rejected the region.
    """
    spelling = _STORAGE.get(element)
    if spelling is None:
        raise InternalError("HET-I001", f"{element.value} is not an element type of the streaming hardware")
    return numpy.dtype(spelling)


def is_storable(element: DType) -> bool:
    """Whether buffers of this element type can be read and written by the streaming hardware."""
    # Bytes are what packed weights are made of; no stage computes with them.
    return element in _STORAGE and element is not DType.UINT8


def flush(values: Floats) -> Floats:
    """Subnormals replaced by zeros of the same sign; anything else unchanged."""
    small = numpy.abs(values) < SMALLEST_NORMAL
    if not small.any():
        return values
    return numpy.where(small, numpy.copysign(numpy.float32(0), values), values)


def decode(stored: Array, element: DType) -> Array:
    """What a unit sees when it reads stored elements: floats widened to binary32 and flushed, the rest as it is."""
    if not element.is_floating:
        return stored
    if element is DType.BFLOAT16:
        wide = (stored.astype(numpy.uint32) << numpy.uint32(16)).view(numpy.float32)
    else:
        wide = stored.astype(numpy.float32)
    return flush(wide)


def encode(values: Array, element: DType) -> Array:
    """What is written to memory for ``values`` (already rounded by :func:`round_to` when they are floats)."""
    if element is DType.BFLOAT16:
        return (canonical(values.astype(numpy.float32)).view(numpy.uint32) >> numpy.uint32(16)).astype(numpy.uint16)
    if element.is_floating:
        with numpy.errstate(over="ignore", invalid="ignore"):
            return canonical(values.astype(numpy.float32)).astype(storage_type(element))
    return values.astype(storage_type(element))


def round_to(values: Floats, element: DType) -> Floats:
    """Binary32 values rounded (nearest even) to what ``element`` can hold, still as binary32."""
    if element is DType.FLOAT32:
        return values
    if element is DType.FLOAT16:
        with numpy.errstate(over="ignore", invalid="ignore"):
            return values.astype(numpy.float16).astype(numpy.float32)
    if element is not DType.BFLOAT16:
        raise InternalError("HET-I001", f"floating stage with element type {element.value}")
    bits = numpy.ascontiguousarray(values).view(numpy.uint32)
    odd = (bits >> numpy.uint32(16)) & numpy.uint32(1)
    rounded = (bits + numpy.uint32(0x7FFF) + odd) & numpy.uint32(0xFFFF0000)
    return numpy.where(numpy.isnan(values), numpy.float32(numpy.nan), rounded.view(numpy.float32))


def canonical(values: Floats) -> Floats:
    """Every NaN replaced by the one NaN the hardware makes."""
    nan = numpy.isnan(values)
    if not nan.any():
        return values
    return numpy.where(nan, numpy.array(QUIET_NAN_BITS, dtype=numpy.uint32).view(numpy.float32), values)


def sort_key(values: Floats) -> NDArray[numpy.uint32]:
    """Unsigned integers in the order of ``values``: -inf first, -0 equal to +0, NaN last."""
    bits = numpy.ascontiguousarray(values).view(numpy.uint32)
    sign = numpy.uint32(0x80000000)
    key: NDArray[numpy.uint32] = numpy.where(bits & sign, ~bits, bits | sign)
    key[values == 0] = sign
    key[numpy.isnan(values)] = 0xFFFFFFFF
    return key


def needs_flushing(values: Floats) -> bool:
    """Whether products with these operands could be so small that sums of them might be subnormal."""
    magnitude = numpy.abs(values)
    return bool(((magnitude < _SAFE_MAGNITUDE) & (magnitude > 0)).any())


def tree_fold(terms: Floats, combine: Callable[[Floats, Floats], Floats]) -> Floats:
    """The aligned pairwise tree over axis 0 with any combining unit."""
    while len(terms) > 1:
        even = len(terms) // 2 * 2
        folded = combine(terms[0:even:2], terms[1:even:2])
        terms = folded if even == len(terms) else numpy.concatenate([folded, terms[even:]])
    folded_down: Floats = terms[0]
    return folded_down


def tree_sum(terms: Floats) -> Floats:
    """The aligned pairwise sum over axis 0, flushed after every addition."""
    with numpy.errstate(over="ignore", invalid="ignore"):
        return tree_fold(terms, lambda left, right: flush(left + right))


def dot(rows: Floats, stationary: Floats, careful: bool, scratch: tuple[Floats, Floats]) -> Floats:
    """Inner products of one stationary vector with many columns.

    Args:
        rows: ``[D, N]``, flushed.
        stationary: ``[D]``, flushed.
        careful: whether results can be subnormal (:func:`needs_flushing` of either operand).
        scratch: two arrays ``[D, N]``, overwritten.

    Returns:
        ``[N]``: products rounded to binary32, added by the aligned pairwise tree.
    """
    source, target = scratch
    numpy.multiply(rows, stationary[:, None], out=source)
    if careful:
        return tree_sum(flush(source))
    count = len(source)
    while count > 1:
        half = count // 2
        numpy.add(source[0:2 * half:2], source[1:2 * half:2], out=target[:half])
        if count % 2:
            target[half] = source[count - 1]
        count = half + count % 2
        source, target = target, source
    total: Floats = source[0].copy()
    return total


def quantise(vectors: Floats, bits: int) -> Quantised:
    """Vectors as integers times a power of two each: ``value ~ integer * 2**exponent``.

    The exponent is that of the largest magnitude less ``bits - 2``, so the largest integer is ``2**(bits - 2)`` or
    more, and an integer is off by half at most, or by one where rounding up to ``2**(bits - 1)`` is cut off. Rounding
    is to nearest, ties to even.

    Args:
        vectors: ``[D, N]``, flushed; a vector is a column.
        bits: of an integer; its range is symmetric.

    Returns:
        integers ``[D, N]``, exponents ``[N]``, and which vectors hold an infinity or a NaN (their integers are 0).
    """
    bad: NDArray[numpy.bool_] = numpy.asarray(numpy.logical_not(numpy.isfinite(vectors)).any(axis=0))
    finite = numpy.where(bad, numpy.float32(0), vectors)
    largest = numpy.ascontiguousarray(numpy.abs(finite).max(axis=0)).view(numpy.uint32) >> numpy.uint32(23)
    exponents = largest.astype(numpy.int64) - 127 - (bits - 2)
    scaled = numpy.rint(numpy.ldexp(finite.astype(numpy.float64), -exponents))
    limit = 2 ** (bits - 1) - 1
    return numpy.clip(scaled, -limit, limit).astype(numpy.int64), exponents, bad


def integer_dots(rows: Floats, vectors: Floats, bits: int) -> Floats:
    """Inner products of quantised vectors: exact integer sums, then one rounding to binary32.

    Args:
        rows: ``[D, N]``, flushed.
        vectors: ``[D, M]``, flushed.
        bits: of the integers; ``D * 4**(bits - 1)`` must be below ``2**53``.

    Returns:
        ``[M, N]``; NaN where a factor held an infinity or a NaN.
    """
    return quantised_dots(quantise(rows, bits), quantise(vectors, bits))


def quantised_dots(rows: Quantised, vectors: Quantised) -> Floats:
    """Inner products of what :func:`quantise` gave: ``[M, N]``."""
    left, left_exponents, left_bad = rows
    right, right_exponents, right_bad = vectors
    # Sums of such products are whole numbers that binary64 holds exactly, in any order.
    sums = right.astype(numpy.float64).T @ left.astype(numpy.float64)
    with numpy.errstate(over="ignore", under="ignore"):
        scaled = numpy.ldexp(sums, left_exponents[None, :] + right_exponents[:, None]) + 0.0
        found = flush_tiny(scaled)
    return canonical(numpy.where(left_bad[None, :] | right_bad[:, None], numpy.float32(numpy.nan), found))


def flush_tiny(values: NDArray[numpy.float64]) -> Floats:
    """Binary64 rounded once to binary32; what rounds to less than the smallest normal number is a zero of its sign."""
    with numpy.errstate(over="ignore", under="ignore"):
        rounded = values.astype(numpy.float32)
    # Below the normal range binary32 is coarser than the 24 bits the hardware rounds to; only a magnitude that these
    # bring up to the smallest normal number becomes it.
    low = numpy.abs(values) < 2.0**-126
    if not low.any():
        return rounded
    rescued = numpy.abs(values) >= 2.0**-126 - 2.0**-151
    tiny = numpy.where(rescued, SMALLEST_NORMAL, numpy.float32(0))
    return numpy.where(low, numpy.copysign(tiny, values).astype(numpy.float32), rounded)
