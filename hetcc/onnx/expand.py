"""Writing an operator as several: the collector they are added to, and rows written into a cache."""

from __future__ import annotations

import math
from typing import Any

import numpy
import onnx

from hetcc.ir import DType, Graph, Node, TensorType
from hetcc.onnx.types import Literal, array_of, literal_of, type_proto_of


class Emitter:
    """Collects the nodes, literals and intermediate types of one program."""

    def __init__(self, region: Graph) -> None:
        self.region = region
        self.nodes: list[Any] = []
        self.literals: list[Any] = []
        self.intermediates: list[Any] = []
        self._name_of: dict[tuple[DType, tuple[int, ...], bytes], str] = {}

    def literal(self, literal: Literal) -> str:
        """The name of an initialiser that holds ``literal``; equal bytes share one."""
        array = array_of(literal)
        key = (literal[0], literal[1], array.tobytes())
        if key not in self._name_of:
            name = self._free(f"literal.{len(self.literals)}")
            self.literals.append(onnx.numpy_helper.from_array(array, name))
            self._name_of[key] = name
        return self._name_of[key]

    def integers(self, *numbers: int) -> str:
        """The name of an initialiser that holds a list of ``int64``."""
        return self.literal(literal_of(numpy.array(numbers, numpy.int64), "integers"))

    def add(self, node: Node, op_type: str, inputs: list[str], result: TensorType | str, **attributes: Any) -> str:
        """Add an operator that stands for a part of ``node``.

        Args:
            node: the node it is a part of.
            op_type: operator of the default domain.
            inputs: names of its inputs.
            result: type of its only output, or the declared value it computes.
            **attributes: its attributes.

        Returns:
            the name of its output.
        """
        return self.add_many(node, op_type, inputs, (result,), **attributes)[0]

    def add_many(self, node: Node, op_type: str, inputs: list[str], results: tuple[TensorType | str, ...],
                 **attributes: Any) -> list[str]:
        """As :meth:`add`, for an operator of several outputs."""
        label = f"{node.name}/{op_type}.{len(self.nodes)}"
        names = []
        for position, result in enumerate(results):
            name = result if isinstance(result, str) else self._free(f"{label}:{position}" if position else label)
            names.append(name)
            if isinstance(result, TensorType):
                self.intermediates.append(onnx.helper.make_value_info(name, type_proto_of(result)))
        self.nodes.append(onnx.helper.make_node(op_type, inputs, names, name=label, **attributes))
        return names

    def reshape(self, node: Node, value: str, old: TensorType, shape: tuple[int, ...]) -> str:
        """``value`` of type ``old`` in another shape; itself when it has that shape."""
        if old.shape == shape:
            return value
        return self.add(node, "Reshape", [value, self.integers(*shape)], TensorType(shape, old.dtype))

    def _free(self, name: str) -> str:
        while name in self.region.values:
            name += "'"
        return name


def expand_index_copy(emitter: Emitter, node: Node) -> bool:
    """Rows of the matrix ``[outer * extent, inner]`` replaced: no transposed copy of the cache is made."""
    data, indices, updates = (node.operand(name) or "" for name in ("data", "indices", "updates"))
    data_type, index_type, update_type = (emitter.region.type_of(name) for name in (data, indices, updates))
    axis = node.integer("axis")
    extent, count = data_type.shape[axis], index_type.elements
    outer, inner = math.prod(data_type.shape[:axis]), math.prod(data_type.shape[axis + 1:])
    rows = _wrapped(emitter, node, indices, index_type, extent)
    if outer > 1:
        starts = emitter.literal(literal_of(
            (numpy.arange(outer) * extent).reshape(outer, 1).astype(array_of((index_type.dtype, (), (0,))).dtype), ""))
        index_type = TensorType((outer, count), index_type.dtype)
        rows = emitter.add(node, "Add", [starts, rows], index_type)
    points = emitter.reshape(node, rows, index_type, (outer * count, 1))
    if index_type.dtype is not DType.INT64:
        points = emitter.add(node, "Cast", [points], TensorType((outer * count, 1), DType.INT64),
                             to=onnx.TensorProto.INT64)
    matrix = TensorType((outer * extent, inner), data_type.dtype)
    operands = [emitter.reshape(node, data, data_type, matrix.shape), points,
                emitter.reshape(node, updates, update_type, (outer * count, inner))]
    if matrix.shape == data_type.shape:
        emitter.add(node, "ScatterND", operands, node.outputs[0])
    else:
        written = emitter.add(node, "ScatterND", operands, matrix)
        emitter.add(node, "Reshape", [written, emitter.integers(*data_type.shape)], node.outputs[0])
    return True


def _wrapped(emitter: Emitter, node: Node, indices: str, index_type: TensorType, extent: int) -> str:
    """Indices counted from the start; ONNX allows negative ones, which count from the end."""
    zero, size = (emitter.literal((index_type.dtype, (), (number,))) for number in (0, extent))
    negative = emitter.add(node, "Less", [indices, zero], TensorType(index_type.shape, DType.BOOL))
    shifted = emitter.add(node, "Add", [indices, size], index_type)
    return emitter.add(node, "Where", [negative, shifted, indices], index_type)
