"""How long ago each value was touched, in bytes of traffic: what a last-level cache may still hold.

Before: the work of clusters in program order. After: the same work, each read with the bytes moved since the value was
made or read before. A step repeats, so weights and caches were last touched one step ago; inputs come from outside and
never were. All traffic in between counts as distinct, so a distance is never too small. New rows do not bring the rest
of a cache any nearer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from hetcc.cost_model.parts import WorkItem
from hetcc.ir import Graph, Node, Role, Value

Reads = Sequence[tuple[int, str]]
"""(bytes, value in memory) of what an operator reads."""
Recent = tuple[tuple[int, int], ...]
"""(bytes, distance) of those reads whose value was touched before."""


def mark_recent(graph: Graph, groups: Sequence[Sequence[Node]],
                counted: Sequence[tuple[WorkItem, ...]]) -> list[tuple[WorkItem, ...]]:
    """The work of each cluster with the distance of every read whose value was touched before.

    Args:
        graph: a program that is run again and again.
        groups: nodes of each cluster, clusters in program order.
        counted: work of each cluster (``work.works_of``).
    """
    made = [[name for node in nodes for name in node.outputs] for nodes in groups]
    found = distances(graph.values, made, [[work.reads for work, _, _ in items] for items in counted],
                      [sum(work.bytes_moved for work, _, _ in items) for items in counted])
    return [tuple((replace(work, recent=recent) if recent else work, operator_class, dtype)
                  for (work, operator_class, dtype), recent in zip(items, marks, strict=True))
            for items, marks in zip(counted, found, strict=True)]


def distances(values: Mapping[str, Value], made: Sequence[Sequence[str]], reads: Sequence[Sequence[Reads]],
              moved: Sequence[int]) -> list[tuple[Recent, ...]]:
    """Per cluster and operator, how long ago what it reads was touched.

    Args:
        values: by name.
        made: values each cluster makes, clusters in program order.
        reads: per cluster and operator.
        moved: bytes each cluster moves.
    """
    before = [0, *accumulate(moved)]
    touched: dict[str, list[int]] = {}
    for position, (own, operators) in enumerate(zip(made, reads, strict=True)):
        names = dict.fromkeys(name for entries in operators for _, name in entries)
        names.update(dict.fromkeys(own))
        for name in names:
            touched.setdefault(name, []).append(position)
    found = []
    for position, operators in enumerate(reads):
        seen: dict[str, int | None] = {}
        for entries in operators:
            for _, name in entries:
                if name not in seen:
                    seen[name] = _distance(values[name], touched[name], before, position)
        found.append(tuple(tuple((size, distance) for size, name in entries if (distance := seen[name]) is not None)
                           for entries in operators))
    return found


def _distance(value: Value, touches: Sequence[int], before: Sequence[int], position: int) -> int | None:
    """Bytes moved between the last touch of a value and the cluster at ``position``; None if there was none."""
    place = bisect_left(touches, position)
    if place:
        return before[position] - before[touches[place - 1] + 1]
    if not (value.role.is_weight or value.role is Role.CACHE):
        return None
    last = touches[-1]
    # If the last touch of the step before was this cluster, all it moved but the value itself is in between.
    own = before[position + 1] - before[position] if last == position else 0
    return before[-1] - before[last + 1] + before[position] + max(own - value.type.size_bytes, 0)
