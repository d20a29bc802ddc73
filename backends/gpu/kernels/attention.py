"""Attention of few queries over a cache: all of it, chosen entries or chosen blocks; one body for all of them.

A program takes up to ``BLOCK_M`` rows (query heads that share a cache head, of one query or of a block of queries) and
a share of the slots. Slot ``i`` is the ``i``-th cache entry of the row's selection. Softmax runs online in float32
(Milakov and Gimelshein, arXiv 1805.02867). With several shares a second launch joins the partial results, as
flash-decoding does.
"""

import triton
import triton.language as tl

DENSE = 0
TOKENS = 1
BLOCKS = 2
"""Values of ``SELECTION``: every cache entry in order, one index per entry, one index per block of entries."""

_DENSE: tl.constexpr = tl.constexpr(DENSE)
_BLOCKS: tl.constexpr = tl.constexpr(BLOCKS)
_LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _load_rows(base, rows, live, SIZE: tl.constexpr, BLOCK: tl.constexpr, WIDEN: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    pointers = base + rows[:, None] * SIZE + columns[None, :]
    if BLOCK == SIZE:
        loaded = tl.load(pointers, mask=live[:, None], other=0.0)
    else:
        loaded = tl.load(pointers, mask=live[:, None] & (columns < SIZE)[None, :], other=0.0)
    if WIDEN:
        loaded = loaded.to(tl.float32)
    return loaded


@triton.jit
def _rows(HEADS: tl.constexpr, CACHE_HEADS: tl.constexpr, QUERIES: tl.constexpr, QUERY_BLOCK: tl.constexpr,
          SELECTION_HEADS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Query position, head and liveness of each row, its place among all [batch, head, query], and the row of the
    selection ``[batch, 1 or cache head, query block]`` that all of them share.
    """
    group: tl.constexpr = HEADS // CACHE_HEADS
    tiles: tl.constexpr = (QUERY_BLOCK * group + BLOCK_M - 1) // BLOCK_M
    rows = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    query_positions = tl.program_id(0) // tiles * QUERY_BLOCK + rows // group
    heads = tl.program_id(1) % CACHE_HEADS * group + rows % group
    live = (rows < QUERY_BLOCK * group) & (query_positions < QUERIES)
    places = (tl.program_id(1) // CACHE_HEADS * HEADS + heads).to(tl.int64) * QUERIES + query_positions
    query_blocks: tl.constexpr = (QUERIES + QUERY_BLOCK - 1) // QUERY_BLOCK
    owner = tl.program_id(1) if SELECTION_HEADS > 1 else tl.program_id(1) // CACHE_HEADS
    selection_row = owner.to(tl.int64) * query_blocks + tl.program_id(0) // tiles
    return query_positions, heads, live, tl.where(live, places, 0), selection_row


@triton.jit
def _entries(selection, start, end, SELECTION: tl.constexpr, SELECTED_BLOCK: tl.constexpr, CACHED: tl.constexpr,
             BLOCK_N: tl.constexpr):
    """Cache entry of each of ``BLOCK_N`` slots from ``start``; ``CACHED`` or more where there is none."""
    slots = start + tl.arange(0, BLOCK_N)
    limit: tl.constexpr = (CACHED + SELECTED_BLOCK - 1) // SELECTED_BLOCK
    if SELECTION == _DENSE:
        entries = slots
    elif SELECTION == _BLOCKS and SELECTED_BLOCK % BLOCK_N == 0:
        block = tl.load(selection + start // SELECTED_BLOCK)
        first = tl.where((block >= 0) & (block < limit), block * SELECTED_BLOCK + start % SELECTED_BLOCK, CACHED)
        entries = first.to(tl.int32) + tl.arange(0, BLOCK_N)
    else:
        chosen = tl.load(selection + slots // SELECTED_BLOCK, mask=slots < end, other=-1)
        chosen = tl.where((chosen >= 0) & (chosen < limit), chosen, limit).to(tl.int32)
        entries = chosen * SELECTED_BLOCK + slots % SELECTED_BLOCK
    return tl.where(slots < end, entries, CACHED)


@triton.jit
def _extent(lengths, batch, positions, SLOTS: tl.constexpr, SELECTION: tl.constexpr, CACHED: tl.constexpr,
            QUERIES: tl.constexpr, HAS_LENGTHS: tl.constexpr, CAUSAL: tl.constexpr, SPLIT_SLOTS: tl.constexpr):
    """Valid cache entries of the batch, how many of them each row sees, and first slot and end of this share."""
    length = CACHED
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + batch).to(tl.int32), CACHED)
    start = tl.program_id(2) * SPLIT_SLOTS
    end = tl.minimum(start + SPLIT_SLOTS, SLOTS)
    if SELECTION == _DENSE:
        end = tl.minimum(end, length)
        if CAUSAL:
            end = tl.minimum(end, length - QUERIES + 1 + tl.max(positions, 0))
    reach = length + tl.zeros_like(positions)
    if CAUSAL:
        reach = tl.minimum(reach, length - QUERIES + 1 + positions)
    return length, reach, start, end


@triton.jit
def _scores(q, q_rope, k, keys_rope, entries, seen, SCALE: tl.constexpr, ROPE: tl.constexpr, BLOCK_ROPE: tl.constexpr,
            WIDEN: tl.constexpr):
    """Scaled inner products of the rows with a tile of keys."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if ROPE > 0:
        k_rope = _load_rows(keys_rope, entries, seen, ROPE, BLOCK_ROPE, WIDEN)
        scores = tl.dot(q_rope, tl.trans(k_rope), scores, input_precision="ieee")
    return scores * SCALE


@triton.jit
def _add_mask(scores, mask, columns, batch, heads, positions, live, seen, HEADS: tl.constexpr, QUERIES: tl.constexpr,
              MASK_BATCHES: tl.constexpr, MASK_HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """Scores plus the additive mask ``[1 or batch, 1 or head, query, WIDTH]``."""
    rows = positions.to(tl.int64)
    if MASK_HEADS > 1:
        rows += heads * QUERIES
    if MASK_BATCHES > 1:
        rows += batch.to(tl.int64) * (MASK_HEADS * QUERIES)
    added = tl.load(mask + rows[:, None] * WIDTH + columns[None, :], mask=live[:, None] & seen[None, :], other=0.0)
    return scores + added.to(tl.float32)


@triton.jit
def _softmax_step(scores, value, highest, total, accumulated):
    """Adds one tile of scores and values to the running maximum, sum and weighted sum."""
    raised = tl.maximum(highest, tl.max(scores, 1))
    reference = tl.where(raised == float("-inf"), 0.0, raised)
    fading = tl.exp2((highest - reference) * _LOG2E)
    weights = tl.exp2((scores - reference[:, None]) * _LOG2E)
    total = total * fading + tl.sum(weights, 1)
    accumulated = tl.dot(weights.to(value.dtype), value, accumulated * fading[:, None], input_precision="ieee")
    return raised, total, accumulated


@triton.jit
def _finish(highest, total, accumulated, places, live, output, partial, weight, VALUE: tl.constexpr,
            BLOCK_VALUE: tl.constexpr, SPLITS: tl.constexpr, ZERO_MASKED: tl.constexpr):
    """Writes the result of the rows, or their weighted sum with its highest score and sum of weights.

    The two are kept apart: the logarithm of a sum vanishes beside a score as low as masks of finite numbers make it.
    """
    columns = tl.arange(0, BLOCK_VALUE)
    kept = live[:, None] & (columns < VALUE)[None, :]
    if SPLITS == 1:
        result = accumulated / (tl.where(total == 0.0, 1.0, total) if ZERO_MASKED else total)[:, None]
        tl.store(output + places[:, None] * VALUE + columns[None, :], result.to(output.dtype.element_ty), mask=kept)
    else:
        shares = places * SPLITS + tl.program_id(2)
        tl.store(partial + shares[:, None] * VALUE + columns[None, :], accumulated, mask=kept)
        tl.store(weight + 2 * shares, highest, mask=live)
        tl.store(weight + 2 * shares + 1, total, mask=live)


@triton.jit
def attend(query, query_rope, keys, keys_rope, values, mask, selection, lengths, output, partial, weight,
           SCALE: tl.constexpr, HEADS: tl.constexpr, CACHE_HEADS: tl.constexpr, QUERIES: tl.constexpr,
           CACHED: tl.constexpr, KEY: tl.constexpr, ROPE: tl.constexpr, VALUE: tl.constexpr,
           SHARED_VALUE: tl.constexpr, SELECTION: tl.constexpr, SELECTED: tl.constexpr, SELECTED_BLOCK: tl.constexpr,
           SELECTION_HEADS: tl.constexpr, QUERY_BLOCK: tl.constexpr, MASK: tl.constexpr, MASK_BATCHES: tl.constexpr,
           MASK_HEADS: tl.constexpr, HAS_LENGTHS: tl.constexpr, CAUSAL: tl.constexpr, ZERO_MASKED: tl.constexpr,
           SPLITS: tl.constexpr, SPLIT_SLOTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
           BLOCK_KEY: tl.constexpr, BLOCK_ROPE: tl.constexpr, BLOCK_VALUE: tl.constexpr, WIDEN: tl.constexpr):
    """One share of the slots for one tile of rows. Grid: (query blocks x row tiles, batch x cache heads, splits)."""
    slots: tl.constexpr = SELECTED * SELECTED_BLOCK
    cache = tl.program_id(1)
    batch = cache // CACHE_HEADS
    positions, heads, live, places, selection_row = _rows(HEADS, CACHE_HEADS, QUERIES, QUERY_BLOCK, SELECTION_HEADS,
                                                          BLOCK_M)
    length, reach, start, end = _extent(lengths, batch, positions, slots, SELECTION, CACHED, QUERIES, HAS_LENGTHS,
                                        CAUSAL, SPLIT_SLOTS)
    selection += selection_row * SELECTED
    keys += cache.to(tl.int64) * (CACHED * KEY)
    keys_rope += cache.to(tl.int64) * (CACHED * ROPE)
    values += cache.to(tl.int64) * (CACHED * VALUE)
    q = _load_rows(query, places, live, KEY, BLOCK_KEY, WIDEN)
    q_rope = q
    if ROPE > 0:
        q_rope = _load_rows(query_rope, places, live, ROPE, BLOCK_ROPE, WIDEN)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    accumulated = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)
    for first in range(start, end, BLOCK_N):
        entries = _entries(selection, first, end, SELECTION, SELECTED_BLOCK, CACHED, BLOCK_N)
        seen = entries < length
        k = _load_rows(keys, entries, seen, KEY, BLOCK_KEY, WIDEN)
        scores = _scores(q, q_rope, k, keys_rope, entries, seen, SCALE, ROPE, BLOCK_ROPE, WIDEN)
        if MASK == 1:
            scores = _add_mask(scores, mask, first + tl.arange(0, BLOCK_N), batch, heads, positions, live, seen, HEADS,
                               QUERIES, MASK_BATCHES, MASK_HEADS, slots)
        if MASK == 2:
            scores = _add_mask(scores, mask, entries, batch, heads, positions, live, seen, HEADS, QUERIES,
                               MASK_BATCHES, MASK_HEADS, CACHED)
        scores = tl.where(entries[None, :] < reach[:, None], scores, float("-inf"))
        value = k if SHARED_VALUE else _load_rows(values, entries, seen, VALUE, BLOCK_VALUE, WIDEN)
        highest, total, accumulated = _softmax_step(scores, value, highest, total, accumulated)
    _finish(highest, total, accumulated, places, live, output, partial, weight, VALUE, BLOCK_VALUE, SPLITS, ZERO_MASKED)


@triton.jit
def combine(partial, weight, output, SPLITS: tl.constexpr, VALUE: tl.constexpr, ZERO_MASKED: tl.constexpr,
            BLOCK_SPLITS: tl.constexpr, BLOCK_VALUE: tl.constexpr):
    """Joins the shares of one row: grid (rows, value tiles)."""
    shares = tl.arange(0, BLOCK_SPLITS)
    columns = tl.program_id(1) * BLOCK_VALUE + tl.arange(0, BLOCK_VALUE)
    row = tl.program_id(0).to(tl.int64)
    weights = weight + 2 * (row * SPLITS + shares)
    highest = tl.load(weights, mask=shares < SPLITS, other=float("-inf"))
    totals = tl.load(weights + 1, mask=shares < SPLITS, other=0.0)
    reference = tl.max(highest, 0)
    factors = tl.exp2((highest - tl.where(reference == float("-inf"), 0.0, reference)) * _LOG2E)
    kept = (shares < SPLITS)[:, None] & (columns < VALUE)[None, :]
    sums = tl.load(partial + row * (SPLITS * VALUE) + shares[:, None] * VALUE + columns[None, :], mask=kept, other=0.0)
    total = tl.sum(totals * factors, 0)
    if ZERO_MASKED:
        total = tl.where(total == 0.0, 1.0, total)
    joined = tl.sum(sums * factors[:, None], 0) / total
    tl.store(output + row * VALUE + columns, joined.to(output.dtype.element_ty), mask=columns < VALUE)
