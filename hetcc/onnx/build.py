"""Nodes in the onnx domain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from hetcc.errors import InternalError
from hetcc.ir import Argument, Graph, Node, Operand, OperatorClass, Provenance, SourceOperator, TensorType, Value
from hetcc.onnx.classify import Call, classify
from hetcc.onnx.states import INDEX_COPY_DOMAIN
from hetcc.onnx.types import Literal, is_literal, literal_of

_SIZE_ARGUMENT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
_EXPLICIT_SIZES = frozenset({"Tile", "Pad", "Range", "OneHot", "Resize", "Split"})


def builder_of(graph: Graph) -> OnnxBuilder:
    """The builder for nodes that are to stand among those of ``graph``: they are of its operator set version.

    Raises:
        InternalError: HET-I001, no node of ``graph`` is of ONNX's default domain.
    """
    for node in graph.nodes:
        domain, _, version = node.operator.overload.rpartition(":")
        if node.operator.domain == "onnx" and domain in ("", INDEX_COPY_DOMAIN):
            return OnnxBuilder(int(version))
    raise InternalError("HET-I001", "the program has no ONNX operator to take the version of", where=graph.name)


@dataclass(frozen=True)
class OnnxBuilder:
    """Constructors of ONNX nodes."""

    version: int
    """Version of the operator set of the default domain; a program must not mix two."""
    domain: str = "onnx"

    def resized(self, node: Node, output_shapes: tuple[tuple[int, ...], ...]) -> Node | None:
        """See :class:`hetcc.ir.builder.Builder`."""
        name = node.operator.name
        if name in _EXPLICIT_SIZES or node.operator_class in (OperatorClass.OPAQUE, OperatorClass.CONVOLUTION):
            return None
        if node.attribute("kind") == "slice":
            start, stop, step = (node.integer(key) for key in ("start", "stop", "step"))
            kept = -(-(stop - start) // step)
            return node if output_shapes[0][node.integer("axis")] == kept else None
        position = _SIZE_ARGUMENT.get(name)
        if position is None:
            return node
        arguments = list(node.arguments)
        if not is_literal(arguments[position]):
            return None
        arguments[position] = _whole_numbers(output_shapes[0])
        return replace(node, arguments=tuple(arguments))

    def fill(self, name: str, output: Value, value: bool | int | float, provenance: Provenance) -> Node:
        """``ConstantOfShape``."""
        filled: Literal = (output.type.dtype, (1,), (float(value) if output.type.dtype.is_floating else value,))
        return self._node(name, "ConstantOfShape", (), (_whole_numbers(output.type.shape),), output, provenance,
                          (("value", filled),))

    def reshape(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``Reshape``."""
        return self._node(name, "Reshape", (source,), (Operand(0), _whole_numbers(output.type.shape)), output,
                          provenance)

    def expand(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``Expand``."""
        return self._node(name, "Expand", (source,), (Operand(0), _whole_numbers(output.type.shape)), output,
                          provenance)

    def gather_rows(self, name: str, data: str, indices: str, axis: int, output: Value, provenance: Provenance) -> Node:
        """``Gather``."""
        return self._node(name, "Gather", (data, indices), (Operand(0), Operand(1)), output, provenance,
                          (("axis", axis),))

    def gather_along(self, name: str, data: str, indices: str, axis: int, output: Value,
                     provenance: Provenance) -> Node:
        """``GatherElements``."""
        return self._node(name, "GatherElements", (data, indices), (Operand(0), Operand(1)), output, provenance,
                          (("axis", axis),))

    def permute(self, name: str, source: str, order: tuple[int, ...], output: Value, provenance: Provenance) -> Node:
        """``Transpose``."""
        return self._node(name, "Transpose", (source,), (Operand(0),), output, provenance, (("perm", order),))

    def slice(self, name: str, source: str, axis: int, span: tuple[int, int, int], output: Value,
              provenance: Provenance) -> Node:
        """``Slice``."""
        numbers = tuple(_whole_numbers((number,)) for number in (span[0], span[1], axis, span[2]))
        node = self._node(name, "Slice", (source,), (Operand(0), *numbers), output, provenance)
        # Classification knows only the result's extent and would cut the span to it.
        attributes = (("axis", axis), ("kind", "slice"), ("start", span[0]), ("step", span[2]), ("stop", span[1]))
        return replace(node, attributes=attributes)

    def matmul(self, name: str, lhs: str, rhs: str, output: Value, provenance: Provenance) -> Node:
        """``MatMul``."""
        return self._node(name, "MatMul", (lhs, rhs), (Operand(0), Operand(1)), output, provenance)

    def add(self, name: str, first: str, second: str, output: Value, provenance: Provenance) -> Node:
        """``Add``."""
        return self._node(name, "Add", (first, second), (Operand(0), Operand(1)), output, provenance)

    def concat(self, name: str, parts: tuple[str, ...], axis: int, output: Value, provenance: Provenance) -> Node:
        """``Concat``; a part that is given twice is one input that is named twice."""
        inputs = tuple(dict.fromkeys(parts))
        return self._node(name, "Concat", inputs, tuple(Operand(inputs.index(part)) for part in parts), output,
                          provenance, (("axis", axis),))

    def _node(self, name: str, operator: str, inputs: tuple[str, ...], arguments: tuple[Argument, ...], output: Value,
              provenance: Provenance, keywords: tuple[tuple[str, Argument], ...] = ()) -> Node:
        """A node with one output, whose type stands for the input types where classification needs their rank."""
        ranks: tuple[TensorType, ...] = (output.type,) * len(inputs)
        call = Call(operator, self.version, arguments, dict(keywords), ranks, (output.type,))
        operator_class, attributes = classify(call)
        return Node(name, SourceOperator("onnx", operator, str(self.version)), operator_class, inputs, (output.name,),
                    arguments, keywords, attributes, provenance)


def _whole_numbers(numbers: tuple[int, ...]) -> Literal:
    return literal_of(numpy.array(numbers, numpy.int64), "")
