"""A bundle that is ready to run: programs loaded, weights bound, caches alive across steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy

from hetcc.backends.host.program import TorchUse, torch_guard
from hetcc.errors import InternalError, ToolError, UserError
from hetcc.ir import Graph, Role
from hetcc.ir.serialize import tagged_from_bytes
from hetcc.ir.subgraph import digest_of, extract, weights_of
from hetcc.plan.bundle import BundleFiles
from hetcc.plan.plan import CommitStep, LaunchStep, PhasePlan, Plan, RegionSpec, TransferStep
from hetcc.plan.tensors import numpy_type
from hetcc.runtime.counters import Counter, check_room, counters_of
from hetcc.runtime.devices import RuntimeDevice
from hetcc.runtime.engines import Engines
from hetcc.runtime.real_gpu import launch_failed
from hetcc.runtime.trace import NOT_COUNTED, RunTrace, StepRecord
from hetcc.runtime.weights import WeightFiles
from hetcc.stopwatch import silent

Array = numpy.ndarray
_Step = Callable[[TorchUse | None], StepRecord]
"""Told where torch operators are counted, if they are."""


@dataclass(frozen=True)
class _LoadedPhase:
    """A phase with all that does not change from run to run worked out."""

    plan: PhasePlan
    graph: Graph
    regions: Mapping[str, RegionSpec]
    home: Mapping[str, str]
    """Device on which each launched value is."""
    counters: tuple[Counter, ...]
    steps: tuple[_Step, ...] = ()


class Session:
    """Runs the phases of an executable bundle.

    Args:
        files: the opened bundle.
        plan: its plan.
        progress: told what is being loaded.
        engines: which code is run by what; by default what is emulated on this machine.
        devices: by name, what runs the plan in place of the engines. Devices that need no generated code
            (``HostDevice``) also run a bundle that holds none, which checks the plan without any code generator.

    Raises:
        UserError: HET-B005, a planning-only bundle, or one without code for the engines; HET-C005, weights are missing.
        ToolError: HET-T001, the driver of a card is missing.
    """

    def __init__(self, files: BundleFiles, plan: Plan, progress: Callable[[str], None] = silent,
                 engines: Engines | None = None, devices: Mapping[str, RuntimeDevice] | None = None) -> None:
        if not plan.is_executable and devices is None:
            raise UserError("HET-B005", "the bundle holds a plan but no code", where=str(files.folder),
                            fix="compile with --weights DIR or --weights random:SEED")
        self.plan = plan
        self.engines = (engines or Engines()).chosen_for(plan)
        self.devices: Mapping[str, RuntimeDevice] = devices or self.engines.devices()
        self.cache_device: dict[str, str] = {}
        self.phases: dict[str, _LoadedPhase] = {}
        self._counts: dict[str, int] = {}
        """What caches of one integer hold, so that no device has to be asked."""
        self._weights = WeightFiles(files)
        self._bound: set[tuple[str, str]] = set()
        code = {folder: {f"{folder}/{path}": content for path, content in files.below(folder).items()}
                for folder in ("gpu", "fpga")}
        for phase in plan.phases:
            progress(f"loading {phase.phase}")
            self._load(phase, files, {**code["gpu"], **code["fpga"]})
        self.reset()

    def _load(self, phase: PhasePlan, files: BundleFiles, code: Mapping[str, bytes]) -> None:
        graph = tagged_from_bytes(files.read(f"graphs/{phase.phase}.json")).graph
        regions = {region.name: region for region in phase.regions}
        loaded = _LoadedPhase(phase, graph, regions, _homes(phase, regions), counters_of(graph))
        updates = {cache for region in phase.regions for cache, _ in region.updates}
        in_place = replace(graph, updates=tuple(update for update in graph.updates if update.cache in updates))
        for step in phase.steps:
            if not isinstance(step, LaunchStep):
                continue
            spec = regions[step.region]
            program = _program_of(in_place, phase.phase, spec, step)
            device = self.devices[spec.device]
            device.load(program, code, self.engines.entry_of(spec))
            for name in weights_of(program):
                if (spec.device, name) not in self._bound:
                    device.put(name, self._weights.read(name, graph))
                    self._bound.add((spec.device, name))
        for device in self.devices.values():
            device.schedule(phase)
        steps = tuple(self._prepared(loaded, position) for position in range(len(phase.steps)))
        self.phases[phase.phase] = replace(loaded, steps=steps)

    def reset(self) -> None:
        """Empty all caches."""
        for loaded in self.phases.values():
            for cache in loaded.plan.caches:
                self.write_cache(cache.name, numpy.zeros(cache.shape, numpy_type(cache.dtype)), cache.device)

    def write_cache(self, name: str, array: Array, device: str | None = None) -> None:
        """Set the contents of a cache, on the device that holds it."""
        home = device or self.cache_device[name]
        self.cache_device[name] = home
        if array.size == 1 and array.dtype.kind in "iu":
            self._counts[name] = int(array.reshape(())[()])
        self.devices[home].put(name, array)

    def read_cache(self, name: str) -> Array:
        """A copy of the contents of a cache."""
        if name not in self.cache_device:
            raise UserError("HET-B004", f"the bundle has no cache '{name}'",
                            fix=f"it has {', '.join(sorted(self.cache_device)[:4])} ...")
        return self.devices[self.cache_device[name]].get(name)

    def run(self, phase: str, inputs: Mapping[str, Array], *, counting: bool = True) -> RunTrace:
        """One step of a phase; caches are updated.

        Args:
            phase: name of the phase.
            inputs: array for each input of the phase, of its shape and type.
            counting: whether every torch operator is counted, which ``RunTrace.coverage`` rests on; it takes time.

        Raises:
            UserError: HET-B005 unknown phase; HET-R002 wrong inputs, or no room in the caches.
        """
        self.plan.phase(phase)
        loaded = self.phases[phase]
        self._feed(loaded, inputs)
        check_room(loaded.counters, self._counts, phase)
        self._move_caches(loaded)
        if counting:
            with torch_guard() as torch_use:
                records = [step(torch_use) for step in loaded.steps]
        else:
            records = [step(None) for step in loaded.steps]
        home = loaded.home
        outputs = {spec.name: self.devices[home[spec.name]].get(spec.name) for spec in loaded.plan.outputs}
        observed = {name: self.devices[home[name]].get(name) for name in loaded.plan.observed if name in home}
        return RunTrace(loaded.plan, outputs, observed, tuple(records))

    def _feed(self, loaded: _LoadedPhase, inputs: Mapping[str, Array]) -> None:
        for spec in loaded.plan.inputs:
            if spec.name not in inputs:
                raise UserError("HET-R002", f"input '{spec.name}' is missing", where=loaded.plan.phase,
                                fix=f"{loaded.plan.phase} takes {', '.join(one.name for one in loaded.plan.inputs)}")
            array = numpy.asarray(inputs[spec.name])
            if array.shape != spec.shape or array.dtype != numpy_type(spec.dtype):
                raise UserError("HET-R002", f"'{spec.name}' is {array.dtype}{list(array.shape)}, the bundle was "
                                f"compiled for {spec.dtype}{list(spec.shape)}", where=loaded.plan.phase,
                                fix="compile for this size, or feed the size it was compiled for")
            self.devices["host"].put(spec.name, array)

    def _move_caches(self, loaded: _LoadedPhase) -> None:
        """Caches are used where this phase has them; another phase may have left them elsewhere."""
        for cache in loaded.plan.caches:
            home = self.cache_device[cache.name]
            if home != cache.device:
                self.write_cache(cache.name, self.devices[home].get(cache.name), cache.device)

    def _prepared(self, loaded: _LoadedPhase, position: int) -> _Step:
        """A step with all it needs looked up, because launches are counted in microseconds."""
        step = loaded.plan.steps[position]
        if isinstance(step, LaunchStep):
            return self._launch(loaded, position, step)
        if isinstance(step, TransferStep):
            return self._transfer(position, step)
        assert isinstance(step, CommitStep)
        return self._commit(loaded, position, step)

    def _launch(self, loaded: _LoadedPhase, position: int, step: LaunchStep) -> _Step:
        spec = loaded.regions[step.region]
        launch, key = self.devices[spec.device].launch, f"{loaded.plan.phase}/{step.region}"
        where = f"{step.region}: {spec.nodes[0]} ... {spec.nodes[-1]}"
        region, on, flops, moved = step.region, spec.device, spec.flops, spec.bytes_read + spec.bytes_written
        clock = time.perf_counter

        def run(torch_use: TorchUse | None) -> StepRecord:
            before, start = torch_use.count if torch_use else 0, clock()
            try:
                evidence = launch(key)
            except ToolError as error:
                if error.code != "HET-G002":
                    raise
                raise launch_failed(error, position, spec, loaded.graph) from error
            except (RuntimeError, ValueError) as error:
                raise InternalError("HET-I001", f"step {position} failed on the {spec.device}: {error}",
                                    where=where) from error
            return StepRecord(position, "launch", region, on, clock() - start, evidence.engine, flops, moved,
                              evidence.stages_executed, torch_use.count - before if torch_use else NOT_COUNTED,
                              evidence.simulated_cycles)

        return run

    def _transfer(self, position: int, step: TransferStep) -> _Step:
        source, destination = self.devices[step.source], self.devices[step.destination]

        def run(_: TorchUse | None) -> StepRecord:
            start = time.perf_counter()
            destination.put(step.value, source.get(step.value))
            return StepRecord(position, "transfer", step.value, step.destination, time.perf_counter() - start)

        return run

    def _commit(self, loaded: _LoadedPhase, position: int, step: CommitStep) -> _Step:
        home = next(cache.device for cache in loaded.plan.caches if cache.name == step.cache)
        device, holder = self.devices[step.device], self.devices[home]

        def run(_: TorchUse | None) -> StepRecord:
            start = time.perf_counter()
            device.rename(step.value, step.cache)
            if home != step.device:
                holder.put(step.cache, device.get(step.cache))
            return StepRecord(position, "commit", step.cache, step.device, time.perf_counter() - start)

        return run


def _homes(phase: PhasePlan, regions: Mapping[str, RegionSpec]) -> dict[str, str]:
    return {value: regions[step.region].device for step in phase.steps if isinstance(step, LaunchStep)
            for value in step.outputs}


def _program_of(graph: Graph, phase: str, spec: RegionSpec, step: LaunchStep) -> Graph:
    """The region's program, cut out of the graph exactly as it was emitted.

    Raises:
        UserError: HET-B003, it is not the program the code was generated from.
    """
    program = extract(graph, spec.nodes, f"{phase}/{spec.name}")
    as_inputs = [name for name in program.caches if name in step.inputs]
    values = {name: replace(value, role=Role.INPUT) if name in as_inputs else value
              for name, value in program.values.items()}
    program = replace(program, values=values, inputs=step.inputs, outputs=step.outputs,
                      caches=tuple(name for name in program.caches if name not in as_inputs))
    if digest_of(program) != spec.digest:
        raise UserError("HET-B003", f"region {spec.name} is not the program its code was generated from", where=phase,
                        fix="compile the model again")
    return program
