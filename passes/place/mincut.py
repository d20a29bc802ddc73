"""The exact placer: a minimum cut with a proof of how good any placement can be.

One device is ``first`` (the first of ``problem.devices``), all others are "elsewhere". A binary variable per cluster
says which. ``elsewhere`` of a cluster is the set of other devices it allows; with two devices, and for clusters that
only the host can run, that set has at most one member and nothing below is relaxed but launches and savings.

Proof that the minimum cut is a lower bound. Let P be any placement. Give each variable the side P puts its cluster on.
The cut at that point sums the following terms, each at most what the scorer charges P for:

* *clusters*: on ``first`` its price, elsewhere the least price of its other devices;
* *transfers*: the scorer charges a tensor once per destination device d other than the producer's. For each d take the
  consumers that are on d exactly when their variable says so (d is ``first``, or d is their whole ``elsewhere``). If
  one of them is on d, charge the least price from where the producer may be to d: the scorer charges at least that,
  and charges different d separately. A price that is higher from elsewhere than from ``first`` can not be expressed
  when the consumer is free; it is lowered to the one from ``first``;
* *savings*: the scorer grants a saving only if producer and consumers are in one region, hence on one device and in
  one layer; the cut grants it already then;
* *launches*: an *island* of a device is a maximal connected set of clusters of one layer that allow the device. A
  region is connected, in one layer and on one device, so it lies in one island; islands with a cluster on the device
  hold at least one region. The cut charges one launch per such island;
* *launches between anchors*: let f0, f1, ... be clusters of one island that can only be on ``first``, each reachable
  from the one before. If a cluster on a path from f(k-1) to f(k) is elsewhere, then f(k-1) and f(k), and everything of
  the chain on either side, are in different regions, or the region graph had a cycle. So the island has one region
  more for every k for which there is such a cluster, and the cut charges one launch more for each.

All terms are submodular, so the cut is their exact minimum; capacities are rounded down, which keeps it a bound.
Without launches and savings and with one other device per cluster every term equals the scorer's: the cut is optimal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hetcc.passes.contract import BoundedAssignment, ClusterFacts
from hetcc.passes.place.anchors import separators
from hetcc.passes.place.cut_network import Cut, CutNetwork
from hetcc.passes.place.islands import island_labels
from hetcc.passes.place.table import PriceTable, table_of
from hetcc.plan.placement import PlacementProblem

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]
    Floats = NDArray[numpy.float64]
    Flags = NDArray[numpy.bool_]


@dataclass(frozen=True)
class MinimumCut:
    """The cut as it is; its bound holds for every placement, its assignment ignores how regions will be split."""

    name: ClassVar[str] = "mincut"

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name."""
        return dict(self.place_with_bound(problem, facts).device_of)

    def place_with_bound(self, problem: PlacementProblem, facts: ClusterFacts) -> BoundedAssignment:
        """Device by cluster name and the lower bound the module text proves."""
        del facts
        relaxation = Relaxation(table_of(problem))
        cut = relaxation.solve()
        devices = relaxation.devices(cut).tolist()
        device_of = {cluster.name: problem.devices[device]
                     for cluster, device in zip(problem.clusters, devices, strict=True)}
        return BoundedAssignment(device_of, cut.value, cut.rounding)


