"""Which values from outside are tables beside the caches: those whose rows a selection compares or a softmax weighs.

From an axis that is selected from, or normalised by a softmax whose weights are then contracted, the walk goes back
through whatever keeps the axis, past a product that scores it (a matrix product, or a multiplication or a gather under
a sum). An input or buffer that is an operand of that product, as it is or through views, or that indexes what is
multiplied, is scanned row by row; so is one that softmax weights are contracted with. Parameters are not: the rows of a
router are experts, and a product with a weight has rules of its own.
"""

from __future__ import annotations

from enum import IntEnum

from hetcc.backends.fpga.compose.tables_weighed import weighed_axes, weighing_axes
from hetcc.ir import Graph, Node, OperatorClass, Role
from hetcc.ir.axes import Follow, ValueAxis, sources

_COMPARISONS = frozenset({"ge", "gt", "le", "lt"})
_SUMS = frozenset({"sum", "mean"})
_TABLE_ROLES = frozenset({Role.INPUT, Role.BUFFER})
_BEHIND_A_PRODUCT = frozenset({OperatorClass.VIEW, OperatorClass.GATHER})


class _Way(IntEnum):
    """What lies between an axis and the selection."""

    PLAIN = 0
    SUMMED = 1
    """A sum over another axis: a multiplication before it makes an inner product."""
    SCORED = 2


def tables_of(graph: Graph) -> frozenset[str]:
    """Names of the inputs and buffers of a graph that are scanned."""
    found: set[str] = set()
    waiting = [(axis, _Way.PLAIN) for node in graph.nodes for axis in _selected(graph, node)]
    waiting += [(axis, _Way.PLAIN) for axis in weighing_axes(graph)]
    waiting += [(axis, _Way.SCORED) for axis in weighed_axes(graph)]
    seen = set(waiting)
    while waiting:
        position, way = waiting.pop()
        producer = graph.producer.get(position.value)
        if producer is None:
            if way is _Way.SCORED and graph.values[position.value].role in _TABLE_ROLES:
                found.add(position.value)
            continue
        if way is _Way.SCORED and producer.operator_class not in _BEHIND_A_PRODUCT:
            continue
        before = max(way, _made_by(producer, way))
        for step in sources(graph, producer, position.axis, Follow.MEMORY):
            if (step, before) not in seen:
                seen.add((step, before))
                waiting.append((step, before))
    return frozenset(found)


def _selected(graph: Graph, node: Node) -> list[ValueAxis]:
    """The axis a node selects along."""
    if node.operator_class is OperatorClass.TOPK:
        return [ValueAxis(node.inputs[node.integer("input")], node.integer("axis"))]
    compares = node.operator_class is OperatorClass.ELEMENTWISE and node.attribute("function") in _COMPARISONS
    rank = len(graph.type_of(node.inputs[0]).shape) if compares and node.inputs else 0
    return [ValueAxis(node.inputs[0], rank - 1)] if rank else []


def _made_by(node: Node, way: _Way) -> _Way:
    function = node.attribute("function")
    if node.operator_class is OperatorClass.MATMUL:
        return _Way.SCORED
    if node.operator_class is OperatorClass.REDUCTION and function in _SUMS:
        return _Way.SUMMED
    if way is _Way.SUMMED and node.operator_class is OperatorClass.GATHER:
        return _Way.SCORED
    # The square of a table is no product with a query.
    if way is _Way.SUMMED and function == "mul" and len(set(node.inputs)) > 1:
        return _Way.SCORED
    return _Way.PLAIN


__all__ = ["tables_of"]
