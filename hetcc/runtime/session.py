"""A bundle that is ready to run: programs loaded, weights bound, caches alive across steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType

import numpy

from hetcc.backends.host.program import torch_guard
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph, Role
from hetcc.ir.appends import appends_of
from hetcc.ir.serialize import tagged_from_bytes
from hetcc.ir.subgraph import digest_of, extract, weights_of
from hetcc.plan.bundle import BundleFiles
from hetcc.plan.plan import LaunchStep, PhasePlan, Plan, RegionSpec
from hetcc.plan.tensors import numpy_type
from hetcc.runtime.counters import check_room, counters_of
from hetcc.runtime.devices import RuntimeDevice
from hetcc.runtime.engines import Engines
from hetcc.runtime.steps import LoadedPhase, losing, prepared
from hetcc.runtime.survival import (
    DeviceLost,
    Recovery,
    RequestLog,
    Warn,
    check_name,
    check_survivable,
    driver_codes,
    fragile_caches,
    tell,
)
from hetcc.runtime.trace import RunTrace
from hetcc.runtime.weights import WeightFiles
from hetcc.stopwatch import silent

Array = numpy.ndarray


@dataclass(frozen=True)
class _Before:
    """What a step may change, as it was before."""

    caches: Mapping[str, Array]
    counts: Mapping[str, int]


class Session:
    """Runs the phases of an executable bundle.

    Args:
        files: the opened bundle.
        plan: its plan.
        progress: told what is being loaded.
        engines: which code is run by what; by default what is emulated on this machine.
        devices: by name, what runs the plan in place of the engines. Devices that need no generated code
            (``HostDevice``) also run a bundle that holds none, which checks the plan without any code generator.
        warn: told when a device is lost and the request goes on; by default it is printed on stderr.

    Raises:
        UserError: HET-B005, a planning-only bundle, or one without code for the engines; HET-C005, weights are missing.
        ToolError: HET-T001, the driver of a card is missing.
    """

    def __init__(self, files: BundleFiles, plan: Plan, progress: Callable[[str], None] = silent,
                 engines: Engines | None = None, devices: Mapping[str, RuntimeDevice] | None = None,
                 warn: Warn = tell) -> None:
        if not plan.is_executable and devices is None:
            raise UserError("HET-B005", "the bundle holds a plan but no code", where=str(files.folder),
                            fix="compile with --weights DIR or --weights random:SEED")
        self.plan = plan
        self.engines = (engines or Engines()).chosen_for(plan)
        self.devices: Mapping[str, RuntimeDevice] = devices or self.engines.devices()
        self.cache_device: dict[str, str] = {}
        self.phases: dict[str, LoadedPhase] = {}
        self._counts: dict[str, int] = {}
        """What caches of one integer hold, so that no device has to be asked."""
        self._shadow: dict[str, str] = {}
        """By cache: the device with its second copy, or nothing."""
        self.steps_done = 0
        """Steps of the request so far."""
        self.lost: set[str] = set()
        """Devices that failed; they are not used again."""
        self.recoveries: list[Recovery] = []
        self._warn = warn
        self._stand_ins: dict[tuple[str, str], LoadedPhase] = {}
        """By the phase they stand in for, and the device they do without."""
        self._codes = driver_codes(plan)
        self._is_logging = any(cache.policy == "recomputable" for phase in plan.phases for cache in phase.caches)
        self._before: dict[str, int] = {}
        """What counters held before the step that runs; its steps look here."""
        self._weights = WeightFiles(files)
        self._bound: set[tuple[str, str]] = set()
        code = {folder: {f"{folder}/{path}": content for path, content in files.below(folder).items()}
                for folder in ("gpu", "fpga")}
        for phase in plan.phases:
            progress(f"loading {phase.phase}")
            everything = {**code["gpu"], **code["fpga"]}
            self.phases[phase.phase] = self._load(phase, phase.phase, files, everything)
            for lost, stand_in in plan.stand_ins_of(phase).items():
                self._stand_ins[phase.phase, lost] = self._load(stand_in, phase.phase, files, everything)
        self.reset()

    def _load(self, phase: PhasePlan, of: str, files: BundleFiles, code: Mapping[str, bytes]) -> LoadedPhase:
        """A plan of the phase ``of``, with its programs and weights on their devices."""
        graph = tagged_from_bytes(files.read(f"graphs/{of}.json")).graph
        regions = {region.name: region for region in phase.regions}
        counters = counters_of(graph)
        used = {region.device for region in phase.regions} | {cache.device for cache in phase.caches}
        loaded = LoadedPhase(phase, graph, regions, _homes(phase, regions), counters, frozenset(used),
                             fragile_caches(graph, frozenset(counter.cache for counter in counters)),
                             appends_of(graph))
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
        return replace(loaded, steps=prepared(loaded, self.devices, self._before, self._codes))

    def reset(self) -> None:
        """Empty all caches: a new request. A device that was lost stays out of use."""
        for name in self.phases:
            for cache in self._active(name).plan.caches:
                self._hold(cache.name, numpy.zeros(cache.shape, numpy_type(cache.dtype)), cache.device, cache.shadow)
        self._counts = dict.fromkeys(self._counts, 0)
        self._log = RequestLog()
        self.steps_done = 0

    def write_cache(self, name: str, array: Array, device: str | None = None) -> None:
        """Set the contents of a cache, on the device that holds it.

        Raises:
            UserError: HET-B004, there is no such cache.
        """
        check_name(name, self.cache_device)
        home = device or self.cache_device[name]
        self._hold(name, array, home, self._shadow.get(name, "") if home == self.cache_device[name] else "")
        if self._is_logging:
            self._log.entries.append(("", {name: numpy.array(array)}))

    def _hold(self, name: str, array: Array, device: str, shadow: str) -> None:
        """Put a cache on its device, and on the one that keeps a second copy."""
        self.cache_device[name], self._shadow[name] = device, shadow
        if array.size == 1 and array.dtype.kind in "iu":
            self._counts[name] = int(array.reshape(())[()])
        self.devices[device].put(name, array)
        if shadow:
            self.devices[shadow].put(name, numpy.array(array))

    def read_cache(self, name: str) -> Array:
        """A copy of the contents of a cache.

        Raises:
            UserError: HET-B004, there is no such cache.
        """
        check_name(name, self.cache_device)
        return self.devices[self.cache_device[name]].get(name)

    def close(self) -> None:
        """End what runs on between steps: kernels that listen are dismissed. A later step makes them listen again.

        Raises:
            ToolError: HET-F002, a kernel was not dismissed; all were tried.
        """
        failures = self._closed(self.devices)
        if failures:
            raise failures[0]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._close_after(error, self.devices)

    def _closed(self, names: Iterable[str]) -> list[ToolError]:
        """Close these devices; what went wrong."""
        failures = []
        for name in names:
            try:
                self.devices[name].close()
            except ToolError as error:
                failures.append(error)
        return failures

    def _close_after(self, error: BaseException, names: Iterable[str]) -> None:
        """Close devices because of an error, which stays the one that is raised; what else goes wrong is told."""
        for failure in self._closed(names):
            error.add_note(str(failure))
            self._warn(f"warning: a kernel that listens was not dismissed: {failure}")

    def run(self, phase: str, inputs: Mapping[str, Array], *, counting: bool = True) -> RunTrace:
        """One step of a phase; caches are updated. A step that raises leaves no kernel listening.

        A device that fails is no longer used. Where the plan keeps its caches shadowed or recomputable, the step is
        made again without it and the trace says so; what was announced on stderr is in ``recoveries`` too.

        Args:
            phase: name of the phase.
            inputs: array for each input of the phase, of its shape and type.
            counting: whether every torch operator is counted, which ``RunTrace.coverage`` rests on; it takes time.

        Raises:
            UserError: HET-B005 unknown phase; HET-R002 wrong inputs, or no room in the caches.
            ToolError: HET-R004, a device failed and the request cannot go on.
        """
        self.plan.phase(phase)
        try:
            trace = self._survived(self._active(phase), inputs, counting=counting)
        except BaseException as error:
            self._close_after(error, self.devices)
            raise
        if self._is_logging:
            self._log.entries.append((phase, {name: numpy.array(array) for name, array in inputs.items()}))
        self.steps_done += 1
        return trace

    def _survived(self, loaded: LoadedPhase, inputs: Mapping[str, Array], *, counting: bool) -> RunTrace:
        """The step, made again without a device that is lost meanwhile."""
        before = dict(self._counts)
        kept = self._kept(loaded) if loaded.plan.survival else {}
        try:
            return self._step(loaded, inputs, counting=counting)
        except DeviceLost as lost:
            return self._go_on(loaded, inputs, lost, _Before(kept, before), counting=counting)

    def _step(self, loaded: LoadedPhase, inputs: Mapping[str, Array], *, counting: bool) -> RunTrace:
        self._feed(loaded, inputs)
        self._move_caches(loaded)
        self._before.update(self._counts)
        check_room(loaded.counters, self._counts, loaded.plan.phase)
        if counting:
            with torch_guard() as torch_use:
                records = [step(torch_use) for step in loaded.steps]
        else:
            records = [step(None) for step in loaded.steps]
        home = loaded.home
        with losing("the results cannot be read", self._codes):
            outputs = {spec.name: self.devices[home[spec.name]].get(spec.name) for spec in loaded.plan.outputs}
            observed = {name: self.devices[home[name]].get(name) for name in loaded.plan.observed if name in home}
        return RunTrace(loaded.plan, outputs, observed, tuple(records))

    def _active(self, phase: str) -> LoadedPhase:
        """The phase, or what stands in for it when it needs a device that is lost."""
        loaded = self.phases[phase]
        return self._stand_in(phase, self.lost) or loaded if self.lost & loaded.devices else loaded

    def _stand_in(self, phase: str, lost: set[str]) -> LoadedPhase | None:
        """What goes on in place of a phase without any of these devices, if anything does."""
        return next((one for (of, _), one in self._stand_ins.items() if of == phase and not lost & one.devices), None)

    def _kept(self, loaded: LoadedPhase) -> dict[str, Array]:
        """Copies of what the step may half change, from where they outlive the device; none if steps are repeated."""
        homes = {name: self._shadow[name] or self.cache_device[name] for name in loaded.fragile}
        if self._is_logging:
            return {}
        losable = {spec.device for spec in loaded.plan.survival}
        return {name: numpy.array(self.devices[home].get(name)) for name, home in homes.items() if home not in losable}

    def _go_on(self, loaded: LoadedPhase, inputs: Mapping[str, Array], lost: DeviceLost, before: _Before, *,
               counting: bool) -> RunTrace:
        """The step again without the device.

        Raises:
            ToolError: HET-R004, the caches are lost with the device, or what stands in fails as well.
        """
        start, phase, done = time.perf_counter(), loaded.plan.phase, self.steps_done
        # A phase that does not need the device may still find caches of another phase on it.
        stand_in = loaded if lost.device not in loaded.devices else (
            self._stand_in(phase, self.lost | {lost.device}))
        check_survivable(lost, self._single(lost.device), has_variant=stand_in is not None,
                         may_be_lost=any(spec.may_be_lost for spec in self.plan.devices if spec.name == lost.device))
        assert stand_in is not None
        policy = "recomputable" if self._is_logging else "shadowed"
        self.lost.add(lost.device)
        self._close_after(lost, (lost.device,))
        if policy == "recomputable":
            self._repeat()
            self.steps_done = done
        else:
            self._fall_back(loaded, lost.device, before)
        trace = self._step(stand_in, inputs, counting=counting)
        recovery = Recovery(phase, done, lost.device, lost.cause.what, stand_in.plan.phase, policy,
                            1 + (done if policy == "recomputable" else 0), time.perf_counter() - start)
        self.recoveries.append(recovery)
        self._warn(recovery.text())
        return replace(trace, recovery=recovery)

    def _single(self, device: str) -> list[str]:
        """Caches that only this device holds now."""
        policy = {cache.name: cache.policy for phase in self.plan.phases for cache in phase.caches
                  if cache.device == device}
        return [name for name, home in self.cache_device.items() if home == device and (
            policy.get(name, "single") == "single" or not (self._is_logging or self._shadow[name]))]

    def _fall_back(self, loaded: LoadedPhase, device: str, before: _Before) -> None:
        """Second copies become the caches; what the failed step changed becomes what it was."""
        for name, home in self.cache_device.items():
            if home == device:
                self.cache_device[name], self._shadow[name] = self._shadow[name], ""
        specs = {cache.name: cache for cache in loaded.plan.caches}
        self._counts = dict(before.counts)
        for counter in loaded.counters:
            kind, count = numpy_type(specs[counter.cache].dtype), before.counts.get(counter.cache, 0)
            self.devices[self.cache_device[counter.cache]].put(
                counter.cache, numpy.full(specs[counter.cache].shape, count, kind))
        for name, array in before.caches.items():
            self.devices[self.cache_device[name]].put(name, array)

    def _repeat(self) -> None:
        """All steps of the request again, from empty caches."""
        log = self._log
        self.reset()
        for phase, values in log.entries:
            if phase:
                self._step(self._active(phase), values, counting=False)
                self._log.entries.append((phase, values))
            else:
                for name, array in values.items():
                    self.write_cache(name, array)

    def _feed(self, loaded: LoadedPhase, inputs: Mapping[str, Array]) -> None:
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

    def _move_caches(self, loaded: LoadedPhase) -> None:
        """Caches are used where this phase has them; another phase may have left them elsewhere."""
        for cache in loaded.plan.caches:
            home = self.cache_device[cache.name]
            if home != cache.device:
                with losing(f"'{cache.name}' cannot be moved from the {home}", self._codes):
                    content = self.devices[home].get(cache.name)
                self._hold(cache.name, content, cache.device, cache.shadow)


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
