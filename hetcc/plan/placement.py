"""The answer to a placement problem, and answers that come from outside.

The problem itself is in ``hetcc.plan.problem``; its names are offered here too, so that one import is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from hetcc.errors import UserError
from hetcc.plan.fields import check_schema, entries_of, field_of, names_of, number_of, reject
from hetcc.plan.problem import Cluster, Cost, Objective, PlacementProblem, Tensor, cost_from_json

PLACEMENT_SCHEMA = "hetcc-placement/1"
_TINY = 1e-15


@dataclass(frozen=True, slots=True)
class Region:
    """Clusters on one device that are launched as one program."""

    name: str
    device: str
    clusters: tuple[str, ...]
    """In topological order."""


@dataclass(frozen=True)
class Placement:
    """A device for every cluster and the regions that follow from it."""

    device_of: Mapping[str, str]
    regions: tuple[Region, ...]
    """In a topological order of the region graph; every cluster is in one."""
    cost: Cost
    """As the independent scorer computes it."""
    objective: float
    lower_bound: float
    """No placement has a smaller objective."""
    partitioner: str
    reconfiguration: Cost = field(default_factory=Cost)
    """Part of ``cost`` that no problem knows: loading other xclbins, because not all kernels share one."""

    def __post_init__(self) -> None:
        placed = [(cluster, region.device) for region in self.regions for cluster in region.clusters]
        if len(placed) != len(self.device_of) or dict(placed) != dict(self.device_of):
            reject("the regions do not hold every cluster once on its own device", self.partitioner)

    @property
    def gap(self) -> float:
        """How far the objective may be above the optimum, as a share of the lower bound."""
        return (self.objective - self.lower_bound) / max(abs(self.lower_bound), _TINY)

    @cached_property
    def region_of(self) -> Mapping[str, Region]:
        """Region by cluster name."""
        return MappingProxyType({cluster: region for region in self.regions for cluster in region.clusters})

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``from_json`` gives an equal placement back. ``assignment_from_json`` accepts it too."""
        return {
            "schema": PLACEMENT_SCHEMA,
            "partitioner": self.partitioner,
            "cost": self.cost.to_json(),
            "reconfiguration": self.reconfiguration.to_json(),
            "objective": self.objective,
            "lower_bound": self.lower_bound,
            "placement": dict(self.device_of),
            "regions": [{"name": region.name, "device": region.device, "clusters": list(region.clusters)}
                        for region in self.regions],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Placement:
        """Read what ``to_json`` wrote.

        Raises:
            UserError: HET-P001, with the path of the field that is missing, mistyped or inconsistent.
        """
        check_schema(document, PLACEMENT_SCHEMA)
        regions = tuple(
            Region(field_of(entry, "name", str, where), field_of(entry, "device", str, where),
                   names_of(entry, "clusters", where))
            for where, entry in entries_of(document, "regions")
        )
        return cls(
            device_of=MappingProxyType(dict(field_of(document, "placement", Mapping, ""))),
            regions=regions,
            cost=cost_from_json(field_of(document, "cost", Mapping, ""), "cost"),
            objective=number_of(document.get("objective"), "objective", signed=True),
            lower_bound=number_of(document.get("lower_bound"), "lower_bound", signed=True),
            partitioner=field_of(document, "partitioner", str, ""),
            reconfiguration=cost_from_json(document.get("reconfiguration", Cost().to_json()), "reconfiguration"),
        )


def region_name(position: int, device: str) -> str:
    """The name of the region at ``position`` in topological order; sorts in that order."""
    return f"r{position:05d}_{device}"


def assignment_from_json(document: Mapping[str, Any], problem: PlacementProblem) -> dict[str, str]:
    """The device of every cluster according to a placement that came from outside.

    Args:
        document: ``{"placement": {cluster or node name: device}}``, and optionally ``"regions"``: lists of cluster or
            node names that shall be launched together. What ``Placement.to_json`` writes is accepted.
        problem: what is to be placed. Clusters the document does not name go to the first of ``problem.devices``
            they allow.

    Raises:
        UserError: HET-P001 for unknown names or devices, nodes of one cluster on different devices, or regions that
            mix devices or layers; HET-P005 for a device the cluster is not allowed on; HET-P002 for regions that
            need each other's results.
    """
    device_of = {cluster.name: next(device for device in problem.devices if device in cluster.costs)
                 for cluster in problem.clusters}
    said_by: dict[str, str] = {}
    for name, device in field_of(document, "placement", Mapping, "").items():
        cluster = _cluster_named(name, problem, "placement")
        if device not in problem.devices:
            reject(f"device {device!r} is not one of {list(problem.devices)}", f"placement['{name}']")
        earlier = said_by.setdefault(cluster.name, name)
        if earlier != name and device_of[cluster.name] != device:
            reject(f"'{earlier}' is on '{device_of[cluster.name]}' and '{name}' on '{device}', but both are in cluster "
                   f"'{cluster.name}'", "placement", "give all nodes of a cluster one device")
        if device not in cluster.costs:
            raise UserError("HET-P005", f"'{name}' cannot run on '{device}'; allowed: {list(cluster.costs)}",
                            where=f"placement['{name}']", fix="`hetcc explain` says which rule forbids it")
        device_of[cluster.name] = device
    if "regions" in document:
        regions_from_json(document, problem, device_of)
    return device_of


def regions_from_json(
    document: Mapping[str, Any], problem: PlacementProblem, device_of: Mapping[str, str],
) -> tuple[Region, ...]:
    """The regions a document asks for, in a topological order; clusters it does not name are regions of their own.

    Raises:
        UserError: as ``assignment_from_json``.
    """
    group_of: dict[str, int] = {}
    groups: list[list[str]] = []
    for where, entry in entries_of(document, "regions"):
        listed = field_of(entry, "clusters", list, where) if isinstance(entry, Mapping) else entry
        if not isinstance(listed, list) or not listed:
            reject(f"expected a list of names, found {listed!r}", where)
        names = dict.fromkeys(_cluster_named(name, problem, where).name for name in listed)
        taken = [name for name in names if name in group_of]
        if taken:
            reject(f"cluster '{taken[0]}' is in two regions", where)
        for what, kinds in (("devices", {device_of[name] for name in names}),
                            ("layers", {problem.cluster_by_name[name].layer for name in names})):
            if len(kinds) > 1:
                reject(f"one region spans the {what} {sorted(kinds)}", where)
        group_of.update(dict.fromkeys(names, len(groups)))
        groups.append([])
    for cluster in problem.clusters:
        if cluster.name not in group_of:
            group_of[cluster.name] = len(groups)
            groups.append([])
        groups[group_of[cluster.name]].append(cluster.name)
    ordered = order_groups(problem, groups)
    return tuple(Region(region_name(position, device_of[group[0]]), device_of[group[0]], tuple(group))
                 for position, group in enumerate(ordered))


def order_groups(problem: PlacementProblem, groups: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The groups of clusters in a topological order, the earlier in ``groups`` first where there is a choice.

    Args:
        problem: whose tensors say what must come before what.
        groups: every cluster of the problem in exactly one group.

    Raises:
        UserError: HET-P002 if the groups need each other's results; the message names the cycle.
    """
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    after: list[dict[int, str]] = [{} for _ in groups]
    waits = [0] * len(groups)
    for tensor in problem.tensors:
        source = group_of[tensor.producer]
        for consumer in tensor.consumers:
            destination = group_of[consumer]
            if destination != source and destination not in after[source]:
                after[source][destination] = tensor.name
                waits[destination] += 1
    ready = deque(index for index, count in enumerate(waits) if count == 0)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for destination in after[index]:
            waits[destination] -= 1
            if waits[destination] == 0:
                ready.append(destination)
    if len(order) < len(groups):
        raise UserError("HET-P002", "regions need each other's results: " + _cycle(groups, after, waits),
                        where="regions", fix="split one of these regions, or leave out 'regions'")
    return [groups[index] for index in order]


def _cycle(groups: Sequence[Sequence[str]], after: list[dict[int, str]], waits: list[int]) -> str:
    """One cycle among the groups that could not be ordered, as text."""
    stuck = {index for index, count in enumerate(waits) if count > 0}
    before = {destination: source for source in stuck for destination in after[source] if destination in stuck}
    index = min(before)
    seen: list[int] = []
    while index not in seen:
        seen.append(index)
        index = before[index]
    cycle = [*reversed(seen[seen.index(index):])]
    start = cycle.index(min(cycle))
    cycle = cycle[start:] + cycle[:start]
    steps = [f"[{groups[source][0]}, ...] -({after[source][destination]})->"
             for source, destination in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
    return " ".join([*steps, f"[{groups[cycle[0]][0]}, ...]"])


def _cluster_named(name: object, problem: PlacementProblem, where: str) -> Cluster:
    if isinstance(name, str):
        cluster = problem.cluster_by_name.get(problem.cluster_of_node.get(name, name))
        # A name may be both a cluster and a node of another cluster; the cluster wins.
        cluster = problem.cluster_by_name.get(name, cluster)
        if cluster is not None:
            return cluster
    raise UserError("HET-P001", f"{name!r} is neither a cluster nor a node of '{problem.name}'", where=where,
                    fix="`hetcc explain` lists the names")


__all__ = [
    "Cluster", "Cost", "Objective", "Placement", "PlacementProblem", "Region", "Tensor", "assignment_from_json",
    "order_groups", "region_name", "regions_from_json",
]
