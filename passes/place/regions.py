"""From a device per cluster to regions that can be launched one after the other.

Before: a device for every cluster. After: regions, each a connected set of clusters of one device and one layer, and
the graph of regions has no cycle. Does not touch the assignment.

How: clusters of one device and one layer have the same *colour*. A *level* is any number per cluster that never falls
along an edge and rises along every edge between colours. Connected clusters of one colour and one level may become
one region: an edge between two regions then always leads to a higher level (if the colours differ by the definition
of a level, if they are equal because equal levels would have been merged), so no path leads back. The longest path
from the sources is such a level, the longest path to the sinks another; taking turns on the ever smaller graph of
regions merges what one of them alone keeps apart. Each turn is linear in the number of edges.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetcc.passes.place.islands import connected
from hetcc.passes.place.table import PriceTable, table_of
from hetcc.plan.placement import PlacementProblem, Region, region_name

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]

_MAXIMUM_TURNS = 16


def split_regions(problem: PlacementProblem, device_of: Mapping[str, str]) -> tuple[Region, ...]:
    """The regions of an assignment, in a topological order that keeps close to the order of the clusters.

    Args:
        problem: clusters, tensors and layers.
        device_of: device by cluster name, for every cluster.

    Returns:
        regions such that every cluster is in one, none crosses a layer, and the region graph is acyclic.
    """
    import numpy

    number = {name: index for index, name in enumerate(problem.devices)}
    device = numpy.array([number[device_of[cluster.name]] for cluster in problem.clusters], dtype=numpy.int64)
    return regions_of(problem, device, group_clusters(table_of(problem), device))


def group_clusters(table: PriceTable, device: Integers) -> Integers:
    """The region of each cluster as a number, in the order of the first cluster inside; ``device`` is [n]."""
    return _merge(device * (int(table.layer.max(initial=0)) + 1) + table.layer, table.edges)


def regions_of(problem: PlacementProblem, device: Integers, group: Integers) -> tuple[Region, ...]:
    """Named regions, in a topological order, from the device and the group of each cluster."""
    members: list[list[str]] = [[] for _ in range(int(group.max(initial=-1)) + 1)]
    on = [0] * len(members)
    for cluster, index, where in zip(problem.clusters, group.tolist(), device.tolist(), strict=True):
        members[index].append(cluster.name)
        on[index] = where
    ordered = _ordered(len(members), group[table_of(problem).edges])
    names = [problem.devices[on[index]] for index in ordered]
    return tuple(Region(region_name(position, name), name, tuple(members[index]))
                 for position, (name, index) in enumerate(zip(names, ordered, strict=True)))


def _merge(colour: Integers, edges: Integers) -> Integers:
    """The group of every cluster, numbered by the first cluster inside."""
    import numpy

    group = numpy.arange(len(colour))
    for turn in range(_MAXIMUM_TURNS):
        level = _levels(colour, edges, forward=turn % 2 == 0)
        label = _components(colour, edges, level)
        # What one direction has merged it would not merge further, so one turn without effect ends it but the first.
        if turn and int(label.max(initial=-1)) + 1 == len(colour):
            break
        # A group has one level, and edges between groups rise: sorting groups by level orders them topologically.
        _, first = numpy.unique(label, return_index=True)
        order = numpy.argsort(level[first], kind="stable")
        rank = numpy.empty_like(order)
        rank[order] = numpy.arange(len(order))
        label = rank[label]
        colour, group, edges = colour[first][order], label[group], _distinct(label[edges], len(order))
    _, first, group = numpy.unique(group, return_index=True, return_inverse=True)
    rank = numpy.empty(len(first), dtype=numpy.int64)
    rank[numpy.argsort(first)] = numpy.arange(len(first))
    result: Integers = rank[group]
    return result


def _levels(colour: Integers, edges: Integers, forward: bool) -> Integers:
    """Longest path from the sources, or (negative) to the sinks, counting edges between colours.

    ``edges`` must be sorted by source, and the numbering of the nodes must be a topological order.
    """
    import numpy

    level = [0] * len(colour)
    rises = (colour[edges[:, 0]] != colour[edges[:, 1]]).tolist()
    triples = list(zip(edges[:, 0].tolist(), edges[:, 1].tolist(), rises, strict=True))
    if forward:
        for source, destination, rise in triples:
            if level[source] + rise > level[destination]:
                level[destination] = level[source] + rise
    else:
        for source, destination, rise in reversed(triples):
            if level[destination] - rise < level[source]:
                level[source] = level[destination] - rise
    return numpy.array(level, dtype=numpy.int64)


def _components(colour: Integers, edges: Integers, level: Integers) -> Integers:
    """Label of each node: equal for nodes joined by edges within one colour and one level."""
    source, destination = edges[:, 0], edges[:, 1]
    same = (colour[source] == colour[destination]) & (level[source] == level[destination])
    return connected(len(colour), source[same], destination[same])


def _distinct(edges: Integers, count: int) -> Integers:
    """Edges between different nodes, each once, sorted."""
    import numpy

    between = edges[edges[:, 0] != edges[:, 1]]
    codes = numpy.unique(between[:, 0] * count + between[:, 1])
    return numpy.stack([codes // count, codes % count], axis=1)


def _ordered(count: int, edges: Integers) -> list[int]:
    """Groups in a topological order; among those that are ready the lowest number first."""
    after: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for source, destination in _distinct(edges, max(count, 1)).tolist():
        after[source].append(destination)
        waits[destination] += 1
    ready = [index for index in range(count) if waits[index] == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for destination in after[index]:
            waits[destination] -= 1
            if waits[destination] == 0:
                heapq.heappush(ready, destination)
    return order
