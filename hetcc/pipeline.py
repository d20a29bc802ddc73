"""The flow: capture, plan, emit, bundle. Everything above this is a front door, everything below a room."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from hetcc import emission, planning
from hetcc.backends.gpu.tools import target_named
from hetcc.capture.model import CapturedModel, CaptureRequest
from hetcc.cost_model.device import load_device
from hetcc.cost_model.transfer import load_links
from hetcc.errors import InternalError, UserError
from hetcc.ir import Stage
from hetcc.ir.serialize import tagged_to_bytes
from hetcc.ir.subgraph import digest_of
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.estimate import HOST, DeviceSet
from hetcc.passes.phase import PlannedPhase
from hetcc.passes.place import load_placer
from hetcc.passes.robustness import robustness
from hetcc.plan.bundle import PLAN_FILE, check_writable, write_bundle
from hetcc.plan.plan import (
    CacheSpec,
    DeviceSpec,
    PartitionSpec,
    PhasePlan,
    Plan,
    Policy,
    Prediction,
    RegionSpec,
    RobustnessSpec,
    TensorSpec,
    plan_to_bytes,
)
from hetcc.plan.tensors import tensors_to_bytes
from hetcc.registry import SUPPORTS, load
from hetcc.reopen import Reopened, bundle_named, reopen
from hetcc.report.explain import explanation_to_bytes
from hetcc.report.summary import compile_summary
from hetcc.sharing import settle, with_loads
from hetcc.stopwatch import Stopwatch, silent
from hetcc.store import Store
from hetcc.surviving import surviving

RUNS_HERE = "llvm-cpu"
"""The target that is always added: its code is what this machine can run."""
_DEMOTION_ROUNDS = 8


@dataclass(frozen=True)
class Compiled:
    """The result of a compile: the plan, its bundle's files, and the numbers people ask for."""

    plan: Plan
    files: Mapping[str, bytes]
    summary: Mapping[str, Any]
    phases: tuple[PlannedPhase, ...]


def compile_model(options: CompileOptions, output: Path | None = None, *, force: bool = False,
                  progress: Callable[[str], None] = silent) -> Compiled:
    """Compile a model and, if ``output`` is given, write its bundle.

    Raises:
        UserError: the input is wrong or cannot be served; HET-P003 when it does not fit and ``ignore_capacity`` is off
            (the summary is on the error's ``details``).
        ToolError: a code generator is missing or failed.
    """
    if output is not None:
        check_writable(output, replace=force)
    check_choices(options)
    watch = Stopwatch(progress)
    options = replace(options, request=options.request.located())
    bundle = bundle_named(options.request.model)
    if bundle is not None:
        again = reopen(bundle, options.request, options.without_rewrites)
        options = replace(options, request=again.captured.request, without_rewrites=again.without_rewrites)
        return compile_captured(again.captured, options, output, force=force, watch=watch, again=again)
    with watch.stage("capture"):
        store = Store(fresh=options.fresh)
        captured = _capture(options.request, progress, store)
    return compile_captured(captured, options, output, force=force, watch=watch, store=store)


def check_choices(options: CompileOptions) -> None:
    """Refuse before the capture, which may take minutes, what the flow would refuse after it.

    Raises:
        UserError: HET-M001 or HET-M002 for a device, HET-P004 for a partitioner, HET-G001 for a target.
    """
    device_set(options)
    load_placer(options.choice.partitioner)
    if options.emit != "never":
        for target in with_targets(options).emission.targets:
            target_named(target)


def with_targets(options: CompileOptions) -> CompileOptions:
    """The options with GPU targets: those asked for, or that of the GPU's profile and one that runs here.

    Raises:
        UserError: HET-M001, an unknown device.
    """
    if options.emission.targets:
        return options
    own = load_device(options.gpu).code_target
    return replace(options, emission=replace(options.emission, targets=(*((own,) if own else ()), RUNS_HERE)))


def _capture(request: CaptureRequest, progress: Callable[[str], None], store: Store) -> CapturedModel:
    from hetcc.capture import capture

    return capture(request, progress, store)


