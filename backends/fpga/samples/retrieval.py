"""Small regions that retrieve: by a threshold, from a flat table, from a forward index, with the rows that were found.

Shapes as in ``sample``: row length D, rows T, selected entries K, capacity C.
"""

from __future__ import annotations

from hetcc.backends.fpga.samples.scans import RegionBuilder
from hetcc.ir import DType, Graph, OperatorClass, Role


def threshold_scan(depth: int = 4, rows: int = 16, capacity: int = 6, threshold: float | None = 0.5, *,
                   comparison: str = "ge", counted: bool = True, fill: int = -1) -> Graph:
    """Rows whose product with one query passes a threshold: positions ``[C, 1]``, and how many pass.

    Cache ``keys[T, D]``; inputs ``query[D]`` and, without a fixed ``threshold``, ``threshold[1]``.
    """
    b = RegionBuilder("threshold_scan")
    scores = b.matmul(b.feed("keys", rows, depth, role=Role.CACHE), b.feed("query", depth), rows)
    limit: str | float = b.feed("threshold", 1) if threshold is None else threshold
    flags = b.map(comparison, scores, limit, shape=(rows,), dtype=DType.BOOL)
    listed = listing(b, flags, capacity, fill)
    return b.graph(listed, flag_count(b, flags)) if counted else b.graph(listed)


def listing(b: RegionBuilder, flags: str, capacity: int, fill: int = -1) -> str:
    """Positions of the flags that are set: ``[C, 1]``."""
    return b.node(OperatorClass.COMPACTION, (flags,), capacity, 1, dtype=DType.INT64, operator="nonzero_static",
                  attributes={"input": 0, "capacity": capacity, "fill": fill})


def flag_count(b: RegionBuilder, flags: str) -> str:
    """How many flags are set along the last axis."""
    shape = b.values[flags].type.shape
    return b.node(OperatorClass.REDUCTION, (flags,), *shape[:-1], dtype=DType.INT64, operator="sum",
                  attributes={"function": "sum", "axes": (len(shape) - 1,), "keepdims": False})


def banded_scan(depth: int = 4, rows: int = 16, capacity: int = 6, low: float = -1.0, high: float = 1.0) -> Graph:
    """Rows whose product with one query lies between two thresholds: positions ``[C, 1]``."""
    b = RegionBuilder("banded_scan")
    query = b.feed("query", depth)
    scores = b.matmul(b.feed("keys", rows, depth, role=Role.CACHE), query, rows)
    above = b.map("gt", scores, low, shape=(rows,), dtype=DType.BOOL)
    beyond = b.map("ge", scores, high, shape=(rows,), dtype=DType.BOOL)
    inside = b.map("and", above, b.map("not", beyond, shape=(rows,), dtype=DType.BOOL), shape=(rows,),
                   dtype=DType.BOOL)
    return b.graph(listing(b, inside, capacity))


def kept_scan(heads: int = 2, depth: int = 4, rows: int = 16, k: int = 4, threshold: float = 0.5, *,
              counted: bool = True) -> Graph:
    """Per head the k best of the rows that pass a threshold, the others far below, and how many pass.

    Cache ``keys[H, T, D]``, input ``query[H, 1, D]``; the low score is a tensor of one number.
    """
    b = RegionBuilder("kept_scan")
    shape = (heads, 1, rows)
    turned = b.view("permute", b.feed("keys", heads, rows, depth, role=Role.CACHE), heads, depth, rows,
                    permutation=(0, 2, 1))
    scores = b.matmul(b.feed("query", heads, 1, depth), turned, *shape)
    low = b.node(OperatorClass.CREATE, (), operator="full", arguments=((), -3.4028234663852886e38),
                 attributes={"function": "full"})
    flags = b.map("ge", scores, threshold, shape=shape, dtype=DType.BOOL)
    kept = b.map("where", flags, scores, low, shape=shape)
    return b.graph(*b.topk(kept, k), *([flag_count(b, flags)] if counted else []))


def flat_scan(depth: int = 4, rows: int = 16, k: int = 4, *, queries: int = 1, role: Role = Role.INPUT) -> Graph:
    """The k largest products of each query with the rows of a table that is fed in: values and indices ``[Q, K]``.

    Inputs ``query[Q, D]`` and ``documents[T, D]`` (or a buffer of the model).
    """
    b = RegionBuilder("flat_scan")
    turned = b.view("permute", b.feed("documents", rows, depth, role=role), depth, rows, permutation=(1, 0))
    return b.graph(*b.topk(b.matmul(b.feed("query", queries, depth), turned, queries, rows), k))