class Relaxation:
    """The terms of the module text for one problem; device 0 is ``first``."""

    def __init__(self, table: PriceTable, kept_first: Flags | None = None) -> None:
        """Build the terms; clusters flagged in ``kept_first`` ([n]) are held on the first device."""
        import numpy

        self.table = table
        allowed = table.allowed
        if kept_first is not None:
            allowed[kept_first, 1:] = False
        others = allowed[:, 1:].sum(axis=1)
        self.allowed = allowed
        self.may_first: Flags = allowed[:, 0]
        self.may_leave: Flags = others > 0
        self.free: Flags = self.may_first & self.may_leave
        # The sum of the numbers of the other devices is the number of the only one.
        numbers = (allowed * numpy.arange(allowed.shape[1])).sum(axis=1)
        self.only_other: Integers = numpy.where(others == 1, numbers, 0)
        """[n]: the one device besides the first that a cluster allows; 0 if there is none or several."""
        self.network = CutNetwork(len(allowed))
        self._charge_clusters()
        for device in range(allowed.shape[1]):
            self._charge_transfers(device)
            if table.launch[device] > 0.0:
                self._charge_launches(device, float(table.launch[device]))
        self._grant_savings()

    def solve(self) -> Cut:
        """The minimum of all terms."""
        return self.network.solve()

    def devices(self, cut: Cut) -> Integers:
        """Device of each cluster by the sides of a cut; of several other devices the cheapest is taken."""
        import numpy

        price = numpy.where(self.allowed, self.table.price, numpy.inf)
        stays = self.may_first & (cut.on_source_side | ~self.may_leave)
        price[~stays, 0] = numpy.inf
        chosen: Integers = numpy.where(stays, 0, numpy.argmin(price, axis=1))
        return chosen

    def _charge_clusters(self) -> None:
        import numpy

        price = numpy.where(self.allowed, self.table.price, numpy.inf)
        first, other = price[:, 0], price[:, 1:].min(axis=1, initial=numpy.inf)
        free = numpy.flatnonzero(self.free)
        self.network.pay_on_source(free, first[free])
        self.network.pay_on_sink(free, other[free])
        self.network.constant += float(numpy.minimum(first, other)[~self.free].sum())

    def _charge_transfers(self, device: int) -> None:
        """Tensors sent to ``device``, each once."""
        import numpy

        table, network = self.table, self.network
        goes = self.may_first if device == 0 else self.only_other == device
        entries = numpy.flatnonzero(goes[table.reader])
        tensor, reader = table.reader_tensor[entries], table.reader[entries]
        near, far = self._transfer_prices(device)
        always = numpy.zeros(len(table.producer), dtype=bool)
        always[tensor[~self.free[reader]]] = True
        certain = numpy.flatnonzero(always)
        at = table.producer[certain]
        moves = self.free[at]
        network.pay_on_source(at[moves], near[certain][moves])
        network.pay_on_sink(at[moves], far[certain][moves])
        network.constant += float(numpy.where(self.may_leave[at], far[certain], near[certain])[~moves].sum())

        undecided = ~always[tensor] & ((near > 0.0) | (far > 0.0))[tensor]
        any_reader = network.any_on_source if device == 0 else network.any_on_sink
        sent, indicator = any_reader(tensor[undecided], reader[undecided])
        at, near, far = table.producer[sent], near[sent], far[sent]
        moves, fixed = self.free[at], ~self.free[at]
        price = numpy.where(self.may_leave[at], far, near)
        if device == 0:
            network.pay_on_source(indicator[fixed], price[fixed])
            network.separate(indicator[moves], at[moves], far[moves])
        else:
            far = numpy.where(moves, numpy.minimum(far, near), price)
            network.pay_on_sink(indicator, far)
            network.separate(at[moves], indicator[moves], (near - far)[moves])

    def _transfer_prices(self, device: int) -> tuple[Floats, Floats]:
        """Per tensor the price of sending it to ``device`` from the first device, and at least from elsewhere."""
        import numpy

        table = self.table
        near = numpy.where(self.may_first[table.producer], table.transfer[:, 0, device], 0.0)
        choices = numpy.where(self.allowed[table.producer, 1:], table.transfer[:, 1:, device], numpy.inf)
        far = choices.min(axis=1, initial=numpy.inf)
        return near, numpy.where(numpy.isfinite(far), far, 0.0)

    def _grant_savings(self) -> None:
        """Savings of tensors whose clusters can all be on one device and are in one layer."""
        import numpy

        table, network = self.table, self.network
        count = len(table.producer)
        tensor = numpy.concatenate([numpy.arange(count), table.reader_tensor])
        member = numpy.concatenate([table.producer, table.reader])
        apart = table.layer[table.producer[table.reader_tensor]] != table.layer[table.reader]
        together = numpy.bincount(table.reader_tensor[apart], minlength=count) == 0
        possible = numpy.stack(
            [numpy.bincount(tensor[~self.allowed[member, device]], minlength=count) == 0
             for device in range(self.allowed.shape[1])], axis=1)
        saving = numpy.where(possible & together[:, None], table.saving, 0.0)
        for price, any_off, pay in ((saving[:, 0], network.any_on_sink, network.pay_on_sink),
                                    (saving[:, 1:].max(axis=1, initial=0.0), network.any_on_source,
                                     network.pay_on_source)):
            network.constant -= float(price.sum())
            lost = (price[tensor] > 0.0) & self.free[member]
            granted, indicator = any_off(tensor[lost], member[lost])
            pay(indicator, price[granted])

    def _charge_launches(self, device: int, price: float) -> None:
        """One launch per island that is used, and one more where anchors of the first device are separated."""
        import numpy

        network = self.network
        label = island_labels(self.table, self.allowed[:, device])
        may, must = self.may_first, ~self.may_leave
        if device != 0:
            may, must = self.only_other == device, (self.only_other == device) & ~self.may_first
        must &= self.allowed[:, device]
        certain = numpy.unique(label[must])
        network.constant += price * len(certain)
        deciding = numpy.flatnonzero(may & ~numpy.isin(label, certain))
        any_on = network.any_on_source if device == 0 else network.any_on_sink
        _, indicator = any_on(label[deciding], deciding)
        pay = network.pay_on_source if device == 0 else network.pay_on_sink
        pay(indicator, numpy.full(len(indicator), price))
        if device == 0:
            self._charge_between(label, must, price)

    def _charge_between(self, label: Integers, must: Flags, price: float) -> None:
        """One launch for each pair of neighbours in a chain of anchors that something elsewhere separates."""
        import numpy

        layer, edges = self.table.layer, self.table.edges
        inside = edges[layer[edges[:, 0]] == layer[edges[:, 1]]]
        pairs = list(zip(inside[:, 0].tolist(), inside[:, 1].tolist(), strict=True))
        between = separators(self._anchors(label, must).tolist(), layer.tolist(), pairs)
        member = numpy.array([node for nodes in between.values() for node in nodes], dtype=numpy.int64)
        group = numpy.repeat(numpy.arange(len(between)), [len(nodes) for nodes in between.values()])
        certain = numpy.unique(group[~self.may_first[member]])
        self.network.constant += price * len(certain)
        deciding = self.may_leave[member] & ~numpy.isin(group, certain)
        _, indicator = self.network.any_on_sink(group[deciding], member[deciding])
        self.network.pay_on_sink(indicator, numpy.full(len(indicator), price))

    def _anchors(self, label: Integers, must: Flags) -> Flags:
        """Per layer the clusters that must be on the first device, of the island that has the most of them."""
        import numpy

        island, first, count = numpy.unique(label[must], return_index=True, return_counts=True)
        layer = self.table.layer[must][first]
        order = numpy.lexsort((island, -count, layer))
        _, best = numpy.unique(layer[order], return_index=True)
        chosen: Flags = must & numpy.isin(label, island[order][best])
        return chosen


__all__ = ["MinimumCut", "Relaxation"]
