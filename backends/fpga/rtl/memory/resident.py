"""Fills the banks of a table kept on chip from memory: all of it, or the rows that were just appended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from hetcc.backends.fpga.memory.layout import layout_of, segment_stride, wide_scan
from hetcc.backends.fpga.rtl.memory.axi_streams import Nest
from hetcc.backends.fpga.rtl.memory.feed import GroupFeeder
from hetcc.backends.fpga.rtl.memory.movers import AppendMover, Reader, appendings_of
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.stage_graph import Scan, StageGraph

REQUESTED_ROWS = 8
"""Rows that are asked for one by one and have not come yet."""


class TableFill:
    """What stands between the readers of a table and the way into a core's banks.

    Attributes: ``start`` (pulse it, with ``whole`` as it shall be until ``done``), ``whole`` (all rows, or else those
    that were appended in this run), ``done`` (all have been handed on).

    Args:
        m: the module it is made in.
        library: where units come from.
        graph: the kernel.
        readers: burst readers of the table's stripes.
        bases: byte address of each stripe.
        core: the ``ResidentCore``.
        mover: what appended to the table, if anything does.
    """

    def __init__(self, m: Module, library: Library, graph: StageGraph, readers: Sequence[Reader],
                 bases: Sequence[Any], core: Any, mover: AppendMover | None) -> None:
        self.start, self.whole, self.done = Signal(), Signal(), Signal()
        scan = cast(Scan, graph.of_kind(Scan)[0])
        layout = layout_of(graph, scan.table.buffer)
        # Every row is as many words of each stripe.
        self._share = layout.unit_words // layout.stripes
        rows = core.held.rows
        row_valid, row_data = self._feeder(m, library, layout.unit_words, readers)
        self._address, number, appended = bases[0], Signal.like(core.row_number), 0
        if mover is not None:
            appended, number = self._appended_rows(m, graph, mover, readers, bases, row_valid)
        else:
            self._ask(m, readers, bases, Const(0, 1), Const(0, 1))
        arrived, left = Signal.like(core.row_number), Signal(range(max(rows, appended) + 1))
        m.d.comb += [core.row_valid.eq(row_valid), core.row_data.eq(row_data), self.done.eq(left == 0),
                     core.row_number.eq(Mux(self.whole, arrived, number))]
        with m.If(self.start):
            m.d.sync += [arrived.eq(0), left.eq(Mux(self.whole, rows, appended))]
        with m.Elif(row_valid):
            m.d.sync += [arrived.eq(arrived + 1), left.eq(left - 1)]
        m.d.comb += self._beats.eq(Mux(self.whole, rows * self._share, self._share))

    def add_states(self, m: Module, stale: Any) -> None:
        """The states COMPARE, FILL and FILLING, then SCAN: a table that is ``stale``, or lies at another address than
        the one on chip, is read as a whole.
        """
        held_at = Signal.like(self._address)
        m.d.comb += self.whole.eq(stale)
        with m.State("COMPARE"):
            m.d.sync += stale.eq(stale | (held_at != self._address))
            m.next = "FILL"
        with m.State("FILL"):
            m.d.comb += self.start.eq(1)
            m.next = "FILLING"
        with m.State("FILLING"), m.If(self.done):
            m.d.sync += [stale.eq(0), held_at.eq(self._address)]
            m.next = "SCAN"

    def _feeder(self, m: Module, library: Library, words: int, readers: Sequence[Reader]) -> tuple[Any, Any]:
        """Rows put together from the stripes' words; the core takes each at once."""
        valid = Signal()
        inputs = (self.start, Cat(*(reader.beat_valid for reader in readers)),
                  Cat(*(reader.beat_data for reader in readers)), valid)
        found = library.place(m, f"hetcc_feeder_{words}_{len(readers)}", lambda: GroupFeeder(words, len(readers)),
                              dict(zip(GroupFeeder.INPUTS, inputs, strict=True)), GroupFeeder.OUTPUTS)
        m.d.comb += [reader.beat_ready.eq(found[0][at]) for at, reader in enumerate(readers)]
        m.d.comb += valid.eq(found[1])
        return valid, found[2]

    def _ask(self, m: Module, readers: Sequence[Reader], bases: Sequence[Any], row: Any, more: Any) -> Any:
        """Requests to all readers at once: for the whole table once per ``start``, for a row while there are ``more``;
        whether one was taken.
        """
        self._beats, pending, take = Signal(32), Signal(), Signal()
        ready = Cat(*(reader.request_ready for reader in readers)).all()
        m.d.comb += take.eq(ready & (pending | more))
        with m.If(self.start):
            m.d.sync += pending.eq(self.whole)
        with m.Elif(take):
            m.d.sync += pending.eq(0)
        offset = Signal(40)
        m.d.comb += offset.eq(Mux(self.whole, 0, row * self._share) << 6)
        for reader, base in zip(readers, bases, strict=True):
            m.d.comb += [reader.request_valid.eq(take), reader.address.eq(base + offset), reader.beats.eq(self._beats)]
        return take

    def _appended_rows(self, m: Module, graph: StageGraph, mover: AppendMover, readers: Sequence[Reader],
                       bases: Sequence[Any], arrives: Any) -> tuple[int, Any]:
        """Asks for every row that was appended; their count, and the number of the one that comes.

        A row that was written twice is read twice: memory has its last value both times.
        """
        wide = wide_scan(graph)
        assert wide is not None
        elements, asking, take = wide.row_bytes // 4, Signal(), Signal()
        strides, numbers = dict(mover.appending.stage.table.strides), mover.row_numbers
        loops = [(axis.extent, strides.get(axis.name, 0) // elements, numbers.get(axis.name, 0))
                 for axis in mover.appending.stage.axes
                 if axis.name in numbers or strides.get(axis.name, 0) >= elements]
        count = 1
        for extent, _, _ in loops:
            count *= extent
        table = Nest(m, [(extent, stride) for extent, stride, _ in loops], 0, self.start, take,
                     mover.appending.stage.table.offset // elements)
        which = Nest(m, [(extent, stride) for extent, _, stride in loops], 0, self.start, take)
        port = mover.places.read_port(domain="comb")
        row = Signal(32)
        m.submodules.requested_rows = fifo = SyncFIFOBuffered(width=32, depth=REQUESTED_ROWS)
        m.d.comb += [port.addr.eq(which.offset), row.eq(table.offset + (port.data >> (elements.bit_length() - 1)))]
        m.d.comb += [take.eq(self._ask(m, readers, bases, row, asking & fifo.w_rdy) & ~self.whole),
                     fifo.w_en.eq(take), fifo.w_data.eq(row), fifo.r_en.eq(arrives & ~self.whole)]
        with m.If(self.start):
            m.d.sync += asking.eq(~self.whole)
        with m.Elif(take & table.last):
            m.d.sync += asking.eq(0)
        return count, fifo.r_data


def place_resident_scan(m: Module, library: Library, graph: StageGraph, readers: Sequence[Reader],
                        bases: Sequence[Any], core: Any, movers: Sequence[AppendMover], start: Any) -> TableFill:
    """The way of a table into the banks, and where the segment of every instance begins there.

    Args:
        m: the module it is made in.
        library: where units come from.
        graph: the kernel.
        readers: burst readers of the stripes.
        bases: byte address of each stripe.
        core: the core.
        movers: what appends, in the order of ``appendings_of``.
        start: a run begins its instances.
    """
    scan = cast(Scan, graph.of_kind(Scan)[0])
    wide = wide_scan(graph)
    assert wide is not None
    strides, segment = dict(scan.table.strides), segment_stride(graph, wide)
    nest = Nest(m, [(axis.extent, strides.get(axis.name, 0) // segment * core.held.segment_depth)
                    for axis in graph.instances], 0, start, core.start)
    m.d.comb += core.base.eq(nest.offset)
    own = [mover for mover, appending in zip(movers, appendings_of(graph), strict=True)
           if appending.stage.table.buffer == scan.table.buffer]
    return TableFill(m, library, graph, readers, bases, core, own[0] if own else None)


__all__ = ["TableFill", "place_resident_scan"]
