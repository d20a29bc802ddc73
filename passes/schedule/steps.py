"""Order launches and transfers, with what each one waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hetcc.ir import Graph, Role, TensorType
from hetcc.passes.schedule.regions import Commits, RegionProgram
from hetcc.plan.plan import CommitStep, LaunchStep, TransferStep

PricedStep = LaunchStep | TransferStep | CommitStep
ARGUMENT_ELEMENTS = 8
TransferTime = Callable[[str, str, int], float]


def _nothing(source: str, destination: str, size_bytes: int) -> float:
    del source, destination, size_bytes
    return 0.0


def travels_as_argument(tensor_type: TensorType) -> bool:
    """Whether a value is small and whole-numbered enough to be a kernel argument: positions and lengths.

    The host knows such numbers before it launches anything; they ride in the launch packet or in control registers.
    """
    return tensor_type.elements <= ARGUMENT_ELEMENTS and not tensor_type.dtype.is_floating


@dataclass(frozen=True)
class StepPrices:
    """Predicted times and energies the steps carry; what is absent is nothing."""

    region_time_s: Mapping[str, float]
    transfer_time_s: TransferTime
    launch_time_s: Mapping[str, float] = field(default_factory=dict)
    """By device: the part of a region's time that is its launch."""
    region_energy_j: Mapping[str, float] = field(default_factory=dict)
    transfer_energy_j: TransferTime = _nothing


def build_steps(
    graph: Graph, programs: Sequence[RegionProgram], commits: Commits, prices: StepPrices,
    cache_device: Mapping[str, str],
) -> tuple[PricedStep, ...]:
    """Launches in region order, each preceded by the transfers it needs; commits come last.

    A value is sent to a device once, however many regions there read it.
    """
    return _Scheduler(graph, programs, prices, cache_device).run(commits)


class _Scheduler:
    def __init__(self, graph: Graph, programs: Sequence[RegionProgram], prices: StepPrices,
                 cache_device: Mapping[str, str]) -> None:
        self.graph = graph
        self.programs = programs
        self.prices = prices
        self.steps: list[PricedStep] = []
        self.ready: dict[tuple[str, str], int] = {}
        """(value, device) -> step after which it is there."""
        self.home: dict[str, str] = dict.fromkeys(graph.inputs, "host")
        self.home.update(cache_device)

    def run(self, commits: Commits) -> tuple[PricedStep, ...]:
        for program in self.programs:
            self._launch(program)
        for cache, value in commits.deferred.items():
            device = self.home.get(value, "host")
            waits = self._waits([value], device)
            self.steps.append(CommitStep(cache=cache, value=value, device=device, waits=waits))
        return tuple(self.steps)

    def _launch(self, region: RegionProgram) -> None:
        program = region.program
        read = [*program.inputs, *(name for name in program.caches)]
        for name in program.inputs:
            self._bring(name, region.device)
        updated = [update.value for update in program.updates]
        time_s = self.prices.region_time_s.get(region.name, 0.0)
        self.steps.append(LaunchStep(
            region=region.name, stream=region.device, waits=self._waits(read, region.device), inputs=program.inputs,
            outputs=program.outputs, predicted_time_s=time_s,
            launch_time_s=min(time_s, self.prices.launch_time_s.get(region.device, 0.0)),
            predicted_energy_j=self.prices.region_energy_j.get(region.name, 0.0)))
        for name in (*program.outputs, *updated):
            self.home[name] = region.device
            self.ready[(name, region.device)] = len(self.steps) - 1
        for update in program.updates:
            self.ready[(update.cache, region.device)] = len(self.steps) - 1

    def _bring(self, name: str, device: str) -> None:
        source = self.home.get(name, "host")
        if source == device or (name, device) in self.ready:
            return
        tensor_type = self.graph.type_of(name)
        is_argument = travels_as_argument(tensor_type) or self.graph.values[name].role is Role.INPUT
        ends = (source, device, tensor_type.size_bytes)
        time_s = 0.0 if is_argument else self.prices.transfer_time_s(*ends)
        energy_j = 0.0 if is_argument else self.prices.transfer_energy_j(*ends)
        peer = {source, device} == {"gpu", "fpga"}
        self.steps.append(TransferStep(
            value=name, source=source, destination=device, size_bytes=tensor_type.size_bytes,
            stream=f"{source}-to-{device}", waits=self._waits([name], source),
            variants=("argument",) if is_argument else (("peer-to-peer", "host-staged") if peer else ("host-staged",)),
            predicted_time_s=time_s, predicted_energy_j=energy_j))
        self.ready[(name, device)] = len(self.steps) - 1

    def _waits(self, names: Sequence[str], device: str) -> tuple[int, ...]:
        found = {self.ready[(name, device)] for name in names if (name, device) in self.ready}
        return tuple(sorted(found))
