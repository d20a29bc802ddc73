"""Attention that was found in a program, and the kernel operation that computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hetcc.backends.gpu.kernels.operations_attention import (
    AttentionOptions,
    AttentionSizes,
    DecodeAttention,
    GatherAttention,
)
from hetcc.backends.gpu.partition.patterns import Match, Reader, Rows, is_cast
from hetcc.backends.gpu.partition.strides import broadcast
from hetcc.errors import UserError
from hetcc.ir import Node, OperatorClass, TensorType

Mask = tuple[str, TensorType] | None
"""A dense tensor that is added to the scores, and its type as ``[batch or 1, heads or 1, queries, entries]``."""


@dataclass(frozen=True, slots=True)
class Memory:
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


@dataclass(frozen=True, slots=True)
class Attended:
    """Attention as a program has it, however that spells it."""

    dims: tuple[int, int, int, int]
    """Extents of the scores: batch, heads, queries, entries."""
    nodes: tuple[Node, ...]
    """All it is made of."""
    output: str
    memory: Memory
    scale: float | None
    mask: Mask
    masked_rows: Literal["nan", "zero"]
    causal: bool = False


def operation_of(reader: Reader, found: Attended) -> Match | None:
    """One kernel operation for what was found: over gathered entries where it can be, else over the whole memory.

    None where something else uses what it would keep to itself, or the kernels do not take the sizes or types.
    """
    if not reader.encloses(found.nodes, (found.output,)):
        return None
    try:
        return _gathered(reader, found) or _whole(reader, found)
    except UserError:
        return None


def _sizes(reader: Reader, found: Attended, cached: int) -> AttentionSizes:
    batch, heads, queries, _ = found.dims
    memory = found.memory
    return AttentionSizes(batch, heads, memory.values.stack // batch, queries, cached, memory.widths[0],
                          reader.shape(found.output)[-1], reader.dtype(found.output),
                          memory.widths[1] if len(memory.widths) > 1 else 0, memory.shared)


def _match(operation: DecodeAttention | GatherAttention, found: Attended, tables: dict[str, str],
           extra: tuple[Node, ...] = ()) -> Match:
    inputs = {"query": found.memory.queries[0], **tables}
    if len(found.memory.queries) > 1:
        inputs["query_rope"] = found.memory.queries[1]
    if found.mask is not None:
        inputs["mask"] = found.mask[0]
    return Match(operation, tuple(dict.fromkeys(node.name for node in (*extra, *found.nodes))), tuple(inputs.items()),
                 (("output", found.output),))


def _options(found: Attended) -> AttentionOptions:
    return AttentionOptions(scale=found.scale, mask=found.mask[1] if found.mask else None, causal=found.causal,
                            masked_rows=found.masked_rows)


def _whole(reader: Reader, found: Attended) -> Match:
    operation = DecodeAttention(_sizes(reader, found, found.dims[-1]), _options(found))
    return _match(operation, found, {role: rows.base for role, rows in found.memory.tables.items()})


def _gathered(reader: Reader, found: Attended) -> Match | None:
    """Attention whose keys and values are entries of a memory at the same indices, for one query per sequence."""
    memory = found.memory
    if found.dims[2] != 1 or found.causal:
        return None
    gathers: dict[str, Node] = {}
    for role, rows in memory.tables.items():
        node = reader.graph.producer.get(rows.base)
        if node is None or node.operator_class is not OperatorClass.GATHER or not _counts_from_zero(reader, node):
            return None
        gathers[role] = node
    nodes = tuple(dict.fromkeys(gathers.values()))
    extents = {_entries(reader, node, memory.values.stack) for node in nodes}
    selections = {_selection(reader, node, found) for node in nodes}
    selection, extent = selections.pop(), extents.pop()
    if selections or extents or selection is None or extent is None:
        return None
    if not reader.encloses((*nodes, *found.nodes, *_views_after(reader, nodes)), (found.output,)):
        return None
    operation = GatherAttention(_sizes(reader, found, extent), found.dims[-1], _options(found),
                                reader.dtype(selection.indices), selection.per_cache_head)
    tables = {role: reader.in_order(str(node.operand("data"))) or "" for role, node in gathers.items()}
    return _match(operation, found, tables | {"indices": selection.indices}, nodes)


@dataclass(frozen=True, slots=True)
class _Selection:
    """Where the indices of a gather lie: one row for each sequence, or for each cache head of each."""

    indices: str
    per_cache_head: bool


def _selection(reader: Reader, gather: Node, found: Attended) -> _Selection | None:
    """The indices of a gather of whole entries: one list for all matrices, or each matrix's own repeated along rows."""
    batch, indices = found.dims[0], str(gather.operand("indices"))
    if gather.attribute("mode") == "rows":
        listed = reader.in_order(indices) if batch == 1 else None
        return None if listed is None else _Selection(listed, False)
    shape = reader.shape(indices)
    axis, data = gather.integer("axis"), reader.shape(str(gather.operand("data")))
    if gather.attribute("mode") != "along" or (*shape[:axis], *shape[axis + 1:]) != (*data[:axis], *data[axis + 1:]):
        return None
    heads = found.memory.values.stack // batch
    dims = (batch, heads, found.dims[-1], shape[-1])
    looked = reader.find(indices, lambda look: broadcast(look, shape, dims, reader.elements(look.base)))
    if looked is None or looked[1][0] != batch or looked[1][2:] != (dims[2], 1):
        return None
    return _Selection(looked[0], looked[1][1] > 1)


def _counts_from_zero(reader: Reader, gather: Node) -> bool:
    """Whether no index is negative: to the kernel that is no entry, to some gathers one counted from the end."""
    if gather.operator.domain == "aten" and gather.operator.name in ("gather", "index_select"):
        return True
    value = str(gather.operand("indices"))
    while (node := reader.graph.producer.get(value)) is not None and (
            node.operator_class is OperatorClass.VIEW or is_cast(node)):
        value = node.inputs[0]
    return node is not None and node.operator_class is OperatorClass.TOPK


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
