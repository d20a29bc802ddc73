"""Exact top-k: the k-th largest code is found digit by digit, then the chosen entries are compacted and sorted.

Rows are axis 0 of every grid, parts of a row axis 1. No result depends on the order in which programs run: atomics add
integers, and slots come from counts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hetcc.backends.gpu.kernels.ordering import (
    BINS,
    DIGIT_BITS,
    LOWEST_INT64,
    candidates_of,
    digit_counts,
    digit_of,
    indices_of,
    order_codes,
    store_selected,
)


@triton.jit
def clear(buffer, COUNT: tl.constexpr, TILE: tl.constexpr):
    """Zeros into int32 ``buffer[COUNT]``."""
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    tl.store(buffer + places, tl.zeros([TILE], tl.int32), mask=places < COUNT)


@triton.jit
def advance_state(counts, state, row, K: tl.constexpr, PASS: tl.constexpr, ROWS: tl.constexpr):
    """Prefix and number still wanted after ``PASS`` digits of a row.

    ``counts`` is ``[passes, ROWS, BINS]``, ``state`` ``[passes, ROWS, 2]``; entry ``PASS`` is written from entry
    ``PASS - 1`` and the counts of pass ``PASS - 1``, by every program of the row alike.
    """
    prefix = 0
    wanted = K
    if PASS > 0:
        if PASS > 1:
            before = state + ((PASS - 1) * ROWS + row) * 2
            prefix = tl.load(before)
            wanted = tl.load(before + 1)
        bins = tl.load(counts + ((PASS - 1) * ROWS + row) * BINS + tl.arange(0, BINS))
        digit, wanted = digit_of(bins, wanted)
        prefix = (prefix << DIGIT_BITS) | digit
        if tl.program_id(1) == 0:
            here = state + (PASS * ROWS + row) * 2
            tl.store(here, prefix)
            tl.store(here + 1, wanted)
    return prefix, wanted


@triton.jit
def count_digits(values, counts, state, tails, above, K: tl.constexpr, ROWS: tl.constexpr, EXTENT: tl.constexpr,
                 SPAN: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr, PASS: tl.constexpr, LAST: tl.constexpr,
                 BITS: tl.constexpr, INFINITY: tl.constexpr, SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """One pass over ``values[ROWS, EXTENT]``: adds the counts of digit ``PASS`` to ``counts``.

    The last pass also leaves, per part, how many entries are above the prefix (``above[ROWS, PARTS]``) and how many
    share it and have this digit or a larger one (``tails[ROWS, PARTS, BINS]``).
    """
    row = tl.program_id(0)
    part = tl.program_id(1)
    prefix, _ = advance_state(counts, state, row, K, PASS, ROWS)
    start = part * SPAN
    found, larger = digit_counts(values + row.to(tl.int64) * EXTENT, start, min(start + SPAN, EXTENT), prefix, PASS,
                                 EXTENT, TILE, BITS, INFINITY, SIGNED, LARGEST)
    bins = tl.arange(0, BINS)
    tl.atomic_add(counts + (PASS * ROWS + row) * BINS + bins, found, mask=found > 0, sem="relaxed")
    if LAST:
        tail = tl.sum(found, 0) - tl.cumsum(found, 0) + found
        tl.store(tails + (row.to(tl.int64) * PARTS + part) * BINS + bins, tail)
        tl.store(above + row * PARTS + part, larger)


@triton.jit
def compact(values, counts, state, tails, above, selected, K: tl.constexpr, ROWS: tl.constexpr, EXTENT: tl.constexpr,
            SPAN: tl.constexpr, PARTS: tl.constexpr, PARTS_PADDED: tl.constexpr, TILE: tl.constexpr,
            PASSES: tl.constexpr, BITS: tl.constexpr, INFINITY: tl.constexpr, SIGNED: tl.constexpr,
            LARGEST: tl.constexpr):
    """Candidates of the ``K`` largest entries of each row into ``selected[ROWS, K]``: larger ones, then ties."""
    row = tl.program_id(0)
    part = tl.program_id(1)
    threshold, ties = advance_state(counts, state, row, K, PASSES, ROWS)
    digit = threshold & (BINS - 1)
    parts = tl.arange(0, PARTS_PADDED)
    earlier = parts < part
    tail = tails + (row.to(tl.int64) * PARTS + parts) * BINS + digit
    larger = tl.load(tail + 1, mask=earlier & (digit < BINS - 1), other=0)
    tied = tl.load(tail, mask=earlier, other=0) - larger
    larger += tl.load(above + row * PARTS + parts, mask=earlier, other=0)
    start = part * SPAN
    store_selected(values + row.to(tl.int64) * EXTENT, selected + row.to(tl.int64) * K, start,
                   min(start + SPAN, EXTENT), threshold, tl.sum(larger, 0), K - ties + tl.sum(tied, 0), K, EXTENT, TILE,
                   BITS, INFINITY, SIGNED, LARGEST)


@triton.jit
def select_row(values, selected, K: tl.constexpr, EXTENT: tl.constexpr, TILE: tl.constexpr, PASSES: tl.constexpr,
               BITS: tl.constexpr, INFINITY: tl.constexpr, SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """What ``count_digits`` and ``compact`` do, by one program per row."""
    row = tl.program_id(0).to(tl.int64)
    prefix = tl.cast(0, tl.int32)
    wanted = tl.cast(K, tl.int32)
    for step in range(PASSES):
        counts, _ = digit_counts(values + row * EXTENT, 0, EXTENT, prefix, step, EXTENT, TILE, BITS, INFINITY, SIGNED,
                                 LARGEST)
        digit, wanted = digit_of(counts, wanted)
        prefix = (prefix << DIGIT_BITS) | digit
    store_selected(values + row * EXTENT, selected + row * K, 0, EXTENT, prefix, 0, K - wanted, K, EXTENT, TILE, BITS,
                   INFINITY, SIGNED, LARGEST)


@triton.jit
def rank(values, selected, chosen_values, chosen_indices, K: tl.constexpr, EXTENT: tl.constexpr, TILE: tl.constexpr,
         OTHERS: tl.constexpr):
    """Writes each candidate to its place, which is the number of larger ones: ``TILE`` candidates per program."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mine = tl.load(selected + row * K + slots, mask=slots < K, other=LOWEST_INT64)
    places = tl.zeros([TILE], tl.int32)
    for first in range(0, K, OTHERS):
        others = first + tl.arange(0, OTHERS)
        theirs = tl.load(selected + row * K + others, mask=others < K, other=LOWEST_INT64)
        places += tl.sum((theirs[None, :] > mine[:, None]).to(tl.int32), 1)
    store_chosen(values, chosen_values, chosen_indices, row, places, mine, slots < K, K, EXTENT)


