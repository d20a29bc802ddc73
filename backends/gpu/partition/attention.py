"""Recognises attention: a softmax between products, over a whole memory or over what was gathered from it.

Scores may be the sum of two products, of a content part and a position part of query and key: that is latent attention
with its projections absorbed into the query, where the content part is the value too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.backends.gpu.kernels.operations_attention import (
    AttentionOptions,
    AttentionSizes,
    DecodeAttention,
    GatherAttention,
)
from hetcc.backends.gpu.partition.patterns import Chain, Match, Reader, Rows
from hetcc.errors import UserError
from hetcc.ir import DType, Node, OperatorClass, TensorType

_Mask = tuple[str, TensorType] | None


@dataclass(frozen=True, slots=True)
class _Found:
    """A softmax, the one or two products in front of it and the one behind."""

    scores: Chain
    products: tuple[Node, ...]
    second: Node
    nodes: tuple[Node, ...]
    dims: tuple[int, int, int, int]
    """Extents of the scores: batch, heads, queries, entries."""

    @property
    def rows(self) -> int:
        """Queries of all heads and sequences."""
        return math.prod(self.dims[:3])


@dataclass(frozen=True, slots=True)
class _Memory:
    """Where keys and values are, and the queries that go with each part of a key."""

    queries: tuple[str, ...]
    keys: tuple[Rows, ...]
    values: Rows
    widths: tuple[int, ...]
    """Elements of each part of a key."""

    @property
    def tables(self) -> dict[str, Rows]:
        """Distinct stacks by role; a key that is the value is there once."""
        named = {"keys": self.keys[0], **({"keys_rope": self.keys[1]} if len(self.keys) > 1 else {})}
        return named if self.shared else named | {"values": self.values}

    @property
    def shared(self) -> bool:
        """Whether the first part of a key is the value."""
        return len(self.keys) > 1 and self.keys[0] == self.values


def match_attention(reader: Reader, softmax: Node, minimum_entries: int) -> Match | None:
    """The attention around ``softmax`` as one kernel operation, if it is one.

    Args:
        reader: the program.
        softmax: a node of that class.
        minimum_entries: attention over fewer entries is left to the general compiler.
    """
    found = _around(reader, softmax)
    if found is None or found.dims[-1] < minimum_entries:
        return None
    mask = reader.mask(found.scores, found.dims) if found.scores.mask else None
    if found.scores.mask and (mask is None or mask[1].shape[2] != found.dims[2]):
        return None
    memory = _memory(reader, found)
    if memory is None:
        return None
    try:
        return _gathered(reader, found, memory, mask) or _whole(reader, found, memory, mask)
    except UserError:  # the kernels do not take these sizes or types
        return None


def _around(reader: Reader, softmax: Node) -> _Found | None:
    shape = reader.shape(softmax.outputs[0])
    if len(shape) < 2 or softmax.integer("axis") != len(shape) - 1:
        return None
    scores = reader.walk(softmax.inputs[0])
    products = _products(reader, scores.origin)
    passed, second = reader.forward(softmax.outputs[0])
    if products is None or second is None or second.operator_class is not OperatorClass.MATMUL:
        return None
    weights = passed[-1].outputs[0] if passed else softmax.outputs[0]
    if second.operand("bias") is not None or reader.sides(second)[0] != weights:
        return None
    dims = (math.prod(shape[:-3]), shape[-3] if len(shape) > 2 else 1, shape[-2], shape[-1])
    inner, summed = products
    nodes = (*scores.nodes, *summed, *inner, softmax, *passed, second)
    found = _Found(scores, inner, second, nodes, dims)
    stacked = all(reader.shape(product.outputs[0])[-1] == dims[3] and _rows(reader, product) == found.rows
                  for product in inner) and _rows(reader, second) == found.rows
    return found if stacked and reader.encloses(nodes, second.outputs) else None


def _rows(reader: Reader, product: Node) -> int:
    return math.prod(reader.shape(product.outputs[0])[:-1])


def _products(reader: Reader, origin: str) -> tuple[tuple[Node, ...], tuple[Node, ...]] | None:
    """The products that make scores, and the nodes that add two of them."""
    single = reader.product(origin)
    if single is not None:
        return (single,), ()
    parts = reader.summands(origin)
    if parts is None:
        return None
    found = [reader.product(part.origin) for part in parts]
    if found[0] is None or found[1] is None:
        return None
    adding = reader.graph.producer[origin]
    return (found[0], found[1]), (adding, *parts[0].nodes, *parts[1].nodes)


def _memory(reader: Reader, found: _Found) -> _Memory | None:
    """Queries, keys and values of the type of the result; keys and values have as many heads."""
    dtype = reader.dtype(found.second.outputs[0])
    values = reader.matrices(reader.sides(found.second)[1], transposed=False, dtype=dtype)
    if values is None:
        return None
    parts: list[tuple[str, Rows, int]] = []
    for product in found.products:
        query, keys = reader.sides(product)
        base, rows = reader.in_order(query, dtype), reader.matrices(keys, transposed=True, dtype=dtype)
        if base is None or rows is None or not _fits(reader, found, product, rows, values):
            return None
        parts.append((base, rows, reader.shape(query)[-1]))
    # The part of a key that is the value comes first, else the longer one.
    parts.sort(key=lambda part: (part[1] != values, -part[2]))
    return _Memory(tuple(part[0] for part in parts), tuple(part[1] for part in parts), values,
                   tuple(part[2] for part in parts))


def _fits(reader: Reader, found: _Found, product: Node, keys: Rows, values: Rows) -> bool:
    """Whether each matrix of keys serves whole heads of one sequence, the same as its matrix of values."""
    batch, _, queries, _ = found.dims
    served = reader.shape(product.outputs[0])[-2] * keys.repeats
    return (keys.stack == values.stack and keys.stack % batch == 0 and served % queries == 0
            and keys.stack * served == found.rows)


def _sizes(reader: Reader, found: _Found, memory: _Memory, cached: int) -> AttentionSizes:
    batch, heads, queries, _ = found.dims
    output = found.second.outputs[0]
    return AttentionSizes(batch, heads, memory.values.stack // batch, queries, cached, memory.widths[0],
                          reader.shape(output)[-1], reader.dtype(output),
                          memory.widths[1] if len(memory.widths) > 1 else 0, memory.shared)


def _match(operation: DecodeAttention | GatherAttention, found: _Found, memory: _Memory, tables: dict[str, str],
           mask: _Mask, extra: tuple[Node, ...] = ()) -> Match:
    inputs = {"query": memory.queries[0], **tables}
    if len(memory.queries) > 1:
        inputs["query_rope"] = memory.queries[1]
    if mask is not None:
        inputs["mask"] = mask[0]
    return Match(operation, tuple(dict.fromkeys(node.name for node in (*extra, *found.nodes))), tuple(inputs.items()),
                 (("output", found.second.outputs[0]),))


def _options(found: _Found, mask: _Mask) -> AttentionOptions:
    return AttentionOptions(scale=found.scores.scale, mask=mask[1] if mask else None)


def _whole(reader: Reader, found: _Found, memory: _Memory, mask: _Mask) -> Match:
    operation = DecodeAttention(_sizes(reader, found, memory, found.dims[-1]), _options(found, mask))
    return _match(operation, found, memory, {role: rows.base for role, rows in memory.tables.items()}, mask)


def _gathered(reader: Reader, found: _Found, memory: _Memory, mask: _Mask) -> Match | None:
    """Attention whose keys and values are rows of a memory at the same indices, for one query of one sequence."""
    if found.dims[0] != 1 or found.dims[2] != 1:
        return None
    gathers: dict[str, Node] = {}
    for role, rows in memory.tables.items():
        node = reader.graph.producer.get(rows.base)
        if node is None or node.attribute("mode") != "rows":
            return None
        gathers[role] = node
    nodes = tuple(dict.fromkeys(gathers.values()))
    extents = {_entries(reader, node, memory.values.stack) for node in nodes}
    indices = {reader.in_order(str(node.operand("indices"))) for node in nodes}
    if len(extents) != 1 or len(indices) != 1 or None in extents | indices:
        return None
    if not reader.encloses((*nodes, *found.nodes, *_views_after(reader, nodes)), found.second.outputs):
        return None
    index, extent = str(indices.pop()), int(extents.pop() or 0)
    index_dtype: DType = reader.dtype(index)
    operation = GatherAttention(_sizes(reader, found, memory, extent), found.dims[-1], _options(found, mask),
                                index_dtype)
    tables = {role: reader.in_order(str(node.operand("data"))) or "" for role, node in gathers.items()}
    return _match(operation, found, memory, tables | {"indices": index}, mask, nodes)


def _entries(reader: Reader, gather: Node, heads: int) -> int | None:
    """Entries of the memory ``[..., entries, channels]`` that rows are taken from, one matrix per head."""
    shape = reader.shape(str(gather.operand("data")))
    axis = gather.integer("axis")
    return shape[axis] if axis == len(shape) - 2 and math.prod(shape[:axis]) == heads else None


def _views_after(reader: Reader, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Views of what the nodes make, and views of those."""
    found: dict[str, Node] = {}
    stack = [value for node in nodes for value in node.outputs]
    while stack:
        for node in reader.graph.consumers_of(stack.pop()):
            if node.operator_class is OperatorClass.VIEW and node.name not in found:
                found[node.name] = node
                stack.extend(node.outputs)
    return tuple(found.values())
