"""Which rows of its tables a step writes, found by following positions through sums to an integer that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.ir.graph import Graph, Node, Role
from hetcc.ir.operators import OperatorClass
from hetcc.ir.types import DType


@dataclass(frozen=True, slots=True)
class Count:
    """The value of ``cache`` (none: zero) plus at most ``offset``."""

    cache: str
    offset: int


@dataclass(frozen=True, slots=True)
class Append:
    """A cache that changes only in rows that nobody reads before they are written."""

    cache: str
    axis: int
    rows: int
    """Written by one step."""
    size_bytes: int
    """Of those rows."""
    counter: str = ""
    """Cache of one integer that says which row is the first; empty: the rows are chosen in another way."""


def appends_of(graph: Graph) -> dict[str, Append]:
    """The caches that are only appended to, by name.

    The operator that updates such a cache is the only one that reads its old contents. So a step that is done again
    from the same inputs and counters writes the same rows, and what an interrupted one left behind does not matter.
    """
    found: dict[str, Append] = {}
    for update in graph.updates:
        node = graph.producer.get(update.value)
        if node is None or node.operator_class is not OperatorClass.CACHE_UPDATE:
            continue
        axis, positions = node.attribute("axis"), node.operand("indices")
        readers = {reader.name for reader in graph.consumers_of(update.cache)}
        if node.operand("data") != update.cache or readers != {node.name} or node.inputs.count(update.cache) != 1 \
                or positions is None or not isinstance(axis, int):
            continue
        kind = graph.type_of(update.cache)
        rows = math.prod(graph.type_of(positions).shape)
        count = count_of(graph, graph.producer, positions)
        dense = count is not None and count.cache and count.offset + 1 == rows
        found[update.cache] = Append(update.cache, axis, rows, kind.size_bytes // max(kind.shape[axis], 1) * rows,
                                     count.cache if dense and count is not None else "")
    return found


def count_of(graph: Graph, producers: Mapping[str, Node], name: str) -> Count | None:
    """The greatest number that an integer value may hold, if it is a counter and a constant added up."""
    value = graph.values[name]
    if value.role is Role.CACHE:
        counts = math.prod(value.type.shape) == 1 and value.type.dtype in (DType.INT64, DType.INT32)
        return Count(name, 0) if counts else None
    node = producers.get(name)
    if node is None:
        return None
    if node.operator_class is OperatorClass.CREATE and node.attribute("function") == "arange":
        return _greatest(node)
    if node.operator_class in (OperatorClass.VIEW, OperatorClass.COPY) or node.attribute("function") == "cast":
        return count_of(graph, producers, node.inputs[0])
    if node.attribute("function") == "add":
        return _sum(graph, producers, node)
    return None


def _greatest(node: Node) -> Count | None:
    """Of an ``arange``: its last number, if it is written with plain numbers."""
    bounds = [argument for argument in node.arguments if isinstance(argument, int)]
    if len(bounds) != len(node.arguments) or not 1 <= len(bounds) <= 3:
        return None
    numbers = range(*bounds)
    return Count("", max(numbers)) if numbers else None


def _sum(graph: Graph, producers: Mapping[str, Node], node: Node) -> Count | None:
    """Of an addition: at most one counter, and offsets; a scaled addition is none."""
    parts = [count_of(graph, producers, name) for name in node.inputs]
    numbers = [argument for argument in node.arguments if isinstance(argument, int)]
    if node.keywords or any(part is None for part in parts) or len(parts) + len(numbers) != 2:
        return None
    counted = [part for part in parts if part is not None]
    caches = [part.cache for part in counted if part.cache]
    if len(caches) > 1:
        return None
    return Count(caches[0] if caches else "", sum(part.offset for part in counted) + sum(numbers))


__all__ = ["Append", "Count", "appends_of", "count_of"]
