"""ONNX ``TopK`` written out as comparisons, for the same reasons as ``topk.py`` does it for torch.

Every element is ranked against every other of its row, so this is for short rows; ``hetcc.onnx`` makes short rows of
long ones before. Equal values are ordered by their index, lowest first, as ONNX demands. NaN is not ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy


def without_topk(model: Any) -> Any:
    """A copy of ``model`` in which no ``TopK`` with a known ``k`` is left."""
    import onnx

    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    shapes = {value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
              for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    shapes.update((name, array.shape) for name, array in constants.items())
    nodes: list[Any] = []
    for position, node in enumerate(graph.node):
        if node.op_type == "TopK" and not node.domain and node.input[0] in shapes and node.input[1] in constants:
            ranking = _Ranking(f"hetcc.rank{position}", graph)
            ranking.write(node, shapes[node.input[0]], int(constants[node.input[1]].reshape(-1)[0]))
            nodes.extend(ranking.nodes)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    # torch-mlir wants the type of every intermediate value.
    return onnx.shape_inference.infer_shapes(rewritten) if len(nodes) != len(model.graph.node) else rewritten


class _Ranking:
    """Writes the nodes that stand for one ``TopK``."""

    def __init__(self, prefix: str, graph: Any) -> None:
        self.prefix = prefix
        self.graph = graph
        self.nodes: list[Any] = []

    def write(self, node: Any, shape: Sequence[int], k: int) -> None:
        """Adds nodes that give ``node``'s outputs."""
        attributes = {entry.name: entry.i for entry in node.attribute}
        rank = len(shape)
        axis = attributes.get("axis", -1) % rank
        moved = [*(place for place in range(rank) if place != axis), axis]
        rows = self.add("Transpose", [node.input[0]], perm=moved)
        indices = self._places(rows, shape[axis], k, "Greater" if attributes.get("largest", 1) else "Less")
        values = self.add("GatherElements", [rows, indices], axis=-1)
        back = [moved.index(place) for place in range(rank)]
        for name, output in zip((values, indices), node.output, strict=True):
            if output:
                self.add("Transpose", [name], output, perm=back)

    def _places(self, rows: str, extent: int, k: int, comes_first: str) -> str:
        """Indices ``[..., k]`` of the first ``k`` elements of each row, in order."""
        last, before_last = self.constant([-1]), self.constant([-2])
        mine, other = self.add("Unsqueeze", [rows, last]), self.add("Unsqueeze", [rows, before_last])
        position = self.constant(numpy.arange(extent))
        column = self.add("Unsqueeze", [position, last])
        earlier = self.add("Less", [position, column])
        tied = self.add("And", [self.add("Equal", [other, mine]), earlier])
        ahead = self.add("Or", [self.add(comes_first, [other, mine]), tied])
        ranks = self.add("ReduceSum", [self.add("Cast", [ahead], to=_INT64), last], keepdims=0)
        taken = self.add("Equal", [self.add("Unsqueeze", [ranks, last]), self.constant(numpy.arange(k))])
        chosen = self.add("Where", [taken, column, self.constant([0])])
        return self.add("ReduceSum", [chosen, before_last], keepdims=0)

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Adds one node; the name of its output."""
        import onnx

        name = output or f"{self.prefix}.{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, numbers: Any) -> str:
        """Adds an int64 initialiser; its name."""
        import onnx

        name = f"{self.prefix}.constant{len(self.graph.initializer)}"
        self.graph.initializer.append(onnx.numpy_helper.from_array(numpy.asarray(numbers, dtype=numpy.int64), name))
        return name


_INT64 = 7
"""``onnx.TensorProto.INT64``."""
