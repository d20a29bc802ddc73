"""Small regions of the forms that stream, built by hand: for the self-check, the documentation and the tests.

Shapes: batch B, query tokens S, heads H, row length D, rows T, selected entries K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hetcc.ir import (
    Argument,
    Attribute,
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    OperatorClass,
    Role,
    SourceOperator,
    TensorType,
    Value,
)


@dataclass
class RegionBuilder:
    """Collects nodes one call at a time; every method that adds a node returns its first output's name."""

    name: str = "region"
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)
    updates: list[CacheUpdate] = field(default_factory=list)

    def feed(self, name: str, *shape: int, dtype: DType = DType.FLOAT32, role: Role = Role.INPUT) -> str:
        """A value from outside."""
        self.values[name] = Value(name, TensorType(shape, dtype), role)
        if role is Role.INPUT:
            self.inputs.append(name)
        if role is Role.CACHE:
            self.caches.append(name)
        return name

    def node(self, operator_class: OperatorClass, inputs: tuple[str, ...], *shape: int, dtype: DType = DType.FLOAT32,
             operator: str = "", domain: str = "aten", arguments: tuple[Argument, ...] | None = None,
             more: tuple[TensorType, ...] = (), attributes: Mapping[str, Attribute]) -> str:
        """A node with one output of the given shape, and others of the types ``more``."""
        name = f"n{len(self.nodes)}"
        outputs = (name, *(f"{name}:{position + 1}" for position in range(len(more))))
        for output, tensor_type in zip(outputs, (TensorType(shape, dtype), *more), strict=True):
            self.values[output] = Value(output, tensor_type)
        if arguments is None:
            arguments = tuple(Operand(position) for position in range(len(inputs)))
        source = SourceOperator(domain, operator or str(attributes.get("function", operator_class.value)))
        self.nodes.append(Node(name, source, operator_class, inputs, outputs, arguments, (),
                               tuple(sorted(attributes.items()))))
        return name

    def view(self, kind: str, source: str, *shape: int, **attributes: int | tuple[int, ...]) -> str:
        """A view that keeps the element type."""
        dtype = self.values[source].type.dtype
        return self.node(OperatorClass.VIEW, (source,), *shape, dtype=dtype, attributes={"kind": kind, **attributes})

    def map(self, function: str, *operands: str | float, shape: tuple[int, ...], dtype: DType = DType.FLOAT32) -> str:
        """An element-wise node; numbers among the operands become arguments."""
        names = tuple(part for part in operands if isinstance(part, str))
        arguments: list[Argument] = []
        for part in operands:
            arguments.append(Operand(names.index(part)) if isinstance(part, str) else part)
        return self.node(OperatorClass.ELEMENTWISE, names, *shape, dtype=dtype, arguments=tuple(arguments),
                         attributes={"function": function})

    def matmul(self, left: str, right: str, *shape: int) -> str:
        """A product of (batched) matrices."""
        return self.node(OperatorClass.MATMUL, (left, right), *shape, operator="bmm", attributes={"lhs": 0, "rhs": 1})

    def topk(self, source: str, k: int, *, largest: bool = True) -> tuple[str, str]:
        """A selection along the last axis: (values, indices)."""
        shape = (*self.values[source].type.shape[:-1], k)
        attributes: dict[str, Attribute] = {"input": 0, "k": k, "axis": len(shape) - 1, "largest": largest}
        name = self.node(OperatorClass.TOPK, (source,), *shape, operator="topk", more=(TensorType(shape, DType.INT64),),
                         attributes=attributes)
        return name, f"{name}:1"

    def append(self, cache: str, positions: str, rows: str, axis: int) -> str:
        """New rows at positions of a cache's axis."""
        kind = self.values[cache].type
        name = self.node(OperatorClass.CACHE_UPDATE, (cache, positions, rows), *kind.shape, dtype=kind.dtype,
                         operator="index_put",
                         attributes={"data": 0, "indices": 1, "updates": 2, "axis": axis})
        self.updates.append(CacheUpdate(cache, name))
        return name

    def graph(self, *outputs: str) -> Graph:
        """The finished region."""
        return Graph(self.name, tuple(self.nodes), self.values, tuple(self.inputs), outputs, tuple(self.caches),
                     tuple(self.updates))


