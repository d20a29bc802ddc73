"""Graphs as JSON: compact, canonical, and read back without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hetcc.errors import InternalError, UserError
from hetcc.ir.graph import Argument, CacheUpdate, Graph, Node, Operand, Provenance, Role, Value
from hetcc.ir.operators import OperatorClass, SourceOperator
from hetcc.ir.tags import Stage, Tag, TaggedGraph
from hetcc.ir.types import DType, TensorType

Read = TypeVar("Read")
GRAPH_SCHEMA = "hetcc-graph/1"


def graph_to_bytes(graph: Graph, *, provenance: bool = True) -> bytes:
    """Canonical bytes of a graph; without provenance, equal programs of equal names give equal bytes."""
    return _compact(graph_to_document(graph, provenance=provenance))


def graph_from_bytes(data: bytes) -> Graph:
    """What :func:`graph_to_bytes` wrote.

    Raises:
        UserError: HET-B003, the bytes are no graph of this version.
    """
    return reading(lambda: graph_from_document(json.loads(data)))


def tagged_to_bytes(tagged: TaggedGraph) -> bytes:
    """Canonical bytes of a graph with its stage table."""
    document = graph_to_document(tagged.graph, provenance=True)
    document["tags"] = [[name, tag.stage.value, tag.pipeline, list(tag.evidence)] for name, tag in tagged.tags.items()]
    return _compact(document)


def tagged_from_bytes(data: bytes) -> TaggedGraph:
    """What :func:`tagged_to_bytes` wrote.

    Raises:
        UserError: HET-B003, the bytes are no tagged graph of this version.
    """
    def read() -> TaggedGraph:
        document = json.loads(data)
        tags = {name: Tag(Stage(stage), pipeline, tuple(evidence))
                for name, stage, pipeline, evidence in document["tags"]}
        return TaggedGraph(graph_from_document(document), tags)

    return reading(read)


def graph_to_document(graph: Graph, *, provenance: bool) -> dict[str, Any]:
    """The graph as plain data."""
    return {
        "schema": GRAPH_SCHEMA,
        "name": graph.name,
        "values": [[value.name, list(value.type.shape), value.type.dtype.value, value.role.value]
                   for value in graph.values.values()],
        "nodes": [_node(node, provenance) for node in graph.nodes],
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "caches": list(graph.caches),
        "updates": [[update.cache, update.value] for update in graph.updates],
    }


def graph_from_document(document: dict[str, Any]) -> Graph:
    """The graph of :func:`graph_to_document`; ``Graph`` validates it."""
    values = {name: Value(name, TensorType(tuple(shape), DType(dtype)), Role(role))
              for name, shape, dtype, role in document["values"]}
    return Graph(
        document["name"], tuple(_read_node(entry) for entry in document["nodes"]), values, tuple(document["inputs"]),
        tuple(document["outputs"]), tuple(document["caches"]),
        tuple(CacheUpdate(cache, value) for cache, value in document["updates"]),
    )


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def reading(read: Callable[[], Read]) -> Read:
    """What ``read`` makes of plain data.

    Raises:
        UserError: HET-B003, the data is not what it should be.
    """
    try:
        return read()
    except (ValueError, KeyError, TypeError, IndexError, InternalError) as error:
        raise UserError("HET-B003", f"the graph cannot be read: {error}", fix="compile the model again") from error


def _node(node: Node, provenance: bool) -> list[Any]:
    source = node.operator
    entry = [node.name, [source.domain, source.name, source.overload], node.operator_class.value, list(node.inputs),
             list(node.outputs), [_argument(part) for part in node.arguments],
             [[key, _argument(part)] for key, part in node.keywords],
             [[key, list(part) if isinstance(part, tuple) else _argument(part)] for key, part in node.attributes]]
    if provenance:
        entry.append([node.provenance.module_path, node.provenance.module_class, node.provenance.source])
    return entry


def _read_node(entry: list[Any]) -> Node:
    name, source, operator_class, inputs, outputs, arguments, keywords, attributes, *rest = entry
    return Node(
        name, SourceOperator(*source), OperatorClass(operator_class), tuple(inputs), tuple(outputs),
        tuple(_read_argument(part) for part in arguments),
        tuple((key, _read_argument(part)) for key, part in keywords),
        tuple((key, tuple(part) if isinstance(part, list) else _read_argument(part)) for key, part in attributes),
        Provenance(*rest[0]) if rest else Provenance(),
    )


def _argument(part: Argument) -> Any:
    """Plain data; what JSON cannot tell apart is wrapped in a one-key object."""
    if isinstance(part, Operand):
        return {"operand": part.index}
    if isinstance(part, DType):
        return {"dtype": part.value}
    if isinstance(part, float):
        return {"float": part.hex()}
    if isinstance(part, tuple):
        return [_argument(entry) for entry in part]
    return part


def _read_argument(part: Any) -> Any:
    if isinstance(part, dict):
        (kind, content), = part.items()
        if kind == "operand":
            return Operand(content)
        return DType(content) if kind == "dtype" else float.fromhex(content)
    if isinstance(part, list):
        return tuple(_read_argument(entry) for entry in part)
    return part
