"""A region as JSON, for handing it to a child process. Not a stored format: both ends are the same version of hetcc."""

from __future__ import annotations

import json
from typing import Any

from hetcc.ir import (
    Argument,
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    OperatorClass,
    Role,
    SourceOperator,
    TensorType,
    Value,
)


def dump_region(region: Graph) -> bytes:
    """The region without provenance; equal regions give equal bytes."""
    document = {
        "name": region.name,
        "values": [[value.name, list(value.type.shape), value.type.dtype.value, value.role.value]
                   for value in region.values.values()],
        "nodes": [_node(node) for node in region.nodes],
        "inputs": region.inputs,
        "outputs": region.outputs,
        "caches": region.caches,
        "updates": [[update.cache, update.value] for update in region.updates],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def load_region(data: bytes) -> Graph:
    """What :func:`dump_region` wrote; ``Graph`` checks it again."""
    document = json.loads(data)
    values = {name: Value(name, TensorType(tuple(shape), DType(dtype)), Role(role))
              for name, shape, dtype, role in document["values"]}
    return Graph(
        document["name"],
        tuple(_read_node(entry) for entry in document["nodes"]),
        values,
        tuple(document["inputs"]),
        tuple(document["outputs"]),
        tuple(document["caches"]),
        tuple(CacheUpdate(cache, value) for cache, value in document["updates"]),
    )


def _node(node: Node) -> list[Any]:
    source = node.operator
    return [node.name, [source.domain, source.name, source.overload], node.operator_class.value, node.inputs,
            node.outputs, [_argument(value) for value in node.arguments],
            [[key, _argument(value)] for key, value in node.keywords],
            [[key, value] for key, value in node.attributes]]


def _read_node(entry: list[Any]) -> Node:
    name, source, operator_class, inputs, outputs, arguments, keywords, attributes = entry
    return Node(
        name, SourceOperator(*source), OperatorClass(operator_class), tuple(inputs), tuple(outputs),
        tuple(_read_argument(value) for value in arguments),
        tuple((key, _read_argument(value)) for key, value in keywords),
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in attributes),
    )


def _argument(value: Argument) -> Any:
    """Plain data; what JSON cannot tell apart is wrapped in a one-key object."""
    if isinstance(value, Operand):
        return {"operand": value.index}
    if isinstance(value, DType):
        return {"dtype": value.value}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, tuple):
        return [_argument(part) for part in value]
    return value


def _read_argument(value: Any) -> Argument:
    if isinstance(value, dict):
        (kind, content), = value.items()
        if kind == "operand":
            return Operand(content)
        return DType(content) if kind == "dtype" else float.fromhex(content)
    if isinstance(value, list):
        return tuple(_read_argument(part) for part in value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{value!r} is not an argument")
