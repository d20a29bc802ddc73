"""The emulation file of kernels that share an ``.xclbin``: their stage graphs, their metadata, and where tables are."""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.vendor.packaging import PLATFORM
from hetcc.backends.fpga.vendor.packing import Pack
from hetcc.backends.fpga.xrt.metadata import Described, embedded_metadata
from hetcc.backends.fpga.xrt.xclbin import Unit, pack_units


def emulation_of(packed: Pack, stages: Mapping[str, bytes], clock_hz: float) -> bytes:
    """The emulation ``.xclbin`` of a file of kernels.

    A table that fills several channels is said to be in the first of them, which is what its buffers are asked for.

    Args:
        packed: the file.
        stages: canonical stage graph of each kernel.
        clock_hz: of the kernels.
    """
    units, described = [], []
    for placed in packed.kernels:
        kernel, memory = placed.demand.kernel, placed.demand.memory
        banks = tuple(placed.channels[argument.master][0] for argument in memory.pointers)
        units.append(Unit(kernel, banks, stages[kernel]))
        described.append(Described(kernel, StageGraph.from_json(stages[kernel]), memory))
    return pack_units(units, embedded_metadata(described, PLATFORM, clock_hz), clock_hz)


__all__ = ["emulation_of"]
