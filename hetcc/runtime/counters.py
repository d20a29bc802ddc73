"""Caches that count, and the rows they allow a step to write: nothing else keeps a step from writing past a table."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from hetcc.errors import UserError
from hetcc.ir import DType, Graph, Node, OperatorClass, Role


@dataclass(frozen=True, slots=True)
class Counter:
    """An integer cache that says which rows of tables a step writes."""

    cache: str
    step: int
    """What a step adds to it."""
    room: int
    """Greatest count at which a step still writes inside every table."""


@dataclass(frozen=True, slots=True)
class _Count:
    """The value of ``cache`` (none: zero) plus at most ``offset``."""

    cache: str
    offset: int


def counters_of(graph: Graph) -> tuple[Counter, ...]:
    """The counters of a program, found by following the positions of its cache updates through sums.

    Positions that wrap or are chosen in another way have no counter; they are bounded by how they are made.
    """
    producers = {output: node for node in graph.nodes for output in node.outputs}
    room: dict[str, int] = {}
    for node in graph.nodes:
        if node.operator_class is not OperatorClass.CACHE_UPDATE:
            continue
        table, positions = node.operand("data"), node.operand("indices")
        axis = node.attribute("axis")
        if table is None or positions is None or not isinstance(axis, int):
            continue
        count = _count(graph, producers, positions)
        if count is not None and count.cache:
            left = graph.type_of(table).shape[axis] - 1 - count.offset
            room[count.cache] = min(room.get(count.cache, left), left)
    steps = {update.cache: _count(graph, producers, update.value) for update in graph.updates if update.cache in room}
    return tuple(Counter(cache, step.offset, room[cache]) for cache, step in steps.items()
                 if step is not None and step.cache == cache)


def check_room(counters: Sequence[Counter], counts: MutableMapping[str, int], phase: str) -> None:
    """Refuse a step that would write past the end of a table, and count it if it would not.

    Args:
        counters: of the phase.
        counts: what the counters hold; changed.
        phase: for the message.

    Raises:
        UserError: HET-R002.
    """
    for counter in counters:
        held = counts.get(counter.cache, 0)
        if held > counter.room:
            raise UserError("HET-R002", f"the caches hold {held} entries and a step of {phase} writes {counter.step} "
                            f"more, there is room for {counter.room + counter.step}", where=counter.cache,
                            fix="reset the session, or compile with a larger --context")
    for counter in counters:
        counts[counter.cache] = counts.get(counter.cache, 0) + counter.step


def _count(graph: Graph, producers: dict[str, Node], name: str) -> _Count | None:
    value = graph.values[name]
    if value.role is Role.CACHE:
        counts = math.prod(value.type.shape) == 1 and value.type.dtype in (DType.INT64, DType.INT32)
        return _Count(name, 0) if counts else None
    node = producers.get(name)
    if node is None:
        return None
    if node.operator_class is OperatorClass.CREATE and node.attribute("function") == "arange":
        return _greatest(node)
    if node.operator_class in (OperatorClass.VIEW, OperatorClass.COPY) or node.attribute("function") == "cast":
        return _count(graph, producers, node.inputs[0])
    if node.attribute("function") == "add":
        return _sum(graph, producers, node)
    return None


def _greatest(node: Node) -> _Count | None:
    """Of an ``arange``: its last number, if it is written with plain numbers."""
    bounds = [argument for argument in node.arguments if isinstance(argument, int)]
    if len(bounds) != len(node.arguments) or not 1 <= len(bounds) <= 3:
        return None
    numbers = range(*bounds)
    return _Count("", max(numbers)) if numbers else None


def _sum(graph: Graph, producers: dict[str, Node], node: Node) -> _Count | None:
    """Of an addition: at most one counter, and offsets; a scaled addition is none."""
    parts = [_count(graph, producers, name) for name in node.inputs]
    numbers = [argument for argument in node.arguments if isinstance(argument, int)]
    if node.keywords or any(part is None for part in parts) or len(parts) + len(numbers) != 2:
        return None
    counted = [part for part in parts if part is not None]
    caches = [part.cache for part in counted if part.cache]
    if len(caches) > 1:
        return None
    return _Count(caches[0] if caches else "", sum(part.offset for part in counted) + sum(numbers))


__all__ = ["Counter", "check_room", "counters_of"]
