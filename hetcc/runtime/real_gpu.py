"""A GPU card as a device of a running plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy

from hetcc.backends.gpu.drivers.contract import GpuDriver
from hetcc.backends.gpu.drivers.memory import CardMemory
from hetcc.backends.gpu.drivers.order import StepOrder
from hetcc.backends.gpu.drivers.program import CardProgram
from hetcc.errors import ToolError
from hetcc.ir import Graph
from hetcc.plan.plan import LaunchStep, PhasePlan, RegionSpec
from hetcc.runtime.devices import LaunchEvidence

Array = numpy.ndarray


def open_card(kind: str, ordinal: int = 0) -> GpuDriver:
    """The driver of a card.

    Args:
        kind: ``hip`` (AMD) or ``cuda`` (NVIDIA).
        ordinal: which card, as the driver counts.

    Raises:
        ToolError: HET-T001, the driver is not installed or finds no card.
    """
    from hetcc.backends.gpu.drivers.cuda import CudaDriver
    from hetcc.backends.gpu.drivers.hip import HipDriver

    return {"hip": HipDriver, "cuda": CudaDriver}[kind](ordinal=ordinal)


class RealGpu:
    """IREE and raw kernel launches on one card, on one memory; see :class:`~hetcc.runtime.devices.RuntimeDevice`.

    Args:
        driver: of the card.
        memory: where values are; by default memory of the card, shared with IREE.
    """

    def __init__(self, driver: GpuDriver, memory: CardMemory | None = None) -> None:
        self.driver = driver
        self.memory = memory if memory is not None else CardMemory(driver)
        self.programs: dict[str, CardProgram] = {}
        self._order: dict[str, tuple[StepOrder, int]] = {}
        """Streams and events of its phase, and the position of the step that launches it, by region."""

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> None:
        """See :class:`RuntimeDevice`."""
        self.programs[region.name] = CardProgram(region, files, entry, self.memory)

    def schedule(self, phase: PhasePlan) -> None:
        """See :class:`RuntimeDevice`. Steps of other devices are over when they return; the card's own may overlap."""
        launches = {position: step for position, step in enumerate(phase.steps)
                    if isinstance(step, LaunchStep) and f"{phase.phase}/{step.region}" in self.programs}
        order = StepOrder(self.driver, [
            (launches[position].stream, launches[position].waits) if position in launches else None
            for position in range(len(phase.steps))])
        self._order.update({f"{phase.phase}/{step.region}": (order, position) for position, step in launches.items()})

    def launch(self, region: str) -> LaunchEvidence:
        """See :class:`RuntimeDevice`. Kernels may still be running when this returns."""
        program = self.programs[region]
        if region not in self._order:
            program.step()
            return LaunchEvidence(program.engine)
        order, position = self._order[region]
        self.memory.on(order.begin(position))
        program.step()
        order.end(position)
        return LaunchEvidence(program.engine)

    def put(self, name: str, array: Array) -> None:
        """See :class:`RuntimeDevice`."""
        self.memory.bind(name, array)

    def get(self, name: str) -> Array:
        """See :class:`RuntimeDevice`."""
        return self.memory.fetch(name)

    def rename(self, value: str, cache: str) -> None:
        """See :class:`RuntimeDevice`."""
        self.memory.rename(value, cache)

    def drop(self, names: Iterable[str]) -> None:
        """See :class:`RuntimeDevice`."""
        self.memory.drop(names)

    def close(self) -> None:
        """See :class:`RuntimeDevice`; kernels end by themselves."""


def launch_failed(error: ToolError, position: int, region: RegionSpec, graph: Graph) -> ToolError:
    """The error of a step whose launch failed: which step, which operators, where in the model.

    Args:
        error: what the device said.
        position: of the step in its phase.
        region: that was launched.
        graph: of the phase.
    """
    first, last = (graph.node_by_name[name] for name in (region.nodes[0], region.nodes[-1]))
    path = first.provenance.module_path
    span = first.name if first is last else f"{first.name} ... {last.name}"
    where = f"region {region.name}: {span}" + (f" in {path}" if path else "")
    return ToolError("HET-R004", f"step {position} failed on the {region.device}: {error.what}",
                     where=f"{where}; {error.where}" if error.where else where, fix=error.fix)
