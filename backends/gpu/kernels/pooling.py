"""Pooling of pages of cache entries: mean, minimum, maximum or both bounds, each entry read once."""

import triton
import triton.language as tl

MEAN = 0
MINIMUM = 1
MAXIMUM = 2
BOUNDS = 3
"""Values of ``KIND``; ``BOUNDS`` writes minima to ``first`` and maxima to ``second``."""

_MEAN: tl.constexpr = tl.constexpr(MEAN)
_MINIMUM: tl.constexpr = tl.constexpr(MINIMUM)
_MAXIMUM: tl.constexpr = tl.constexpr(MAXIMUM)
_BOUNDS: tl.constexpr = tl.constexpr(BOUNDS)


@triton.jit
def pool(keys, first, second, KIND: tl.constexpr, ENTRIES: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr,
         BLOCK_PAGES: tl.constexpr, BLOCK_ENTRIES: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """``keys [rows, ENTRIES, SIZE]`` to ``[rows, pages, SIZE]``. Grid: (page tiles, column tiles, rows)."""
    pages_per_row: tl.constexpr = (ENTRIES + PAGE - 1) // PAGE
    row = tl.program_id(2).to(tl.int64)
    pages = tl.program_id(0) * BLOCK_PAGES + tl.arange(0, BLOCK_PAGES)
    columns = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    keys += row * (ENTRIES * SIZE)
    low = tl.full([BLOCK_PAGES, BLOCK_SIZE], float("inf"), tl.float32)
    high = tl.full([BLOCK_PAGES, BLOCK_SIZE], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_PAGES, BLOCK_SIZE], tl.float32)
    for start in range(0, PAGE, BLOCK_ENTRIES):
        offsets = start + tl.arange(0, BLOCK_ENTRIES)
        entries = pages[:, None] * PAGE + offsets[None, :]
        held = (offsets < PAGE)[None, :] & (entries < ENTRIES)
        kept = held[:, :, None] & (columns < SIZE)[None, None, :]
        tile = tl.load(keys + entries[:, :, None] * SIZE + columns[None, None, :], mask=kept, other=0.0).to(tl.float32)
        if KIND == _MEAN:
            total += tl.sum(tile, 1)
        if KIND == _MINIMUM or KIND == _BOUNDS:  # noqa: SIM109 - a compiled constant is in no tuple
            low = tl.minimum(low, tl.min(tl.where(held[:, :, None], tile, float("inf")), 1))
        if KIND == _MAXIMUM or KIND == _BOUNDS:  # noqa: SIM109
            high = tl.maximum(high, tl.max(tl.where(held[:, :, None], tile, float("-inf")), 1))
    places = row * (pages_per_row * SIZE) + pages[:, None] * SIZE + columns[None, :]
    written = (pages < pages_per_row)[:, None] & (columns < SIZE)[None, :]
    result = low
    if KIND == _MEAN:
        result = total / tl.minimum(ENTRIES - pages * PAGE, PAGE).to(tl.float32)[:, None]
    elif KIND == _MAXIMUM:
        result = high
    tl.store(first + places, result.to(first.dtype.element_ty), mask=written)
    if KIND == _BOUNDS:
        tl.store(second + places, high.to(second.dtype.element_ty), mask=written)
