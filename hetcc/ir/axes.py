"""Following one axis of a tensor through operators, by shapes and normalised attributes alone.

An axis is *kept* by an operator when every slice of the output along it depends on the same slice of the input alone.
``sources`` answers: from which axes of which inputs does this output axis come? ``contracted`` answers: over which
axes of which inputs does the operator sum?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from hetcc.ir.graph import Graph, Node
from hetcc.ir.operators import OperatorClass

Shape = tuple[int, ...]
_IN_ORDER = frozenset({"reshape", "unsqueeze", "squeeze"})
"""Views that leave the elements in their order."""


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """One axis of one value."""

    value: str
    axis: int


def reshape_axes(source: Shape, target: Shape) -> dict[int, int]:
    """Target axis -> source axis, for the axes a reshape keeps whole (extent above 1).

    An axis survives when its extent and the product of the extents before it are the same on both sides.
    """
    starts: dict[tuple[int, int], int] = {}
    before = 1
    for axis, extent in enumerate(source):
        if extent > 1:
            starts[(before, extent)] = axis
        before *= extent
    found: dict[int, int] = {}
    before = 1
    for axis, extent in enumerate(target):
        if extent > 1 and (before, extent) in starts:
            found[axis] = starts[(before, extent)]
        before *= extent
    return found


def _along_itself(source: Shape, target: Shape, axis: int) -> int | None:
    """The source axis a reshape cuts into smaller entries, or whose neighbours it joins, to make a target axis.

    Both begin at the same place, so the one is the outer part of the other: pages of a cache and their tokens.
    """
    before = math.prod(target[:axis])
    for own, extent in enumerate(source):
        if extent > 1 and math.prod(source[:own]) == before:
            whole = target[axis] % extent == 0 or extent % target[axis] == 0
            return own if target[axis] > 1 and whole else None
    return None


def unmerged_axis(graph: Graph, node: Node, axis: int, extent: int) -> tuple[ValueAxis, int] | None:
    """Where a reshape takes the innermost ``extent`` entries of its output axis from, however the two are merged.

    ``[B, T, C] -> [B*T, C]`` merges: axis 0 of the result, T entries at a time, is axis 1 of the source. The other
    way round the source's axis holds B memories of T entries one after the other.

    Returns:
        the source axis and how many times ``extent`` lies along it; None when no axis ends with those entries.
    """
    if node.operator_class is not OperatorClass.VIEW or node.attribute("kind") not in _IN_ORDER:
        return None
    target = graph.type_of(node.outputs[0]).shape
    end, before = math.prod(target[:axis + 1]), 1
    for place, size in enumerate(graph.type_of(node.inputs[0]).shape):
        before *= size
        if before == end and size % extent == 0 and size >= extent:
            return ValueAxis(node.inputs[0], place), size // extent
    return None


def _broadcast(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    """Element-wise: aligned from the right; an input of extent 1 there does not carry the axis."""
    rank = len(graph.type_of(node.outputs[0]).shape)
    extent = graph.type_of(node.outputs[0]).shape[axis]
    found = []
    for name in node.inputs:
        shape = graph.type_of(name).shape
        position = axis - (rank - len(shape))
        if position >= 0 and shape[position] == extent:
            found.append(ValueAxis(name, position))
    return found


def _same(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    return [ValueAxis(node.inputs[0], axis)]


def _along_axis(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    """Operators that mix entries along their own axis keep all the others."""
    return [] if axis == node.attribute("axis") else [ValueAxis(node.inputs[0], axis)]


def _view(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    source, target = graph.type_of(node.inputs[0]).shape, graph.type_of(node.outputs[0]).shape
    kind = node.attribute("kind")
    if kind == "permute":
        permutation = node.attribute("permutation")
        assert isinstance(permutation, tuple)
        return [ValueAxis(node.inputs[0], permutation[axis])]
    if kind == "expand":
        position = axis - (len(target) - len(source))
        return [ValueAxis(node.inputs[0], position)] if position >= 0 and source[position] == target[axis] else []
    if kind in ("slice", "split"):
        kept = source[axis] == target[axis]
        return [ValueAxis(node.inputs[0], axis)] if kept else []
    if kind == "select":
        removed = node.integer("axis")
        return [ValueAxis(node.inputs[0], axis if axis < removed else axis + 1)]
    mapped = reshape_axes(source, target).get(axis)
    return [] if mapped is None else [ValueAxis(node.inputs[0], mapped)]


def _reduction(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    axes = node.attribute("axes")
    reduced = set(axes) if isinstance(axes, tuple) else set()
    if node.attribute("keepdims"):
        return [] if axis in reduced else [ValueAxis(node.inputs[0], axis)]
    kept = [position for position in range(len(graph.type_of(node.inputs[0]).shape)) if position not in reduced]
    return [ValueAxis(node.inputs[0], kept[axis])] if axis < len(kept) else []


def _normalization(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    axes = node.attribute("axes")
    return [] if isinstance(axes, tuple) and axis in axes else [ValueAxis(node.inputs[0], axis)]


def _matmul(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    """``[..., M, K] x [..., K, N]``; a vector has only its K, so that its side of the result is missing."""
    shape = graph.type_of(node.outputs[0]).shape
    operands = [(name, graph.type_of(name).shape) for name in (node.operand("lhs"), node.operand("rhs")) if name]
    own = [len(operand) > 1 for _, operand in operands]
    batch = len(shape) - sum(own)
    found = []
    for side, (name, operand) in enumerate(operands):
        if axis < batch:
            position = axis - batch + max(len(operand) - 2, 0)
        elif own[side] and axis == batch + (side if own[0] else 0):
            position = len(operand) - 2 + side
        else:
            continue
        if position >= 0 and operand[position] == shape[axis]:
            found.append(ValueAxis(name, position))
    return found


def _gather(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    data, indices = node.operand("data"), node.operand("indices")
    if data is None or indices is None:
        return []
    own = node.integer("axis")
    if node.attribute("mode") == "along":
        candidates = [ValueAxis(indices, axis)] + ([] if axis == own else [ValueAxis(data, axis)])
        extent = graph.type_of(node.outputs[0]).shape[axis]
        return [found for found in candidates if graph.type_of(found.value).shape[found.axis] == extent]
    if node.attribute("mode") != "rows":
        return []
    index_rank = len(graph.type_of(indices).shape)
    if axis < own:
        return [ValueAxis(data, axis)]
    if axis < own + index_rank:
        return [ValueAxis(indices, axis - own)]
    return [ValueAxis(data, axis - index_rank + 1)]


def _into_data(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    data = node.operand("data")
    return [] if data is None else [ValueAxis(data, axis)]


def _concat(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    return [] if axis == node.attribute("axis") else [ValueAxis(name, axis) for name in node.inputs]


def _copy(graph: Graph, node: Node, axis: int) -> list[ValueAxis]:
    shape = graph.type_of(node.outputs[0]).shape
    if node.attribute("kind") == "slice_scatter":
        whole = [name for name in node.inputs if len(graph.type_of(name).shape) == len(shape)]
        return [] if axis == node.attribute("axis") else [ValueAxis(name, axis) for name in whole]
    return [ValueAxis(node.inputs[0], axis)] if graph.type_of(node.inputs[0]).shape == shape else []


_RULES: Mapping[OperatorClass, Callable[[Graph, Node, int], list[ValueAxis]]] = {
    OperatorClass.VIEW: _view,
    OperatorClass.ELEMENTWISE: _broadcast,
    OperatorClass.REDUCTION: _reduction,
    OperatorClass.SOFTMAX: _along_axis,
    OperatorClass.CUMULATIVE: _along_axis,
    OperatorClass.NORMALIZATION: _normalization,
    OperatorClass.MATMUL: _matmul,
    OperatorClass.GATHER: _gather,
    OperatorClass.SCATTER: _into_data,
    OperatorClass.CACHE_UPDATE: _into_data,
    OperatorClass.TOPK: _along_axis,
    OperatorClass.SORT: _along_axis,
    OperatorClass.CONCAT: _concat,
    OperatorClass.COPY: _copy,
}


class Follow(Enum):
    """How strictly an axis is followed."""

    ENTRY = "entry"
    """Every entry stays in its place and is treated on its own: what a rewrite needs."""
    PLACE = "place"
    """Entries may mix in a softmax over the axis, but keep their places."""
    MEMORY = "memory"
    """The axis may also be cut or extended along itself, and a reshape may cut its entries into smaller ones or join
    neighbours: it is still the axis of the same memory."""


def sources(graph: Graph, node: Node, axis: int, follow: Follow = Follow.ENTRY) -> list[ValueAxis]:
    """Input axes the output axis ``axis`` of ``node`` comes from; empty when it begins here or cannot be followed."""
    if follow is not Follow.ENTRY and node.operator_class is OperatorClass.SOFTMAX:
        return _same(graph, node, axis)
    if follow is Follow.MEMORY and axis == node.attribute("axis"):
        if node.operator_class is OperatorClass.CONCAT:
            return [ValueAxis(name, axis) for name in node.inputs]
        if node.operator_class is OperatorClass.VIEW and node.attribute("kind") in ("slice", "split"):
            return _same(graph, node, axis)
    rule = _RULES.get(node.operator_class)
    found = rule(graph, node, axis) if rule else []
    is_reshape = node.operator_class is OperatorClass.VIEW and node.attribute("kind") == "reshape"
    if not found and follow is Follow.MEMORY and is_reshape:
        own = _along_itself(graph.type_of(node.inputs[0]).shape, graph.type_of(node.outputs[0]).shape, axis)
        return [] if own is None else [ValueAxis(node.inputs[0], own)]
    return found


def contracted(graph: Graph, node: Node) -> list[ValueAxis]:
    """Input axes ``node`` sums over: the inner axes of a matrix product, the axes of a reduction."""
    if node.operator_class is OperatorClass.MATMUL:
        lhs, rhs = node.operand("lhs"), node.operand("rhs")
        found = []
        if lhs is not None:
            found.append(ValueAxis(lhs, len(graph.type_of(lhs).shape) - 1))
        if rhs is not None:
            found.append(ValueAxis(rhs, max(len(graph.type_of(rhs).shape) - 2, 0)))
        return found
    if node.operator_class is OperatorClass.REDUCTION:
        axes = node.attribute("axes")
        return [ValueAxis(node.inputs[0], axis) for axis in axes] if isinstance(axes, tuple) else []
    return []


def destinations(graph: Graph, node: Node, source: ValueAxis, follow: Follow = Follow.ENTRY) -> list[ValueAxis]:
    """Output axes of ``node`` that come from ``source``."""
    found = []
    for output in node.outputs:
        for axis in range(len(graph.type_of(output).shape)):
            if source in sources(graph, node, axis, follow):
                found.append(ValueAxis(output, axis))
    return found
