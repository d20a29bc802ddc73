"""The devices of a running plan, each with its own memory. Nothing is shared behind the plan's back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy

from hetcc.backends.fpga.program import StreamProgram
from hetcc.backends.fpga.program import load_program as load_stream_program
from hetcc.backends.fpga.xrt.simulated import ENGINE as SIMULATED_ENGINE
from hetcc.backends.fpga.xrt.simulated import SimulatedXrt, Simulators
from hetcc.backends.gpu.memory import GpuMemory
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.host.program import OnnxProgram, TorchProgram, load_host_program
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph
from hetcc.plan.plan import PhasePlan
from hetcc.runtime.survival import tell

Array = numpy.ndarray


@dataclass(frozen=True, slots=True)
class LaunchEvidence:
    """What a device says of a launch."""

    engine: str
    stages_executed: int = 0
    """Stages the streaming interpreter went through; 0 on other devices."""
    simulated_cycles: int = 0
    """Cycles of simulated hardware; 0 where nothing is simulated."""
    by_doorbell: bool = False
    """Whether it was a kernel that listens and was rung: cycles are those from the doorbell to its answer then."""


class RuntimeDevice(Protocol):
    """A device with memory that runs regions."""

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> None:
        """Make a region ready to launch."""
        ...

    def schedule(self, phase: PhasePlan) -> None:
        """Be told the steps of a phase, with their streams and what they wait for, after its regions were loaded."""
        ...

    def launch(self, region: str) -> LaunchEvidence:
        """Run a loaded region on what is in the memory."""
        ...

    def put(self, name: str, array: Array) -> None:
        """Put a value into the memory."""
        ...

    def get(self, name: str) -> Array:
        """A copy of a value in the memory."""
        ...

    def rename(self, value: str, cache: str) -> None:
        """Make a value the new contents of a cache."""
        ...

    def drop(self, names: Iterable[str]) -> None:
        """Forget values."""
        ...

    def close(self) -> None:
        """End whatever runs on between steps; values stay, and later launches are possible.

        Raises:
            ToolError: something did not end; all of it was tried.
        """
        ...


class OneAfterAnother:
    """What devices share that finish every step before they return: streams and waits are kept by that alone."""

    def schedule(self, phase: PhasePlan) -> None:
        """See :class:`RuntimeDevice`."""

    def close(self) -> None:
        """See :class:`RuntimeDevice`; between steps nothing runs."""


class EmulatedGpu(OneAfterAnother):
    """IREE on this machine's processor in place of the GPU."""

    def __init__(self) -> None:
        self.memory = GpuMemory()
        self.programs: dict[str, GpuProgram] = {}
        self._ready: dict[str, tuple[Callable[[], None], LaunchEvidence]] = {}
        """What a launch takes, looked up beforehand."""

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> None:
        """See :class:`RuntimeDevice`."""
        program = self.programs[region.name] = GpuProgram(region, files, entry, self.memory)
        self._ready[region.name] = (program.step, LaunchEvidence(program.engine))

    def launch(self, region: str) -> LaunchEvidence:
        """See :class:`RuntimeDevice`."""
        step, evidence = self._ready[region]
        step()
        return evidence

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