def compile_captured(captured: CapturedModel, options: CompileOptions, output: Path | None, *, force: bool,
                     watch: Stopwatch, again: Reopened | None = None, store: Store | None = None) -> Compiled:
    """The flow after capture; ``again`` holds graphs that are tagged already, ``store`` what was made before."""
    options = with_targets(options)
    store = store or Store(fresh=options.fresh)
    devices = device_set(options)
    phases = _planned(captured, options, devices, watch, again, store)
    stand_ins = _stand_ins(phases, captured, options, watch)
    misfits = _misfits((*phases, *stand_ins), devices)
    if misfits and not options.ignore_capacity:
        summary = compile_summary(phases, devices, fits=False, watch=watch, bundle=None, peak_rss_bytes=_peak_rss())
        raise _does_not_fit(misfits, summary)
    wants_code = options.emit == "always" or (options.emit == "auto" and captured.has_weights and not misfits)
    made = emission.Emission()
    if wants_code:
        phases, stand_ins, made = _emit(phases, stand_ins, captured, options, watch, store)
        made = emission.packed(phases, made, devices.profiles["fpga"])
        loads = made.packing.loads if made.packing is not None else {}
        phases = tuple(with_loads(phase, loads.get(phase.name, 0), devices.profiles["fpga"]) for phase in phases)
    with watch.stage("bundle"):
        plan = build_plan(captured, phases, options, devices, made, fits=not misfits, stand_ins=stand_ins)
        files = bundle_files(captured, plan, phases, devices, made, options)
        written = write_bundle(output, files, replace=force) if output is not None else None
    sure = {phase.phase: phase.partition.robustness for phase in plan.phases}
    summary = compile_summary(phases, devices, fits=not misfits, watch=watch,
                              bundle=str(written) if written else None, peak_rss_bytes=_peak_rss(),
                              robustness={name: found.model_dump() for name, found in sure.items() if found},
                              survival={phase.phase: [spec.model_dump() for spec in phase.survival]
                                        for phase in plan.phases})
    return Compiled(plan, files, summary, phases)


def _planned(captured: CapturedModel, options: CompileOptions, devices: DeviceSet, watch: Stopwatch,
             again: Reopened | None, store: Store) -> tuple[PlannedPhase, ...]:
    """Every phase planned, with what its kernels cost each other."""
    choices = _choice_by_phase(captured, options)
    if again is None:
        phases = tuple(planning.plan_phase(name, graph, captured.request, devices, choices[name], watch,
                                           options.without_rewrites, store)
                       for name, graph in captured.graphs.items())
    else:
        phases = tuple(planning.plan_tagged(name, tagged, again.rewrites[name], captured.request, devices,
                                            choices[name], watch) for name, tagged in again.tagged.items())
    with watch.stage("share xclbins"):
        return settle(phases, choices, options.emission, captured.constants, devices.profiles["fpga"], watch)


def _stand_ins(phases: tuple[PlannedPhase, ...], captured: CapturedModel, options: CompileOptions,
               watch: Stopwatch) -> tuple[PlannedPhase, ...]:
    """For phases that shall survive the loss of a device they use: the same without it, for each such device."""
    choices = _choice_by_phase(captured, options)
    return tuple(planning.stand_in_for(phase, device, choices[phase.name], watch)
                 for phase in phases for device in planning.replaced_devices(phase, choices[phase.name]))


def _choice_by_phase(captured: CapturedModel, options: CompileOptions) -> dict[str, PlacementChoice]:
    """A placement file that was exported from one phase speaks of that phase alone."""
    spoken = planning.read_placement(options.choice.file).get("name") if options.choice.file is not None else None
    named = {graph.name for graph in captured.graphs.values()}
    return {phase: replace(options.choice, file=None) if spoken in named and spoken != graph.name else options.choice
            for phase, graph in captured.graphs.items()}


def device_set(options: CompileOptions) -> DeviceSet:
    """Profiles and back ends of the devices named in the options.

    Raises:
        UserError: HET-M001, an unknown device, baseline or set of links.
    """
    profiles = {"gpu": load_device(options.gpu), "fpga": load_device(options.fpga), HOST: load_device(options.host)}
    for name, profile in profiles.items():
        if profile.kind.value != name:
            raise UserError("HET-M001", f"'{profile.name}' is a {profile.kind.value}, not a {name}",
                            fix=f"`hetcc devices` lists every {name}")
    profiles["gpu"].baseline(options.baseline)
    load_links(options.links)
    by_doorbell = options.fpga_launch == "doorbell"
    devices = DeviceSet(profiles, {name: load(spec)() for name, spec in SUPPORTS.items()}, options.baseline,
                        options.links, by_doorbell, options.emission.policy)
    if by_doorbell and profiles["fpga"].baseline(devices.baseline_of("fpga")).doorbell_launch_s is None:
        raise UserError("HET-M001", f"'{profiles['fpga'].name}' has no price for a doorbell", where="--fpga-launch",
                        fix="add baselines.NAME.doorbell_launch_s to its profile, or leave out --fpga-launch")
    return devices


