"""The steps of a loaded plan as functions, with all they need looked up: launches are counted in microseconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy

from hetcc.backends.host.program import TorchUse
from hetcc.errors import InternalError, ToolError
from hetcc.ir import Graph
from hetcc.ir.appends import Append
from hetcc.plan.plan import CommitStep, LaunchStep, PhasePlan, RegionSpec, TransferStep
from hetcc.runtime.counters import Counter
from hetcc.runtime.devices import RuntimeDevice
from hetcc.runtime.real_gpu import launch_failed
from hetcc.runtime.survival import DeviceLost, rows_of
from hetcc.runtime.trace import NOT_COUNTED, StepRecord

Step = Callable[[TorchUse | None], StepRecord]
"""Told where torch operators are counted, if they are."""


@dataclass(frozen=True)
class LoadedPhase:
    """A phase with all that does not change from run to run worked out."""

    plan: PhasePlan
    graph: Graph
    regions: Mapping[str, RegionSpec]
    home: Mapping[str, str]
    """Device on which each launched value is."""
    counters: tuple[Counter, ...]
    devices: frozenset[str]
    """That run something or hold a cache."""
    fragile: tuple[str, ...]
    """Caches that a step made twice would change twice, counters left out."""
    appends: Mapping[str, Append]
    steps: tuple[Step, ...] = ()


def prepared(loaded: LoadedPhase, devices: Mapping[str, RuntimeDevice], before: Mapping[str, int],
             codes: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps of a phase.

    Args:
        loaded: the phase.
        devices: by name.
        before: kept up to date with what counters held before the step of the request that runs.
        codes: by error code of a driver, the device that failed.
    """
    maker = _Maker(loaded, devices, before, codes)
    return tuple(maker.step(position) for position in range(len(loaded.plan.steps)))


@dataclass(frozen=True)
class _Maker:
    loaded: LoadedPhase
    devices: Mapping[str, RuntimeDevice]
    before: Mapping[str, int]
    codes: Mapping[str, str]

    def step(self, position: int) -> Step:
        """One step."""
        loaded = self.loaded
        step = loaded.plan.steps[position]
        if isinstance(step, LaunchStep):
            return self._launch(position, step)
        if isinstance(step, TransferStep):
            return self._second_copy(position, step) if step.shadow else self._transfer(position, step)
        assert isinstance(step, CommitStep)
        return self._commit(position, step)

    def _launch(self, position: int, step: LaunchStep) -> Step:
        spec, graph = self.loaded.regions[step.region], self.loaded.graph
        launch, key = self.devices[spec.device].launch, f"{self.loaded.plan.phase}/{step.region}"
        where = f"{step.region}: {spec.nodes[0]} ... {spec.nodes[-1]}"
        region, on, flops, moved = step.region, spec.device, spec.flops, spec.bytes_read + spec.bytes_written
        clock, codes = time.perf_counter, self.codes

        def run(torch_use: TorchUse | None) -> StepRecord:
            before, start = torch_use.count if torch_use else 0, clock()
            try:
                evidence = launch(key)
            except ToolError as error:
                if error.code not in codes:
                    raise
                said = launch_failed(error, position, spec, graph)
                raise DeviceLost(spec.device, said, error) from error
            except (RuntimeError, ValueError) as error:
                raise InternalError("HET-I001", f"step {position} failed on the {spec.device}: {error}",
                                    where=where) from error
            return StepRecord(position, "launch", region, on, clock() - start, evidence.engine, flops, moved,
                              evidence.stages_executed, torch_use.count - before if torch_use else NOT_COUNTED,
                              evidence.simulated_cycles, evidence.by_doorbell)

        return run

    def _transfer(self, position: int, step: TransferStep) -> Step:
        source, destination = self.devices[step.source], self.devices[step.destination]

        def run(_: TorchUse | None) -> StepRecord:
            start = time.perf_counter()
            with losing(f"step {position} cannot move '{step.value}' from the {step.source}", self.codes):
                destination.put(step.value, source.get(step.value))
            return StepRecord(position, "transfer", step.value, step.destination, time.perf_counter() - start)

        return run

    def _second_copy(self, position: int, step: TransferStep) -> Step:
        """Appended rows to the device with the second copy; the emulated card is read whole for them."""
        source, destination = self.devices[step.source], self.devices[step.destination]
        append, before = self.loaded.appends.get(step.value), self.before

        def run(_: TorchUse | None) -> StepRecord:
            start, rows = time.perf_counter(), rows_of(append, before)
            with losing(f"step {position} cannot copy '{step.value}' from the {step.source}", self.codes):
                content = source.get(step.value)
            if rows:
                destination.get(step.value)[rows] = content[rows]
            else:
                destination.put(step.value, numpy.array(content))
            return StepRecord(position, "shadow", step.value, step.destination, time.perf_counter() - start)

        return run

    def _commit(self, position: int, step: CommitStep) -> Step:
        home = next(cache.device for cache in self.loaded.plan.caches if cache.name == step.cache)
        device, holder = self.devices[step.device], self.devices[home]

        def run(_: TorchUse | None) -> StepRecord:
            start = time.perf_counter()
            device.rename(step.value, step.cache)
            if home != step.device:
                with losing(f"step {position} cannot move '{step.cache}' from the {step.device}", self.codes):
                    holder.put(step.cache, device.get(step.cache))
            return StepRecord(position, "commit", step.cache, step.device, time.perf_counter() - start)

        return run


@contextlib.contextmanager
def losing(what: str, codes: Mapping[str, str]) -> Iterator[None]:
    """What a driver says while something is moved, as the loss of its device.

    Args:
        what: could not be done, for the message.
        codes: by error code of a driver, the device that failed.
    """
    try:
        yield
    except ToolError as error:
        if error.code not in codes:
            raise
        said = ToolError("HET-R004", f"{what}: {error.what}", where=error.where, fix=error.fix)
        raise DeviceLost(codes[error.code], said, error) from error


__all__ = ["LoadedPhase", "Step", "losing", "prepared"]