@triton.jit
def store_chosen(values, chosen_values, chosen_indices, row, places, candidates, inside, K: tl.constexpr,
                 EXTENT: tl.constexpr):
    """Index and value (as it was, to the bit) of each candidate. ``row`` is int64, one or one for each."""
    indices = tl.where(inside, indices_of(candidates), 0)
    tl.store(chosen_values + row * K + places, tl.load(values + row * EXTENT + indices, mask=inside), mask=inside)
    tl.store(chosen_indices + row * K + places, indices.to(chosen_indices.dtype.element_ty), mask=inside)


@triton.jit
def exchange(cube, descending, AXIS: tl.constexpr, AXES: tl.constexpr):
    """Compare and exchange along one axis of extent 2 (counted from the last) of a cube of int64."""
    partner = tl.sum(cube, AXES - 1 - AXIS, keep_dims=True) - cube
    upper = tl.reshape(tl.arange(0, 2), [1] * (AXES - 1 - AXIS) + [2] + [1] * AXIS)
    keeps_larger = upper != descending
    return tl.where((cube > partner) == keeps_larger, cube, partner)


@triton.jit
def sorted_descending(candidates, AXES: tl.constexpr, ROW_AXES: tl.constexpr):
    """Bitonic sort of int64 ``[2 ** ROW_AXES, 2 ** AXES]`` along its rows, largest first."""
    ALL: tl.constexpr = AXES + ROW_AXES
    cube = tl.reshape(candidates, [2] * ALL)
    for stage in tl.static_range(1, AXES + 1):
        if stage < AXES:
            descending = tl.reshape(1 - tl.arange(0, 2), [1] * (ALL - 1 - stage) + [2] + [1] * stage)
        else:
            descending = 1
        for step in tl.static_range(stage):
            cube = exchange(cube, descending, stage - 1 - step, ALL)
    return tl.reshape(cube, [2**ROW_AXES, 2**AXES])


@triton.jit
def sort_rows(values, selected, chosen_values, chosen_indices, K: tl.constexpr, ROWS: tl.constexpr,
              EXTENT: tl.constexpr, AXES: tl.constexpr, ROW_AXES: tl.constexpr, WHOLE_ROW: tl.constexpr,
              BITS: tl.constexpr, INFINITY: tl.constexpr, SIGNED: tl.constexpr, LARGEST: tl.constexpr):
    """Sorts ``selected[ROWS, K]``, or with ``WHOLE_ROW`` all entries, and writes the first K: some rows per program."""
    rows = (tl.program_id(0) * 2**ROW_AXES + tl.arange(0, 2**ROW_AXES)).to(tl.int64)[:, None]
    slots = tl.arange(0, 2**AXES)[None, :]
    if WHOLE_ROW:
        inside = (slots < EXTENT) & (rows < ROWS)
        codes = order_codes(tl.load(values + rows * EXTENT + slots, mask=inside), BITS, INFINITY, SIGNED, LARGEST)
        candidates = tl.where(inside, candidates_of(codes, slots), LOWEST_INT64)
    else:
        candidates = tl.load(selected + rows * K + slots, mask=(slots < K) & (rows < ROWS), other=LOWEST_INT64)
    store_chosen(values, chosen_values, chosen_indices, rows, slots, sorted_descending(candidates, AXES, ROW_AXES),
                 (slots < K) & (rows < ROWS), K, EXTENT)
