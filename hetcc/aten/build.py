"""Nodes in the aten domain."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hetcc.aten.classify import Call, classify
from hetcc.ir import Argument, Graph, Node, Operand, OperatorClass, Provenance, SourceOperator, TensorType, Value

_SIZE_ARGUMENT = {"view": 1, "_unsafe_view": 1, "reshape": 1, "expand": 1, "full": 0, "empty": 0, "zeros": 0, "ones": 0}
_EXPLICIT_SIZES = frozenset({"repeat", "arange", "constant_pad_nd", "new_empty", "new_zeros", "new_full", "split"})


def builder_of(graph: Graph) -> AtenBuilder:
    """The builder for nodes that are to stand among those of ``graph``."""
    del graph
    return AtenBuilder()


@dataclass(frozen=True)
class AtenBuilder:
    """Constructors of aten nodes."""

    domain: str = "aten"

    def resized(self, node: Node, output_shapes: tuple[tuple[int, ...], ...]) -> Node | None:
        """See :class:`hetcc.ir.builder.Builder`."""
        name = node.operator.name
        if name in _EXPLICIT_SIZES or node.operator_class in (OperatorClass.OPAQUE, OperatorClass.CONVOLUTION):
            return None
        position = _SIZE_ARGUMENT.get(name)
        if position is None:
            return node
        arguments = list(node.arguments)
        arguments[position] = tuple(output_shapes[0])
        return replace(node, arguments=tuple(arguments))

    def fill(self, name: str, output: Value, value: bool | int | float, provenance: Provenance) -> Node:
        """``aten.full``."""
        return _node(name, "full", "default", (), (output.type.shape, value), output, (), provenance,
                     (("dtype", output.type.dtype),))

    def reshape(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``aten.view``."""
        return _node(name, "view", "default", (source,), (Operand(0), output.type.shape), output, (), provenance)

    def expand(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``aten.expand``."""
        return _node(name, "expand", "default", (source,), (Operand(0), output.type.shape), output, (), provenance)

    def gather_rows(self, name: str, data: str, indices: str, axis: int, output: Value, provenance: Provenance) -> Node:
        """``aten.index_select``."""
        return _node(name, "index_select", "default", (data, indices), (Operand(0), axis, Operand(1)), output,
                     (output.type, output.type), provenance)

    def gather_along(self, name: str, data: str, indices: str, axis: int, output: Value,
                     provenance: Provenance) -> Node:
        """``aten.gather``."""
        return _node(name, "gather", "default", (data, indices), (Operand(0), axis, Operand(1)), output,
                     (output.type, output.type), provenance)

    def permute(self, name: str, source: str, order: tuple[int, ...], output: Value, provenance: Provenance) -> Node:
        """``aten.permute``."""
        return _node(name, "permute", "default", (source,), (Operand(0), order), output, (), provenance)

    def slice(self, name: str, source: str, axis: int, span: tuple[int, int, int], output: Value,
              provenance: Provenance) -> Node:
        """``aten.slice``."""
        shape = list(output.type.shape)
        shape[axis] = span[1]
        return _node(name, "slice", "Tensor", (source,), (Operand(0), axis, *span), output,
                     (TensorType(tuple(shape), output.type.dtype),), provenance)

    def matmul(self, name: str, lhs: str, rhs: str, output: Value, provenance: Provenance) -> Node:
        """``aten.mm`` or ``aten.bmm``."""
        operator = "mm" if len(output.type.shape) == 2 else "bmm"
        return _node(name, operator, "default", (lhs, rhs), (Operand(0), Operand(1)), output,
                     (output.type, output.type), provenance)

    def add(self, name: str, first: str, second: str, output: Value, provenance: Provenance) -> Node:
        """``aten.add``."""
        return _node(name, "add", "Tensor", (first, second), (Operand(0), Operand(1)), output,
                     (output.type, output.type), provenance)

    def copy(self, name: str, source: str, output: Value, provenance: Provenance) -> Node:
        """``aten.clone``."""
        return _node(name, "clone", "default", (source,), (Operand(0),), output, (), provenance)

    def concat(self, name: str, parts: tuple[str, ...], axis: int, output: Value, provenance: Provenance) -> Node:
        """``aten.cat``."""
        operands = tuple(Operand(position) for position in range(len(parts)))
        return _node(name, "cat", "default", parts, (operands, axis), output, (output.type,) * len(parts), provenance)


def _node(
    name: str, operator: str, overload: str, inputs: tuple[str, ...], arguments: tuple[Argument, ...], output: Value,
    ranks: tuple[TensorType, ...], provenance: Provenance, keywords: tuple[tuple[str, Argument], ...] = (),
) -> Node:
    """A node with one output; ``ranks`` stands for the input types where classification needs their rank."""
    call = Call(operator, arguments, dict(keywords), ranks or (output.type,), (output.type,))
    operator_class, attributes = classify(call)
    return Node(name, SourceOperator("aten", operator, overload), operator_class, inputs, (output.name,), arguments,
                keywords, attributes, provenance)
