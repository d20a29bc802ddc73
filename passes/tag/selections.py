"""Where a program selects from its memory: the anchors from which the four stages are found.

A selection is a top-k, a sort or a threshold comparison whose selected axis, followed back through the graph, is an
axis of something the program remembers (a cache or a table passed in), by way of a product that scores it: a matrix
product, or one that is written out as a multiplication and a sum over another axis. Choosing experts fails this test
by itself: the axis of its scores is an axis of a weight, and weights are not memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hetcc.ir import Graph, Node, OperatorClass, Role
from hetcc.ir.axes import Follow, ValueAxis, sources

_COMPARISONS = frozenset({"ge", "gt", "le", "lt"})
_SUMS = frozenset({"sum", "mean"})
_MEMORY_ROLES = frozenset({Role.CACHE, Role.INPUT})


@dataclass(frozen=True)
class Trace:
    """An axis followed back to where it begins."""

    origins: tuple[ValueAxis, ...]
    """Axes at which the walk ended: of caches, inputs, weights, or of operators that create the axis."""
    memory: tuple[ValueAxis, ...]
    """The origins that are memory and were scored by a product on the way."""
    path: tuple[Node, ...]
    """Nodes between the memory and the start, in no particular order; cache updates themselves excluded."""
    updates: tuple[Node, ...]
    """Cache updates met on the way."""


@dataclass(frozen=True)
class Selection:
    """One selection from memory."""

    node: Node
    scores: ValueAxis
    trace: Trace
    reason: str
    """How it was recognised, as a sentence."""


def trace_back(graph: Graph, start: ValueAxis) -> Trace:
    """Follow ``start`` back to its origins; only branches that reach memory contribute to the path."""
    reaches: dict[ValueAxis, bool] = {}
    origins: dict[ValueAxis, None] = {}
    memory: dict[ValueAxis, None] = {}
    updates: dict[str, Node] = {}
    scored = _ScoredWalk(graph)
    order = scored.order(start)
    for position, crossed in reversed(order):
        producer = graph.producer.get(position.value)
        found = scored.steps(position)
        if found:
            reaches[position] = any(reaches.get(step, False) for step in found)
        else:
            origins[position] = None
            is_memory = graph.values[position.value].role in _MEMORY_ROLES and crossed
            reaches[position] = is_memory
            if is_memory:
                memory[position] = None
        if producer is not None and producer.operator_class is OperatorClass.CACHE_UPDATE and reaches[position]:
            updates[producer.name] = producer
    path: dict[str, Node] = {}
    for position, reached in reaches.items():
        producer = graph.producer.get(position.value)
        if reached and producer is not None and producer.name not in updates:
            path[producer.name] = producer
    return Trace(tuple(origins), tuple(memory), tuple(path.values()), tuple(updates.values()))


class _Scored(IntEnum):
    """What lies between a position and the selection."""

    NOT = 0
    SUMMED = 1
    """A sum over another axis, so that a multiplication before it makes an inner product."""
    PRODUCT = 2


class _ScoredWalk:
    """A depth-first walk from an axis to its sources that remembers whether a product was crossed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def steps(self, position: ValueAxis) -> list[ValueAxis]:
        producer = self.graph.producer.get(position.value)
        return [] if producer is None else sources(self.graph, producer, position.axis, Follow.MEMORY)

    def order(self, start: ValueAxis) -> list[tuple[ValueAxis, bool]]:
        """Visited axes, each after everything it was reached from, with whether a product lies before it."""
        ordered = self._from_start(start)
        crossed = dict.fromkeys(ordered, _Scored.NOT)
        for position in ordered:
            after = self._after(self.graph.producer.get(position.value), crossed[position])
            for step in self.steps(position):
                crossed[step] = max(crossed[step], after)
        return [(position, crossed[position] is _Scored.PRODUCT) for position in ordered]

    def _from_start(self, start: ValueAxis) -> list[ValueAxis]:
        finished: dict[ValueAxis, None] = {}
        entered: set[ValueAxis] = set()
        stack = [(start, False)]
        while stack:
            position, is_left = stack.pop()
            if is_left:
                finished[position] = None
            elif position not in entered:
                entered.add(position)
                stack.append((position, True))
                stack.extend((step, False) for step in self.steps(position))
        return list(reversed(finished))

    def _after(self, producer: Node | None, before: _Scored) -> _Scored:
        """What lies before the operands of a node, given what lies before its result."""
        if producer is None:
            return before
        if producer.operator_class is OperatorClass.MATMUL:
            return _Scored.PRODUCT
        function = producer.attribute("function")
        if producer.operator_class is OperatorClass.REDUCTION and function in _SUMS:
            return max(before, _Scored.SUMMED)
        # The square of the memory is no product with a query.
        if before is _Scored.SUMMED and function == "mul" and len(set(producer.inputs)) > 1:
            return _Scored.PRODUCT
        return before


def find_selections(graph: Graph) -> tuple[Selection, ...]:
    """All selections from memory, in program order."""
    found = []
    for node in graph.nodes:
        candidate = _candidate(graph, node)
        if candidate is None:
            continue
        scores, reason = candidate
        trace = trace_back(graph, scores)
        if trace.memory:
            names = ", ".join(sorted({origin.value for origin in trace.memory}))
            found.append(Selection(node, scores, trace, f"{reason}, which is an axis of {names}"))
    return tuple(found)


def _candidate(graph: Graph, node: Node) -> tuple[ValueAxis, str] | None:
    """The axis a node selects along, if it is the kind of node that selects."""
    if node.operator_class in (OperatorClass.TOPK, OperatorClass.SORT):
        scores = node.operand("input") or node.inputs[0]
        axis = node.integer("axis")
        what = "top-k" if node.operator_class is OperatorClass.TOPK else "sort"
        return ValueAxis(scores, axis), f"{what} along axis {axis} of {scores}"
    if node.operator_class is OperatorClass.ELEMENTWISE and node.attribute("function") in _COMPARISONS:
        rank = len(graph.type_of(node.outputs[0]).shape)
        if rank and node.inputs:
            return ValueAxis(node.inputs[0], len(graph.type_of(node.inputs[0]).shape) - 1), (
                f"threshold comparison of {node.inputs[0]}")
    return None
