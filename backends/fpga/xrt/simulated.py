"""A pyxrt-shaped module whose compute units are the emitted Verilog, run by Verilator on a model of the card's memory.

The host code is the same as with the emulator and with real pyxrt; only what stands behind a kernel differs.
"""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.memory.memory_map import STATUS_COMPLETED
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import build_kernel, run_kernel
from hetcc.backends.fpga.stages.stage_graph import Append, Export, StageGraph
from hetcc.backends.fpga.xrt.compute_unit import ComputeUnit
from hetcc.backends.fpga.xrt.emulator import Device, EmulatedXrt
from hetcc.backends.fpga.xrt.xclbin import Unit
from hetcc.errors import UserError

ENGINE = "verilator (simulated fpga)"
VERILOG_FILE = "kernel.v"
BUILD_TIMEOUT_S = 3600.0


class Simulators:
    """Folders of built simulators, one per kernel, removed with this object."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hetcc-rtl-run-"))
        self._built: dict[str, Path] = {}
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def folder_of(self, graph: StageGraph, kernel: str, verilog: bytes) -> Path:
        """Where the simulator of a kernel is; built at first use.

        Raises:
            ToolError: HET-T001 without Verilator, HET-T002 when it fails.
        """
        if kernel not in self._built:
            folder = self._folder / kernel
            build_kernel(verilog, kernel, graph, folder, timeout_s=BUILD_TIMEOUT_S)
            self._built[kernel] = folder
        return self._built[kernel]


class SimulatedUnit(ComputeUnit):
    """A compute unit that is simulated cycle by cycle."""

    def __init__(self, packed: Unit, verilog: bytes, simulators: Simulators) -> None:
        super().__init__(packed)
        self._verilog, self._simulators = verilog, simulators
        self.simulated_cycles = 0
        """Of all runs: from ap_start to the interrupt, or from the doorbell to its answer."""

    def compute(self, graph: StageGraph, views: Mapping[str, NDArray[numpy.generic]]) -> tuple[int, int]:
        """Run once on the buffers, in the simulated hardware, which each time begins from its reset.

        A kernel that listens is put into the persistent mode and rung once, so it is that run whose cycles count.
        """
        folder = self._simulators.folder_of(graph, self.packed.name, self._verilog)
        done = run_kernel(graph, views, folder, persistent=self.was_rung)
        self.simulated_cycles += sum(done.cycles)
        if done.status == STATUS_COMPLETED:
            self.executed_stages += _stages_of(graph)
        return done.status, done.kernel_cycles


class SimulatedDevice(Device):
    """A card whose kernels are simulated."""

    def __init__(self, verilog: bytes, simulators: Simulators, index: int | str = 0) -> None:
        super().__init__(index)
        self._verilog, self._simulators = verilog, simulators

    def unit_of(self, packed: Unit) -> ComputeUnit:
        """See :class:`Device`."""
        return SimulatedUnit(packed, self._verilog, self._simulators)


class SimulatedXrt(EmulatedXrt):
    """Stands where the module ``pyxrt`` stands, for one kernel.

    Args:
        files: of the kernel, as ``emit`` made them.
        simulators: shared by the kernels of a run.
        where: the region, for messages.

    Raises:
        ToolError: HET-T001, there is no Verilator.
        UserError: HET-F001, the kernel has no Verilog.
    """

    def __init__(self, files: Mapping[str, bytes], simulators: Simulators, where: str) -> None:
        tools.require("verilator")
        if VERILOG_FILE not in files:
            raise UserError("HET-F001", "the kernel has no Verilog to simulate", where=where,
                            fix="its report.json says why; `hetcc run` without --fpga rtl runs the functional model")
        self.device: Any = functools.partial(SimulatedDevice, files[VERILOG_FILE], simulators)


def _stages_of(graph: StageGraph) -> int:
    """Stages a run goes through, each counted once per instance, as the functional model counts them."""
    once = len(graph.of_kind(Append)) + len(graph.of_kind(Export))
    return once + math.prod(axis.extent for axis in graph.instances) * (len(graph.stages) - once)


__all__ = ["ENGINE", "SimulatedXrt", "Simulators"]
