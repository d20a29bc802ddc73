"""Where softmax weighs rows: the axes whose tables are keys, behind a product, and values, which the weights meet."""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.backends.fpga.compose.softmax_form import WrittenSoftmax, written_softmaxes
from hetcc.ir import Graph, Node, OperatorClass
from hetcc.ir.axes import ValueAxis

_PASSED = frozenset({OperatorClass.VIEW, OperatorClass.COPY})


def weighing_axes(graph: Graph) -> list[ValueAxis]:
    """The axis of every softmax of a graph whose output is contracted: its scores may come from rows of a table."""
    forms = written_softmaxes(graph)
    found = []
    for _, softmax, _ in _weighted_products(graph, forms):
        form = forms.get(softmax.name)
        found.append(ValueAxis(form.source, form.axis) if form
                     else ValueAxis(softmax.inputs[0], softmax.integer("axis")))
    return found


def weighed_axes(graph: Graph) -> list[ValueAxis]:
    """The rows that softmax weights are contracted with, and keys and values of attention in one node."""
    found = []
    for node, _, side in _weighted_products(graph, written_softmaxes(graph)):
        other, back = ("rhs", 2) if side == "lhs" else ("lhs", 1)
        name = node.inputs[node.integer(other)]
        rank = len(graph.type_of(name).shape)
        found += [ValueAxis(name, rank - back)] if rank >= 2 else []
    for node in graph.nodes:
        if node.operator_class is OperatorClass.ATTENTION:
            names = [node.inputs[node.integer(name)] for name in ("key", "value")]
            found += [ValueAxis(name, len(graph.type_of(name).shape) - 2) for name in names]
    return found


def _weighted_products(graph: Graph, forms: Mapping[str, WrittenSoftmax]) -> list[tuple[Node, Node, str]]:
    """Products with softmax weights, the node that made the weights, and the side they are on."""
    found = []
    for node in graph.nodes:
        if node.operator_class is OperatorClass.MATMUL:
            makers = [(_softmax_of(graph, node.inputs[node.integer(side)], forms), side) for side in ("lhs", "rhs")]
            found += [(node, maker, side) for maker, side in makers if maker is not None][:1]
    return found


def _softmax_of(graph: Graph, name: str, forms: Mapping[str, WrittenSoftmax]) -> Node | None:
    """The softmax behind a value, through views, copies and casts."""
    while (maker := graph.producer.get(name)) is not None:
        if maker.operator_class is OperatorClass.SOFTMAX or maker.name in forms:
            return maker
        is_cast = maker.operator_class is OperatorClass.ELEMENTWISE and maker.attribute("function") == "cast"
        if maker.operator_class not in _PASSED and not is_cast:
            return None
        name = maker.inputs[0]
    return None


__all__ = ["weighed_axes", "weighing_axes"]
