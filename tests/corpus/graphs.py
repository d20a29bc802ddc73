"""Small graphs written down by hand, one per mechanism, and the builder they are written with."""

from __future__ import annotations

from typing import Any

import torch

from hetcc.aten.classify import Call, classify
from hetcc.aten.convert import tensor_type_of
from hetcc.aten.rebuild import torch_dtype_of
from hetcc.ir import (
    Argument,
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    Provenance,
    Role,
    SourceOperator,
    TensorType,
    Value,
)

LOWEST = -3.4028234663852886e38


class Name(str):
    """The name of a value; plain strings are not taken for one."""


class GraphBuilder:
    """Writes a graph down call by call; torch says what shape comes out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = ""
        """Module path that the next nodes get."""
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.updates: list[CacheUpdate] = []

    def declare(self, name: str, shape: tuple[int, ...], role: Role, dtype: DType = DType.FLOAT32) -> Name:
        self.values[name] = Value(name, TensorType(shape, dtype), role)
        return Name(name)

    def input(self, name: str, *shape: int, dtype: DType = DType.FLOAT32) -> Name:
        return self.declare(name, shape, Role.INPUT, dtype)

    def cache(self, name: str, *shape: int, dtype: DType = DType.FLOAT32) -> Name:
        return self.declare(name, shape, Role.CACHE, dtype)

    def weight(self, name: str, *shape: int) -> Name:
        return self.declare(name, shape, Role.PARAMETER)

    def call(self, operator: str, *arguments: Any, to: str = "", **keywords: Any) -> Any:
        """``call("topk.default", scores, 8, -1, to="best")``: the name of the output, or of each of several."""
        name, _, overload = operator.partition(".")
        inputs: list[str] = []
        converted = tuple(self._argument(part, inputs) for part in arguments)
        stored = tuple(sorted((key, self._argument(part, inputs)) for key, part in keywords.items()))
        target = getattr(getattr(torch.ops.aten, name), overload or "default")
        made = target(*map(self._empty, arguments), **{key: self._empty(part) for key, part in keywords.items()})
        several = not isinstance(made, torch.Tensor)
        own = (f"{self.module}/" if self.module else "") + (to or f"{name}.{len(self.nodes)}")
        outputs = tuple(f"{own}:{place}" for place in range(len(made))) if several else (own,)
        for output, tensor in zip(outputs, made if several else (made,), strict=True):
            self.values[output] = Value(output, tensor_type_of(tensor))
        types = [tuple(self.values[value].type for value in group) for group in (inputs, outputs)]
        operator_class, attributes = classify(Call(name, converted, dict(stored), types[0], types[1]))
        self.nodes.append(Node(own, SourceOperator("aten", name, overload or "default"), operator_class, tuple(inputs),
                               outputs, converted, stored, attributes, Provenance(self.module, "", "")))
        return tuple(map(Name, outputs)) if several else Name(own)

    def update(self, cache: str, value: str) -> None:
        self.updates.append(CacheUpdate(cache, value))

    def append(self, cache: Name, axis: int, position: Name, rows: Name, to: str) -> Name:
        """Rows written into a cache, which keeps them."""
        written: Name = self.call("index_copy", cache, axis, position, rows, to=to)
        self.update(cache, written)
        return written

    def done(self, *outputs: str) -> Graph:
        roles = {role: tuple(name for name, value in self.values.items() if value.role is role) for role in Role}
        return Graph(self.name, tuple(self.nodes), self.values, roles[Role.INPUT], outputs, roles[Role.CACHE],
                     tuple(self.updates))

    def _argument(self, part: Any, inputs: list[str]) -> Argument:
        if isinstance(part, Name):
            if part not in inputs:
                inputs.append(str(part))
            return Operand(inputs.index(part))
        return tuple(self._argument(entry, inputs) for entry in part) if isinstance(part, (list, tuple)) else part

    def _empty(self, part: Any) -> Any:
        if isinstance(part, Name):
            kind = self.values[part].type
            return torch.empty(kind.shape, dtype=torch_dtype_of(kind.dtype), device="meta")
        if isinstance(part, DType):
            return torch_dtype_of(part)
        return [self._empty(entry) for entry in part] if isinstance(part, (list, tuple)) else part


def _scores(build: GraphBuilder, query: Name, keys: Name, to: str) -> Name:
    transposed = build.call("transpose.int", keys, 1, 2, to=f"{to}_keys")
    scores: Name = build.call("bmm", query, transposed, to=to)
    return scores


def sparse_selection(batch: int = 1, context: int = 32, width: int = 8, selected: int = 4, queries: int = 1) -> Graph:
    """Top-k over an index cache; attention over everything, with what was not selected masked out."""
    build = GraphBuilder("sparse_selection")
    query, index_query = build.input("query", batch, queries, width), build.input("index_query", batch, queries, width)
    row, index_row = build.input("row", batch, 1, width), build.input("index_row", batch, 1, width)
    position = build.input("position", 1, dtype=DType.INT64)
    visible = build.input("visible", batch, queries, context)
    memory, index = build.cache("memory", batch, context, width), build.cache("index", batch, context, width)
    build.module = "layers.0.attention"
    keys = build.append(index, 1, position, index_row, "index_written")
    raw = build.call("relu", _scores(build, index_query, keys, "index_scores"), to="rectified")
    relevancy = build.call("add.Tensor", raw, visible, to="relevancy")
    _, chosen = build.call("topk", relevancy, selected, -1, to="best")
    blank = build.call("full", (batch, queries, context), LOWEST, dtype=DType.FLOAT32, to="blank")
    mask = build.call("scatter.value", blank, -1, chosen, 0.0, to="mask")
    both = build.call("add.Tensor", mask, visible, to="both_masks")
    entries = build.append(memory, 1, position, row, "memory_written")
    scaled = build.call("mul.Tensor", _scores(build, query, entries, "scores"), width**-0.5, to="scaled")
    masked = build.call("add.Tensor", scaled, both, to="masked")
    weights = build.call("_softmax", masked, -1, False, to="weights")
    return build.done(build.call("bmm", weights, entries, to="attended"))


def threshold_selection(context: int = 32, width: int = 8) -> Graph:
    """Entries whose score reaches a threshold are used; the others are masked."""
    build = GraphBuilder("threshold_selection")
    query, row = build.input("query", 1, 1, width), build.input("row", 1, 1, width)
    position = build.input("position", 1, dtype=DType.INT64)
    memory = build.cache("memory", 1, context, width)
    build.module = "layers.0.attention"
    entries = build.append(memory, 1, position, row, "written")
    scores = _scores(build, query, entries, "scores")
    chosen = build.call("ge.Scalar", scores, 0.5, to="chosen")
    lowest = build.call("full", (), LOWEST, dtype=DType.FLOAT32, to="lowest")
    kept = build.call("where.self", chosen, scores, lowest, to="kept")
    weights = build.call("_softmax", kept, -1, False, to="weights")
    return build.done(build.call("bmm", weights, entries, to="attended"))


def expert_routing(width: int = 8, experts: int = 6) -> Graph:
    """Top-k over the axis of a weight: experts are no memory, so nothing is to be tagged."""
    build = GraphBuilder("expert_routing")
    hidden = build.input("hidden", 1, width)
    router, table = build.weight("router", width, experts), build.weight("experts", experts, width)
    build.module = "layers.0.mlp"
    scores = build.call("_softmax", build.call("mm", hidden, router, to="logits"), -1, False, to="scores")
    shares, chosen = build.call("topk", scores, 2, -1, to="best")
    rows = build.call("index.Tensor", table, (build.call("view", chosen, (2,), to="flat"),), to="rows")
    return build.done(build.call("mm", shares, rows, to="mixed"))


def dense_attention(context: int = 32, width: int = 8) -> Graph:
    """Attention over a whole cache: relevancy and apply, nothing is retrieved."""
    build = GraphBuilder("dense_attention")
    query, row = build.input("query", 1, 1, width), build.input("row", 1, 1, width)
    position = build.input("position", 1, dtype=DType.INT64)
    memory = build.cache("memory", 1, context, width)
    build.module = "layers.0.attention"
    entries = build.append(memory, 1, position, row, "written")
    weights = build.call("_softmax", _scores(build, query, entries, "scores"), -1, False, to="weights")
    return build.done(build.call("bmm", weights, entries, to="attended"))


def attention_with_sink(context: int = 32, width: int = 8) -> Graph:
    """A learned score stands behind those of the memory in the softmax, and its weight is dropped again."""
    build = GraphBuilder("attention_with_sink")
    query, row = build.input("query", 1, 1, width), build.input("row", 1, 1, width)
    position, sink = build.input("position", 1, dtype=DType.INT64), build.weight("sink", 1, 1, 1)
    memory = build.cache("memory", 1, context, width)
    build.module = "layers.0.attention"
    entries = build.append(memory, 1, position, row, "written")
    extended = build.call("cat", (_scores(build, query, entries, "scores"), sink), -1, to="extended")
    weights = build.call("_softmax", extended, -1, False, to="weights")
    kept = build.call("slice.Tensor", weights, 2, 0, context, to="kept")
    return build.done(build.call("bmm", kept, entries, to="attended"))


def table_lookup(rows: int = 32, width: int = 8, selected: int = 4) -> Graph:
    """Top-k over a table that is passed in, as in retrieval of documents: memory without a cache."""
    build = GraphBuilder("table_lookup")
    question, table = build.input("question", 1, width), build.input("table", rows, width)
    transposed = build.call("t", table, to="table_columns")
    _, chosen = build.call("topk", build.call("mm", question, transposed, to="scores"), selected, -1, to="best")
    flat = build.call("view", chosen, (selected,), to="flat")
    return build.done(build.call("mean.dim", build.call("index_select", table, 0, flat, to="found"), (0,), to="mean"))


def page_bounds(pages: int = 8, page: int = 4, width: int = 8, selected: int = 2) -> Graph:
    """Pages are scored by bounds of their keys, the product written out; attention goes over their tokens."""
    build = GraphBuilder("page_bounds")
    gate, query = build.input("gate", 1, 1, width), build.input("query", 1, 1, width)
    lower, upper = build.input("lower", 1, pages, width), build.input("upper", 1, pages, width)
    keys = build.input("keys", 1, pages, page * width)
    products = [build.call("mul.Tensor", gate, bound, to=f"products_{bound}") for bound in (lower, upper)]
    scores = build.call("sum.dim_IntList", build.call("maximum", *products, to="larger"), (-1,), to="scores")
    _, chosen = build.call("topk", scores, selected, -1, to="best")
    column = build.call("unsqueeze", chosen, -1, to="column")
    where = build.call("expand", column, (1, selected, page * width), to="where")
    found = build.call("gather", keys, 1, where, to="found")
    tokens = build.call("view", found, (1, selected * page, width), to="tokens")
    weights = build.call("_softmax", _scores(build, query, tokens, "token_scores"), -1, False, to="weights")
    return build.done(build.call("bmm", weights, tokens, to="attended"))


def longest_entries(entries: int = 32, width: int = 8, selected: int = 4) -> Graph:
    """Top-k over the lengths of what was passed in: nothing is asked of it, so nothing is to be tagged."""
    build = GraphBuilder("longest_entries")
    table = build.input("table", entries, width)
    squares = build.call("mul.Tensor", table, table, to="squares")
    _, chosen = build.call("topk", build.call("sum.dim_IntList", squares, (-1,), to="lengths"), selected, -1, to="best")
    return build.done(build.call("index_select", table, 0, chosen, to="found"))


SMALL_GRAPHS = {made.__name__: made for made in (sparse_selection, threshold_selection, expert_routing,
                                                 dense_attention, attention_with_sink, table_lookup,
                                                 page_bounds, longest_entries)}
