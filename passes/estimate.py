"""Price every cluster on every device and every value that could cross between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from hetcc.backends.contract import EXACT, Rejected, Support
from hetcc.cost_model.device import Device
from hetcc.cost_model.fpga import on_chip_budget
from hetcc.cost_model.price import Price, WorkItem, price, region_launch
from hetcc.cost_model.reuse import mark_recent
from hetcc.cost_model.transfer import PUBLISHED, transfer
from hetcc.cost_model.work import Work, works_of
from hetcc.ir import Graph, Node, OperatorClass, Role, Stage, Value
from hetcc.ir.subgraph import weights_of
from hetcc.passes.clusters import Clustering, NodeGroup
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.savings import Crossing, find_savings
from hetcc.passes.schedule.regions import placed_readers
from hetcc.passes.schedule.steps import travels_as_argument
from hetcc.plan.placement import Cluster, Cost, Objective, PlacementProblem, Tensor

HOST = "host"


@dataclass(frozen=True)
class DeviceSet:
    """The devices of a plan and the back ends that speak for them, by device name, preferred device first."""

    profiles: Mapping[str, Device]
    supports: Mapping[str, Support]
    baseline: str
    """Baseline by name, for every device that has it: ``tuned`` or ``as-published``."""
    links: str = PUBLISHED
    """Set of links by name."""
    by_doorbell: bool = False
    """Whether streaming kernels run all the time and are told to look, rather than started."""
    policy: str = EXACT
    """Numeric policy of streaming kernels; which products it changes is for the back ends to say."""

    def launch(self, device: str) -> Price:
        """The price of launching one region on ``device``."""
        return region_launch(self.profiles[device], self.baseline_of(device), by_doorbell=self.by_doorbell)

    @property
    def losable(self) -> tuple[str, ...]:
        """Devices that a request may outlive: their drivers say when they fail, and the first device is still there."""
        return tuple(name for name in (*self.profiles,)[1:]
                     if name in self.supports and self.supports[name].fault_code)

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
    items: tuple[WorkItem, ...] = ()
    """The work of its operators, as it was priced; what a streaming device may keep on chip is marked."""


@dataclass(frozen=True)
class CostTable:
    """All prices of a graph."""

    estimates: Mapping[str, ClusterEstimate]
    problem: PlacementProblem
    facts: ClusterFacts
    links: str = PUBLISHED
    """Set of links the transfers were priced with."""
    losable: tuple[str, ...] = ()
    """Devices that a request may outlive, see :class:`DeviceSet`."""
    shadowing: Mapping[str, Mapping[str, Cost]] = field(default_factory=dict)
    """By cluster and device that may be lost: what second copies of the caches it changes cost there. It is in the
    prices of ``problem``, and is no part of running the cluster."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimates", MappingProxyType(dict(self.estimates)))


def estimate(graph: Graph, clustering: Clustering, devices: DeviceSet, objective: Objective,
             prices: PriceList | None = None, items_of: Mapping[str, tuple[WorkItem, ...]] | None = None) -> CostTable:
    """The priced placement problem of a graph; every cluster has a price on at least one device.

    Args:
        graph: what is priced.
        clustering: its clusters.
        devices: what to price for.
        objective: what placers minimise.
        prices: prices of these devices that are known already.
        items_of: the work of every cluster, where it is known; else it is counted.
    """
    prices = PriceList(devices) if prices is None else prices
    items_of = count_work(graph, clustering, devices) if items_of is None else items_of
    estimates = {group.name: _estimate_cluster(graph, group, items_of[group.name], devices, prices)
                 for group in clustering.groups}
    written_by: dict[str, list[str]] = {}
    for update in graph.updates:
        if update.value in graph.producer:
            written_by.setdefault(graph.producer[update.value].name, []).append(update.cache)
    clusters = tuple(_cluster(graph, found, written_by) for found in estimates.values())
    tensors = _Tensors(graph, clustering, estimates, devices, prices).all()
    names = (*devices.profiles,)
    launch = {name: _cost(devices.launch(name)) for name in devices.profiles}
    capacities = {name: profile.capacity_bytes for name, profile in devices.profiles.items() if name != HOST}
    problem = PlacementProblem(graph.name, names, clusters, tensors, launch, capacities, objective)
    facts = ClusterFacts({name: found.group.stage for name, found in estimates.items() if found.group.stage},
                         {name: found.work.intensity for name, found in estimates.items()})
    return CostTable(estimates, problem, facts, devices.links, devices.losable)


def count_work(graph: Graph, clustering: Clustering, devices: DeviceSet) -> dict[str, tuple[WorkItem, ...]]:
    """The work of every cluster, with what caches may still hold and what a streaming device may keep on chip."""
    groups = clustering.groups
    marked = mark_recent(graph, [group.nodes for group in groups], [work_under(group, graph, devices)
                                                                    for group in groups])
    counted = {group.name: items for group, items in zip(groups, marked, strict=True)}
    scans = [(group.name, scanned_bytes(graph.values, counted[group.name])) for group in groups
             if group.stage is Stage.RELEVANCY]
    for budget in index_budgets(devices):
        for name, resident in keep_indices(scans, budget).items():
            counted[name] = with_resident(counted[name], resident)
    return counted


