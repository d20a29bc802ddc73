"""A graph as text: stable, one line a node, made to be compared line by line.

What stands in the margin depends on what is known: the stage of the memory pipeline, the device, the repeated layer.
Columns have fixed widths, so that one changed node changes one line.
"""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.ir.graph import Argument, Attribute, Graph, Node, Operand
from hetcc.ir.operators import OperatorClass
from hetcc.ir.tags import Tag
from hetcc.ir.types import DType

_STAGE_WIDTH = 9
_DEVICE_WIDTH = 4
_OPERAND_NAMES = ("input", "data", "indices", "updates", "lhs", "rhs", "bias", "query", "key", "value")
"""Attributes that may be positions in a node's inputs; ``value`` is one only for attention."""
_KIND_NAMES = ("function", "kind", "mode")
_SPELLED_OUT = frozenset({OperatorClass.ELEMENTWISE, OperatorClass.CREATE})
"""Classes whose numbers are in the arguments of the source operator, not in attributes."""


def print_graph(graph: Graph, tags: Mapping[str, Tag] | None = None,
                device_of: Mapping[str, str] | None = None) -> str:
    """The graph as text, ending in a newline.

    Args:
        graph: the graph.
        tags: stage of each node by its name; nodes that are absent get an empty margin. None: no such margin.
        device_of: device of each node by its name; None: no such margin.
    """
    lines = [f"graph {graph.name}"]
    external = (value for value in graph.values.values() if value.name not in graph.producer)
    lines += [f"  {value.role.value} {value.name}: {value.type}" for value in external]
    for node in graph.nodes:
        margin = ""
        if tags is not None:
            tag = tags.get(node.name)
            margin += f"{tag.stage.value if tag else '':{_STAGE_WIDTH}} "
        if device_of is not None:
            margin += f"{device_of.get(node.name, ''):{_DEVICE_WIDTH}} "
        line = f"{margin}| {_declared(graph, node)} = {_called(node)}"
        lines.append(line + (f"  @{node.provenance.layer}" if node.provenance.layer else ""))
    lines += [f"  update {update.cache} <- {update.value}" for update in graph.updates]
    lines.append(f"  return {', '.join(graph.outputs)}")
    return "\n".join(lines) + "\n"


def _declared(graph: Graph, node: Node) -> str:
    return ", ".join(f"{name}: {graph.type_of(name)}" for name in node.outputs)


def _called(node: Node) -> str:
    """Class, function and kind, then operands, then what else is known: ``topk(input=scores) axis=2 k=8``."""
    kinds = [str(node.attribute(key)) for key in _KIND_NAMES if node.attribute(key) is not None]
    head = ".".join([node.operator_class.value, *kinds])
    if node.operator_class is OperatorClass.OPAQUE:
        head += f"[{node.operator}]"
    if node.operator_class is OperatorClass.ELEMENTWISE and node.operator.name.lower() != node.attribute("function"):
        head += f"[{node.operator.name}]"
    if node.operator_class in _SPELLED_OUT:
        words = [_spelled(part, node) for part in node.arguments]
        words += [f"{key}={_spelled(part, node)}" for key, part in node.keywords]
        return f"{head}({', '.join(words)})"
    positions = {key: value for key, value in node.attributes if _is_operand(node, key, value)}
    named = {position: key for key, position in positions.items()}
    words = [f"{named[index]}={name}" if index in named else name for index, name in enumerate(node.inputs)]
    rest = [f"{key}={_spelled_attribute(value)}" for key, value in node.attributes
            if key not in positions and key not in _KIND_NAMES]
    return " ".join([f"{head}({', '.join(words)})", *rest])


def _is_operand(node: Node, key: str, value: Attribute) -> bool:
    if key not in _OPERAND_NAMES or isinstance(value, bool) or not isinstance(value, int):
        return False
    return key != "value" or node.operator_class is OperatorClass.ATTENTION


def _spelled(part: Argument, node: Node) -> str:
    if isinstance(part, Operand):
        return node.inputs[part.index]
    if isinstance(part, DType):
        return part.value
    if isinstance(part, tuple):
        return "[" + ",".join(_spelled(entry, node) for entry in part) + "]"
    return repr(part)


def _spelled_attribute(value: Attribute) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, tuple) else repr(value)