class _ArrayMemory(OneAfterAnother):
    """Values as numpy arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def put(self, name: str, array: Array) -> None:
        """Put a value into the memory."""
        self.arrays[name] = array

    def get(self, name: str) -> Array:
        """A value in the memory."""
        if name not in self.arrays:
            raise UserError("HET-R002", f"'{name}' has no value", fix="feed it before the step runs")
        return self.arrays[name]

    def rename(self, value: str, cache: str) -> None:
        """Make a value the new contents of a cache."""
        self.arrays[cache] = self.get(value)

    def drop(self, names: Iterable[str]) -> None:
        """Forget values."""
        for name in names:
            self.arrays.pop(name, None)


class EmulatedFpga(_ArrayMemory):
    """The bit-exact functional model of the streaming kernels, behind a pyxrt-shaped interface.

    Tables stay in the buffers of the compute unit that updates them; when another unit needs one, it is copied.
    Kernels that listen do so until the device is closed, or forgotten, or this process ends.

    Args:
        xrt: what stands behind the kernels, shaped like pyxrt; by default the emulator.
    """

    def __init__(self, xrt: Any = None) -> None:
        super().__init__()
        self._xrt = xrt
        self.programs: dict[str, tuple[StreamProgram, Graph]] = {}
        self.holder: dict[str, str] = {}
        """Region in whose unit the newest contents of a cache are."""
        weakref.finalize(self, _forgotten, self.programs)

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> None:
        """See :class:`RuntimeDevice`."""
        folder = entry.rpartition("/")[0] + "/"
        kernel = {path.removeprefix(folder): content for path, content in files.items() if path.startswith(folder)}
        self.programs[region.name] = (self.opened(kernel, region), region)

    def close(self) -> None:
        """See :class:`RuntimeDevice`: kernels that listen are dismissed.

        Raises:
            ToolError: HET-F002, a kernel was not dismissed; all were tried.
        """
        failures = _dismissed(self.programs)
        if len(failures) > 1:
            raise ToolError(failures[0].code, f"{failures[0].what}; {len(failures) - 1} more kernels were not "
                            "dismissed", where=failures[0].where, fix=failures[0].fix) from failures[0]
        if failures:
            raise failures[0]

    def schedule(self, phase: PhasePlan) -> None:
        """See :class:`RuntimeDevice`; kernels that are told by a doorbell begin to listen at their first launch."""
        for spec in phase.regions:
            if spec.device == "fpga" and spec.launch == "doorbell":
                self.programs[f"{phase.phase}/{spec.name}"][0].by_doorbell = True

    def opened(self, files: Mapping[str, bytes], region: Graph) -> StreamProgram:
        """The program of a kernel's files."""
        return load_stream_program(files, region, self._xrt)

    def launch(self, region: str) -> LaunchEvidence:
        """See :class:`RuntimeDevice`."""
        program, graph = self.programs[region]
        before = program.executed_stages
        arguments = {name: self.get(name) for name in graph.values
                     if name in graph.inputs or graph.values[name].role.is_weight}
        for cache in graph.caches:
            if self.holder.get(cache) != region:
                program.bind_cache(cache, self.get(cache))
                self.holder[cache] = region
        self.arrays.update(program.run(arguments))
        return LaunchEvidence(program.engine, program.executed_stages - before, by_doorbell=program.was_rung)

    def put(self, name: str, array: Array) -> None:
        """See :class:`RuntimeDevice`."""
        self.holder.pop(name, None)
        super().put(name, array)

    def get(self, name: str) -> Array:
        """See :class:`RuntimeDevice`."""
        holder = self.holder.get(name)
        return super().get(name) if holder is None else self.programs[holder][0].read_cache(name)


Programs = Mapping[str, tuple[StreamProgram, Graph]]


def _dismissed(programs: Programs) -> list[ToolError]:
    """Dismiss all kernels that listen; what went wrong."""
    failures = []
    for program, _ in programs.values():
        try:
            program.close()
        except ToolError as error:
            failures.append(error)
    return failures


def _forgotten(programs: Programs) -> None:
    """Dismiss the kernels of a device that nobody closed; there is nobody left to raise to."""
    for error in _dismissed(programs):
        tell(f"warning: a kernel that listens was not dismissed: {error}")


class SimulatedFpga(EmulatedFpga):
    """The emitted Verilog of the kernels, simulated cycle by cycle with Verilator on a model of the card's memory."""

    def __init__(self) -> None:
        super().__init__()
        self._simulators = Simulators()

    def opened(self, files: Mapping[str, bytes], region: Graph) -> StreamProgram:
        """See :class:`EmulatedFpga`.

        Raises:
            ToolError: HET-T001, there is no Verilator.
            UserError: HET-F001, the kernel has no Verilog.
        """
        return load_stream_program(files, region, SimulatedXrt(files, self._simulators, region.name))

    def launch(self, region: str) -> LaunchEvidence:
        """See :class:`RuntimeDevice`."""
        program = self.programs[region][0]
        before = program.simulated_cycles
        evidence = super().launch(region)
        return replace(evidence, engine=SIMULATED_ENGINE, simulated_cycles=program.simulated_cycles - before)


class HostDevice(_ArrayMemory):
    """What no accelerator takes, run eagerly."""

    def __init__(self) -> None:
        super().__init__()
        self.programs: dict[str, tuple[TorchProgram | OnnxProgram, Graph]] = {}

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> None:
        """See :class:`RuntimeDevice`."""
        del files, entry
        self.programs[region.name] = (load_host_program(region), region)

    def launch(self, region: str) -> LaunchEvidence:
        """See :class:`RuntimeDevice`."""
        from hetcc.ir.subgraph import interface_of

        program, graph = self.programs[region]
        results = program.run({name: self.get(name) for name in interface_of(graph)})
        self.arrays.update(results)
        for update in graph.updates:
            self.arrays[update.cache] = results[update.value]
        return LaunchEvidence(program.engine)
