"""Cutting a program out of a graph, and telling whether two programs are the same but for their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection

from hetcc.ir.graph import Argument, Graph, Node, Operand, Role, Value
from hetcc.ir.types import DType


def extract(graph: Graph, node_names: Collection[str], name: str) -> Graph:
    """The program made of ``node_names`` alone.

    Activations computed outside become inputs (role ``INPUT``, in order of first use); weights and caches keep their
    roles; values that anything outside needs, or that are results of ``graph``, become outputs; cache updates computed
    inside stay updates.
    """
    chosen = frozenset(node_names)
    nodes = tuple(sorted((graph.node_by_name[name] for name in chosen), key=lambda node: graph.position[node.name]))
    produced = {value for node in nodes for value in node.outputs}
    values: dict[str, Value] = {}
    inputs: list[str] = []
    caches: list[str] = []
    for node in nodes:
        for value_name in node.inputs:
            if value_name in produced or value_name in values:
                continue
            value = graph.values[value_name]
            if value.role in (Role.ACTIVATION, Role.INPUT):
                values[value_name] = Value(value_name, value.type, Role.INPUT)
                inputs.append(value_name)
            else:
                values[value_name] = value
                if value.role is Role.CACHE:
                    caches.append(value_name)
        values.update((output, graph.values[output]) for output in node.outputs)
    updates = tuple(update for update in graph.updates if update.value in produced)
    for update in updates:
        if update.cache not in values:
            values[update.cache] = graph.values[update.cache]
            caches.append(update.cache)
    updated = {update.value for update in updates}
    outputs = tuple(
        value for node in nodes for value in node.outputs
        if value in graph.outputs
        or any(consumer.name not in chosen for consumer in graph.consumers_of(value))
        or (value in graph.results and value not in updated)
    )
    return Graph(name, nodes, values, tuple(inputs), outputs, tuple(caches), updates)


def weights_of(graph: Graph) -> tuple[str, ...]:
    """Names of the parameters, buffers and constants a program reads, in order of first use."""
    seen = dict.fromkeys(name for node in graph.nodes for name in node.inputs)
    return tuple(name for name in seen if graph.values[name].role.is_weight)


def interface_of(graph: Graph) -> tuple[str, ...]:
    """Everything a program is called with, in the one order all back ends use: inputs, weights, caches."""
    return (*graph.inputs, *weights_of(graph), *graph.caches)


def digest_of(graph: Graph) -> str:
    """SHA-256 over everything but names and provenance: equal digests mean interchangeable programs."""
    numbers: dict[str, int] = {}

    def number(value_name: str) -> int:
        return numbers.setdefault(value_name, len(numbers))

    interface = [[number(name), str(graph.type_of(name)), graph.values[name].role.value]
                 for name in interface_of(graph)]
    body = [
        [str(node.operator), [number(name) for name in node.inputs],
         [[number(name), str(graph.type_of(name))] for name in node.outputs],
         _plain(node.arguments), [[key, _plain(value)] for key, value in node.keywords]]
        for node in graph.nodes
    ]
    results = [[number(name) for name in graph.outputs],
               [[number(update.cache), number(update.value)] for update in graph.updates]]
    text = json.dumps([interface, body, results], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(argument: Argument) -> object:
    if isinstance(argument, Operand):
        return {"operand": argument.index}
    if isinstance(argument, DType):
        return {"dtype": argument.value}
    if isinstance(argument, tuple):
        return [_plain(part) for part in argument]
    if isinstance(argument, float):
        return {"float": argument.hex() if argument == argument else "nan"}
    return argument


def rename(node: Node, mapping: dict[str, str], name: str) -> Node:
    """``node`` under another name, with values renamed where ``mapping`` names them."""
    return Node(
        name, node.operator, node.operator_class,
        tuple(mapping.get(value, value) for value in node.inputs),
        tuple(mapping.get(value, value) for value in node.outputs),
        node.arguments, node.keywords, node.attributes, node.provenance,
    )


__all__ = ["digest_of", "extract", "interface_of", "rename", "weights_of"]
