"""How many cycles a whole kernel takes, from ap_start to the interrupt, as a closed form of its structure.

The terms are those of ``rtl/shell.py``: positions and new rows are read and written, then the table streams once per
instance, then results and answer are written. Fixed numbers of cycles are registers between the units of the shell and
the core, counted in the RTL; memory figures are those of the model in ``memory/hbm.py``. The result is *predicted*; its
error against simulated RTL is in docs/fpga_simulation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.backends.fpga.costs.choice import chosen, rate_of
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ, estimate_cycles, extent_product
from hetcc.backends.fpga.costs.cycles_attention import second_pass_total
from hetcc.backends.fpga.costs.cycles_long import conversion_cycles
from hetcc.backends.fpga.costs.cycles_resident import FILL_CYCLES, RESIDENT_WAIT, fill_cycles, refresh_cycles
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import Layout, is_wide, layout_of
from hetcc.backends.fpga.memory.memory_map import READ_BUFFER_BEATS
from hetcc.backends.fpga.memory.resident import is_resident, residency_of
from hetcc.backends.fpga.stages.gathers import entries_of, row_granule
from hetcc.backends.fpga.stages.loads import load_cycles
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.stage_graph import (
    Append,
    Compact,
    Gather,
    Parallelism,
    Scan,
    StageGraph,
    Store,
    TopK,
    row_words,
)

START_CYCLES = 3
"""From the register write to the first read request."""
READ_CYCLES = 3
"""Request register, buffer and unpacker, beside the memory's latency."""
WRITE_CYCLES = 8
"""Combiner, request and answer, beside the memory's latency."""
INSTANCE_CYCLES = 2
"""Start pulse, issue of the first row, and hand-over to the next instance."""
END_CYCLES = 4
"""From the answer in memory to the interrupt."""
DIVISION_CYCLES = 3
"""Of a division by a constant: product, quotient, remainder."""
POLL_CYCLES = 7
"""Of one look at the doorbell, beside the memory's latency."""


@dataclass(frozen=True, slots=True)
class KernelCycles:
    """Predicted cycles of one run."""

    cycles: int
    """From ap_start to the interrupt; of a list of passing rows, if none pass, which takes longest."""
    append_cycles: int
    stream_cycles: int
    """All instances."""
    finish_cycles: int
    doorbell_cycles: int
    """From a doorbell to its answer, on average over when it is rung."""
    fill_cycles: int = 0
    """Further ones of a run that has to read a table first which is kept on chip."""
    spared_cycles: int = 0
    """Fewer ones of a run whose lists of passing rows are full before its last rows."""


def kernel_cycles(graph: StageGraph, *, hbm: HbmModel | None = None,
                  clock_hz: float = DEFAULT_CLOCK_HZ) -> KernelCycles:
    """Predicted cycles of a kernel.

    Args:
        graph: the kernel, as wide as its ``parallel`` says.
        hbm: the memory.
        clock_hz: clock of the kernel.
    """
    graph = chosen(graph)
    model = hbm or HbmModel()
    per_ns = clock_hz * 1e-9
    # What a request that comes at any moment waits for a refresh on average.
    wait = model.refresh_ns**2 / 2 / model.refresh_interval_ns * per_ns
    read = (model.hit_latency_ns + model.activate_ns) * per_ns + wait + READ_CYCLES
    write = (model.write_latency_ns + model.turnaround_ns) * per_ns + wait + WRITE_CYCLES
    append = 0.0
    for stage in graph.of_kind(Append):
        counted = {name for name, _ in stage.positions.strides}
        rows = math.prod(axis.extent for axis in stage.axes if axis.name in counted)
        append += 2 * read + rows + math.prod(axis.extent for axis in stage.axes) + write
        append += place_cycles(layout_of(graph, stage.table.buffer))
    beat = model.beat_cycles(clock_hz)
    if is_resident(graph):
        append += FILL_CYCLES + refresh_cycles(graph, beat, read)
    stream = _stream_cycles(graph, model, clock_hz, read, waits=not graph.of_kind(Append))
    stream += _fetch_cycles(graph, model, clock_hz, read)
    finish = 2 * write
    cycles = START_CYCLES + append + stream + finish
    # Half a look passes until memory is read after the ring; the answer is there before the interrupt.
    look = model.hit_latency_ns * per_ns + wait
    heard = (look + POLL_CYCLES) / 2 + look + READ_CYCLES
    return KernelCycles(round(cycles), round(append), round(stream), round(finish),
                        round(cycles - START_CYCLES - END_CYCLES + heard), round(fill_cycles(graph, beat, read)),
                        _spared(graph))


