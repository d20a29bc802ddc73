"""Whole streams on their way out: what the pipeline makes waits in a buffer and leaves one value per cycle.

The pipeline cannot stop, so a row is only issued while the buffer has room for everything that is under way.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from hetcc.backends.fpga.stages.stage_graph import Axis, Compact, StageGraph, Store, TopK

SLACK = 8
"""Cycles between the count of what is buffered and the issue of a row, and a few more."""


def streamed_loops(graph: StageGraph, stage: Store) -> tuple[Axis, ...]:
    """Loops over the values of a whole stream in the order in which they leave, instances first."""
    lanes = getattr(graph.stage(stage.source.stage), "lanes", ())
    keys = tuple(axis for axis in graph.keys if axis.name in stage.axes)
    return (*graph.instances, *keys, *(graph.axis(name) for name in lanes))


def stored_loops(graph: StageGraph, stage: Store) -> tuple[Axis, ...]:
    """Loops over what a store takes from the core, slowest first, instances included."""
    source = graph.stage(stage.source.stage)
    if isinstance(source, (TopK, Compact)):
        entries = source.selected and stage.source.port != "count"
        return (*graph.instances, *((graph.axis(source.selected),) if entries else ()))
    return streamed_loops(graph, stage)


def place_stream_output(m: Module, core: Any, values: list[Any], valid: Any, latency: int, issues: int,
                        count: int) -> Any:
    """Buffer ``values`` and send them through the core's ``out_*`` ports.

    Args:
        m: the core's module.
        core: has ``start``, ``busy``, ``done`` and the output ports.
        values: 32-bit values of one cycle, in the order in which they leave.
        valid: whether they are there.
        latency: cycles from the issue of a row to its first values.
        issues: cycles one row is issued in.
        count: values of an instance.

    Returns:
        whether a row may be issued.
    """
    under_way = latency + issues + SLACK
    depth = 1 << (2 * under_way - 1).bit_length()
    m.submodules.results = buffer = SyncFIFOBuffered(width=32 * len(values), depth=depth)
    place, left, room = Signal(range(len(values) + 1)), Signal(range(count + 1)), Signal()
    taken, last_place = Signal(), Signal()
    m.d.comb += [
        buffer.w_en.eq(valid & core.busy), buffer.w_data.eq(Cat(*values)), last_place.eq(place == len(values) - 1),
        core.out_valid.eq(buffer.r_rdy & core.busy & (left != 0)), core.out_last.eq(left == 1),
        core.out_value.eq(buffer.r_data.word_select(place, 32) if len(values) > 1 else buffer.r_data),
        taken.eq(core.out_valid & core.out_ready), buffer.r_en.eq((taken & last_place) | (buffer.r_rdy & ~core.busy)),
    ]
    m.d.sync += room.eq(buffer.level <= depth - under_way)
    with m.If(core.start):
        m.d.sync += [core.busy.eq(1), core.done.eq(0), left.eq(count), place.eq(0)]
    with m.Elif(taken):
        m.d.sync += [left.eq(left - 1), place.eq(Mux(last_place, 0, place + 1))]
        with m.If(core.out_last):
            m.d.sync += [core.busy.eq(0), core.done.eq(1)]
    return room


__all__ = ["place_stream_output", "stored_loops", "streamed_loops"]