def _misfits(phases: tuple[PlannedPhase, ...], devices: DeviceSet) -> list[tuple[str, str, int, int]]:
    """(phase, device, bytes needed, bytes available) where the memory is too small."""
    return [(phase.name, device, needed, devices.profiles[device].capacity_bytes)
            for phase in phases for device, needed in phase.memory_bytes.items()
            if device != HOST and needed > devices.profiles[device].capacity_bytes]


def _does_not_fit(misfits: list[tuple[str, str, int, int]], summary: Mapping[str, Any]) -> UserError:
    from hetcc.units import format_bytes

    phase, device, needed, available = misfits[0]
    error = UserError(
        "HET-P003", f"{phase} needs {format_bytes(needed)} on the {device}, which has {format_bytes(available)}",
        fix="lower --context or --batch, use a smaller --dtype or a larger device, or plan with --ignore-capacity")
    error.details = dict(summary)
    return error


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _emit(phases: tuple[PlannedPhase, ...], stand_ins: tuple[PlannedPhase, ...], captured: CapturedModel,
          options: CompileOptions, watch: Stopwatch, store: Store,
          ) -> tuple[tuple[PlannedPhase, ...], tuple[PlannedPhase, ...], emission.Emission]:
    """Generate code; a region its tools refuse is placed elsewhere and the rest is generated again (from the cache)."""
    choices = _choice_by_phase(captured, options)
    free = PlacementChoice(objective=options.choice.objective)
    everything = (*phases, *stand_ins)
    for _ in range(_DEMOTION_ROUNDS):
        made = emission.emit(everything, options.emission, captured.constants, watch, store)
        if not made.refused:
            emission.check_fallbacks(everything, options.emission, watch)
            emission.check_policies(phases, made, options.emission, watch)
            return everything[:len(phases)], everything[len(phases):], made
        everything = tuple(planning.replan(phase, emission.clusters_refused(phase, made),
                                           choices.get(phase.name, free), watch) for phase in everything)
    raise InternalError("HET-I001", f"regions were still refused after {_DEMOTION_ROUNDS} rounds: "
                        f"{next(iter(made.refused))}: {next(iter(made.refused.values()))}")


def build_plan(captured: CapturedModel, phases: tuple[PlannedPhase, ...], options: CompileOptions, devices: DeviceSet,
               made: emission.Emission, *, fits: bool, stand_ins: tuple[PlannedPhase, ...] = ()) -> Plan:
    """The plan that ``plan.json`` holds."""
    others = {one.name: _phase_plan(one, options, made, devices) for one in stand_ins}
    return Plan(
        model=captured.request.model, dtype=captured.request.dtype.value,
        targets=options.emission.targets if made.regions else (), fits=fits, ignore_capacity=options.ignore_capacity,
        devices=tuple(DeviceSpec(name=name, profile=profile.name,
                                 capacity_bytes=0 if name == HOST else profile.capacity_bytes,
                                 idle_w=profile.power.idle_w.value, fault_code=devices.supports[name].fault_code,
                                 may_be_lost=name in devices.losable)
                      for name, profile in devices.profiles.items()),
        phases=tuple(surviving(_phase_plan(phase, options, made, devices), others, options) for phase in phases),
        stand_ins=tuple(others.values()))