def weighted_scan(batch: int = 1, tokens: int = 1, heads: int = 2, depth: int = 4, rows: int = 16, k: int = 4, *,
                  cast: bool = True) -> Graph:
    """Append, scan, per-head inner product, scale, relu, weighted sum over heads, mask, top-k (aten spelling).

    Inputs ``positions[S]``, ``rows[B,S,D]``, ``query[B,S,H,D]``, ``weights[B,S,H]``, ``mask[B,S,T]``; cache
    ``keys[B,T,D]``; output: indices ``[B,S,K]`` (int32 with ``cast``).
    """
    b = RegionBuilder("weighted_scan")
    cache = b.feed("keys", batch, rows, depth, role=Role.CACHE)
    positions = b.feed("positions", tokens, dtype=DType.INT64)
    new = b.feed("rows", batch, tokens, depth)
    query, weights = b.feed("query", batch, tokens, heads, depth), b.feed("weights", batch, tokens, heads)
    mask = b.feed("mask", batch, tokens, rows)
    table = b.append(cache, positions, new, 1)
    turned = b.view("permute", table, batch, depth, rows, permutation=(0, 2, 1))
    wide = b.view("unsqueeze", turned, batch, 1, depth, rows, axis=1)
    spread = b.view("expand", wide, batch, tokens, depth, rows)
    keys = b.view("reshape", spread, batch * tokens, depth, rows)
    queries = b.view("reshape", query, batch * tokens, heads, depth)
    product = b.view("reshape", b.matmul(queries, keys, batch * tokens, heads, rows), batch, tokens, heads, rows)
    shape = (batch, tokens, heads, rows)
    scaled = b.map("relu", b.map("mul", product, depth**-0.5, shape=shape), shape=shape)
    flat = b.view("reshape", b.view("expand", scaled, *shape), batch * tokens, heads, rows)
    row = b.view("reshape", b.view("unsqueeze", weights, batch, tokens, 1, heads, axis=2), batch * tokens, 1, heads)
    total = b.view("reshape", b.matmul(row, flat, batch * tokens, 1, rows), batch, tokens, 1, rows)
    score = b.view("squeeze", total, batch, tokens, rows, axis=2)
    _, indices = b.topk(b.map("add", score, mask, shape=(batch, tokens, rows)), k)
    if cast:
        indices = b.map("cast", indices, shape=(batch, tokens, k), dtype=DType.INT32)
    return b.graph(indices)


def single_scan(depth: int = 4, rows: int = 16, k: int = 4, *, masked: bool = True) -> Graph:
    """One query against a read-only table: values and indices of the k largest products."""
    b = RegionBuilder("single_scan")
    cache = b.feed("keys", rows, depth, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, depth), b.view("permute", cache, depth, rows, permutation=(1, 0)), 1, rows)
    if masked:
        score = b.map("add", score, b.feed("mask", 1, rows), shape=(1, rows))
    return b.graph(*b.topk(score, k))


def weight_product(tokens: int = 1, depth: int = 8, outputs: int = 12, *, turned: bool = True,
                   residual: bool = True) -> Graph:
    """A few rows of activations times a model weight, plus a residual, rectified: ``[S, N]``.

    Inputs ``x[S, D]``, ``residual[S, N]``; weight ``[N, D]``, or ``[D, N]`` when not ``turned``.
    """
    b = RegionBuilder("weight_product")
    x = b.feed("x", tokens, depth)
    if turned:
        weight = b.feed("weight", outputs, depth, role=Role.PARAMETER)
        weight = b.view("permute", weight, depth, outputs, permutation=(1, 0))
    else:
        weight = b.feed("weight", depth, outputs, role=Role.PARAMETER)
    shape = (tokens, outputs)
    total = b.matmul(x, weight, *shape)
    if residual:
        total = b.map("add", total, b.feed("residual", *shape), shape=shape)
    return b.graph(b.map("relu", total, shape=shape))


def score_scan(heads: int = 2, depth: int = 4, rows: int = 16, *, weighted: bool = False) -> Graph:
    """The score of every row leaves: per head, or their weighted sum, ``[1, H or 1, T]``."""
    b = RegionBuilder("score_scan")
    cache = b.feed("keys", 1, rows, depth, role=Role.CACHE)
    turned = b.view("permute", cache, 1, depth, rows, permutation=(0, 2, 1))
    score = b.matmul(b.feed("query", 1, heads, depth), turned, 1, heads, rows)
    score = b.map("mul", score, depth**-0.5, shape=(1, heads, rows))
    if weighted:
        score = b.matmul(b.feed("weights", 1, 1, heads), score, 1, 1, rows)
    return b.graph(score)


