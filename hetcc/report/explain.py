"""Why every cluster is where it is: prices, cuts, margin, and what would flip the decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hetcc.passes.estimate import HOST, ClusterEstimate, DeviceSet
from hetcc.passes.phase import PlannedPhase
from hetcc.plan.placement import Cluster, Placement, PlacementProblem


def explanation_to_bytes(phase: PlannedPhase, devices: DeviceSet) -> bytes:
    """The decision record of every cluster of a phase, as canonical JSON."""
    neighbours = _Neighbours(phase.table.problem, phase.placement)
    demoted = {(cluster, device): reason for cluster, device, reason in phase.demotions}
    clusters = {}
    for cluster in phase.table.problem.clusters:
        found = phase.table.estimates[cluster.name]
        clusters[cluster.name] = {
            **_facts(phase, found), **neighbours.decision(cluster),
            "prices": {device: _price(priced) for device, priced in found.prices.items()},
            "rejections": {
                **{device: {"node": node, "rule": str(rejected)}
                   for device, (node, rejected) in found.rejections.items()},
                **{device: {"node": name, "rule": reason} for (name, device), reason in demoted.items()
                   if name == cluster.name}},
        }
    document = {
        "phase": phase.name, "baseline": devices.baseline,
        "devices": {name: profile.name for name, profile in devices.profiles.items()},
        "clusters": clusters,
        "rewrites": [{"node": rewrite.node, "applied": rewrite.applied, "reason": rewrite.reason,
                      "rule": rewrite.rule}
                     for rewrite in phase.rewrites],
    }
    return (json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n").encode()


def _facts(phase: PlannedPhase, found: ClusterEstimate) -> dict[str, Any]:
    tag = phase.tagged.tags.get(found.group.name)
    intensity = found.work.intensity
    return {
        "nodes": [node.name for node in found.group.nodes],
        "layer": found.group.layer,
        "stage": tag.stage.value if tag else None,
        "pipeline": tag.pipeline if tag else None,
        "evidence": list(tag.evidence) if tag else [],
        "work": {"flops": found.work.flops, "bytes_read": found.work.bytes_read,
                 "bytes_written": found.work.bytes_written},
        "intensity_flops_per_byte": intensity if intensity != float("inf") else None,
    }


def _price(priced: Any) -> dict[str, Any]:
    return {"time_s": priced.time_s, "low_s": priced.low_s, "high_s": priced.high_s, "energy_j": priced.energy_j,
            "bound": priced.bound.value, "source": priced.source.value}


class _Neighbours:
    """What moving one cluster alone would change, everything else staying where it is."""

    def __init__(self, problem: PlacementProblem, placement: Placement) -> None:
        self.problem = problem
        self.placement = placement
        self.produced: dict[str, list[Any]] = {}
        self.consumed: dict[str, list[Any]] = {}
        for tensor in problem.tensors:
            self.produced.setdefault(tensor.producer, []).append(tensor)
            for consumer in tensor.consumers:
                self.consumed.setdefault(consumer, []).append(tensor)

    def decision(self, cluster: Cluster) -> dict[str, Any]:
        """Chosen device, what crosses, and the price of every alternative."""
        device = self.placement.device_of[cluster.name]
        own = self._objective_at(cluster, device)
        alternatives = {}
        for other in cluster.costs:
            if other != device:
                alternatives[other] = self._alternative(cluster, other, self._objective_at(cluster, other) - own)
        return {"device": device, "region": self.placement.region_of[cluster.name].name,
                "cut": self._cut(cluster, device), "alternatives": alternatives}

    def _alternative(self, cluster: Cluster, device: str, margin: float) -> dict[str, Any]:
        price = self.problem.objective.value(cluster.costs[device])
        target = price - margin
        if margin <= 0:
            flip = f"moving it alone would help by {-margin:.3g}; region launches or its neighbours decide otherwise"
        elif target > 0:
            flip = f"would move if its own price there fell from {price:.3g} to below {target:.3g}"
        else:
            flip = "no price of its own could make it move alone: what would have to cross costs more than it saves"
        return {"margin": margin, "flip": flip}

    def _objective_at(self, cluster: Cluster, device: str) -> float:
        cost = cluster.costs[device]
        for _, _, moved in self._crossings(cluster, device):
            cost = cost + moved
        if not self._has_company(cluster, device):
            cost = cost + self.problem.launch[device]
        return self.problem.objective.value(cost)

    def _crossings(self, cluster: Cluster, device: str) -> list[tuple[Any, tuple[str, str], Any]]:
        place = self.placement.device_of
        found = []
        for tensor in self.produced.get(cluster.name, ()):
            for other in sorted({place[name] for name in tensor.consumers} - {device}):
                found.append((tensor, (device, other), tensor.transfer[(device, other)]))
        for tensor in self.consumed.get(cluster.name, ()):
            source = place[tensor.producer]
            shared = any(place[name] == device for name in tensor.consumers if name != cluster.name)
            if source != device and not shared:
                found.append((tensor, (source, device), tensor.transfer[(source, device)]))
        return found

    def _has_company(self, cluster: Cluster, device: str) -> bool:
        """Whether a neighbour of the same layer is on ``device``, so that no further launch is needed."""
        names = [name for tensor in self.produced.get(cluster.name, ()) for name in tensor.consumers]
        names += [tensor.producer for tensor in self.consumed.get(cluster.name, ())]
        clusters = self.problem.cluster_by_name
        return any(self.placement.device_of[name] == device and clusters[name].layer == cluster.layer
                   for name in names if name != cluster.name)

    def _cut(self, cluster: Cluster, device: str) -> list[dict[str, Any]]:
        return [{"value": tensor.name, "from": pair[0], "to": pair[1], "size_bytes": tensor.size_bytes,
                 "time_s": moved.time_s} for tensor, pair, moved in self._crossings(cluster, device)]


def host_reason(record: Mapping[str, Any]) -> str:
    """Why a cluster runs on the host, from its record."""
    return "; ".join(f"{device}: {entry['rule']} ({entry['node']})" for device, entry in record["rejections"].items()
                     if device != HOST)
