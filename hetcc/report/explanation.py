"""What ``hetcc explain`` answers, as plain data: a whole phase, one cluster, or one region."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hetcc.errors import UserError
from hetcc.ir import Node, Stage, TaggedGraph
from hetcc.passes.estimate import HOST
from hetcc.plan.plan import LaunchStep, PhasePlan
from hetcc.report.code import RegionCode, code_totals, uses_of

_LARGEST = 10
_LISTED = 6


@dataclass(frozen=True)
class Explained:
    """A phase of a bundle with its decision records."""

    plan: PhasePlan
    records: Mapping[str, Any]
    """``reports/PHASE.explain.json``."""
    tagged: TaggedGraph
    code: Mapping[str, RegionCode] = field(default_factory=dict)
    """Which code runs each GPU region, by region name; empty for a plan without code."""
    packing: Mapping[str, Any] | None = None
    """``fpga/packing.json``; None for a plan without FPGA code."""
    hardware: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How wide each FPGA region's kernel was made, by region name; empty for a plan without code."""

    @property
    def clusters(self) -> Mapping[str, Any]:
        """Decision record by cluster name."""
        clusters: Mapping[str, Any] = self.records["clusters"]
        return clusters


def overview(phase: Explained) -> dict[str, Any]:
    """Stages, largest clusters, what the host runs, and rewrites of a phase."""
    rewrites = phase.records["rewrites"]
    return {
        "phase": phase.plan.phase, "baseline": phase.records["baseline"],
        "devices": {device: phase.records["devices"][device] for device in _ordered(phase.records["devices"])},
        "prediction": phase.plan.prediction.model_dump(), "partition": phase.plan.partition.model_dump(),
        "stages": [_stage_totals(stage, phase.clusters.values()) for stage in (*(item.value for item in Stage), None)],
        "largest": _largest(phase.clusters),
        "host": [{"cluster": name, "nodes": record["nodes"], "reasons": record["rejections"]}
                 for name, record in phase.clusters.items() if record["device"] == HOST],
        "rewrites": rewrites,
        "code": code_totals(phase.code),
        "kernels_left_out": sorted({reason for region in phase.code.values() for reason in region.left_out}),
        "packing": phase.packing,
        "hardware": {region.name: {**phase.hardware[region.name], "policy": region.policy}
                     for region in phase.plan.regions if region.name in phase.hardware},
    }


