"""Index scores: what every memory entry is worth to every query.

Two forms of one entry's worth to one head: the inner product of key and query, and, for entries that stand for a page,
an upper bound of it: sum over channels of max(q * minimum, q * maximum). With minimum <= maximum that is
``maximum . max(q, 0) + minimum . min(q, 0)``: two products that matrix units do.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_entries(keys, first, channels, TILE: tl.constexpr, EXTENT: tl.constexpr, CHANNELS: tl.constexpr,
                 WHOLE: tl.constexpr, WIDEN: tl.constexpr):
    """``[TILE, channels]`` of a row-major ``[EXTENT, CHANNELS]`` from entry ``first``; zeros outside.

    With ``WHOLE`` nothing is outside.
    """
    entries = tl.arange(0, TILE)
    places = keys + tl.cast(first, tl.int64) * CHANNELS + (entries[:, None] * CHANNELS + channels[None, :])
    if WHOLE:
        loaded = tl.load(places)
    else:
        loaded = tl.load(places, mask=(first + entries < EXTENT)[:, None] & (channels < CHANNELS)[None, :], other=0.0)
    if WIDEN:
        loaded = loaded.to(tl.float32)
    return loaded


@triton.jit
def load_columns(query, columns, channels, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, WIDEN: tl.constexpr):
    """``[channels, columns]`` of a row-major ``[COLUMNS, CHANNELS]``; zeros outside."""
    places = query + columns[None, :] * CHANNELS + channels[:, None]
    loaded = tl.load(places, mask=(columns < COLUMNS)[None, :] & (channels < CHANNELS)[:, None], other=0.0)
    if WIDEN:
        loaded = loaded.to(tl.float32)
    return loaded


@triton.jit
def add_products(products, low, high, columns, BOUND: tl.constexpr):
    """Adds what a tile of entries and a tile of query columns give: inner products, or bounds."""
    if BOUND:
        nothing = tl.zeros_like(columns)
        products = tl.dot(high, tl.where(columns > nothing, columns, nothing), products, input_precision="ieee")
        return tl.dot(low, tl.where(columns > nothing, nothing, columns), products, input_precision="ieee")
    else:
        return tl.dot(low, columns, products, input_precision="ieee")


@triton.jit
def tile_products(low_keys, high_keys, query, first, columns, EXTENT: tl.constexpr, CHANNELS: tl.constexpr,
                  COLUMNS: tl.constexpr, TILE: tl.constexpr, COLUMN_TILE: tl.constexpr, CHANNEL_TILE: tl.constexpr,
                  WHOLE: tl.constexpr, BOUND: tl.constexpr, WIDEN: tl.constexpr):
    """Products of ``TILE`` entries and ``COLUMN_TILE`` columns over all channels, both read here."""
    products = tl.zeros([TILE, COLUMN_TILE], tl.float32)
    for first_channel in range(0, CHANNELS, CHANNEL_TILE):
        channels = first_channel + tl.arange(0, CHANNEL_TILE)
        low = load_entries(low_keys, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
        high = low
        if BOUND:
            high = load_entries(high_keys, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
        products = add_products(products, low, high, load_columns(query, columns, channels, COLUMNS, CHANNELS, WIDEN),
                                BOUND)
    return products


@triton.jit
def worth_of(products, SCALE: tl.constexpr, RELU: tl.constexpr):
    """``SCALE * products``, with ``RELU`` at least 0. NaN stays NaN."""
    if SCALE != 1.0:
        products *= SCALE
    if RELU:
        products = tl.maximum(products, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return products


@triton.jit
def folded(products, weights, SCALE: tl.constexpr, RELU: tl.constexpr):
    """Sum over the columns of ``weights * relu(SCALE * products)``."""
    return tl.sum(worth_of(products, SCALE, RELU) * weights[None, :], 1)


@triton.jit
def load_weights(weight, columns, COLUMNS: tl.constexpr, WEIGHTED: tl.constexpr):
    """Weights of the columns as float32, or ones."""
    if WEIGHTED:
        return tl.load(weight + columns, mask=columns < COLUMNS, other=0.0).to(tl.float32)
    else:
        return (columns < COLUMNS).to(tl.float32)


@triton.jit
def rounded(scores, target, WIDEN: tl.constexpr):
    """Scores in the type that ``target`` points to, rounded to nearest even.

    The interpreter cuts bfloat16 off instead of rounding, hence the arithmetic on bits there.
    """
    if WIDEN and target.dtype.element_ty == tl.bfloat16:
        bits = scores.to(tl.int32, bitcast=True)
        even = (bits + 32767 + ((bits >> 16) & 1)) & -65536
        scores = tl.where(scores == scores, even, bits).to(tl.float32, bitcast=True)
    return scores.to(target.dtype.element_ty)


@triton.jit
def store_scores(scores, mask, totals, row, mask_row, entries, EXTENT: tl.constexpr, MASKED: tl.constexpr,
                 WIDEN: tl.constexpr):
    """Adds the mask and writes ``totals`` of the entries of one row."""
    inside = entries < EXTENT
    if MASKED:
        totals += tl.load(mask + mask_row.to(tl.int64) * EXTENT + entries, mask=inside, other=0.0).to(tl.float32)
    tl.store(scores + row.to(tl.int64) * EXTENT + entries, rounded(totals, scores, WIDEN), mask=inside)


@triton.jit
def clear_share(counts, COUNT: tl.constexpr, SHARE: tl.constexpr):
    """This program's share of zeros into int32 ``counts[COUNT]``: what the selection after the scores counts in."""
    places = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * SHARE + tl.arange(0, SHARE)
    tl.store(counts + places, tl.zeros([SHARE], tl.int32), mask=places < COUNT)


