"""Where regions can be at all: connected clusters of one layer that allow a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetcc.passes.place.table import PriceTable

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]
    Flags = NDArray[numpy.bool_]


def connected(count: int, sources: Integers, destinations: Integers) -> Integers:
    """A label per node, equal for nodes that the edges join in either direction."""
    import numpy
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((numpy.ones(len(sources), dtype=numpy.int8), (sources, destinations)), shape=(count, count))
    label: Integers = connected_components(matrix, directed=False)[1].astype(numpy.int64)
    return label


def island_labels(table: PriceTable, allows: Flags) -> Integers:
    """A label per cluster, equal for clusters of one island; ``allows`` ([n]) says which may be on the device.

    Clusters that may not be on it have labels of their own.
    """
    source, destination = table.edges[:, 0], table.edges[:, 1]
    inside = allows[source] & allows[destination] & (table.layer[source] == table.layer[destination])
    return connected(len(allows), source[inside], destination[inside])
