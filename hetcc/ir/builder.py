"""Making nodes: each domain (aten, onnx) spells them its own way, passes only say what they want."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from hetcc.ir.graph import Graph, Node, Provenance, Value
from hetcc.ir.types import TensorType


class Builder(Protocol):
    """Constructors of nodes in one domain. Each returns the node and declares its output with the given type."""

    domain: str

    def resized(self, node: Node, output_shapes: tuple[tuple[int, ...], ...]) -> Node | None:
        """``node`` producing other shapes from inputs of fitting shapes; None when it cannot be resized."""
        ...

    def fill(self, name: str, output: Value, value: bool | int | float, provenance: Provenance) -> Node:
        """A tensor full of ``value``."""
        ...

    def reshape(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``source`` with another shape."""
        ...

    def expand(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``source`` broadcast along axes of extent 1."""
        ...

    def gather_rows(self, name: str, data: str, indices: str, axis: int, output: Value, provenance: Provenance) -> Node:
        """Whole slices of ``data`` at the one-dimensional ``indices`` along ``axis``."""
        ...

    def gather_along(self, name: str, data: str, indices: str, axis: int, output: Value,
                     provenance: Provenance) -> Node:
        """Elements of ``data`` at ``indices`` (of the output's shape) along ``axis``."""
        ...

    def permute(self, name: str, source: str, order: tuple[int, ...], output: Value, provenance: Provenance) -> Node:
        """``source`` with its axes in another order."""
        ...

    def slice(self, name: str, source: str, axis: int, span: tuple[int, int, int], output: Value,
              provenance: Provenance) -> Node:
        """Entries of ``source`` from ``span[0]`` to before ``span[1]`` in steps of ``span[2]`` along ``axis``."""
        ...

    def matmul(self, name: str, lhs: str, rhs: str, output: Value, provenance: Provenance) -> Node:
        """The product of two matrices, or of two equally long stacks of them."""
        ...

    def add(self, name: str, first: str, second: str, output: Value, provenance: Provenance) -> Node:
        """The sum of two tensors of one shape."""
        ...


@dataclass(frozen=True, slots=True)
class Resize:
    """A value's new extent along one axis."""

    axis: int
    extent: int

    def apply(self, tensor_type: TensorType) -> TensorType:
        """The type after the change."""
        shape = list(tensor_type.shape)
        shape[self.axis] = self.extent
        return TensorType(tuple(shape), tensor_type.dtype)


class TypeChange(Protocol):
    """Another type for a value."""

    def apply(self, tensor_type: TensorType) -> TensorType:
        """The type after the change."""
        ...


def resize(graph: Graph, changes: Mapping[str, TypeChange], builder: Builder) -> Graph | None:
    """``graph`` with other types of values; None when some node cannot be resized."""
    values = {name: replace(value, type=changes[name].apply(value.type)) if name in changes else value
              for name, value in graph.values.items()}
    nodes: list[Node] = []
    for node in graph.nodes:
        if not changes.keys() & set(node.outputs):
            nodes.append(node)
            continue
        changed = builder.resized(node, tuple(values[name].type.shape for name in node.outputs))
        if changed is None:
            return None
        nodes.append(changed)
    return replace(graph, nodes=tuple(nodes), values=values)


def in_order(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes sorted so that producers precede consumers, otherwise in the order given."""
    listed = tuple(nodes)
    position = {name: place for place, node in enumerate(listed) for name in node.outputs}
    waiting = [len({position[name] for name in node.inputs if name in position}) for node in listed]
    users: list[set[int]] = [set() for _ in listed]
    for place, node in enumerate(listed):
        for name in node.inputs:
            if name in position:
                users[position[name]].add(place)
    ready = [place for place, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    ordered: list[Node] = []
    while ready:
        place = heapq.heappop(ready)
        ordered.append(listed[place])
        for user in users[place]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return tuple(ordered)