@triton.jit
def score_heads(query, key, high_key, weight, mask, scores, counts, HEADS: tl.constexpr,
                EXTENT: tl.constexpr, CHANNELS: tl.constexpr, KEY_BATCHES: tl.constexpr, MASK_BATCHES: tl.constexpr,
                SCALE: tl.constexpr, BOUND: tl.constexpr, RELU: tl.constexpr,
                WEIGHTED: tl.constexpr, MASKED: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
                HEAD_TILE: tl.constexpr, CHANNEL_TILE: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
                COUNT: tl.constexpr, SHARE: tl.constexpr):
    """``SPAN`` entries for the only query of a batch: keys stream through, the query stays."""
    if COUNT > 0:
        clear_share(counts, COUNT, SHARE)
    row = tl.program_id(0)
    start = tl.program_id(1) * SPAN
    stop = min(start + SPAN, EXTENT)
    key_row = (row % KEY_BATCHES).to(tl.int64) * EXTENT * CHANNELS
    query += row.to(tl.int64) * HEADS * CHANNELS
    weight += row.to(tl.int64) * HEADS
    heads = tl.arange(0, HEAD_TILE)
    channels = tl.arange(0, CHANNEL_TILE)
    SMALL: tl.constexpr = (HEADS <= HEAD_TILE) and (CHANNELS <= CHANNEL_TILE)
    if SMALL:
        columns = load_columns(query, heads, channels, HEADS, CHANNELS, WIDEN)
        weights = load_weights(weight, heads, HEADS, WEIGHTED)
    for first in range(start, stop, TILE):
        entries = first + tl.arange(0, TILE)
        if SMALL:
            low = load_entries(key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
            high = low
            if BOUND:
                high = load_entries(high_key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
            products = add_products(tl.zeros([TILE, HEAD_TILE], tl.float32), low, high, columns, BOUND)
            totals = folded(products, weights, SCALE, RELU)
        else:
            totals = tl.zeros([TILE], tl.float32)
            for first_head in range(0, HEADS, HEAD_TILE):
                products = tile_products(key + key_row, high_key + key_row, query, first, first_head + heads, EXTENT,
                                         CHANNELS, HEADS, TILE, HEAD_TILE, CHANNEL_TILE, WHOLE, BOUND, WIDEN)
                totals += folded(products, load_weights(weight, first_head + heads, HEADS, WEIGHTED), SCALE, RELU)
        store_scores(scores, mask, totals, row, row % MASK_BATCHES, entries, EXTENT, MASKED, WIDEN)


@triton.jit
def score_queries(query, key, high_key, weight, mask, scores, counts, QUERIES: tl.constexpr, HEADS: tl.constexpr,
                  EXTENT: tl.constexpr, CHANNELS: tl.constexpr, KEY_BATCHES: tl.constexpr, MASK_BATCHES: tl.constexpr,
                  MASK_QUERIES: tl.constexpr, SCALE: tl.constexpr, BOUND: tl.constexpr, RELU: tl.constexpr,
                  WEIGHTED: tl.constexpr, MASKED: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                  ROW_GROUPS: tl.constexpr, TILE: tl.constexpr, HEAD_TILE: tl.constexpr, CHANNEL_TILE: tl.constexpr,
                  WHOLE: tl.constexpr, WIDEN: tl.constexpr, COUNT: tl.constexpr, SHARE: tl.constexpr):
    """``TILE`` entries for a group of queries: the keys stay, queries stream through."""
    if COUNT > 0:
        clear_share(counts, COUNT, SHARE)
    batch = (tl.program_id(0) % ROW_GROUPS) // GROUPS
    first_query = (tl.program_id(0) % ROW_GROUPS % GROUPS) * GROUP
    first = (tl.program_id(0) // ROW_GROUPS) * TILE
    entries = first + tl.arange(0, TILE)
    key_row = (batch % KEY_BATCHES).to(tl.int64) * EXTENT * CHANNELS
    heads = tl.arange(0, HEAD_TILE)
    channels = tl.arange(0, CHANNEL_TILE)
    SMALL: tl.constexpr = (HEADS <= HEAD_TILE) and (CHANNELS <= CHANNEL_TILE)
    if SMALL:
        low = load_entries(key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
        high = low
        if BOUND:
            high = load_entries(high_key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
    for number in range(first_query, min(first_query + GROUP, QUERIES)):
        row = batch * QUERIES + number
        own_query = query + row.to(tl.int64) * HEADS * CHANNELS
        own_weight = weight + row.to(tl.int64) * HEADS
        if SMALL:
            products = add_products(tl.zeros([TILE, HEAD_TILE], tl.float32), low, high,
                                    load_columns(own_query, heads, channels, HEADS, CHANNELS, WIDEN), BOUND)
            totals = folded(products, load_weights(own_weight, heads, HEADS, WEIGHTED), SCALE, RELU)
        else:
            totals = tl.zeros([TILE], tl.float32)
            for first_head in range(0, HEADS, HEAD_TILE):
                products = tile_products(key + key_row, high_key + key_row, own_query, first, first_head + heads,
                                         EXTENT, CHANNELS, HEADS, TILE, HEAD_TILE, CHANNEL_TILE, WHOLE, BOUND, WIDEN)
                totals += folded(products, load_weights(own_weight, first_head + heads, HEADS, WEIGHTED), SCALE, RELU)
        store_scores(scores, mask, totals, row, (batch % MASK_BATCHES) * MASK_QUERIES + number % MASK_QUERIES, entries,
                     EXTENT, MASKED, WIDEN)


@triton.jit
def score_flat(query, key, high_key, weight, mask, scores, counts, QUERIES: tl.constexpr, EXTENT: tl.constexpr,
               CHANNELS: tl.constexpr, KEY_BATCHES: tl.constexpr, MASK_BATCHES: tl.constexpr,
               MASK_QUERIES: tl.constexpr, SCALE: tl.constexpr, BOUND: tl.constexpr, RELU: tl.constexpr,
               WEIGHTED: tl.constexpr, MASKED: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
               ROW_GROUPS: tl.constexpr, TILE: tl.constexpr, CHANNEL_TILE: tl.constexpr, WHOLE: tl.constexpr,
               WIDEN: tl.constexpr, COUNT: tl.constexpr, SHARE: tl.constexpr):
    """``TILE`` entries for ``GROUP`` queries of one head: one matrix product."""
    if COUNT > 0:
        clear_share(counts, COUNT, SHARE)
    batch = (tl.program_id(0) % ROW_GROUPS) // GROUPS
    queries = (tl.program_id(0) % ROW_GROUPS % GROUPS) * GROUP + tl.arange(0, GROUP)
    first = (tl.program_id(0) // ROW_GROUPS) * TILE
    entries = first + tl.arange(0, TILE)
    key_row = (batch % KEY_BATCHES).to(tl.int64) * EXTENT * CHANNELS
    first_row = (batch * QUERIES).to(tl.int64)
    totals = tile_products(key + key_row, high_key + key_row, query + first_row * CHANNELS, first, queries, EXTENT,
                           CHANNELS, QUERIES, TILE, GROUP, CHANNEL_TILE, WHOLE, BOUND, WIDEN)
    totals = worth_of(totals, SCALE, RELU) * load_weights(weight + first_row, queries, QUERIES, WEIGHTED)[None, :]
    inside = (entries < EXTENT)[:, None] & (queries < QUERIES)[None, :]
    if MASKED:
        mask_rows = (batch % MASK_BATCHES) * MASK_QUERIES + queries % MASK_QUERIES
        totals += tl.load(mask + mask_rows.to(tl.int64)[None, :] * EXTENT + entries[:, None], mask=inside,
                          other=0.0).to(tl.float32)
    tl.store(scores + (first_row + queries)[None, :] * EXTENT + entries[:, None], rounded(totals, scores, WIDEN),
             mask=inside)


@triton.jit
def score_one(query, key, high_key, weight, mask, scores, counts, EXTENT: tl.constexpr, CHANNELS: tl.constexpr,
              KEY_BATCHES: tl.constexpr, MASK_BATCHES: tl.constexpr, SCALE: tl.constexpr, BOUND: tl.constexpr,
              RELU: tl.constexpr, WEIGHTED: tl.constexpr, MASKED: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
              CHANNEL_TILE: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr, COUNT: tl.constexpr,
              SHARE: tl.constexpr):
    """``SPAN`` entries for the only query of one head: a product of a matrix and a vector."""
    if COUNT > 0:
        clear_share(counts, COUNT, SHARE)
    row = tl.program_id(0)
    start = tl.program_id(1) * SPAN
    stop = min(start + SPAN, EXTENT)
    key_row = (row % KEY_BATCHES).to(tl.int64) * EXTENT * CHANNELS
    for first in range(start, stop, TILE):
        entries = first + tl.arange(0, TILE)
        totals = tl.zeros([TILE], tl.float32)
        for first_channel in range(0, CHANNELS, CHANNEL_TILE):
            channels = first_channel + tl.arange(0, CHANNEL_TILE)
            own = tl.load(query + row * CHANNELS + channels, mask=channels < CHANNELS, other=0.0).to(tl.float32)
            low = load_entries(key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN).to(tl.float32)
            worth = low * own[None, :]
            if BOUND:
                high = load_entries(high_key + key_row, first, channels, TILE, EXTENT, CHANNELS, WHOLE, WIDEN)
                worth = tl.maximum(worth, high.to(tl.float32) * own[None, :])
            totals += tl.sum(worth, 1)
        totals = worth_of(totals, SCALE, RELU)
        if WEIGHTED:
            totals *= tl.load(weight + row).to(tl.float32)
        store_scores(scores, mask, totals, row, row % MASK_BATCHES, entries, EXTENT, MASKED, WIDEN)
