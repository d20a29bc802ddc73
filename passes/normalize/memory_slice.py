"""Which part of a program carries the memory axis from the memory to where it is summed away."""

from __future__ import annotations

from dataclasses import dataclass, field

from hetcc.ir import Graph, Node, OperatorClass
from hetcc.ir.axes import Follow, ValueAxis, contracted, destinations, sources


@dataclass
class MemorySlice:
    """The part of the graph that carries the memory axis from the memory to where it is summed away."""

    scatter: Node
    indices: str
    axis_of: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    """Nodes to clone, by name: they carry the axis in their outputs."""
    ends: dict[str, Node] = field(default_factory=dict)
    """Nodes that sum the axis away; they stay, with new inputs."""
    frontier: dict[str, int] = field(default_factory=dict)
    """Values to gather from -> axis."""
    refusal: str = ""


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
    """Everything between the memory and the sum over it, or why this cannot be narrowed."""
    indices = scatter.operand("indices") or ""
    found = MemorySlice(scatter, indices)
    axis = scatter.integer("axis")
    shape = graph.type_of(indices).shape
    batch = shape[0] if axis != 0 else 1
    queries = graph.type_of(indices).elements // (shape[axis] * batch)
    if queries != 1:
        found.refusal = f"{queries} queries select from the same memory; masking reads it once"
        return found
    if shape[axis] >= graph.type_of(scatter.outputs[0]).shape[axis]:
        found.refusal = "everything is selected"
        return found
    _walk_forward(graph, found, ValueAxis(scatter.outputs[0], axis))
    if found.refusal:
        return found
    if not any(node.operator_class is OperatorClass.SOFTMAX for node in found.nodes.values()):
        found.refusal = "the mask does not reach a softmax"
        return found
    _walk_back(graph, found, batch)
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


def _walk_back(graph: Graph, found: MemorySlice, batch: int) -> None:
    """Pull in what feeds the slice along the memory axis; gather where entries are no longer treated one by one."""
    stack: list[ValueAxis] = []
    for node in found.nodes.values():
        for output in node.outputs:
            stack.extend(sources(graph, node, found.axis_of[output], Follow.PLACE))
    for node in found.ends.values():
        stack.extend(contracted(graph, node))
    while stack:
        position = stack.pop()
        if position.value in found.axis_of or position.value == found.scatter.outputs[0]:
            continue
        found.axis_of[position.value] = position.axis
        producer = graph.producer.get(position.value)
        if producer is not None and _can_follow(graph, found, producer, position):
            steps = sources(graph, producer, position.axis)
            mapped = _outputs_along(graph, producer, steps, position)
            if mapped is not None:
                found.nodes[producer.name] = producer
                found.axis_of.update(mapped)
                stack.extend(steps)
                continue
        found.frontier[position.value] = position.axis
        extent = graph.type_of(position.value).shape[0]
        if batch > 1 and (position.axis == 0 or extent not in (1, batch)):
            found.refusal = f"{position.value} has no batch axis in front"
            return


def _outputs_along(graph: Graph, node: Node, steps: list[ValueAxis], position: ValueAxis) -> dict[str, int] | None:
    """Memory axis of every output of ``node``; None when some output does not carry it."""
    found = {position.value: position.axis}
    for output in node.outputs:
        if output != position.value:
            axes = [place.axis for place in destinations(graph, node, steps[0]) if place.value == output]
            if len(axes) != 1:
                return None
            found[output] = axes[0]
    return found


def _can_follow(graph: Graph, found: MemorySlice, producer: Node, position: ValueAxis) -> bool:
    if producer.operator_class in (OperatorClass.CREATE, OperatorClass.CACHE_UPDATE):
        return False
    same_layer = producer.provenance.layer == found.scatter.provenance.layer
    return same_layer and bool(sources(graph, producer, position.axis))
