"""How long ago each value was touched, in bytes of traffic: what a last-level cache may still hold.

Before: the work of clusters in program order. After: the same work, each read with the bytes moved since the value was
made or read before. A step repeats, so weights and caches were last touched one step ago; inputs come from outside and
never were. All traffic in between counts as distinct, so a distance is never too small. New rows do not bring the rest
of a cache any nearer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from hetcc.cost_model.parts import WorkItem
from hetcc.ir import Graph, Node, Role, Value

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
    reads = [[work.reads for work, _, _ in items] for items in counted]
    touches = Touches.of(graph.values, made, [[[name for _, name in entries] for entries in operators]
                                              for operators in reads])
    found = touches.distances([[[size for size, _ in entries] for entries in operators] for operators in reads],
                              [sum(work.bytes_moved for work, _, _ in items) for items in counted],
                              {name: value.type.size_bytes for name, value in graph.values.items()})
    return [tuple((replace(work, recent=recent) if recent else work, operator_class, dtype)
                  for (work, operator_class, dtype), recent in zip(items, marks, strict=True))
            for items, marks in zip(counted, found, strict=True)]


@dataclass(frozen=True)
class Touches:
    """Which cluster touched every value last before it is read: the same for all sizes of one structure."""

    _reads: tuple[tuple[tuple[_Last | None, ...], ...], ...]
    """Per cluster, operator and read; None for a value that was never touched."""

    @classmethod
    def of(cls, values: Mapping[str, Value], made: Sequence[Sequence[str]],
           reads: Sequence[Sequence[Sequence[str]]]) -> Touches:
        """Those of a program.

        Args:
            values: by name.
            made: values each cluster makes, clusters in program order.
            reads: values in memory that each operator of each cluster reads.
        """
        touched: dict[str, list[int]] = {}
        for position, (own, operators) in enumerate(zip(made, reads, strict=True)):
            for name in dict.fromkeys([*(name for names in operators for name in names), *own]):
                touched.setdefault(name, []).append(position)
        found = []
        for position, operators in enumerate(reads):
            seen = {name: _last(values[name], touched[name], position) for names in operators for name in names}
            found.append(tuple(tuple(seen[name] for name in names) for names in operators))
        return cls(tuple(found))

    def distances(self, sizes: Sequence[Sequence[Sequence[int]]], moved: Sequence[int],
                  size_of: Mapping[str, int]) -> list[tuple[Recent, ...]]:
        """Per cluster and operator, how long ago what it reads was touched.

        Args:
            sizes: bytes of each read of each operator of each cluster.
            moved: bytes each cluster moves.
            size_of: bytes of every value.
        """
        before = [0, *accumulate(moved)]
        return [tuple(tuple((size, last.distance(before, position, size_of))
                            for size, last in zip(entries, lasts, strict=True) if last is not None)
                      for entries, lasts in zip(operators, found, strict=True))
                for position, (operators, found) in enumerate(zip(sizes, self._reads, strict=True))]


@dataclass(frozen=True, slots=True)
class _Last:
    """The last touch of a value before a cluster reads it."""

    name: str
    cluster: int
    wraps: bool
    """The touch was in the step before."""

    def distance(self, before: Sequence[int], position: int, size_of: Mapping[str, int]) -> int:
        """Bytes moved between the touch and the cluster at ``position``, from the bytes moved before each cluster."""
        if not self.wraps:
            return before[position] - before[self.cluster + 1]
        # If the last touch of the step before was this cluster, all it moved but the value itself is in between.
        own = before[position + 1] - before[position] if self.cluster == position else 0
        return before[-1] - before[self.cluster + 1] + before[position] + max(own - size_of[self.name], 0)


def _last(value: Value, touches: Sequence[int], position: int) -> _Last | None:
    place = bisect_left(touches, position)
    if place:
        return _Last(value.name, touches[place - 1], wraps=False)
    if not (value.role.is_weight or value.role is Role.CACHE):
        return None
    return _Last(value.name, touches[-1], wraps=True)
