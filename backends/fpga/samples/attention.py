"""Small regions that weigh the rows of one table by another's scores: attention over a memory, in several spellings.

Shapes: batch B, heads H, queries per table R, row lengths D (keys) and V (values), rows T.
"""

from __future__ import annotations

from hetcc.backends.fpga.samples.scans import RegionBuilder
from hetcc.ir import Attribute, DType, Graph, OperatorClass, Role


def memory_attention(heads: int = 2, queries: int = 1, depth: int = 4, width: int = 4, rows: int = 16, *,
                     masked: bool = True, appended: bool = False) -> Graph:
    """Scores, scale, mask, softmax, weighted sum: ``[1, H, R, V]``; each head has rows of its own.

    Inputs ``query[1,H,R,D]``, ``mask[1,1,1,T]``, and with ``appended`` ``positions[1]`` and ``key``, ``value`` of one
    row each; caches ``keys[1,H,T,D]``, ``values[1,H,T,V]``.
    """
    b = RegionBuilder("memory_attention")
    keys = b.feed("keys", 1, heads, rows, depth, role=Role.CACHE)
    values = b.feed("values", 1, heads, rows, width, role=Role.CACHE)
    query = b.feed("query", 1, heads, queries, depth)
    if appended:
        positions = b.feed("positions", 1, dtype=DType.INT64)
        keys = b.append(keys, positions, b.feed("key", 1, heads, 1, depth), 2)
        values = b.append(values, positions, b.feed("value", 1, heads, 1, width), 2)
    turned = b.view("permute", keys, 1, heads, depth, rows, permutation=(0, 1, 3, 2))
    shape = (1, heads, queries, rows)
    score = b.map("mul", b.matmul(query, turned, *shape), depth**-0.5, shape=shape)
    if masked:
        score = b.map("add", score, b.feed("mask", 1, 1, 1, rows), shape=shape)
    weights = b.node(OperatorClass.SOFTMAX, (score,), *shape, operator="_softmax", attributes={"axis": 3})
    return b.graph(b.matmul(weights, values, 1, heads, queries, width))


def fused_attention(heads: int = 2, queries: int = 1, depth: int = 4, width: int = 4, rows: int = 16, *,
                    mask: DType | None = DType.FLOAT32) -> Graph:
    """The same in one node, with the default scale; a mask of numbers is added, one of flags chooses."""
    b = RegionBuilder("fused_attention")
    tables = tuple(b.feed(name, 1, heads, rows, size, role=Role.CACHE) for name, size in
                   (("keys", depth), ("values", width)))
    inputs = (b.feed("query", 1, heads, queries, depth), *tables)
    attributes: dict[str, Attribute] = {"query": 0, "key": 1, "value": 2, "masked_rows": "zero", "causal": False}
    if mask is not None:
        inputs = (*inputs, b.feed("mask", 1, 1, 1, rows, dtype=mask))
        attributes["mask"] = 3
    return b.graph(b.node(OperatorClass.ATTENTION, inputs, 1, heads, queries, width,
                          operator="scaled_dot_product_attention", attributes=attributes))


def written_attention(depth: int = 4, width: int = 4, rows: int = 16, role: Role = Role.CACHE) -> Graph:
    """The same over one read-only memory of any role but parameter, the softmax written out.

    Maximum, difference, exponential, sum and quotient.
    """
    b = RegionBuilder("written_attention")
    keys, values = b.feed("keys", rows, depth, role=role), b.feed("values", rows, width, role=role)
    shape = (1, rows)
    score = b.matmul(b.feed("query", 1, depth), b.view("permute", keys, depth, rows, permutation=(1, 0)), *shape)
    largest = b.node(OperatorClass.REDUCTION, (score,), 1, 1, operator="amax",
                     attributes={"function": "max", "axes": (1,), "keepdims": True})
    exponential = b.map("exp", b.map("sub", score, largest, shape=shape), shape=shape)
    total = b.node(OperatorClass.REDUCTION, (exponential,), 1, 1, operator="sum",
                   attributes={"function": "sum", "axes": (1,), "keepdims": True})
    return b.graph(b.matmul(b.map("div", exponential, total, shape=shape), values, 1, width))


__all__ = ["fused_attention", "memory_attention", "written_attention"]
