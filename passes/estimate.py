"""Price every cluster on every device and every value that could cross between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hetcc.backends.contract import Rejected, Support
from hetcc.cost_model.device import Device
from hetcc.cost_model.price import Price, price, region_launch
from hetcc.cost_model.transfer import transfer
from hetcc.cost_model.work import Work, works_of
from hetcc.ir import Graph, Node, OperatorClass, Stage
from hetcc.ir.subgraph import weights_of
from hetcc.passes.clusters import Clustering, NodeGroup
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.schedule.regions import placed_readers
from hetcc.passes.schedule.steps import travels_as_argument
from hetcc.plan.placement import Cluster, Cost, Objective, PlacementProblem, Tensor

HOST = "host"
_STREAMED = frozenset({Stage.RETRIEVAL, Stage.APPLY})



@dataclass(frozen=True)
class DeviceSet:
    """The devices of a plan and the back ends that speak for them, by device name, preferred device first."""

    profiles: Mapping[str, Device]
    supports: Mapping[str, Support]
    baseline: str
    """GPU baseline by name: ``tuned`` or ``as-published``."""

    def baseline_of(self, device: str) -> str | None:
        """The baseline to price ``device`` with; None means its own default."""
        return self.baseline if self.baseline in self.profiles[device].baselines else None


@dataclass(frozen=True)
class ClusterEstimate:
    """Everything ``explain`` says about one cluster."""

    group: NodeGroup
    work: Work
    prices: Mapping[str, Price]
    """By device, also for devices that would accept it but were not needed."""
    rejections: Mapping[str, tuple[str, Rejected]]
    """By device: the first node it refuses, and why."""


@dataclass(frozen=True)
class CostTable:
    """All prices of a graph."""

    estimates: Mapping[str, ClusterEstimate]
    problem: PlacementProblem
    facts: ClusterFacts

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimates", MappingProxyType(dict(self.estimates)))


def estimate(graph: Graph, clustering: Clustering, devices: DeviceSet, objective: Objective) -> CostTable:
    """The priced placement problem of a graph; every cluster has a price on at least one device."""
    estimates = {group.name: _estimate_cluster(graph, group, devices) for group in clustering.groups}
    written_by: dict[str, list[str]] = {}
    for update in graph.updates:
        if update.value in graph.producer:
            written_by.setdefault(graph.producer[update.value].name, []).append(update.cache)
    clusters = tuple(_cluster(graph, found, written_by) for found in estimates.values())
    tensors = _Tensors(graph, clustering, estimates, devices).all()
    names = (*devices.profiles,)
    launch = {name: _cost(region_launch(profile, devices.baseline_of(name)))
              for name, profile in devices.profiles.items()}
    capacities = {name: profile.capacity_bytes for name, profile in devices.profiles.items() if name != HOST}
    problem = PlacementProblem(graph.name, names, clusters, tensors, launch, capacities, objective)
    facts = ClusterFacts({name: found.group.stage for name, found in estimates.items() if found.group.stage},
                         {name: found.work.intensity for name, found in estimates.items()})
    return CostTable(estimates, problem, facts)


def _cost(priced: Price) -> Cost:
    return Cost(priced.time_s, priced.energy_j)


def _estimate_cluster(graph: Graph, group: NodeGroup, devices: DeviceSet) -> ClusterEstimate:
    items = works_of(group.nodes, graph)
    work = sum((item[0] for item in items), Work())
    prices: dict[str, Price] = {}
    rejections: dict[str, tuple[str, Rejected]] = {}
    for name, profile in devices.profiles.items():
        refused = None if name == HOST else _refusal(graph, group, devices.supports[name])
        if refused is not None:
            rejections[name] = refused
        else:
            prices[name] = price(items, profile, devices.baseline_of(name))
    return ClusterEstimate(group, work, MappingProxyType(prices), MappingProxyType(rejections))


def _refusal(graph: Graph, group: NodeGroup, support: Support) -> tuple[str, Rejected] | None:
    for node in group.nodes:
        verdict = support.verdict(graph, node)
        if isinstance(verdict, Rejected):
            return node.name, verdict
    return None


def _cluster(graph: Graph, found: ClusterEstimate, written_by: Mapping[str, list[str]]) -> Cluster:
    """The host is a device for what nobody else takes, not a third choice."""
    offered = {name: _cost(priced) for name, priced in found.prices.items() if name != HOST}
    costs = offered or {HOST: _cost(found.prices[HOST])}
    return Cluster(found.group.name, tuple(node.name for node in found.group.nodes), costs, found.group.layer,
                   _resident_bytes(graph, found.group, written_by))


def _resident_bytes(graph: Graph, group: NodeGroup, written_by: Mapping[str, list[str]]) -> int:
    """Weights read and caches written by a cluster: what its device has to hold for it."""
    read = {name for node in group.nodes for name in _external_roots(graph, node)}
    weights = sum(graph.type_of(name).size_bytes for name in read if graph.values[name].role.is_weight)
    written = {cache for node in group.nodes for cache in written_by.get(node.name, ())}
    return weights + sum(graph.type_of(name).size_bytes for name in written)


def _external_roots(graph: Graph, node: Node) -> list[str]:
    """Values without a producer that ``node`` reads, directly or through views."""
    found = []
    for read in node.inputs:
        name, producer = read, graph.producer.get(read)
        while producer is not None and producer.operator_class is OperatorClass.VIEW:
            name = producer.inputs[0]
            producer = graph.producer.get(name)
        if producer is None:
            found.append(name)
    return found


class _Tensors:
    """The values that cross clusters, with the price of moving them and what fusing saves."""

    def __init__(self, graph: Graph, clustering: Clustering, estimates: Mapping[str, ClusterEstimate],
                 devices: DeviceSet) -> None:
        self.graph = graph
        self.clustering = clustering
        self.estimates = estimates
        self.devices = devices
        self.cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
        self.transfers: dict[int, dict[tuple[str, str], Cost]] = {}

    def all(self) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        fused_pairs: set[tuple[str, tuple[str, ...]]] = set()
        for group in self.clustering.groups:
            crossing = [(value, users) for node in group.nodes for value in node.outputs
                        if (users := self._users(value, group.name))]
            crossing.sort(key=lambda pair: -self.graph.type_of(pair[0]).size_bytes)
            for value, users in crossing:
                pair = (group.name, users)
                saving = {} if pair in fused_pairs else self._saving(value, group.name, users)
                fused_pairs.add(pair)
                found.append(Tensor(value, group.name, users, self.graph.type_of(value).size_bytes,
                                    self._transfer(value), saving))
        return tuple(found)

    def _users(self, value: str, producer: str) -> tuple[str, ...]:
        users = dict.fromkeys(self.cluster_of[node.name] for node in self.graph.consumers_of(value)
                              if node.name in self.cluster_of)
        users.pop(producer, None)
        return tuple(users)

    def _transfer(self, value: str) -> dict[tuple[str, str], Cost]:
        tensor_type = self.graph.type_of(value)
        size_bytes = 0 if travels_as_argument(tensor_type) else tensor_type.size_bytes
        if size_bytes not in self.transfers:
            names = tuple(self.devices.profiles)
            priced = {(source, target): transfer(source, target, size_bytes)
                      for source in names for target in names if source != target}
            self.transfers[size_bytes] = {pair: Cost(copy.time_s, copy.energy_j) for pair, copy in priced.items()}
        return self.transfers[size_bytes]

    def _saving(self, value: str, producer: str, users: tuple[str, ...]) -> dict[str, Cost]:
        """What each device saves when producer and all consumers run as one program.

        On the streaming device the stages overlap, so the shorter of two neighbours is hidden; on the others a fused
        kernel keeps scores on chip between relevancy and what uses them, and saves writing and reading them.
        """
        savings = {}
        for device, profile in self.devices.profiles.items():
            prices = [self.estimates[name].prices.get(device) for name in (producer, *users)]
            known = [priced for priced in prices if priced is not None]
            if device == HOST or len(known) != len(prices):
                continue
            shortest = min(known[0].time_s, max(priced.time_s for priced in known[1:]))
            if profile.streaming is None:
                if not self._is_fused_pair(producer, users):
                    continue
                item = (Work(0, self.graph.type_of(value).size_bytes, self.graph.type_of(value).size_bytes, 0),
                        OperatorClass.ELEMENTWISE, self.graph.type_of(value).dtype)
                traffic = price([item], profile, self.devices.baseline_of(device))
                launch_s = profile.baseline(self.devices.baseline_of(device)).kernel_launch_s.value
                shortest = min(shortest, max(traffic.time_s - launch_s, 0.0))
            energy_per_s = known[0].energy_j / known[0].time_s if known[0].time_s else 0.0
            savings[device] = Cost(shortest, shortest * energy_per_s)
        return savings

    def _is_fused_pair(self, producer: str, users: tuple[str, ...]) -> bool:
        first = self.estimates[producer].group.stage
        return first is Stage.RELEVANCY and all(self.estimates[name].group.stage in _STREAMED for name in users)


def cache_devices(graph: Graph, clustering: Clustering, device_of: Mapping[str, str]) -> dict[str, str]:
    """Device of each cache: where it is updated, else where it is read first."""
    cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
    found: dict[str, str] = {}
    for cache in graph.caches:
        writer = graph.producer.get(graph.update_of.get(cache, ""))
        readers = placed_readers(graph, clustering, cache)
        nodes = [writer] if writer is not None else [node for node in graph.nodes if node.name in readers]
        placed = [device_of[cluster_of[node.name]] for node in nodes if node.name in cluster_of]
        found[cache] = placed[0] if placed else HOST
    return found


def weight_devices(regions: Mapping[str, Graph], device_of_region: Mapping[str, str]) -> set[tuple[str, str]]:
    """(weight, device) pairs: where each weight has to be."""
    return {(name, device_of_region[region]) for region, program in regions.items() for name in weights_of(program)}


__all__ = ["HOST", "ClusterEstimate", "CostTable", "DeviceSet", "cache_devices", "estimate", "weight_devices"]
