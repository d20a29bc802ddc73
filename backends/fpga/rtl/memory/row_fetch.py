"""Selected rows from one buffer to another: each index that leaves the core becomes a read, in order.

Indices wait in a queue while rows are under way, so reads of several rows overlap as far as the reader's buffer holds
them. A row must be one run of neighbours, in the table and in the output.
"""

from __future__ import annotations

import math
from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from hetcc.backends.fpga.rtl.memory.axi import BEAT_BYTES
from hetcc.backends.fpga.rtl.memory.axi_streams import OFFSET_BITS, Nest
from hetcc.backends.fpga.rtl.memory.movers import Reader, element_bytes, place_combiner, place_unpacker
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.gathers import entries_of, row_granule
from hetcc.backends.fpga.stages.stage_graph import Gather, StageGraph, Store

QUEUE = 16
"""Indices that wait for their reads."""


class RowFetch:
    """The reads and writes of one ``Gather`` and its ``Store``, made inside the shell.

    Attributes: ``combiner`` (its ports), ``taken`` (the entry that leaves the core was taken), ``done`` (every row of
    every instance was handed to the combiner).

    Args:
        m: the module it is made in.
        library: where units come from.
        graph: the kernel.
        store: its source is the gather.
        reader: burst reader of the table's master.
        base: byte address of the table.
        core: the streaming core, for its output ports.
        clear: before a run.
    """

    def __init__(self, m: Module, library: Library, graph: StageGraph, store: Store, reader: Reader, base: Any,
                 core: Any, clear: Any) -> None:
        self._graph, self._store = graph, store
        stage = graph.stage(store.source.stage)
        assert isinstance(stage, Gather)
        self._stage = stage
        self._row = math.prod(graph.axis(name).extent for name in stage.lanes)
        self._entries = entries_of(graph, stage)
        self._size = element_bytes(graph, stage.table.buffer)
        self.taken, self.done = Signal(), Signal()
        offset, pending, take = self._queue(m, core, clear)
        self._ask(m, library, reader, base, offset, pending, take, clear)

    def _queue(self, m: Module, core: Any, clear: Any) -> tuple[Any, Any, Any]:
        """Indices in; the offset of the next row within its instance, whether it is there, and what takes it."""
        m.submodules += (waiting := SyncFIFOBuffered(width=32, depth=QUEUE))
        sent, push = Signal(), Signal()
        m.d.comb += [push.eq(core.out_valid & ~sent & waiting.w_rdy), waiting.w_en.eq(push),
                     waiting.w_data.eq(core.out_index), self.taken.eq(sent | waiting.w_rdy)]
        m.d.sync += sent.eq((sent | push) & ~(core.out_valid & core.out_ready))
        index, place = waiting.r_data.as_signed(), Signal(32)
        m.d.comb += place.eq(Mux(index < 0, index + self._stage.rows, index))
        offset, pending, take = Signal(OFFSET_BITS), Signal(), Signal()
        m.d.comb += waiting.r_en.eq(~pending | take)
        with m.If(waiting.r_en):
            m.d.sync += [pending.eq(waiting.r_rdy), offset.eq(place * self._stage.row_stride)]
        with m.If(clear):
            m.d.sync += [pending.eq(0), sent.eq(0)]
        return offset, pending, take

    def _ask(self, m: Module, library: Library, reader: Reader, base: Any, offset: Any, pending: Any, take: Any,
             clear: Any) -> None:
        size, instances = self._size, self._graph.instances
        granule = row_granule(self._graph, self._stage, self._store)
        wide = granule * size
        ready = Signal()
        run_ready, valid, data, run = place_unpacker(m, library, (wide,), 1, [reader], ready)
        tables, targets = dict(self._stage.table.strides), dict(self._store.target.strides)
        rows = Nest(m, [*((axis.extent, tables.get(axis.name, 0)) for axis in instances), (self._entries, 0)], 0,
                    clear, take, self._stage.table.offset)
        first, end = Signal(OFFSET_BITS), Signal(OFFSET_BITS)
        m.d.comb += [
            first.eq((rows.offset + offset) * size), end.eq((first + self._row * size + BEAT_BYTES - 1) >> 6),
            take.eq(pending & run_ready & reader.request_ready), reader.request_valid.eq(take),
            reader.address.eq(base + (first[6:] << 6)), reader.beats.eq(end - first[6:]), run[0].eq(take), run[1].eq(0),
            run[2].eq(first[:6] >> (wide.bit_length() - 1)), run[3].eq(self._row // granule), run[4].eq(0)]
        self.combiner = place_combiner(m, library, wide)
        moved = Signal()
        written = Nest(m, [*((axis.extent, targets.get(axis.name, 0)) for axis in instances),
                           (self._entries, targets.get(self._stage.selected, 0)), (self._row // granule, granule)], 0,
                       clear, moved, self._store.target.offset)
        m.d.comb += [self.combiner["valid"].eq(valid), ready.eq(self.combiner["ready"]), moved.eq(valid & ready),
                     self.combiner["data"].eq(data),
                     self.combiner["offset"].eq(written.offset << (size.bit_length() - 1))]
        with m.If(clear):
            m.d.sync += self.done.eq(0)
        with m.Elif(moved & written.last):
            m.d.sync += self.done.eq(1)


__all__ = ["RowFetch"]
