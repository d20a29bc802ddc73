"""How many cycles a whole kernel takes, from ap_start to the interrupt, as a closed form of its structure.

The terms are those of ``rtl/shell.py``: positions and new rows are read and written, then the table streams once per
instance, then results and answer are written. Fixed numbers of cycles are registers between the units of the shell and
the core, counted in the RTL; memory figures are those of the model in ``rtl/hbm.py``. The result is *predicted*; its
error against simulated RTL is in docs/fpga.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.backends.fpga.cycles import DEFAULT_CLOCK_HZ, estimate_cycles, extent_product
from hetcc.backends.fpga.memory_map import WORD_BYTES
from hetcc.backends.fpga.rtl.hbm import HbmModel
from hetcc.backends.fpga.runs import granule_of, runs_of
from hetcc.backends.fpga.stage_graph import Access, Append, InnerProduct, Map, Scan, StageGraph, TopK

START_CYCLES = 8
"""From the register write to the first read request."""
READ_CYCLES = 6
"""Request register, buffer and unpacker, beside the memory's latency."""
WRITE_CYCLES = 8
"""Combiner, request and answer, beside the memory's latency."""
INSTANCE_CYCLES = 12
"""Start pulse, issue of the first row, and hand-over to the next instance."""
POLL_CYCLES = 7
"""Of one look at the doorbell, beside the memory's latency."""


@dataclass(frozen=True, slots=True)
class KernelCycles:
    """Predicted cycles of one run."""

    cycles: int
    """From ap_start to the interrupt."""
    append_cycles: int
    stream_cycles: int
    """All instances."""
    finish_cycles: int
    doorbell_cycles: int
    """From a doorbell to its answer, on average over when it is rung."""


def kernel_cycles(graph: StageGraph, *, stripes: int = 1, hbm: HbmModel | None = None,
                  clock_hz: float = DEFAULT_CLOCK_HZ) -> KernelCycles:
    """Predicted cycles of a kernel.

    Args:
        graph: the kernel.
        stripes: parts of the table.
        hbm: the memory.
        clock_hz: clock of the kernel.
    """
    model = hbm or HbmModel()
    per_ns = clock_hz * 1e-9
    read = (model.hit_latency_ns + model.activate_ns) * per_ns + READ_CYCLES
    write = (model.write_latency_ns + model.turnaround_ns) * per_ns + WRITE_CYCLES
    append = 0.0
    for stage in graph.of_kind(Append):
        counted = {name for name, _ in stage.positions.strides}
        rows = math.prod(axis.extent for axis in stage.axes if axis.name in counted)
        append += 2 * read + rows + math.prod(axis.extent for axis in stage.axes) + write
    stream = _stream_cycles(graph, stripes, model, per_ns, read)
    finish = 2 * write
    cycles = START_CYCLES + append + stream + finish
    poll = model.hit_latency_ns * per_ns + POLL_CYCLES
    return KernelCycles(round(cycles), round(append), round(stream), round(finish),
                        round(cycles - START_CYCLES + 1.5 * poll))


def _stream_cycles(graph: StageGraph, stripes: int, model: HbmModel, per_ns: float, read: float) -> float:
    """All instances: the slower of the core and the memory, and the first rows' way to the core.

    The core hides refreshes behind its buffers when it is the slower one.
    """
    estimate = estimate_cycles(graph)
    scan: Scan = graph.of_kind(Scan)[0]
    words = extent_product(graph, scan.lanes) * scan.element.size_bytes / WORD_BYTES
    beat = max(WORD_BYTES / model.bytes_per_ns * per_ns / stripes, 1.0)
    pipeline = sum(cost.latency_cycles for cost in estimate.stages
                   if not isinstance(graph.stage(cost.name), (TopK, Scan)))
    selected = sum(stage.k for stage in graph.of_kind(TopK))
    loads = load_words(graph)
    around = loads + pipeline + 2 * selected + INSTANCE_CYCLES
    lanes = tuple(graph.axis(name) for name in scan.lanes)
    row = extent_product(graph, scan.lanes)
    runs = runs_of(scan.table, (), (*graph.instances, *graph.keys, *lanes))
    granules = row // granule_of(runs, row, scan.element.size_bytes)
    interval = max(estimate.row_interval_cycles, granules)
    core = estimate.instances * (estimate.rows * interval + around)
    memory = estimate.instances * estimate.rows * words * beat
    refreshes = memory // ((model.refresh_interval_ns - model.refresh_ns) * per_ns)
    memory += refreshes * (model.refresh_ns + model.activate_ns) * per_ns
    # Rows come into the buffers while the operands of the first instance are loaded.
    total: float = max(core + max(read - loads, 0.0), read + memory + around - loads)
    return total


def load_words(graph: StageGraph) -> int:
    """Words of stationary operands that are loaded for every instance, one per cycle."""
    keys = {axis.name for axis in graph.keys}
    words = 0
    for stage in graph.stages:
        if isinstance(stage, InnerProduct):
            words += extent_product(graph, (*stage.lanes, *stage.over))
        if isinstance(stage, Map):
            words += sum(max(extent_product(graph, stage.lanes), 1) for part in stage.operands
                         if isinstance(part, Access) and not {name for name, _ in part.strides} & keys)
    return words


__all__ = ["KernelCycles", "kernel_cycles", "load_words"]
