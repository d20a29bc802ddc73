"""How long ago each value was touched, in bytes of traffic: what a last-level cache may still hold.

Before: the work of clusters in program order. After: the same work, each read with the bytes moved since the value was
made or read before. A step repeats, so weights and caches were last touched one step ago; inputs come from outside and
never were. All traffic in between counts as distinct, so a distance is never too small. New rows do not bring the rest
of a cache any nearer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from hetcc.cost_model.parts import WorkItem
from hetcc.ir import Graph, Node, Role


def mark_recent(graph: Graph, groups: Sequence[Sequence[Node]],
                counted: Sequence[tuple[WorkItem, ...]]) -> list[tuple[WorkItem, ...]]:
    """The work of each cluster with the distance of every read whose value was touched before.

    Args:
        graph: a program that is run again and again.
        groups: nodes of each cluster, clusters in program order.
        counted: work of each cluster (``work.works_of``).
    """
    before = [0, *accumulate(sum(work.bytes_moved for work, _, _ in items) for items in counted)]
    touched: dict[str, list[int]] = {}
    for position, (nodes, items) in enumerate(zip(groups, counted, strict=True)):
        names = dict.fromkeys(name for work, _, _ in items for _, name in work.reads)
        names.update(dict.fromkeys(name for node in nodes for name in node.outputs))
        for name in names:
            touched.setdefault(name, []).append(position)
    found = []
    for position, items in enumerate(counted):
        seen: dict[str, int | None] = {}
        marked = []
        for work, operator_class, dtype in items:
            for _, name in work.reads:
                if name not in seen:
                    seen[name] = _distance(name, graph, touched[name], before, position)
            recent = tuple((size, distance) for size, name in work.reads if (distance := seen[name]) is not None)
            marked.append((replace(work, recent=recent) if recent else work, operator_class, dtype))
        found.append(tuple(marked))
    return found


def _distance(name: str, graph: Graph, touches: Sequence[int], before: Sequence[int], position: int) -> int | None:
    """Bytes moved between the last touch of a value and the cluster at ``position``; None if there was none."""
    earlier = max((touch for touch in touches if touch < position), default=None)
    if earlier is not None:
        return before[position] - before[earlier + 1]
    role = graph.values[name].role
    if not (role.is_weight or role is Role.CACHE):
        return None
    last = touches[-1]
    # If the last touch of the step before was this cluster, all it moved but the value itself is in between.
    own = before[position + 1] - before[position] if last == position else 0
    return before[-1] - before[last + 1] + before[position] + max(own - graph.type_of(name).size_bytes, 0)
