"""The numbers of a compile: what ``compile --json`` prints and the tables people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hetcc.ir import Stage
from hetcc.passes.estimate import HOST, DeviceSet
from hetcc.passes.phase import PlannedPhase
from hetcc.report.explanation_text import robustness_lines
from hetcc.stopwatch import Stopwatch
from hetcc.units import format_bytes, format_energy, format_time

MAIN_PHASES = ("decode", "encode", "prefill")


def compile_summary(phases: Sequence[PlannedPhase], devices: DeviceSet, *, fits: bool, watch: Stopwatch,
                    bundle: str | None, peak_rss_bytes: int,
                    robustness: Mapping[str, Mapping[str, Any] | None] | None = None,
                    survival: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> dict[str, Any]:
    """The document of ``compile --json``: the main phase's numbers at the top, every phase's under ``phases``."""
    sure = robustness or {}
    kept = survival or {}
    by_name = {phase.name: {**_phase_summary(phase, sure.get(phase.name)), "survival": kept.get(phase.name, [])}
               for phase in phases}
    main = next((name for name in MAIN_PHASES if name in by_name), next(iter(by_name)))
    return {
        **by_name[main], "phase": main, "phases": by_name, "fits": fits,
        "capacity_bytes": {name: profile.capacity_bytes for name, profile in devices.profiles.items() if name != HOST},
        "devices": {name: profile.name for name, profile in devices.profiles.items()}, "baseline": devices.baseline,
        "timings_s": dict(watch.times_s), "peak_rss_bytes": peak_rss_bytes, "bundle": bundle,
    }


def _phase_summary(phase: PlannedPhase, sure: Mapping[str, Any] | None) -> dict[str, Any]:
    placement = phase.placement
    stages = Counter(tag.stage for tag in phase.tagged.tags.values())
    retrievals = {tag.pipeline for tag in phase.tagged.tags.values() if tag.stage is Stage.RETRIEVAL}
    regions = Counter(program.device for program in phase.programs)
    return {
        "nodes": len(phase.graph.nodes),
        "stages": {stage.value: stages.get(stage, 0) for stage in Stage},
        "pipelines": len(phase.tagged.pipelines()),
        "retrieval_pipelines": len(retrievals),
        "regions": {"total": len(phase.programs), **regions},
        "memory_bytes": phase.memory_bytes,
        "predicted": {
            "latency_s": placement.cost.time_s, "gpu_only_latency_s": phase.gpu_only.cost.time_s,
            "reconfiguration_s": placement.reconfiguration.time_s,
            "energy_j": placement.cost.energy_j, "gpu_only_energy_j": phase.gpu_only.cost.energy_j,
        },
        "partition": {"partitioner": placement.partitioner, "objective": placement.objective,
                      "lower_bound": placement.lower_bound, "gap": placement.gap, "robustness": sure},
        "coverage": planned_coverage(phase),
        "rewrites": {"applied": sum(rewrite.applied for rewrite in phase.rewrites),
                     "refused": sum(not rewrite.applied for rewrite in phase.rewrites)},
        "demotions": [{"cluster": cluster, "device": device, "reason": reason}
                      for cluster, device, reason in phase.demotions],
    }


def planned_coverage(phase: PlannedPhase) -> dict[str, Any]:
    """Share of flops and bytes each device is planned to run; every node that does anything is priced."""
    flops: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for program in phase.programs:
        work = phase.works[program.name]
        flops[program.device] += work.flops
        moved[program.device] += work.bytes_moved
    hosted = [name for program in phase.programs if program.device == HOST for name in program.nodes]
    return {
        "flops": {device: count / max(sum(flops.values()), 1) for device, count in flops.items()},
        "bytes": {device: count / max(sum(moved.values()), 1) for device, count in moved.items()},
        "host_nodes": hosted,
    }


def summary_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, text) rows for people."""
    predicted, partition = summary["predicted"], summary["partition"]
    stages = ", ".join(f"{name} {count}" for name, count in summary["stages"].items())
    regions = ", ".join(f"{device} {count}" for device, count in summary["regions"].items() if device != "total")
    memory = ", ".join(f"{device} {format_bytes(needed)} of {_capacity(summary, device)}"
                       for device, needed in summary["memory_bytes"].items())
    objective = (f"{partition['objective']:.6g}, lower bound {partition['lower_bound']:.6g}, "
                 f"gap {100 * partition['gap']:.3g} %")
    rows = [
        ("nodes", f"{summary['nodes']} ({stages})"),
        ("memory pipelines", f"{summary['pipelines']}, {summary['retrieval_pipelines']} of them select"),
        ("placement", f"{partition['partitioner']}: {summary['regions']['total']} regions ({regions})"),
        ("predicted step", _against(predicted["latency_s"], predicted["gpu_only_latency_s"], format_time,
                                    summary["baseline"])),
        ("predicted energy", _against(predicted["energy_j"], predicted["gpu_only_energy_j"], format_energy,
                                      summary["baseline"])),
        ("objective", objective),
        *robustness_lines(partition.get("robustness")),
        ("memory", memory + ("" if summary["fits"] else "  DOES NOT FIT")),
    ]
    return [*rows, *_special_rows(summary), ("on the host", _hosted(summary["coverage"]))]


def _special_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What most plans have not: loads of other xclbins, and a way to go on without a device."""
    rows = []
    if summary["predicted"].get("reconfiguration_s"):
        loads = format_time(summary["predicted"]["reconfiguration_s"])
        rows.append(("loading xclbins", f"{loads} of the step (assumed): not all kernels share one"))
    for kept in summary.get("survival", ()):
        sent = f"{format_time(kept['shadow_time_s'])} of the step for second copies, " if kept["shadow_time_s"] else ""
        recovery = format_time(kept["recovery_time_s"])
        rows.append((f"if the {kept['device']} is lost",
                     f"{kept['variant']} goes on: {sent}at most {recovery} to the next result"))
    return rows


def _hosted(coverage: dict[str, Any]) -> str:
    nodes = coverage["host_nodes"]
    if not nodes:
        return "nothing"
    return (f"{len(nodes)} nodes, first {nodes[0]}: {coverage['flops'].get(HOST, 0.0):.2%} of the flops, "
            f"{coverage['bytes'].get(HOST, 0.0):.2%} of the bytes")


def _capacity(summary: dict[str, Any], device: str) -> str:
    capacity = summary["capacity_bytes"].get(device)
    return format_bytes(capacity) if capacity else "host memory"


def _against(value: float, gpu_only: float, spell: Any, baseline: str) -> str:
    """``value`` next to the GPU alone, as a ratio in the direction people expect."""
    if value == gpu_only:
        return f"{spell(value)} (the GPU alone, '{baseline}' baseline)"
    ratio = gpu_only / value if value else float("inf")
    word = "better" if ratio > 1 else "worse"
    factor = ratio if ratio > 1 else 1 / ratio
    return f"{spell(value)}, {factor:.2f}x {word} than the GPU alone ({spell(gpu_only)}, '{baseline}' baseline)"
