"""Softmax written out: maximum, difference, exponential, sum and quotient, found by classes and data flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.ir import Graph, Node, OperatorClass


@dataclass(frozen=True, slots=True)
class WrittenSoftmax:
    """One of them."""

    source: str
    """Value it is the softmax of."""
    axis: int
    inner: frozenset[str]
    """Names of the nodes before the quotient."""


def written_softmaxes(graph: Graph) -> Mapping[str, WrittenSoftmax]:
    """Every softmax that is written out, by the name of its last node; nothing else uses what is between."""
    found = {}
    for node in graph.nodes:
        form = _ending_at(graph, node)
        if form is not None:
            found[node.name] = form
    return found


def _ending_at(graph: Graph, quotient: Node) -> WrittenSoftmax | None:
    if not _is(quotient, "div") or len(quotient.inputs) != 2:
        return None
    exponential, total = (graph.producer.get(name) for name in quotient.inputs)
    if exponential is None or total is None or not _is(exponential, "exp"):
        return None
    axis = _reduced(total, "sum", exponential.outputs[0])
    difference = graph.producer.get(exponential.inputs[0])
    if axis is None or difference is None or not _is(difference, "sub") or len(difference.inputs) != 2:
        return None
    largest = graph.producer.get(difference.inputs[1])
    if largest is None or _reduced(largest, "max", difference.inputs[0]) != axis:
        return None
    inner = (largest, difference, exponential, total)
    names = {*(node.name for node in inner), quotient.name}
    outputs = [output for node in inner for output in node.outputs]
    leaves = any(output in graph.results or output in graph.outputs or any(
        user.name not in names for user in graph.consumers_of(output)) for output in outputs)
    if leaves or any(len(node.outputs) != 1 or node.keywords for node in (difference, exponential, quotient)):
        return None
    return WrittenSoftmax(difference.inputs[0], axis, frozenset(node.name for node in inner))


def _is(node: Node, function: str) -> bool:
    return node.operator_class is OperatorClass.ELEMENTWISE and node.attribute("function") == function


def _reduced(node: Node, function: str, source: str) -> int | None:
    """The one axis along which a node reduces a value and which it keeps as one entry."""
    axes = node.attribute("axes")
    if (node.operator_class is not OperatorClass.REDUCTION or node.attribute("function") != function
            or node.inputs[:1] != (source,) or not isinstance(axes, tuple) or len(axes) != 1
            or not node.attribute("keepdims", False) or len(node.outputs) != 1):
        return None
    return axes[0]


__all__ = ["WrittenSoftmax", "written_softmaxes"]