def work_under(group: NodeGroup, graph: Graph, devices: DeviceSet) -> tuple[WorkItem, ...]:
    """The work of a cluster, with what streaming devices multiply in under the numeric policy."""
    supports = [devices.supports[name] for name, profile in devices.profiles.items() if profile.streaming is not None]
    found = ((node.name, support.factor_type(graph, node, devices.policy))
             for support in supports for node in group.nodes)
    return works_of(group.nodes, graph, {name: factors for name, factors in found if factors is not None})


def keep_indices(scans: Iterable[tuple[str, int]], budget: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Bytes of block RAM and of ultra RAM that each scan may keep, given out in order as far as they reach.

    The budget is one for the whole program: the hardware stays, so all layers share it.

    Args:
        scans: (who scans, bytes of the index) in program order.
        budget: bytes of block RAM and of ultra RAM.
    """
    block_left, ultra_left = budget
    found: dict[str, tuple[int, int]] = {}
    for who, wanted in scans:
        block = min(block_left, wanted)
        ultra = min(ultra_left, wanted - block)
        block_left, ultra_left = block_left - block, ultra_left - ultra
        found[who] = (block, ultra)
    return found


def scanned_bytes(values: Mapping[str, Value], items: Iterable[WorkItem]) -> int:
    """Bytes of the caches that a cluster reads."""
    names = {name for work, _, _ in items for _, name in work.reads}
    return sum(values[name].type.size_bytes for name in names if values[name].role is Role.CACHE)


def with_resident(items: tuple[WorkItem, ...], resident: tuple[int, int]) -> tuple[WorkItem, ...]:
    """The work of a cluster whose largest read is of what is kept on chip."""
    largest = max(range(len(items)), key=lambda index: items[index][0].bytes_read, default=None)
    if largest is None:
        return items
    work, operator_class, dtype = items[largest]
    marked = (replace(work, resident=resident), operator_class, dtype)
    return (*items[:largest], marked, *items[largest + 1:])


def index_budgets(devices: DeviceSet) -> Iterator[tuple[int, int]]:
    """What each device that keeps indices on chip has for them."""
    for name, profile in devices.profiles.items():
        if profile.streaming is not None and profile.baseline(devices.baseline_of(name)).keeps_index:
            yield on_chip_budget(profile.streaming)


class PriceList:
    """Prices by work and device; layers repeat, so most are asked for more than once."""

    def __init__(self, devices: DeviceSet) -> None:
        self.devices = devices
        self.known: dict[object, Price] = {}

    def of(self, items: tuple[WorkItem, ...], device: str) -> Price:
        """The price of a cluster on a device."""
        key = (device, *((work, work.product, work.selected, work.recent, work.resident, work.factors, operator_class,
                          dtype) for work, operator_class, dtype in items))
        found = self.known.get(key)
        if found is None:
            found = price(items, self.devices.profiles[device], self.devices.baseline_of(device))
            self.known[key] = found
        return found


def _cost(priced: Price) -> Cost:
    return Cost(priced.time_s, priced.energy_j)


def _estimate_cluster(graph: Graph, group: NodeGroup, items: tuple[WorkItem, ...], devices: DeviceSet,
                      prices: PriceList) -> ClusterEstimate:
    work = sum((item[0] for item in items), Work())
    priced: dict[str, Price] = {}
    rejections: dict[str, tuple[str, Rejected]] = {}
    for name in devices.profiles:
        refused = None if name == HOST else _refusal(graph, group, devices.supports[name])
        if refused is not None:
            rejections[name] = refused
        else:
            priced[name] = prices.of(items, name)
    return ClusterEstimate(group, work, MappingProxyType(priced), MappingProxyType(rejections), items)


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
                 devices: DeviceSet, prices: PriceList) -> None:
        self.graph = graph
        self.clustering = clustering
        self.estimates = estimates
        self.devices = devices
        self.prices = prices
        self.cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
        self.transfers: dict[int, dict[tuple[str, str], Cost]] = {}

    def all(self) -> tuple[Tensor, ...]:
        crossings: list[Crossing] = []
        for group in self.clustering.groups:
            crossing = [Crossing(value, self.graph.type_of(value).size_bytes, group.name, users)
                        for node in group.nodes for value in node.outputs if (users := self._users(value, group.name))]
            crossings += sorted(crossing, key=lambda entry: -entry.size_bytes)
        profiles = {name: profile for name, profile in self.devices.profiles.items() if name != HOST}
        savings = find_savings(crossings, self.estimates, profiles, self.prices.of)
        return tuple(Tensor(crossing.value, crossing.producer, crossing.users, crossing.size_bytes,
                            self._transfer(crossing.value), savings.get(crossing.value, {})) for crossing in crossings)

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
            priced = {(source, target): transfer(source, target, size_bytes, links=self.devices.links)
                      for source in names for target in names if source != target}
            self.transfers[size_bytes] = {pair: Cost(copy.time_s, copy.energy_j) for pair, copy in priced.items()}
        return self.transfers[size_bytes]


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


__all__ = ["HOST", "ClusterEstimate", "CostTable", "DeviceSet", "PriceList", "cache_devices", "count_work", "estimate",
           "index_budgets", "keep_indices", "scanned_bytes", "weight_devices", "with_resident", "work_under"]
