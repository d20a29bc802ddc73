"""Caches that count, and the rows they allow a step to write: nothing else keeps a step from writing past a table."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from hetcc.errors import UserError
from hetcc.ir import Graph, OperatorClass
from hetcc.ir.appends import count_of


@dataclass(frozen=True, slots=True)
class Counter:
    """An integer cache that says which rows of tables a step writes."""

    cache: str
    step: int
    """What a step adds to it."""
    room: int
    """Greatest count at which a step still writes inside every table."""


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
        count = count_of(graph, producers, positions)
        if count is not None and count.cache:
            left = graph.type_of(table).shape[axis] - 1 - count.offset
            room[count.cache] = min(room.get(count.cache, left), left)
    steps = {update.cache: count_of(graph, producers, update.value) for update in graph.updates if update.cache in room}
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


__all__ = ["Counter", "check_room", "counters_of"]