def _spared(graph: StageGraph) -> int:
    """What a list that is full early leaves out: its entries leave while rows still come, but for the last."""
    lists: int = sum(max(stage.capacity, 1) - 1 for stage in graph.of_kind(Compact))
    return lists * math.prod(axis.extent for axis in graph.instances)


def place_cycles(layout: Layout) -> int:
    """Cycles until the place of a word to be written is known: those of the divisions that are not shifts."""
    if layout.plain:
        return 0
    divisors = [layout.units * layout.unit_words if layout.segments > 1 else 1, layout.unit_words, layout.dealt,
                layout.groups, layout.per_group]
    return 1 + DIVISION_CYCLES * sum(1 for divisor in divisors if divisor & (divisor - 1))


def _stream_cycles(graph: StageGraph, hbm: HbmModel, clock_hz: float, read: float, *, waits: bool) -> float:
    """All instances. Words of the table come while the buffers have room; a step takes its words from there.

    Args:
        graph: the kernel.
        hbm: the memory.
        clock_hz: of the kernel.
        read: cycles from a request to its first word.
        waits: whether nothing was read before, so that the operands of the first instance come no earlier than rows.
    """
    words, step_cycles, steps = _steps_of(graph)
    beat, estimate = hbm.beat_cycles(clock_hz), estimate_cycles(graph)
    pipeline = sum(cost.latency_cycles for cost in estimate.stages
                   if not isinstance(graph.stage(cost.name), (TopK, Compact, Gather, Scan)))
    drain = sum(cost.latency_cycles for cost in estimate.stages
                if isinstance(graph.stage(cost.name), (TopK, Compact)))
    long = long_rows(graph)
    loads = load_cycles(graph, beat) + (conversion_cycles(long) if long else 0)
    loads += RESIDENT_WAIT if is_resident(graph) else 0
    parallel = graph.parallel or Parallelism()
    again = second_pass_total(graph, parallel.lanes, beat / parallel.stripes, READ_BUFFER_BEATS * parallel.stripes)
    time, held = read, 0.0
    for instance in range(estimate.instances):
        gap = loads + INSTANCE_CYCLES if instance or waits else max(loads + INSTANCE_CYCLES - read, 0.0)
        time, held = time + gap, min(held + gap / beat, float(READ_BUFFER_BEATS))
        taken = steps * step_cycles
        stalled = hbm.stall_cycles(words - held, taken, held / words * taken if words else 0.0, clock_hz)
        streaming = max(taken + stalled, (words - held) * beat)
        held = min(max(held + streaming / beat - words, 0.0), float(READ_BUFFER_BEATS))
        time += streaming + again + pipeline + drain
        held = min(held + (again + pipeline + drain) / beat, float(READ_BUFFER_BEATS))
    return time


def _fetch_cycles(graph: StageGraph, hbm: HbmModel, clock_hz: float, read: float) -> float:
    """Rows taken after the last entry has left: one entry leaves per cycle, and rows come from the first one on, as the
    memory has them or a granule per cycle.
    """
    longer = 0.0
    for store in graph.of_kind(Store):
        stage = graph.stage(store.source.stage)
        if isinstance(stage, Gather):
            row = extent_product(graph, stage.lanes)
            granules = row // row_granule(graph, stage, store)
            row_cycles = hbm.row_cycles(row * stage.element.size_bytes, clock_hz, granules)
            longer = max(longer, read + entries_of(graph, stage) * (row_cycles - 1))
    return longer


def _steps_of(graph: StageGraph) -> tuple[float, float, int]:
    """Words of an instance in the longest stripe, the core's cycles per step, and steps."""
    parallel = graph.parallel or Parallelism()
    scan: Scan = graph.of_kind(Scan)[0]
    layout = layout_of(graph, scan.table.buffer)
    rate = rate_of(graph, parallel)
    core = rate.core_cycles * parallel.together
    if is_resident(graph):
        return 0.0, rate.row_cycles * parallel.together, residency_of(graph, parallel.together).segment_depth
    if is_wide(graph) is not None:
        return layout.words_of(0), core, layout.steps
    rows = math.prod(axis.extent for axis in graph.keys)
    size = row_words(graph) * storage_type(scan.element).itemsize
    return rows * size / WORD_BYTES / parallel.stripes, core, rows


__all__ = ["DIVISION_CYCLES", "KernelCycles", "kernel_cycles", "place_cycles"]
