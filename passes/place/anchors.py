"""What lies between clusters that are certain to be on one device: where leaving it forces another launch."""

from __future__ import annotations

from collections.abc import Sequence

_UNREACHED = -2


def separators(
    anchor: Sequence[bool], layer: Sequence[int], edges: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], list[int]]:
    """In each layer, the nodes on paths between neighbours of one chain of anchors.

    The chain of a layer is chosen greedily: its first anchor, then always the next one that can be reached from the
    last chosen and leads on.

    Args:
        anchor: per node whether it may be in a chain; the anchors of a layer are in one island.
        layer: per node the number of its layer.
        edges: pairs of nodes of one layer, sorted; every pair rises, so that the numbering is topological.

    Returns:
        nodes by layer and position in the chain: those that are reached from the anchor there, not from a later one,
        and reach the next anchor. No node is listed twice, and no anchor of the chain is listed.
    """
    rank, reached, ends = _chains(anchor, layer, edges)
    ahead = [len(anchor)] * len(anchor)
    for source, destination in reversed(edges):
        nearest = rank[destination] if rank[destination] >= 0 else ahead[destination]
        if nearest < ahead[source]:
            ahead[source] = nearest
    found: dict[tuple[int, int], list[int]] = {}
    for node, behind in enumerate(reached):
        if behind >= 0 and rank[node] < 0 and ahead[node] == behind + 1 < ends[layer[node]]:
            found.setdefault((layer[node], behind), []).append(node)
    return found


def _chains(
    anchor: Sequence[bool], layer: Sequence[int], edges: Sequence[tuple[int, int]],
) -> tuple[list[int], list[int], dict[int, int]]:
    """Position of each node in the chain of its layer (-1: not in it), the last one that reaches it, chain lengths."""
    rank, reached = [-1] * len(anchor), [_UNREACHED] * len(anchor)
    ends: dict[int, int] = {}

    def join(node: int) -> None:
        length = ends.get(layer[node], 0)
        if rank[node] < 0 and (length == 0 or reached[node] == length - 1):
            rank[node] = reached[node] = length
            ends[layer[node]] = length + 1

    for source, destination in edges:
        if anchor[source]:
            join(source)
        if reached[source] > reached[destination]:
            reached[destination] = reached[source]
    # Anchors that lead nowhere can only be the last of their chain.
    for node, is_anchor in enumerate(anchor):
        if is_anchor and ends.get(layer[node], 0) and rank[node] < 0:
            join(node)
    return rank, reached, ends