def _stage_totals(stage: str | None, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the clusters of one stage; a device that refuses a cluster counts it under ``refused``."""
    own = [record for record in records if record["stage"] == stage]
    devices = _ordered({device for record in own for device in (*record["prices"], *record["rejections"])})
    prices = {device: [record["prices"][device] for record in own if device in record["prices"]] for device in devices}
    return {
        "stage": stage, "clusters": len(own),
        "placed": {device: count for device in devices
                   if (count := sum(record["device"] == device for record in own))},
        "flops": sum(record["work"]["flops"] for record in own),
        "bytes": sum(_bytes_moved(record) for record in own),
        "time_s": {device: sum(price["time_s"] for price in found) for device, found in prices.items() if found},
        "energy_j": {device: sum(price["energy_j"] for price in found) for device, found in prices.items() if found},
        "refused": {device: count for device in devices
                    if (count := sum(device in record["rejections"] for record in own))},
        "chosen_time_s": sum(record["prices"][record["device"]]["time_s"] for record in own),
    }


def _ordered(devices: Iterable[str]) -> list[str]:
    """Accelerators by name backwards (the GPU before the FPGA), the host last: the order people compare them in."""
    return sorted(sorted(devices, reverse=True), key=lambda device: device == HOST)


def _bytes_moved(record: Mapping[str, Any]) -> int:
    moved: int = record["work"]["bytes_read"] + record["work"]["bytes_written"]
    return moved


def _largest(clusters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The clusters that take the longest where they are; equal ones of other layers are counted, not repeated."""
    total_s = sum(record["prices"][record["device"]]["time_s"] for record in clusters.values()) or 1.0
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, record in clusters.items():
        price = record["prices"][record["device"]]
        key = (price["time_s"], record["device"], record["stage"], len(record["nodes"]), name.rpartition("/")[2])
        groups.setdefault(key, []).append(name)
    ranked = sorted(groups.items(), key=lambda item: (-item[0][0] * len(item[1]), item[1][0]))
    return [{"cluster": names[0], "alike": len(names), "device": device, "stage": stage, "time_s": time_s,
             "share": time_s * len(names) / total_s,
             "prices_s": {other: clusters[names[0]]["prices"][other]["time_s"]
                          for other in _ordered(clusters[names[0]]["prices"])}}
            for (time_s, device, stage, *_), names in ranked[:_LARGEST]]


def find_name(asked: str, phase: Explained) -> tuple[str, str]:
    """What ``asked`` means: ``("region", name)`` or ``("cluster", name)``.

    An exact name of a region, cluster or node wins; otherwise a piece of a name that leads to one cluster or region.

    Raises:
        UserError: HET-B004, nothing or several things are called so.
    """
    meaning: dict[str, tuple[str, str]] = {}
    for name, record in phase.clusters.items():
        meaning.update(dict.fromkeys(record["nodes"], ("cluster", name)))
    # A name may be both a cluster and a node of another cluster; the cluster wins.
    meaning.update({name: ("cluster", name) for name in phase.clusters})
    meaning.update({region.name: ("region", region.name) for region in phase.plan.regions})
    if asked in meaning:
        return meaning[asked]
    matching = {name: target for name, target in meaning.items() if asked in name}
    targets = dict.fromkeys(matching.values())
    if len(targets) == 1:
        return next(iter(targets))
    if targets:
        listed = [name for _, name in targets][:_LISTED]
        more = f" and {len(targets) - len(listed)} more" if len(targets) > len(listed) else ""
        raise UserError("HET-B004", f"'{asked}' is in the names of {len(targets)} clusters and regions: "
                        f"{', '.join(listed)}{more}", where=phase.plan.phase, fix="give more of the name")
    close = difflib.get_close_matches(asked, meaning, n=3, cutoff=0.4)
    raise UserError("HET-B004", f"no node, cluster or region of {phase.plan.phase} is called '{asked}'",
                    where=phase.plan.phase,
                    fix=f"did you mean {', '.join(close)}?" if close else "`hetcc explain BUNDLE` lists the largest")


def cluster_answer(name: str, asked: str, phase: Explained) -> dict[str, Any]:
    """Everything known about a cluster: what it is, what it costs where, what crosses, and why it is where it is."""
    record = phase.clusters[name]
    nodes = {node.name: node for node in phase.tagged.graph.nodes}
    return {
        "kind": "cluster", "phase": phase.plan.phase, "asked": asked, "cluster": name, **record,
        "partitioner": phase.plan.partition.partitioner,
        "nodes": [_node_facts(nodes[node], phase.tagged) for node in record["nodes"]],
        "prices": {device: record["prices"][device] for device in _ordered(record["prices"])},
        "cut_time_s": sum(entry["time_s"] for entry in record["cut"]),
        "launch_step": _launch_step(record["region"], phase.plan),
        # A view belongs to whoever reads it; the code of its cluster is the answer then.
        "code": (uses_of(phase.code, record["region"], [asked]) if asked in nodes else [])
                or uses_of(phase.code, record["region"], record["nodes"]),
    }


def _node_facts(node: Node, tagged: TaggedGraph) -> dict[str, Any]:
    stage = tagged.stage_of(node.name)
    return {
        "name": node.name, "operator": str(node.operator), "class": node.operator_class.value,
        "module_path": node.provenance.module_path, "module_class": node.provenance.module_class,
        "source": node.provenance.source, "stage": stage.value if stage else None,
        "outputs": [f"{value}: {tagged.graph.type_of(value)}" for value in node.outputs],
    }


def region_answer(name: str, phase: Explained) -> dict[str, Any]:
    """Everything known about a region: its clusters, its program, and when it is launched."""
    region = next(region for region in phase.plan.regions if region.name == name)
    order = {node: index for index, node in enumerate(region.nodes)}
    clusters = sorted((cluster for cluster, record in phase.clusters.items() if record["region"] == name),
                      key=lambda cluster: min(order.get(node, len(order)) for node in phase.clusters[cluster]["nodes"]))
    position = _launch_step(name, phase.plan)
    step = phase.plan.steps[position] if position is not None else None
    alike = [other.name for other in phase.plan.regions if other.digest == region.digest and other.name != name]
    return {
        "kind": "region", "phase": phase.plan.phase, "region": name, "device": region.device, "engine": region.engine,
        "code_file": region.entry or None, "code": uses_of(phase.code, name, region.nodes),
        "kernels_left_out": list(phase.code[name].left_out) if name in phase.code else [],
        "digest": region.digest, "same_program": alike,
        "clusters": clusters, "nodes": list(region.nodes), "stages": region.stages,
        "updates": [list(pair) for pair in region.updates], "policy": region.policy,
        "hardware": phase.hardware.get(name),
        "work": {"flops": region.flops, "bytes_read": region.bytes_read, "bytes_written": region.bytes_written},
        "launch_step": position,
        "launch": step.model_dump() if isinstance(step, LaunchStep) else None,
    }


def _launch_step(region: str, plan: PhasePlan) -> int | None:
    """Position of the step that launches a region."""
    return next((position for position, step in enumerate(plan.steps)
                 if isinstance(step, LaunchStep) and step.region == region), None)


def main_phase(names: Sequence[str], preferred: Sequence[str]) -> str:
    """The phase that is meant when none is named."""
    return next((name for name in preferred if name in names), names[0])
