"""Remove what computes nothing: identities, repeated nodes of one layer, dead code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from hetcc.ir import Graph, Node, Operand, OperatorClass, live_nodes

_IDENTITY_VIEWS = frozenset({"alias", "expand", "reshape", "unsqueeze", "squeeze"})
_NEUTRAL = {"mul": 1.0, "div": 1.0, "add": 0.0, "sub": 0.0}
_REVERSED = frozenset({"rsub"})
"""Operators of these functions that take their operands the other way round: ``rsub(x, 0)`` is ``-x``."""
_KEPT_APART = frozenset({OperatorClass.OPAQUE, OperatorClass.CACHE_UPDATE})


@dataclass(frozen=True)
class Simplify:
    """Drop nodes that change nothing.

    Before: any graph. After: no identity views, casts, copies or neutral arithmetic, no two equal nodes within one
    layer, no dead nodes. Does not touch: graph outputs and new cache contents, which keep their names.
    """

    name: ClassVar[str] = "simplify"

    def run(self, graph: Graph) -> Graph:
        """The simplified graph; the same object when there was nothing to do."""
        renames: dict[str, str] = {}
        seen: dict[object, Node] = {}
        nodes: list[Node] = []
        for original in graph.nodes:
            node = replace(original, inputs=tuple(renames.get(name, name) for name in original.inputs))
            if not graph.results.intersection(node.outputs):
                if _is_identity(graph, node):
                    renames[node.outputs[0]] = node.inputs[0]
                    continue
                twin = seen.setdefault(_key(node), node) if node.operator_class not in _KEPT_APART else node
                if twin is not node:
                    renames.update(zip(node.outputs, twin.outputs, strict=True))
                    continue
            nodes.append(node)
        results = (*graph.outputs, *(update.value for update in graph.updates))
        kept = live_nodes(nodes, results)
        if len(kept) == len(graph.nodes):
            return graph
        used = {*graph.inputs, *graph.caches, *results,
                *(name for node in kept for name in (*node.inputs, *node.outputs))}
        return replace(graph, nodes=kept, values={name: value for name, value in graph.values.items() if name in used})


def _key(node: Node) -> object:
    """Equal for nodes that compute the same; numbers are told apart by type, since ``1 == 1.0 == True``."""
    spelled = repr((node.arguments, node.keywords))
    return (str(node.operator), node.inputs, spelled, node.provenance.layer)


def _is_identity(graph: Graph, node: Node) -> bool:
    if len(node.outputs) != 1 or not node.inputs:
        return False
    if graph.type_of(node.inputs[0]) != graph.type_of(node.outputs[0]):
        return False
    if node.operator_class is OperatorClass.VIEW:
        permutation = node.attribute("permutation")
        in_place = isinstance(permutation, tuple) and list(permutation) == sorted(permutation)
        return node.attribute("kind") in _IDENTITY_VIEWS or in_place
    if node.operator_class is OperatorClass.COPY:
        return len(node.inputs) == 1 and node.operator.name in ("clone", "Identity")
    if node.operator_class is OperatorClass.ELEMENTWISE:
        return node.attribute("function") == "cast" or _is_neutral(node)
    return False


def _is_neutral(node: Node) -> bool:
    """``x * 1``, ``x + 0`` and the like, with the number written in the node."""
    neutral = _NEUTRAL.get(str(node.attribute("function")))
    if neutral is None or len(node.inputs) != 1 or len(node.arguments) != 2 or node.keywords:
        return False
    if node.operator.name in _REVERSED:
        return False
    first, second = node.arguments
    return (isinstance(first, Operand) and isinstance(second, (int, float)) and not isinstance(second, bool)
            and second == neutral)