def _phase_plan(phase: PlannedPhase, options: CompileOptions, made: emission.Emission,
                devices: DeviceSet) -> PhasePlan:
    graph = phase.graph

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, shape=graph.type_of(name).shape, dtype=graph.type_of(name).dtype.value)

    outputs = [name for name in graph.outputs if name not in phase.observed]
    cost, load = phase.placement.cost, phase.placement.reconfiguration
    prediction = Prediction(
        baseline=options.baseline, latency_s=cost.time_s, energy_j=cost.energy_j, reconfiguration_s=load.time_s,
        gpu_only_latency_s=phase.gpu_only.cost.time_s, gpu_only_energy_j=phase.gpu_only.cost.energy_j)
    partition = PartitionSpec(partitioner=phase.placement.partitioner, objective=phase.placement.objective,
                              lower_bound=phase.placement.lower_bound, gap=phase.placement.gap,
                              robustness=_robustness(phase, options, devices))
    first = graph.type_of(graph.inputs[0]).shape if graph.inputs else (1, 1)
    return PhasePlan(
        phase=phase.name, batch=phase.request.batch, tokens=first[1] if len(first) > 1 else 1,
        context=phase.request.context, inputs=tuple(map(spec, graph.inputs)), outputs=tuple(map(spec, outputs)),
        observed=phase.observed, regions=_region_specs(phase, made, options), steps=phase.steps, buffers=phase.buffers,
        caches=tuple(CacheSpec(name=name, shape=graph.type_of(name).shape, dtype=graph.type_of(name).dtype.value,
                               device=phase.cache_device[name], policy="single") for name in graph.caches),
        memory_bytes=phase.memory_bytes, prediction=prediction, partition=partition)


def _robustness(phase: PlannedPhase, options: CompileOptions, devices: DeviceSet) -> RobustnessSpec | None:
    """How sure the placement is, when asked; a placement somebody forced is not a decision of the prices."""
    choice = options.choice
    if not options.robustness_samples or choice.forced or choice.file is not None:
        return None
    found = robustness(phase.table, phase.placement, devices, options.robustness_samples)
    return RobustnessSpec(**asdict(found))


def _region_specs(phase: PlannedPhase, made: emission.Emission, options: CompileOptions) -> tuple[RegionSpec, ...]:
    specs = []
    for program in phase.programs:
        emitted = made.regions.get(emission.key_of(phase.name, program.name))
        stages = [phase.tagged.stage_of(name) for name in program.nodes]
        work = phase.works[program.name]
        specs.append(RegionSpec(
            name=program.name, device=program.device, engine=emitted.engine if emitted else "planned, not emitted",
            entry=emitted.entry if emitted else "", digest=digest_of(program.program),
            nodes=tuple(node.name for node in program.program.nodes),
            stages={stage.value: stages.count(stage) for stage in Stage if stage in stages},
            updates=tuple((update.cache, update.value) for update in program.program.updates),
            launch="doorbell" if program.device == "fpga" and options.fpga_launch == "doorbell" else "start",
            flops=work.flops, bytes_read=work.bytes_read, bytes_written=work.bytes_written,
            policy=cast(Policy, emitted.policy) if emitted else "exact"))
    return tuple(specs)


def bundle_files(captured: CapturedModel, plan: Plan, phases: tuple[PlannedPhase, ...], devices: DeviceSet,
                 made: emission.Emission, options: CompileOptions) -> dict[str, bytes]:
    """Every file of the bundle but the manifest."""
    from hetcc.report.repro import repro_script, request_to_bytes

    files = dict(made.files)
    files[PLAN_FILE] = plan_to_bytes(plan)
    files["request.json"] = request_to_bytes(captured, options)
    files["repro.sh"] = repro_script(options).encode()
    for phase in phases:
        files[f"graphs/{phase.name}.json"] = tagged_to_bytes(phase.tagged)
        files[f"placement/{phase.name}.problem.json"] = _json(phase.table.problem.to_json())
        files[f"placement/{phase.name}.placement.json"] = _json(phase.placement.to_json())
        files[f"reports/{phase.name}.explain.json"] = explanation_to_bytes(phase, devices)
    files["weights.json"] = _json({
        **{name: asdict(reference) for name, reference in captured.weights.items()},
        **{name: {"file": "./weights.safetensors", "tensor": name, "shape": list(array.shape),
                  "dtype": array.dtype.name} for name, array in captured.generated.items()},
        **{name: {"file": "./constants.safetensors", "tensor": name, "shape": list(array.shape),
                  "dtype": array.dtype.name} for name, array in captured.constants.items()}})
    if captured.generated:
        files["weights.safetensors"] = tensors_to_bytes(captured.generated)
    if captured.constants:
        files["constants.safetensors"] = tensors_to_bytes(captured.constants)
    return files


def _json(document: Any) -> bytes:
    return (json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n").encode()


__all__ = ["CompileOptions", "Compiled", "compile_captured", "compile_model"]
