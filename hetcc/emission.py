"""From programs to files: what the back ends make of the regions, and what is kept from a device because it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.cost_model.price import reconfiguration
from hetcc.cost_model.profile import Device
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.ir.subgraph import digest_of, weights_of
from hetcc.options import EmissionOptions
from hetcc.passes.phase import PlannedPhase
from hetcc.plan.plan import LaunchStep
from hetcc.sharing import alone_on_chip, kernels_of
from hetcc.stopwatch import Stopwatch
from hetcc.store import Store

if TYPE_CHECKING:
    from hetcc.backends.fpga.vendor.packing import Packing

HOST_ENGINES = {"aten": "torch eager (host)", "onnx": "onnx reference (host)"}


@dataclass(frozen=True)
class Emission:
    """Files of a bundle and the entry of every region."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    regions: Mapping[str, EmittedRegion] = field(default_factory=dict)
    """By ``phase/region``; entries are paths in the bundle."""
    refused: Mapping[str, Rejected] = field(default_factory=dict)
    """Regions their device's tools do not take after all, by ``phase/region``."""
    packing: Packing | None = None
    """Which FPGA kernels share an xclbin; None before that is known, or without FPGA kernels."""


def key_of(phase: str, region: str) -> str:
    """The name of a region across phases."""
    return f"{phase}/{region}"


def emit(phases: Sequence[PlannedPhase], options: EmissionOptions, constants: Mapping[str, numpy.ndarray],
         watch: Stopwatch, store: Store | None = None) -> Emission:
    """Generate code for every region of every phase; equal programs are compiled once, and kept in ``store``."""
    by_device: dict[str, dict[str, Graph]] = {"gpu": {}, "fpga": {}, "host": {}}
    for phase in phases:
        for program in phase.programs:
            by_device[program.device][key_of(phase.name, program.name)] = program.program
    files: dict[str, bytes] = {}
    found: dict[str, EmittedRegion] = {}
    refused: dict[str, Rejected] = {}
    with watch.stage("emit gpu"):
        results = _emit_gpu(by_device["gpu"], options, watch, store)
    with watch.stage("emit fpga"):
        results |= _emit_fpga(by_device["fpga"], options, constants, kernels_of(phases), alone_on_chip(phases))
    for key, result in results.items():
        if isinstance(result, Rejected):
            refused[key] = result
            continue
        folder = "gpu" if key in by_device["gpu"] else "fpga"
        files.update({f"{folder}/{path}": content for path, content in result.files.items()})
        found[key] = replace(result, files={}, entry=f"{folder}/{result.entry}")
    files |= _gpu_manifest(files)
    for key, hosted in by_device["host"].items():
        domain = hosted.nodes[0].operator.domain if hosted.nodes else "aten"
        found[key] = EmittedRegion(HOST_ENGINES.get(domain, domain))
    return Emission(files, found, refused)


def _gpu_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    from hetcc.backends.gpu.emit import resource_manifest
    from hetcc.backends.gpu.resources import MANIFEST_NAME

    emitted = {path: content for path, content in files.items() if path.startswith("gpu/")}
    return {MANIFEST_NAME: resource_manifest(emitted)} if emitted else {}


def _emit_gpu(regions: Mapping[str, Graph], options: EmissionOptions, watch: Stopwatch,
              store: Store | None) -> dict[str, EmittedRegion | Rejected]:
    """GPU modules take constants as arguments, like weights; the runtime binds them."""
    from hetcc.backends.gpu.emit import emit_many

    def progress(done: int, total: int, name: str) -> None:
        watch.progress(f"emit gpu: {done} of {total} programs ({name})")

    return emit_many(regions, options.targets, progress=progress, store=store) if regions else {}


def _emit_fpga(regions: Mapping[str, Graph], options: EmissionOptions, constants: Mapping[str, numpy.ndarray],
               kernels: int, alone: frozenset[str]) -> dict[str, EmittedRegion | Rejected]:
    """Kernels in the policy asked for, where it means anything to them; ``kernels`` of them share the card, and
    those that are ``alone`` may keep their table on chip.
    """
    if not regions:
        return {}
    from hetcc.backends.fpga.emit import emit as emit_region
    from hetcc.backends.fpga.formats import EXACT

    made: dict[tuple[str, tuple[bytes, ...]], EmittedRegion | Rejected] = {}
    results: dict[str, EmittedRegion | Rejected] = {}
    for key, program in regions.items():
        # A constant of one number may become part of the kernel, which the digest of the program does not know.
        numbers = {name: constants[name] for name in weights_of(program) if name in constants}
        identity = digest_of(program), tuple(array.tobytes() for array in numbers.values() if array.size == 1)
        if identity not in made:
            on_chip = identity[0] in alone
            found = emit_region(program, key, numbers, with_verilog=options.verilog, kernels=kernels,
                                policy=options.policy, on_chip=on_chip)
            if isinstance(found, Rejected) and options.policy != EXACT:
                reason = found.rule.removeprefix(f"{key}: ")
                found = emit_region(program, key, numbers, with_verilog=options.verilog, kernels=kernels,
                                    on_chip=on_chip)
                found = found if isinstance(found, Rejected) else replace(found, exact_because=reason)
            made[identity] = found
        results[key] = made[identity]
    return results