def pooled_scan(depth: int = 4, blocks: int = 8, block: int = 4, function: str = "mean") -> Graph:
    """One score per block of neighbouring rows leaves: the mean, sum, maximum or minimum of its rows' scores."""
    b = RegionBuilder("pooled_scan")
    rows = blocks * block
    cache = b.feed("keys", rows, depth, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, depth), b.view("permute", cache, depth, rows, permutation=(1, 0)), 1, rows)
    operator = {"max": "amax", "min": "amin"}.get(function, function)
    pooled = b.node(OperatorClass.REDUCTION, (b.view("reshape", score, 1, blocks, block),), 1, blocks,
                    operator=operator, attributes={"function": function, "axes": (2,), "keepdims": False})
    return b.graph(pooled)


def block_scan(heads: int = 2, depth: int = 4, blocks: int = 8, block: int = 4, k: int = 2,
               function: str = "max") -> Graph:
    """Per-head scores of every row, reduced over blocks of neighbouring rows, then the k best blocks of each head."""
    b = RegionBuilder("block_scan")
    rows = blocks * block
    cache = b.feed("keys", heads, rows, depth, role=Role.CACHE)
    turned = b.view("permute", cache, heads, depth, rows, permutation=(0, 2, 1))
    score = b.matmul(b.feed("query", heads, 1, depth), turned, heads, 1, rows)
    blocked = b.view("reshape", score, heads, 1, blocks, block)
    operator = {"max": "amax", "min": "amin"}.get(function, function)
    best = b.node(OperatorClass.REDUCTION, (blocked,), heads, 1, blocks, operator=operator,
                  attributes={"function": function, "axes": (3,), "keepdims": False})
    return b.graph(*b.topk(best, k))


def bound_scan(depth: int = 4, pages: int = 16, k: int = 4) -> Graph:
    """Upper bounds of a query's products with pages of keys, and the k best pages.

    Per channel the larger of its products with the page's smallest and largest entries, summed. Cache
    ``bounds[T,2,D]``, input ``query[1,1,D]``.
    """
    b = RegionBuilder("bound_scan")
    cache = b.feed("bounds", pages, 2, depth, role=Role.CACHE)
    products = b.map("mul", cache, b.feed("query", 1, 1, depth), shape=(pages, 2, depth))
    larger = b.node(OperatorClass.REDUCTION, (products,), pages, depth, operator="amax",
                    attributes={"function": "max", "axes": (1,), "keepdims": False})
    bound = b.node(OperatorClass.REDUCTION, (larger,), pages, operator="sum",
                   attributes={"function": "sum", "axes": (1,), "keepdims": False})
    return b.graph(*b.topk(b.view("unsqueeze", bound, 1, pages, axis=0), k))


def onnx_scan(heads: int = 2, depth: int = 4, rows: int = 16, k: int = 4) -> Graph:
    """The same classes in ONNX spelling: MatMul, Mul by a constant, Relu, Mul by weights, ReduceSum, TopK."""
    b = RegionBuilder("onnx_scan")
    cache = b.feed("keys", 1, rows, depth, role=Role.CACHE)
    scale = b.feed("scale", dtype=DType.FLOAT32, role=Role.CONSTANT)
    turned = b.view("permute", cache, 1, depth, rows, permutation=(0, 2, 1))
    product = b.node(OperatorClass.MATMUL, (b.feed("query", 1, heads, depth), turned), 1, heads, rows,
                     operator="MatMul", domain="onnx", attributes={"lhs": 0, "rhs": 1})
    shape = (1, heads, rows)
    for function, operator, inputs in (("mul", "Mul", (scale,)), ("relu", "Relu", ()),
                                       ("mul", "Mul", (b.feed("weights", 1, heads, 1),))):
        product = b.node(OperatorClass.ELEMENTWISE, (product, *inputs), *shape, operator=operator, domain="onnx",
                         arguments=(), attributes={"function": function})
    total = b.node(OperatorClass.REDUCTION, (product,), 1, rows, operator="ReduceSum", domain="onnx",
                   attributes={"function": "sum", "axes": (1,), "keepdims": False})
    return b.graph(*b.topk(total, k))
