"""The arithmetic of the streaming hardware, said once and to the bit; the functional model and the RTL both follow it.

Everything is IEEE-754 binary32 with round to nearest even, and four decisions that keep the units small and fast:

* subnormals are zero: operands are flushed before an operation and results after it, with their sign kept;
* every NaN a unit makes is the quiet NaN ``0x7FC00000``;
* a sum of many terms is the *aligned pairwise tree*: neighbours 2i and 2i+1 are added, an odd last term passes, and so
  on until one is left. The order does not depend on how many lanes the hardware has, so neither do the bits;
* an inner product with rows of a table adds up blocks of neighbours on one grid (:func:`block_dots`).

Comparison (top-k, maximum, relu): -0 equals +0, and NaN is larger than everything, as in ``torch.topk``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
_BLOCK_COLUMNS = 512


@dataclass(frozen=True, slots=True)
class Grid:
    """On what the products of a block are added."""

    elements: int
    """Neighbours of a block."""
    places: int
    """Binary places below the largest exponent of a product; even."""


GRIDS = {32: Grid(16, 28), 16: Grid(64, 16)}
"""By the bits of the factors. For binary32 as many places as keep a block at least as good as rounded sums, and the
elements that a word of memory brings; for bfloat16 far more places than its factors have."""

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


def block_dots(rows: Floats, vectors: Floats, bits: int = 32) -> Floats:
    """Inner products of rows of a table with stationary vectors, as the multipliers beside the table make them.

    The exact products of a block of neighbours are added on one grid (:data:`GRIDS`): its unit is the largest product's
    power of two (of the exponents of both factors) less some places, to which every product is rounded down. That sum
    is exact and is rounded once, to binary32; the sums of the blocks are added by the aligned tree. A block of binary32
    is off by less than ``2**-24`` of its largest product, beside that one rounding; whole numbers stay exact.

    Args:
        rows: ``[D, N]``, flushed; a row is a column.
        vectors: ``[D, M]``, flushed.
        bits: of the factors: 32, or 16 for values that bfloat16 can hold.

    Returns:
        ``[M, N]``.
    """
    depth, count = rows.shape
    grid = GRIDS[bits]
    missing = -depth % grid.elements
    if missing:
        rows, vectors = (numpy.pad(part, ((0, missing), (0, 0))) for part in (rows, vectors))
    finite = bool(numpy.isfinite(rows).all() and numpy.isfinite(vectors).all())
    found = numpy.empty((vectors.shape[1], count), numpy.float32)
    factors, powers = numpy.ascontiguousarray(vectors.T).astype(numpy.float64), _exponents(vectors.T)
    for start in range(0, count, _BLOCK_COLUMNS):
        part = rows[:, start:start + _BLOCK_COLUMNS]
        wide, exponents = part.astype(numpy.float64), _exponents(part)
        scratch = numpy.empty_like(wide), numpy.empty_like(exponents)
        for at in range(len(factors)):
            with numpy.errstate(invalid="ignore"):
                numpy.multiply(wide, factors[at][:, None], out=scratch[0])
            numpy.add(exponents, powers[at][:, None], out=scratch[1])
            found[at, start:start + _BLOCK_COLUMNS] = tree_sum(_block_sums(*scratch, grid, finite))
    return found


def _exponents(values: Floats) -> NDArray[numpy.int16]:
    """Biased exponents; of a zero one so small that no product with it is the largest."""
    exponents = (numpy.ascontiguousarray(values).view(numpy.uint32) >> numpy.uint32(23)) & numpy.uint32(255)
    signed = exponents.astype(numpy.int16)
    signed[signed == 0] = -512
    return signed


def _block_sums(products: NDArray[numpy.float64], exponents: NDArray[numpy.int16], grid: Grid, finite: bool) -> Floats:
    """The sums of the blocks of exact products ``[D, N]``, which are overwritten: a row per block."""
    shape = (len(products) // grid.elements, grid.elements, products.shape[1])
    blocks = products.reshape(shape)
    largest = numpy.maximum(exponents.reshape(shape).max(axis=1), 0).astype(numpy.int64)
    # A product is its significands times 2**(sum of the biased exponents - 254).
    places = 254 + grid.places - largest
    special = None
    if not finite:
        special = _special_sums(blocks)
        blocks[~numpy.isfinite(blocks)] = 0
    numpy.multiply(blocks, _power_of_two(places)[:, None], out=blocks)
    numpy.floor(blocks, out=blocks)
    sums = flush_tiny(blocks.sum(axis=1) * _power_of_two(-places))
    return sums if special is None else numpy.where(special == 0, sums, special)


def _special_sums(products: NDArray[numpy.float64]) -> Floats:
    """Of blocks ``[B, elements, N]`` the infinity or NaN that they add up to; zero of those that are finite."""
    up, down = numpy.isposinf(products).any(axis=1), numpy.isneginf(products).any(axis=1)
    nan = numpy.isnan(products).any(axis=1) | (up & down)
    infinite = numpy.where(up, numpy.inf, numpy.where(down, -numpy.inf, 0)).astype(numpy.float32)
    return canonical(numpy.where(nan, numpy.float32(numpy.nan), infinite))


def _power_of_two(exponents: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
    """``2**exponents`` within the normal range of binary64."""
    return ((exponents + 1023) << 52).view(numpy.float64)


def tree_dots(rows: Floats, vectors: Floats) -> Floats:
    """Inner products of what another product made with stationary vectors: rounded products, the aligned tree.

    Args:
        rows: ``[D, N]``, flushed; a row is a column.
        vectors: ``[D, M]``, flushed.

    Returns:
        ``[M, N]``.
    """
    with numpy.errstate(over="ignore", invalid="ignore", under="ignore"):
        return numpy.stack([tree_sum(flush(rows * vector[:, None])) for vector in vectors.T])


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