def entry_scan(entries: int = 8, rows: int = 16, vocabulary: int = 20, k: int = 4, *, queries: int = 1,
               weighted: bool = True) -> Graph:
    """Rows of positions: the entries of an operand there, times the row's weights, summed; then the k best rows.

    Inputs ``query[Q, V]``, ``words[T, E]`` (int32) and ``weights[T, E]``.
    """
    b = RegionBuilder("entry_scan")
    shape = (queries, rows, entries)
    query, words = b.feed("query", queries, vocabulary), b.feed("words", rows, entries, dtype=DType.INT32)
    found = b.node(OperatorClass.GATHER, (query, words), *shape, operator="index",
                   attributes={"data": 0, "indices": 1, "axis": 1, "mode": "rows"})
    factor = b.feed("weights", rows, entries) if weighted else 0.5
    total = b.node(OperatorClass.REDUCTION, (b.map("mul", found, factor, shape=shape),), queries, rows, operator="sum",
                   attributes={"function": "sum", "axes": (2,), "keepdims": False})
    return b.graph(*b.topk(total, k))


def bounds_scan(depth: int = 4, pages: int = 16, k: int = 4, *, groups: int = 1) -> Graph:
    """Upper bounds of a query's products with pages of keys, from two tables, and the k best pages of each group.

    Inputs ``query[G, 1, D]``, ``lower[G, T, D]`` and ``upper[G, T, D]``.
    """
    b = RegionBuilder("bounds_scan")
    shape = (groups, pages, depth)
    query = b.feed("query", groups, 1, depth)
    low = b.map("mul", query, b.feed("lower", *shape), shape=shape)
    high = b.map("mul", query, b.feed("upper", *shape), shape=shape)
    total = b.node(OperatorClass.REDUCTION, (b.map("max", low, high, shape=shape),), groups, pages, operator="sum",
                   attributes={"function": "sum", "axes": (2,), "keepdims": False})
    return b.graph(*b.topk(total, k))


def fetching_scan(batch: int = 1, depth: int = 4, rows: int = 16, k: int = 4, width: int = 6, *, listed: bool = True,
                  appended: bool = False) -> Graph:
    """The k best rows of a table, and the same rows of a wider one ``[B, K, W]`` (element by element, as torch does).

    Caches ``keys[B, T, D]`` and ``latents[B, T, W]``, input ``query[B, 1, D]``; with ``appended`` also ``at[1]`` and
    ``latent[B, 1, W]``, which becomes a row of the wider table first.
    """
    b = RegionBuilder("fetching_scan")
    latents = b.feed("latents", batch, rows, width, role=Role.CACHE)
    if appended:
        latents = b.append(latents, b.feed("at", 1, dtype=DType.INT64), b.feed("latent", batch, 1, width), 1)
    turned = b.view("permute", b.feed("keys", batch, rows, depth, role=Role.CACHE), batch, depth, rows,
                    permutation=(0, 2, 1))
    scores = b.view("squeeze", b.matmul(b.feed("query", batch, 1, depth), turned, batch, 1, rows), batch, rows)
    _, indices = b.topk(scores, k)
    wide = b.view("expand", b.view("unsqueeze", indices, batch, k, 1), batch, k, width)
    found = b.node(OperatorClass.GATHER, (latents, wide), batch, k, width, operator="gather",
                   attributes={"data": 0, "indices": 1, "axis": 1, "mode": "along"})
    return b.graph(found, indices) if listed else b.graph(found)


def fetched_documents(depth: int = 4, rows: int = 16, capacity: int = 3, *, fill: int = 0) -> Graph:
    """Whole rows of a table at those positions whose score passes a threshold: ``[C, D]``; the table is also scanned.

    Inputs ``query[D]`` and ``documents[T, D]``.
    """
    b = RegionBuilder("fetched_documents")
    documents = b.feed("documents", rows, depth)
    scores = b.matmul(documents, b.feed("query", depth), rows)
    flags = b.map("gt", scores, 0.0, shape=(rows,), dtype=DType.BOOL)
    places = b.view("reshape", listing(b, flags, capacity, fill), capacity)
    return b.graph(b.node(OperatorClass.GATHER, (documents, places), capacity, depth, operator="index",
                          attributes={"data": 0, "indices": 1, "axis": 0, "mode": "rows"}))


__all__ = ["banded_scan", "bounds_scan", "entry_scan", "fetched_documents", "fetching_scan", "flag_count", "flat_scan",
           "kept_scan", "listing", "threshold_scan"]