def packed(phases: Sequence[PlannedPhase], made: Emission, card: Device) -> Emission:
    """The same with its FPGA kernels put into as few xclbins as possible, and the files that say so."""
    packing = _packing_of(phases, made)
    if packing is None:
        return made
    return replace(made, packing=packing, files={**made.files, **_packing_files(packing, made, card)})


def _packing_of(phases: Sequence[PlannedPhase], made: Emission) -> Packing | None:
    from hetcc.backends.fpga.stages.stage_graph import StageGraph
    from hetcc.backends.fpga.vendor.packing import demand_of, pack
    from hetcc.ir.subgraph import interface_of

    uses: dict[str, list[Sequence[str]]] = {}
    kernels: dict[str, str] = {}
    sequences: dict[str, list[str]] = {}
    for phase in phases:
        for program in phase.programs:
            key = key_of(phase.name, program.name)
            if program.device == "fpga" and key in made.regions:
                folder = made.regions[key].entry.rpartition("/")[0]
                kernels[key] = json.loads(made.files[f"{folder}/report.json"])["kernel"]
                uses.setdefault(folder, []).append((*interface_of(program.program), *program.program.outputs))
        launched = [key_of(phase.name, step.region) for step in phase.steps if isinstance(step, LaunchStep)]
        sequences[phase.name] = [kernels[key] for key in launched if key in kernels]
    if not uses:
        return None
    graphs = {folder: StageGraph.from_json(made.files[f"{folder}/stages.json"]) for folder in uses}
    named = {folder: json.loads(made.files[f"{folder}/report.json"])["kernel"] for folder in uses}
    return pack([demand_of(named[folder], graphs[folder], uses[folder]) for folder in sorted(uses)], sequences)


def _packing_files(packing: Packing, made: Emission, card: Device) -> dict[str, bytes]:
    """``fpga/packing.json``, and for every xclbin its link configuration and emulation file."""
    from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ
    from hetcc.backends.fpga.vendor.packing import link_config, to_json
    from hetcc.backends.fpga.vendor.packing_files import emulation_of

    stages = {json.loads(made.files[path])["kernel"]: made.files[f"{path.rpartition('/')[0]}/stages.json"]
              for path in made.files if path.startswith("fpga/") and path.endswith("/report.json")}
    load = reconfiguration(card)
    files = {"fpga/packing.json": (json.dumps(to_json(packing, load.time_s, load.energy_j), indent=1, sort_keys=True)
                                   + "\n").encode()}
    for one in packing.packs:
        files[f"fpga/{one.name}/link.cfg"] = link_config(one, DEFAULT_CLOCK_HZ)
        files[f"fpga/{one.name}/emulation.xclbin"] = emulation_of(one, stages, DEFAULT_CLOCK_HZ)
    return files


def clusters_refused(phase: PlannedPhase, emission: Emission) -> list[tuple[str, str, str]]:
    """(cluster, device, reason) for the regions of a phase that their tools do not take."""
    found: list[tuple[str, str, str]] = []
    for region in phase.placement.regions:
        rejected = emission.refused.get(key_of(phase.name, region.name))
        if rejected is not None:
            found.extend((cluster, region.device, str(rejected)) for cluster in region.clusters)
    return found


def check_fallbacks(phases: Sequence[PlannedPhase], options: EmissionOptions, watch: Stopwatch) -> None:
    """Say loudly what the host will run, or refuse.

    Raises:
        UserError: HET-C009 with ``--on-unsupported error``.
    """
    for phase in phases:
        hosted = [program for program in phase.programs if program.device == "host"]
        if not hosted or options.on_unsupported == "fallback":
            continue
        nodes = [node for program in hosted for node in program.nodes]
        text = f"{phase.name}: {len(nodes)} nodes run on the host, first '{nodes[0]}'"
        if options.on_unsupported == "error":
            raise UserError("HET-C009", text, fix="give --on-unsupported warn to run them on the host")
        watch.progress(f"warning: {text}; `hetcc explain BUNDLE NODE` says why")


def check_policies(phases: Sequence[PlannedPhase], made: Emission, options: EmissionOptions, watch: Stopwatch) -> None:
    """Say which regions stay exact although another numeric policy was asked for."""
    if options.policy == "exact":
        return
    regions = [key_of(phase.name, program.name) for phase in phases for program in phase.programs
               if program.device == "fpga"]
    if not regions:
        watch.progress(f"warning: nothing runs on the FPGA, so --policy {options.policy} changes nothing")
    reasons: dict[str, list[str]] = {}
    for key in regions:
        if made.regions[key].exact_because:
            reasons.setdefault(made.regions[key].exact_because, []).append(key)
    for reason, keys in reasons.items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        watch.progress(f"warning: {keys[0]}{more} of {len(regions)} FPGA regions stay exact, not {options.policy}: "
                       f"{reason}")
