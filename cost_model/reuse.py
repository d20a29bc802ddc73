"""How long ago each value was touched, in bytes of traffic: what a last-level cache may still hold.

Before: clusters in program order and the bytes each moves. After: per cluster, the bytes moved since a value it reads was
made or read. A step repeats, so weights and caches were last touched one step ago; inputs come from outside and never
were. All traffic in between counts as distinct, so a distance is never too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from hetcc.cost_model.work import DistanceOf, view_chain
from hetcc.ir import Graph, Node, Role


class Reuse:
    """Distances of one program that is run again and again."""

    def __init__(self, graph: Graph, groups: Sequence[Sequence[Node]], bytes_moved: Sequence[int]) -> None:
        """Touches of every value.

        Args:
            graph: the program.
            groups: nodes of each cluster, clusters in program order.
            bytes_moved: traffic of each cluster.
        """
        self.graph = graph
        self.before = [0, *accumulate(bytes_moved)]
        self.touched: dict[str, list[int]] = {}
        for position, nodes in enumerate(groups):
            for root in _roots(nodes, graph):
                self.touched.setdefault(root, []).append(position)

    def seen_from(self, position: int) -> DistanceOf:
        """The distance of each value as the cluster at ``position`` sees it."""

        def distance_of(value: str) -> int | None:
            touches = self.touched.get(value, ())
            earlier = [touch for touch in touches if touch < position]
            if earlier:
                return self.before[position] - self.before[earlier[-1] + 1]
            role = self.graph.values[value].role
            if not touches or not (role.is_weight or role is Role.CACHE):
                return None
            # The last touch of the step before; if that was this cluster, all it moved but the value itself is between.
            own = self.before[position + 1] - self.before[position] if touches[-1] == position else 0
            size = min(self.graph.type_of(value).size_bytes, own)
            return self.before[-1] - self.before[touches[-1] + 1] + self.before[position] + own - size

        return distance_of


def _roots(nodes: Sequence[Node], graph: Graph) -> dict[str, None]:
    """Values in memory that the nodes read or make, views followed to what they show."""
    return dict.fromkeys(view_chain(name, graph)[-1] for node in nodes for name in (*node.inputs, *node.outputs))
