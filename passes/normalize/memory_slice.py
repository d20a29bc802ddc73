"""Which part of a program carries the memory axis from the memory to where it is summed away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hetcc.ir import Graph, Node, OperatorClass
from hetcc.ir.axes import Follow, ValueAxis, contracted, destinations, sources, unmerged_axis


@dataclass
class MemorySlice:
    """The part of the graph that carries the memory axis from the memory to where it is summed away."""

    scatter: Node
    indices: str
    index_shape: tuple[int, ...]
    extent: int
    """Entries of the memory."""
    axis_of: dict[str, int] = field(default_factory=dict)
    outer: dict[str, int] = field(default_factory=dict)
    """Values whose memory axis is merged with axes before it (batch and memory in one) -> extent of those."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """Nodes to clone, by name: they carry the axis in their outputs."""
    ends: dict[str, Node] = field(default_factory=dict)
    """Nodes that sum the axis away; they stay, with new inputs."""
    frontier: dict[str, int] = field(default_factory=dict)
    """Values to gather from -> axis."""
    refusal: str = ""

    @property
    def batch(self) -> int:
        """Sequences that select for themselves."""
        return self.index_shape[0] if self.scatter.integer("axis") != 0 else 1

    def outer_of(self, value: str) -> int:
        """How many memories lie one after the other along the memory axis of ``value``."""
        return self.outer.get(value, 1)


def is_candidate(graph: Graph, node: Node) -> bool:
    """A constant scattered into a constant tensor at indices that come from a top-k."""
    if node.operator_class is not OperatorClass.SCATTER or node.attribute("value") is None:
        return False
    data, indices = node.operand("data"), node.operand("indices")
    if data is None or indices is None or node.attribute("mode") != "along":
        return False
    base = graph.producer.get(data)
    chosen = graph.producer.get(indices)
    while chosen is not None and (chosen.operator_class is OperatorClass.VIEW
                                  or chosen.attribute("function") == "cast"):
        chosen = graph.producer.get(chosen.inputs[0])
    return (base is not None and base.operator_class is OperatorClass.CREATE
            and chosen is not None and chosen.operator_class is OperatorClass.TOPK)


def collect_slice(graph: Graph, scatter: Node) -> MemorySlice:
    """Everything between the memory and the sum over it, or why this cannot be narrowed.

    Reshapes that merge the batch and the memory axis are followed where a gather in front of them is possible; else
    the gather stays behind them.
    """
    found = _collect(graph, scatter, through_merges=True)
    return _collect(graph, scatter, through_merges=False) if found.refusal else found


def _collect(graph: Graph, scatter: Node, *, through_merges: bool) -> MemorySlice:
    indices = scatter.operand("indices") or ""
    axis = scatter.integer("axis")
    shape = graph.type_of(indices).shape
    found = MemorySlice(scatter, indices, shape, graph.type_of(scatter.outputs[0]).shape[axis])
    queries = graph.type_of(indices).elements // (shape[axis] * found.batch)
    if queries != 1:
        found.refusal = f"{queries} queries select from the same memory; masking reads it once"
        return found
    if shape[axis] >= found.extent:
        found.refusal = "everything is selected"
        return found
    _walk_forward(graph, found, ValueAxis(scatter.outputs[0], axis))
    if found.refusal:
        return found
    if not any(node.operator_class is OperatorClass.SOFTMAX for node in found.nodes.values()):
        found.refusal = "the mask does not reach a softmax"
        return found
    _walk_back(graph, found, through_merges)
    return found


def _walk_forward(graph: Graph, found: MemorySlice, start: ValueAxis) -> None:
    stack = [start]
    found.axis_of[start.value] = start.axis
    while stack:
        position = stack.pop()
        if position.value in graph.results:
            found.refusal = f"{position.value} is a result of the program"
            return
        for node in graph.consumers_of(position.value):
            following = destinations(graph, node, position, Follow.PLACE)
            if position in contracted(graph, node):
                found.ends[node.name] = node
            elif len(following) != 1:
                found.refusal = f"{node.name} mixes entries of the memory"
                return
            else:
                found.nodes[node.name] = node
                if following[0].value not in found.axis_of:
                    found.axis_of[following[0].value] = following[0].axis
                    stack.append(following[0])


def _walk_back(graph: Graph, found: MemorySlice, through_merges: bool) -> None:
    """Pull in what feeds the slice along the memory axis; gather where entries are no longer treated one by one."""
    stack: list[tuple[ValueAxis, int]] = []
    for node in found.nodes.values():
        for output in node.outputs:
            stack.extend((step, 1) for step in sources(graph, node, found.axis_of[output], Follow.PLACE))
    for node in found.ends.values():
        stack.extend((step, 1) for step in contracted(graph, node))
    while stack:
        position, outer = stack.pop()
        if position.value in found.axis_of or position.value == found.scatter.outputs[0]:
            continue
        found.axis_of[position.value] = position.axis
        if outer > 1:
            found.outer[position.value] = outer
        producer = graph.producer.get(position.value)
        if producer is not None and _can_follow(found, producer):
            steps = _steps_back(graph, found, producer, position, outer, through_merges)
            mapped = _outputs_along(graph, producer, steps, position)
            if mapped is not None:
                found.nodes[producer.name] = producer
                found.axis_of.update(mapped)
                found.outer.update(dict.fromkeys(mapped, outer) if outer > 1 else {})
                stack.extend(steps)
                continue
        found.frontier[position.value] = position.axis
        if not _can_gather(graph, found, position, outer):
            found.refusal = f"{position.value} has no batch axis in front"
            return


def _steps_back(graph: Graph, found: MemorySlice, producer: Node, position: ValueAxis, outer: int,
                through_merges: bool) -> list[tuple[ValueAxis, int]]:
    """Where the memory axis is in the inputs of ``producer``, with the extent that is merged in front of it."""
    steps = sources(graph, producer, position.axis)
    if steps or not through_merges:
        return [(step, outer) for step in steps]
    unmerged = unmerged_axis(graph, producer, position.axis, found.extent)
    return [] if unmerged is None else [unmerged]


def _can_gather(graph: Graph, found: MemorySlice, position: ValueAxis, outer: int) -> bool:
    """Whether every sequence's entries can be told apart there: batch in front, alone or merged with the memory."""
    shape = graph.type_of(position.value).shape
    if outer > 1:
        return outer == found.batch and math.prod(shape[:position.axis]) == 1
    return found.batch == 1 or (position.axis != 0 and shape[0] in (1, found.batch))


def _outputs_along(graph: Graph, node: Node, steps: list[tuple[ValueAxis, int]],
                   position: ValueAxis) -> dict[str, int] | None:
    """Memory axis of every output of ``node``; None when nothing leads there, or some output does not carry it."""
    if not steps:
        return None
    found = {position.value: position.axis}
    for output in node.outputs:
        if output != position.value:
            axes = [place.axis for place in destinations(graph, node, steps[0][0]) if place.value == output]
            if len(axes) != 1:
                return None
            found[output] = axes[0]
    return found


def _can_follow(found: MemorySlice, producer: Node) -> bool:
    if producer.operator_class in (OperatorClass.CREATE, OperatorClass.CACHE_UPDATE):
        return False
    return producer.provenance.layer == found.scatter.provenance.layer
