"""The priced placement problem of a whole model from the graph of its short one.

What a cluster does follows from its own layer. Two things follow from the whole: how long ago a value was touched,
which is counted over all layers in order, and which indices fit on chip, given out over all layers in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hetcc.cost_model.price import Price, WorkItem
from hetcc.cost_model.reuse import Recent, Touches
from hetcc.cost_model.work import Work, storage_of
from hetcc.ir import Graph, Stage
from hetcc.passes.clusters import NodeGroup
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.estimate import (
    HOST,
    ClusterEstimate,
    CostTable,
    DeviceSet,
    PriceList,
    estimate,
    index_budgets,
    keep_indices,
    scanned_bytes,
    with_resident,
    work_under,
)
from hetcc.passes.savings import Crossing, find_savings
from hetcc.plan.placement import Cluster, Cost, Objective, Tensor
from hetcc.predict.expansion import Expansion
from hetcc.predict.sizing import SizedModel


class WholeModel:
    """One structure at any size.

    Args:
        model: the short model at some size.
        devices: what to price for.
        objective: what placers minimise.
    """

    def __init__(self, model: SizedModel, devices: DeviceSet, objective: Objective) -> None:
        self.devices = devices
        self.objective = objective
        short = self._short(model, _counted(model, devices))
        self.expansion = Expansion(short.problem, model.container, model.layer_of)
        self._touches: tuple[object, Touches] | None = None
        """Last used: what the clusters of the short model read, and what follows for the whole one."""
        self._rename(model)

    def table(self, model: SizedModel) -> CostTable:
        """The priced problem at a size of the same structure."""
        prices = PriceList(self.devices)
        if not self.expansion.layer_of:
            return estimate(model.tagged.graph, model.clustering, self.devices, self.objective, prices)
        counted = _counted(model, self.devices)
        short = self._short(model, counted)
        estimates = self._estimates(model, counted, short, prices)
        profiles = {name: profile for name, profile in self.devices.profiles.items() if name != HOST}
        own = short.problem
        crossings = [Crossing(copy.name, own.tensors[copy.original].size_bytes, copy.names[0], copy.names[1:])
                     for copy in self.expansion.tensors]
        savings = find_savings(crossings, estimates, profiles, prices.of)
        tensors = tuple(
            Tensor(one.value, one.producer, one.users, one.size_bytes, own.tensors[copy.original].transfer,
                   savings.get(one.value, {}))
            for one, copy in zip(crossings, self.expansion.tensors, strict=True))
        problem = replace(own, clusters=self._clusters(short, estimates), tensors=tensors)
        stages = {name: found.group.stage for name, found in estimates.items() if found.group.stage}
        return CostTable(estimates, problem, ClusterFacts(
            stages, {name: found.work.intensity for name, found in estimates.items()}), self.devices.links)

    def names_of(self, clusters: Sequence[str]) -> dict[str, str]:
        """By name in the short model, the whole model's name of what these clusters touch."""
        return {short: whole for name in clusters for short, whole in self._names[self._place[name]].items()}

    def _short(self, model: SizedModel, counted: Sequence[tuple[WorkItem, ...]]) -> CostTable:
        """What of the short model's problem holds for the whole one: everything but prices."""
        items_of = {group.name: items for group, items in zip(model.clustering.groups, counted, strict=True)}
        return estimate(model.tagged.graph, model.clustering, self.devices, self.objective, _Unpriced(self.devices),
                        items_of)

    def _clusters(self, short: CostTable, estimates: Mapping[str, ClusterEstimate]) -> tuple[Cluster, ...]:
        found = []
        costs_of: dict[int, dict[str, Cost]] = {}
        for copy in self.expansion.clusters:
            original = short.problem.clusters[copy.original]
            priced = estimates[copy.name]
            if id(priced) not in costs_of:
                costs_of[id(priced)] = {device: Cost(priced.prices[device].time_s, priced.prices[device].energy_j)
                                        for device in original.costs}
            layer = original.layer if copy.layer is None else f"{self.expansion.container}.{copy.layer}"
            found.append(Cluster(copy.name, copy.names, costs_of[id(priced)], layer, original.resident_bytes))
        return tuple(found)

    def _estimates(self, model: SizedModel, counted: Sequence[tuple[WorkItem, ...]], short: CostTable,
                   prices: PriceList) -> dict[str, ClusterEstimate]:
        """By cluster of the whole model; those with equal work share one estimate."""
        graph, groups = model.tagged.graph, model.clustering.groups
        recents = self._recents(graph, counted)
        residents = self._residents(graph, groups, counted)
        known: dict[object, ClusterEstimate] = {}
        found = {}
        for copy, recent in zip(self.expansion.clusters, recents, strict=True):
            resident = residents.get(copy.name, ())
            key = (copy.original, recent, resident)
            if key not in known:
                items = tuple((replace(work, recent=marks), kind, dtype) for (work, kind, dtype), marks
                              in zip(counted[copy.original], recent, strict=True))
                for kept in resident:
                    items = with_resident(items, kept)
                group = groups[copy.original]
                before = short.estimates[group.name]
                known[key] = ClusterEstimate(
                    group, sum((item[0] for item in items), Work()),
                    {device: prices.of(items, device) for device in before.prices}, before.rejections, items)
            found[copy.name] = known[key]
        return found

    def _recents(self, graph: Graph, counted: Sequence[tuple[WorkItem, ...]]) -> list[tuple[Recent, ...]]:
        """By cluster of the whole model: how long ago what it reads was touched, over all layers in order."""
        read = [tuple(tuple(name for _, name in work.reads) for work, _, _ in items) for items in counted]
        if self._touches is None or self._touches[0] != read:
            self._touches = read, self._touches_of(graph, read)
        sizes = [[[size for size, _ in work.reads] for work, _, _ in items] for items in counted]
        moved = [sum(work.bytes_moved for work, _, _ in items) for items in counted]
        originals = [copy.original for copy in self.expansion.clusters]
        bytes_of = {name: graph.values[name].type.size_bytes for name in set(self._short_name.values())}
        return self._touches[1].distances(
            [sizes[place] for place in originals], [moved[place] for place in originals],
            {whole: bytes_of[short] for whole, short in self._short_name.items()})

    def _touches_of(self, graph: Graph, read: Sequence[Sequence[Sequence[str]]]) -> Touches:
        values = {whole: replace(graph.values[short], name=whole) for whole, short in self._short_name.items()}
        reads = [[[names.get(name, name) for name in entries] for entries in read[copy.original]]
                 for copy, names in zip(self.expansion.clusters, self._names, strict=True)]
        return Touches.of(values, self._made, reads)

    def _residents(self, graph: Graph, groups: Sequence[NodeGroup],
                   counted: Sequence[tuple[WorkItem, ...]]) -> dict[str, tuple[tuple[int, int], ...]]:
        """By cluster of the whole model that scans an index: what each device keeps of it, over all layers in order."""
        sizes = {place: scanned_bytes(graph.values, counted[place]) for place, group in enumerate(groups)
                 if group.stage is Stage.RELEVANCY}
        scans = [(copy.name, sizes[copy.original]) for copy in self.expansion.clusters if copy.original in sizes]
        kept = [keep_indices(scans, budget) for budget in index_budgets(self.devices)]
        return {name: tuple(one[name] for one in kept) for name, _ in scans}

    def _rename(self, model: SizedModel) -> None:
        """Names in the whole model of what each cluster touches and of what it makes."""
        graph, groups = model.tagged.graph, model.clustering.groups
        homes: dict[str, set[int | None]] = {}
        for group in groups:
            for name in _touched(group, graph):
                homes.setdefault(name, set()).add(self.expansion.short_layer[group.name])
        self._names: list[dict[str, str]] = []
        self._place = {copy.name: place for place, copy in enumerate(self.expansion.clusters)}
        self._made: list[list[str]] = []
        self._short_name: dict[str, str] = {}
        for copy in self.expansion.clusters:
            group = groups[copy.original]
            names = {name: self._name(name, homes[name], copy.layer, graph) for name in _touched(group, graph)}
            self._short_name.update((whole, short) for short, whole in names.items())
            self._names.append(names)
            self._made.append([names[name] for node in group.nodes for name in node.outputs])

    def _name(self, name: str, homes: set[int | None], layer: int | None, graph: Graph) -> str:
        """A value's own name outside the layers, else the name and the layer of the whole model it belongs to."""
        producer = graph.producer.get(name)
        owner = self.expansion.position_of(producer.provenance.layer) if producer is not None else None
        if owner is None:
            owner = next(iter(homes)) if len(homes) == 1 else None
        layer_of = self.expansion.layer_of
        if owner is None or not layer_of:
            return name
        last = len(layer_of) - 1
        outside = last if owner == layer_of[last] else owner
        home = outside if layer is None else layer + owner - layer_of[layer]
        renamed = self.expansion.renamed(name, owner, home)
        return renamed if renamed != name or owner == home else f"{name}@{home}"


class _Unpriced(PriceList):
    """Prices of no work, where only which devices take a cluster is asked: whole models have reads of other ages."""

    def of(self, items: tuple[WorkItem, ...], device: str) -> Price:
        """The price of nothing."""
        del items
        return super().of((), device)


def _counted(model: SizedModel, devices: DeviceSet) -> list[tuple[WorkItem, ...]]:
    """The work of every cluster of the short model."""
    return [work_under(group, model.tagged.graph, devices) for group in model.clustering.groups]


def _touched(group: NodeGroup, graph: Graph) -> dict[str, None]:
    """Values a cluster may read from memory or make."""
    names = dict.fromkeys(storage_of(name, graph) for node in group.nodes for name in node.inputs)
    return {**names, **dict.fromkeys(name for node in group.nodes for name in node.outputs)}
