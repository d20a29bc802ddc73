"""Threshold compaction: the indices of the entries that pass, in index order, into a buffer of fixed capacity."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def passing(values, indices, inside, limit, STRICT: tl.constexpr, FLOATING: tl.constexpr):
    """1 where an entry is above ``limit`` (or equal to it, unless ``STRICT``). NaN passes nothing."""
    entries = tl.load(values + indices, mask=inside)
    if FLOATING:
        entries = entries.to(tl.float32)
    if STRICT:
        chosen = entries > limit
    else:
        chosen = entries >= limit
    return (inside & chosen).to(tl.int32)


@triton.jit
def limit_of(threshold, row, CONSTANT: tl.constexpr, LIMIT: tl.constexpr, FLOATING: tl.constexpr):
    """The row's threshold: float32 for floats."""
    if CONSTANT:
        limit = LIMIT
    elif FLOATING:
        limit = tl.load(threshold + row).to(tl.float32)
    else:
        limit = tl.load(threshold + row)
    return limit


@triton.jit
def count_passing(values, threshold, counts, EXTENT: tl.constexpr, SPAN: tl.constexpr, PARTS: tl.constexpr,
                  TILE: tl.constexpr, CONSTANT: tl.constexpr, LIMIT: tl.constexpr, STRICT: tl.constexpr,
                  FLOATING: tl.constexpr):
    """Number of passing entries of each part into ``counts[rows, PARTS]``."""
    row = tl.program_id(0)
    part = tl.program_id(1)
    limit = limit_of(threshold, row, CONSTANT, LIMIT, FLOATING)
    entries = values + row.to(tl.int64) * EXTENT
    start = part * SPAN
    stop = min(start + SPAN, EXTENT)
    found = 0
    for first in range(start, stop, TILE):
        indices = first + tl.arange(0, TILE)
        found += tl.sum(passing(entries, indices, indices < stop, limit, STRICT, FLOATING), 0)
    tl.store(counts + row * PARTS + part, found)


@triton.jit
def store_passing(values, threshold, counts, indices_out, total_out, EXTENT: tl.constexpr, SPAN: tl.constexpr,
                  PARTS: tl.constexpr, PARTS_PADDED: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
                  SHARE: tl.constexpr, CONSTANT: tl.constexpr, LIMIT: tl.constexpr, STRICT: tl.constexpr,
                  FLOATING: tl.constexpr):
    """Indices of the passing entries into ``indices_out[rows, CAPACITY]``, -1 behind the last; their number.

    A part writes its own entries, and -1 into those of its ``SHARE`` slots that stay empty. Indices beyond the
    capacity are dropped, the number counts them.
    """
    row = tl.program_id(0)
    part = tl.program_id(1)
    limit = limit_of(threshold, row, CONSTANT, LIMIT, FLOATING)
    entries = values + row.to(tl.int64) * EXTENT
    chosen = indices_out + row.to(tl.int64) * CAPACITY
    parts = tl.arange(0, PARTS_PADDED)
    found = tl.load(counts + row * PARTS + parts, mask=parts < PARTS, other=0)
    total = tl.sum(found, 0)
    slot = tl.sum(tl.where(parts < part, found, 0), 0)
    start = part * SPAN
    stop = min(start + SPAN, EXTENT)
    for first in range(start, stop, TILE):
        indices = first + tl.arange(0, TILE)
        flags = passing(entries, indices, indices < stop, limit, STRICT, FLOATING)
        slots = slot + tl.cumsum(flags, 0) - 1
        tl.store(chosen + slots, indices.to(indices_out.dtype.element_ty), mask=(flags != 0) & (slots < CAPACITY))
        slot += tl.sum(flags, 0)
    share_end = min((part + 1) * SHARE, CAPACITY)
    for first in range(part * SHARE, share_end, TILE):
        slots = first + tl.arange(0, TILE)
        empty = tl.zeros([TILE], tl.int32) - 1
        tl.store(chosen + slots, empty.to(indices_out.dtype.element_ty), mask=(slots >= total) & (slots < share_end))
    if part == 0:
        tl.store(total_out + row, total)
