"""Recognises attention: a softmax between two products, over a whole memory or over what was gathered from it."""

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


@dataclass(frozen=True, slots=True)
class _Found:
    """A softmax and the two products around it."""

    scores: Chain
    first: Node
    second: Node
    nodes: tuple[Node, ...]
    dims: tuple[int, int, int, int]
    """Extents of the scores: batch, heads, queries, entries."""


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
    try:
        return _gathered(reader, found, mask) or _whole(reader, found, mask)
    except UserError:  # the kernels do not take these sizes or types
        return None


def _around(reader: Reader, softmax: Node) -> _Found | None:
    shape = reader.shape(softmax.outputs[0])
    if len(shape) < 2 or softmax.integer("axis") != len(shape) - 1:
        return None
    scores = reader.walk(softmax.inputs[0])
    first = reader.product(scores.origin)
    passed, second = reader.forward(softmax.outputs[0])
    if first is None or second is None or second.operator_class is not OperatorClass.MATMUL:
        return None
    weights = passed[-1].outputs[0] if passed else softmax.outputs[0]
    if second.operand("bias") is not None or reader.sides(second)[0] != weights:
        return None
    dims = (math.prod(shape[:-3]), shape[-3] if len(shape) > 2 else 1, shape[-2], shape[-1])
    products, result = reader.shape(first.outputs[0]), reader.shape(second.outputs[0])
    stacked = products[-2:] == dims[2:] and result[-2:-1] == dims[2:3] and math.prod(products[:-2]) == dims[0] * dims[1]
    nodes = (*scores.nodes, first, softmax, *passed, second)
    if not stacked or not reader.encloses(nodes, second.outputs):
        return None
    return _Found(scores, first, second, nodes, dims)


def _memory(reader: Reader, found: _Found) -> tuple[str, Rows, Rows] | None:
    """Query, keys and values of the type of the result; keys and values have as many heads."""
    dtype = reader.dtype(found.second.outputs[0])
    query, keys = reader.sides(found.first)
    base = reader.in_order(query, dtype)
    rows = (reader.matrices(keys, transposed=True, dtype=dtype),
            reader.matrices(reader.sides(found.second)[1], transposed=False, dtype=dtype))
    batch, heads, _, _ = found.dims
    if base is None or rows[0] is None or rows[1] is None or rows[0].stack != rows[1].stack:
        return None
    if rows[0].stack * rows[0].repeats != batch * heads or rows[0].stack % batch:
        return None
    return base, rows[0], rows[1]


def _sizes(reader: Reader, found: _Found, keys: Rows, cached: int) -> AttentionSizes:
    batch, heads, queries, _ = found.dims
    query = reader.shape(reader.sides(found.first)[0])
    output = found.second.outputs[0]
    return AttentionSizes(batch, heads, keys.stack // batch, queries, cached, query[-1], reader.shape(output)[-1],
                          reader.dtype(output))


def _options(found: _Found, mask: tuple[str, TensorType] | None) -> AttentionOptions:
    return AttentionOptions(scale=found.scores.scale, mask=mask[1] if mask else None)


def _match(operation: DecodeAttention | GatherAttention, found: _Found, inputs: dict[str, str],
           mask: tuple[str, TensorType] | None, extra: tuple[Node, ...] = ()) -> Match:
    if mask is not None:
        inputs["mask"] = mask[0]
    return Match(operation, tuple(dict.fromkeys(node.name for node in (*extra, *found.nodes))), tuple(inputs.items()),
                 (("output", found.second.outputs[0]),))


def _whole(reader: Reader, found: _Found, mask: tuple[str, TensorType] | None) -> Match | None:
    memory = _memory(reader, found)
    if memory is None:
        return None
    query, keys, values = memory
    operation = DecodeAttention(_sizes(reader, found, keys, found.dims[-1]), _options(found, mask))
    return _match(operation, found, {"query": query, "keys": keys.base, "values": values.base}, mask)


def _gathered(reader: Reader, found: _Found, mask: tuple[str, TensorType] | None) -> Match | None:
    """Attention whose keys and values are rows of a memory at the same indices, for one sequence."""
    memory = _memory(reader, found)
    if memory is None or found.dims[0] != 1:
        return None
    query, keys, values = memory
    gathers = [reader.graph.producer.get(rows.base) for rows in (keys, values)]
    if any(node is None or node.attribute("mode") != "rows" for node in gathers):
        return None
    key_gather, value_gather = (node for node in gathers if node is not None)
    tables = [_table(reader, node, keys.stack) for node in (key_gather, value_gather)]
    indices = [reader.in_order(str(node.operand("indices"))) for node in (key_gather, value_gather)]
    if None in tables or indices[0] is None or indices[0] != indices[1] or tables[0] != tables[1]:
        return None
    index_dtype: DType = reader.dtype(indices[0])
    nodes = (key_gather, value_gather)
    if found.dims[2] != 1 or not reader.encloses((*nodes, *found.nodes, *_views_after(reader, nodes)),
                                                 found.second.outputs):
        return None
    sizes = _sizes(reader, found, keys, int(tables[0] or 0))
    operation = GatherAttention(sizes, found.dims[-1], _options(found, mask), index_dtype)
    keys_from, values_from = (reader.in_order(str(node.operand("data"))) or "" for node in nodes)
    inputs = {"query": query, "keys": keys_from, "values": values_from, "indices": indices[0]}
    return _match(operation, found, inputs, mask, nodes)


def _table(reader: Reader, gather: Node, heads: int) -> int | None:
    """Entries of the memory ``[..., entries, channels]`` that rows are taken from, one matrix per head."""
    shape = reader.shape(str(gather.operand("data")))
    axis = gather.integer("axis")
    fits = axis == len(shape) - 2 and math.prod(shape[:axis]) == heads
    return shape[axis] if fits else None


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
