"""Numbers as integers that sort the same way, and the pieces that every selection kernel is made of.

A *code* is an int32 whose unsigned order, over ``BITS`` bits, is the order of the values: NaN above everything, -0.0
equal to 0.0. A *candidate* is an int64 with the code on top and the complement of the index below, so that candidates
are all different and a larger one comes first: the larger value, and among equals the lower index.
"""

from __future__ import annotations

import triton
import triton.language as tl

DIGIT_BITS = tl.constexpr(8)
BINS = tl.constexpr(256)
LOWEST_INT32 = tl.constexpr(-2147483648)
HIGHEST_INT32 = tl.constexpr(2147483647)
LOWEST_INT64 = tl.constexpr(-9223372036854775808)


@triton.jit
def order_codes(values, BITS: tl.constexpr, INFINITY: tl.constexpr, SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """Codes of ``values``. ``INFINITY``: the bits of infinity, 0 for integers. Without ``LARGEST`` the order turns."""
    MAGNITUDE: tl.constexpr = (1 << (BITS - 1)) - 1
    if BITS == 32:
        bits = values.to(tl.int32, bitcast=True)
    elif BITS == 16:
        bits = values.to(tl.int16, bitcast=True).to(tl.int32)
    else:
        bits = values.to(tl.int32)
    if INFINITY != 0:
        size = bits & MAGNITUDE
        # Bits of a negative float grow with its size; those of equals (zeros) and of unordered ones (NaN) are made one.
        ordered = tl.where(bits < 0, bits ^ MAGNITUDE, bits)
        ordered = tl.where(size == 0, 0, ordered)
        bits = tl.where(size > INFINITY, MAGNITUDE, ordered)
    if SIGNED:
        if BITS == 32:
            bits = bits ^ LOWEST_INT32
        else:
            bits = bits + (1 << (BITS - 1))
    if not LARGEST:
        if BITS == 32:
            bits = bits ^ -1
        else:
            bits = (1 << BITS) - 1 - bits
    return bits


@triton.jit
def ranked(codes):
    """Codes as int32 whose signed order is the codes' order."""
    return codes ^ LOWEST_INT32


@triton.jit
def candidates_of(codes, indices):
    """Int64 candidates from codes and int32 indices."""
    return (ranked(codes).to(tl.int64) << 32) | (HIGHEST_INT32 - indices).to(tl.int64)


@triton.jit
def indices_of(candidates):
    """Int32 indices of candidates."""
    return HIGHEST_INT32 - (candidates & HIGHEST_INT32).to(tl.int32)


@triton.jit
def digit_counts(values, start, stop, prefix, step, EXTENT: tl.constexpr, TILE: tl.constexpr, BITS: tl.constexpr,
                 INFINITY: tl.constexpr, SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """Counts of digit ``step`` (the highest is 0) among the entries ``start`` to ``stop`` with the digits ``prefix``.

    Also the number of entries whose digits before ``step`` are above ``prefix``.
    """
    shift = BITS - DIGIT_BITS * (step + 1)
    before = (1 << (DIGIT_BITS * step)) - 1
    counts = tl.zeros([BINS], tl.int32)
    above = 0
    for first in range(start, stop, TILE):
        indices = first + tl.arange(0, TILE)
        inside = (indices < stop) & (indices < EXTENT)
        codes = order_codes(tl.load(values + indices, mask=inside), BITS, INFINITY, SIGNED, LARGEST)
        leading = ((codes >> shift) >> DIGIT_BITS) & before
        digits = (codes >> shift) & (BINS - 1)
        counts += tl.histogram(digits, BINS, mask=inside & (leading == prefix))
        above += tl.sum((inside & (leading > prefix)).to(tl.int32), 0)
    return counts, above


@triton.jit
def digit_of(counts, wanted):
    """The digit of the ``wanted``-th largest entry, from the counts per digit, and how many with it are wanted."""
    digits = tl.arange(0, BINS)
    up_to = tl.cumsum(counts, 0)
    from_here = tl.sum(counts, 0) - up_to + counts
    digit = tl.sum((from_here >= wanted).to(tl.int32), 0) - 1
    larger = tl.sum(tl.where(digits > digit, counts, 0), 0)
    return digit, wanted - larger


@triton.jit
def store_selected(values, selected, start, stop, threshold, first_larger, first_tied, K: tl.constexpr,
                   EXTENT: tl.constexpr, TILE: tl.constexpr, BITS: tl.constexpr, INFINITY: tl.constexpr,
                   SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """Candidates of the entries above ``threshold``, and of those equal to it, into their slots below ``K``.

    Slots follow the index: ``first_larger`` and ``first_tied`` are those of the first of each kind in this part.
    """
    # They may be literals, which a loop cannot carry on.
    first_larger = tl.cast(first_larger, tl.int32)
    first_tied = tl.cast(first_tied, tl.int32)
    for first in range(start, stop, TILE):
        indices = first + tl.arange(0, TILE)
        inside = (indices < stop) & (indices < EXTENT)
        codes = order_codes(tl.load(values + indices, mask=inside), BITS, INFINITY, SIGNED, LARGEST)
        larger = (inside & (ranked(codes) > ranked(threshold))).to(tl.int32)
        tied = (inside & (codes == threshold)).to(tl.int32)
        # Both running counts in one scan; a tile has fewer than 2^31 entries, so they never meet.
        running = tl.cumsum((larger.to(tl.int64) << 32) | tied.to(tl.int64), 0)
        slots = tl.where(larger != 0, first_larger + (running >> 32).to(tl.int32),
                         first_tied + (running & HIGHEST_INT32).to(tl.int32)) - 1
        tl.store(selected + slots, candidates_of(codes, indices), mask=((larger | tied) != 0) & (slots < K))
        first_larger += tl.sum(larger, 0)
        first_tied += tl.sum(tied, 0)
