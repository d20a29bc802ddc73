"""The placement problem: what may run where, at which price.

A problem is small plain data: clusters with a price per device, tensors with a price per link, a launch price per
region. It can be saved, sent to another solver and read back; nothing here knows where the prices came from.

The objective of an answer is
``sum(cluster price on its device) + sum(tensor transfer price, once per destination device)
+ launch price x regions - sum(fusion saving of tensors whose producer and all consumers are in one region)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from hetcc.plan.fields import check_schema, entries_of, field_of, names_of, number_of, reject

PROBLEM_SCHEMA = "hetcc-placement-problem/1"


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of time and of energy; differences may be negative."""

    time_s: float = 0.0
    energy_j: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.time_s + other.time_s, self.energy_j + other.energy_j)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.time_s - other.time_s, self.energy_j - other.energy_j)

    def scaled(self, factor: float) -> Cost:
        """Both amounts times ``factor``."""
        return Cost(self.time_s * factor, self.energy_j * factor)

    @property
    def is_price(self) -> bool:
        """Whether both amounts are finite and not negative."""
        return 0.0 <= self.time_s < math.inf and 0.0 <= self.energy_j < math.inf

    def to_json(self) -> dict[str, float]:
        """``{"time_s": ..., "energy_j": ...}``."""
        return {"time_s": self.time_s, "energy_j": self.energy_j}


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: a weighted sum of seconds and joules, weights not negative and not both zero."""

    time_weight: float = 1.0
    energy_weight: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.time_weight, self.energy_weight)
        if not all(0.0 <= weight < math.inf for weight in weights) or not any(weights):
            reject(f"weights {weights} must be finite, not negative and not all zero", "objective")

    def value(self, cost: Cost) -> float:
        """The number to minimise."""
        return self.time_weight * cost.time_s + self.energy_weight * cost.energy_j


@dataclass(frozen=True, slots=True)
class Cluster:
    """The smallest thing that is placed."""

    name: str
    nodes: tuple[str, ...]
    """Names of the graph nodes inside, in program order; each node is in one cluster."""
    costs: Mapping[str, Cost]
    """Price per device; devices that are absent are not allowed. At least one."""
    layer: str = ""
    """The repeated layer it belongs to; a region holds clusters of one layer only. Empty: of none."""
    resident_bytes: int = 0
    """Weights and caches that live with it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that crosses clusters."""

    name: str
    producer: str
    consumers: tuple[str, ...]
    """Clusters that read it, each once, never the producer."""
    size_bytes: int
    transfer: Mapping[tuple[str, str], Cost]
    """Price of one copy by (source device, destination device); every pair that a placement can need is present."""
    fusion_saving: Mapping[str, Cost]
    """Gained on a device if producer and all consumers are in one region there; absent means nothing."""


@dataclass(frozen=True)
class PlacementProblem:
    """Clusters in topological order, tensors between them, and what devices charge and hold."""

    name: str
    devices: tuple[str, ...]
    """The first is where clusters go when nothing else is said."""
    clusters: tuple[Cluster, ...]
    tensors: tuple[Tensor, ...]
    launch: Mapping[str, Cost]
    """Price of launching one region, for every device."""
    capacities_bytes: Mapping[str, int]
    """Memory per device; a device that is absent is not limited."""
    objective: Objective

    def __post_init__(self) -> None:
        _check_devices(self)
        _check_clusters(self)
        _check_tensors(self)

    @cached_property
    def cluster_by_name(self) -> Mapping[str, Cluster]:
        """Clusters by name."""
        return MappingProxyType({cluster.name: cluster for cluster in self.clusters})

    @cached_property
    def cluster_of_node(self) -> Mapping[str, str]:
        """Cluster name by the name of a node inside."""
        return MappingProxyType({node: cluster.name for cluster in self.clusters for node in cluster.nodes})

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs (producer, consumer) of positions in ``clusters``, each once, sorted."""
        position = {cluster.name: index for index, cluster in enumerate(self.clusters)}
        return tuple(sorted({(position[tensor.producer], position[consumer])
                             for tensor in self.tensors for consumer in tensor.consumers}))

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``from_json`` gives an equal problem back."""
        return {
            "schema": PROBLEM_SCHEMA,
            "name": self.name,
            "devices": list(self.devices),
            "objective": {"time_weight": self.objective.time_weight, "energy_weight": self.objective.energy_weight},
            "launch": _prices_to_json(self.launch),
            "capacities_bytes": dict(self.capacities_bytes),
            "clusters": [
                {"name": cluster.name, "nodes": list(cluster.nodes), "costs": _prices_to_json(cluster.costs),
                 "layer": cluster.layer, "resident_bytes": cluster.resident_bytes}
                for cluster in self.clusters
            ],
            "tensors": [
                {"name": tensor.name, "producer": tensor.producer, "consumers": list(tensor.consumers),
                 "size_bytes": tensor.size_bytes, "fusion_saving": _prices_to_json(tensor.fusion_saving),
                 "transfer": [{"from": source, "to": destination, **cost.to_json()}
                              for (source, destination), cost in tensor.transfer.items()]}
                for tensor in self.tensors
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PlacementProblem:
        """Read what ``to_json`` wrote.

        Raises:
            UserError: HET-P001, with the path of the field that is missing, mistyped or inconsistent.
        """
        check_schema(document, PROBLEM_SCHEMA)
        objective = field_of(document, "objective", Mapping, "")
        return cls(
            name=field_of(document, "name", str, ""),
            devices=names_of(document, "devices", ""),
            clusters=tuple(_cluster_from_json(entry, where) for where, entry in entries_of(document, "clusters")),
            tensors=tuple(_tensor_from_json(entry, where) for where, entry in entries_of(document, "tensors")),
            launch=_prices_from_json(document, "launch", ""),
            capacities_bytes={name: number_of(size, f"capacities_bytes.{name}", whole=True) for name, size
                              in field_of(document, "capacities_bytes", Mapping, "").items()},
            objective=Objective(number_of(objective.get("time_weight"), "objective.time_weight"),
                                number_of(objective.get("energy_weight"), "objective.energy_weight")),
        )


def _check_devices(problem: PlacementProblem) -> None:
    if not problem.devices or len(set(problem.devices)) != len(problem.devices):
        reject(f"devices {list(problem.devices)} must be named once each, at least one", problem.name)
    for device in problem.devices:
        if device not in problem.launch:
            reject(f"no launch price for device '{device}'", problem.name)
    _check_prices(problem.launch, problem.devices, "launch")
    for device, size_bytes in problem.capacities_bytes.items():
        if device not in problem.devices or size_bytes < 0:
            reject(f"capacity of {size_bytes} bytes for device '{device}' (devices: {list(problem.devices)})",
                    problem.name)


def _check_prices(prices: Mapping[str, Cost], devices: Sequence[str], where: str) -> None:
    for device, cost in prices.items():
        if device not in devices:
            reject(f"price for an unknown device '{device}' (devices: {list(devices)})", where)
        if not cost.is_price:
            reject(f"{cost} on '{device}' must be finite and not negative", where)


def _check_clusters(problem: PlacementProblem) -> None:
    for kind, names in (("clusters", [cluster.name for cluster in problem.clusters]),
                        ("nodes", [node for cluster in problem.clusters for node in cluster.nodes])):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            reject(f"two {kind} are named '{twice}'", problem.name)
    for cluster in problem.clusters:
        if not cluster.costs:
            reject("no device is allowed", cluster.name)
        if cluster.resident_bytes < 0:
            reject(f"negative size {cluster.resident_bytes}", cluster.name)
        _check_prices(cluster.costs, problem.devices, cluster.name)


def _check_tensors(problem: PlacementProblem) -> None:
    position = {cluster.name: index for index, cluster in enumerate(problem.clusters)}
    allowed = [tuple(cluster.costs) for cluster in problem.clusters]
    for tensor in problem.tensors:
        unknown = [name for name in (tensor.producer, *tensor.consumers) if name not in position]
        if unknown:
            reject(f"cluster '{unknown[0]}' does not exist", tensor.name)
        if tensor.size_bytes < 0 or len(set(tensor.consumers)) != len(tensor.consumers):
            reject(f"negative size ({tensor.size_bytes}) or a consumer named twice", tensor.name)
        at = position[tensor.producer]
        for consumer in tensor.consumers:
            if position[consumer] <= at:
                reject(f"consumer '{consumer}' does not come after producer '{tensor.producer}'", tensor.name)
            for source in allowed[at]:
                for destination in allowed[position[consumer]]:
                    if source != destination and (source, destination) not in tensor.transfer:
                        reject(f"no transfer price from '{source}' to '{destination}'", tensor.name)
        _check_prices(tensor.fusion_saving, problem.devices, tensor.name)
        for pair, cost in tensor.transfer.items():
            if not cost.is_price:
                reject(f"{cost} from '{pair[0]}' to '{pair[1]}' must be finite and not negative", tensor.name)


def cost_from_json(entry: Any, where: str) -> Cost:
    """Read what ``Cost.to_json`` wrote; ``where`` is the path said in an error."""
    if not isinstance(entry, Mapping):
        reject(f"expected a price, found {type(entry).__name__}", where)
    return Cost(number_of(entry.get("time_s"), f"{where}.time_s", signed=True),
                number_of(entry.get("energy_j"), f"{where}.energy_j", signed=True))


def _prices_to_json(prices: Mapping[str, Cost]) -> dict[str, dict[str, float]]:
    return {device: cost.to_json() for device, cost in prices.items()}


def _prices_from_json(document: Mapping[str, Any], key: str, where: str) -> dict[str, Cost]:
    path = f"{where}.{key}" if where else key
    return {device: cost_from_json(entry, f"{path}.{device}")
            for device, entry in field_of(document, key, Mapping, where).items()}


def _cluster_from_json(entry: Any, where: str) -> Cluster:
    return Cluster(field_of(entry, "name", str, where), names_of(entry, "nodes", where),
                   _prices_from_json(entry, "costs", where), field_of(entry, "layer", str, where),
                   number_of(entry.get("resident_bytes"), f"{where}.resident_bytes", whole=True))


def _tensor_from_json(entry: Any, where: str) -> Tensor:
    transfer = {
        (field_of(link, "from", str, at), field_of(link, "to", str, at)): cost_from_json(link, at)
        for at, link in entries_of(entry, "transfer", where)
    }
    return Tensor(field_of(entry, "name", str, where), field_of(entry, "producer", str, where),
                  names_of(entry, "consumers", where),
                  number_of(entry.get("size_bytes"), f"{where}.size_bytes", whole=True),
                  transfer, _prices_from_json(entry, "fusion_saving", where))
