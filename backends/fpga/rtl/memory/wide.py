"""Many stripes at once: requests for whole segments of a table, and the rows of a step out of what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Module, Signal

from hetcc.backends.fpga.memory.layout import is_wide, layout_of, segment_stride
from hetcc.backends.fpga.rtl.memory.axi_streams import Nest
from hetcc.backends.fpga.rtl.memory.feed import GroupFeeder, Regrouper
from hetcc.backends.fpga.rtl.memory.movers import Reader
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.stage_graph import Scan, StageGraph


def place_wide_scan(m: Module, library: Library, graph: StageGraph, scan: Scan, readers: Sequence[Reader],
                    bases: Sequence[Any], start: Any, begin: Any) -> tuple[Any, Any, Any]:
    """A table that is dealt out wide: (valid, rows of a step, ready to drive).

    Args:
        m: the module it is made in.
        library: where units come from.
        graph: the kernel, a wide one.
        scan: of the table.
        readers: burst readers of the stripes.
        bases: byte address of each stripe.
        start: asks for the segments of all instances.
        begin: a segment begins.
    """
    layout, wide = layout_of(graph, scan.table.buffer), is_wide(graph, scan.table.buffer)
    assert wide is not None
    words = wide.beat_words
    strides, segment = dict(scan.table.strides), segment_stride(graph, wide)
    running, take = Signal(), Signal()
    nest = Nest(m, [(axis.extent, strides.get(axis.name, 0) // segment * layout.segment_words)
                    for axis in graph.instances], 0, start, take)
    with m.If(start):
        m.d.sync += running.eq(1)
    with m.Elif(take & nest.last):
        m.d.sync += running.eq(0)
    m.d.comb += take.eq(running & Cat(*(reader.request_ready for reader in readers)).all())
    for at, (reader, base) in enumerate(zip(readers, bases, strict=True)):
        m.d.comb += [reader.request_valid.eq(take), reader.address.eq(base + (nest.offset << 6)),
                     reader.beats.eq(layout.words_of(at))]
    segment_words = layout.steps * layout.unit_words
    ready, valid, data, taken = Signal(), [], [], Signal()
    for first in range(0, layout.stripes, layout.per_group):
        group = readers[first:first + layout.per_group]
        if wide.by_word:
            m.d.comb += readers[first].beat_ready.eq(taken)
            valid.append(readers[first].beat_valid)
            data.append(readers[first].beat_data)
            continue
        inputs = (begin, Cat(*(reader.beat_valid for reader in group)), Cat(*(reader.beat_data for reader in group)),
                  taken)
        found = library.place(m, f"hetcc_feeder_{words}_{layout.per_group}_of_{segment_words}",
                              lambda: GroupFeeder(words, layout.per_group, segment_words),
                              dict(zip(GroupFeeder.INPUTS, inputs, strict=True)), GroupFeeder.OUTPUTS)
        m.d.comb += [reader.beat_ready.eq(found[0][at]) for at, reader in enumerate(group)]
        valid.append(found[1])
        data.append(found[2])
    whole = Signal()
    m.d.comb += [whole.eq(Cat(*valid).all()), taken.eq(whole & ready)]
    return whole, Cat(*data), ready


def place_regrouper(m: Module, library: Library, source: Any, given: int, taken: int,
                    segment: int) -> tuple[Any, Any, Any]:
    """A regrouper behind a reader of single elements: (valid, data, ready to drive)."""
    ready = Signal()
    if given == taken == 1:
        m.d.comb += source.ready.eq(ready)
        return source.valid, source.data, ready
    bits = len(source.data) // given
    found = library.place(m, f"hetcc_regrouper_{given}_{taken}_{segment}_{bits}",
                          lambda: Regrouper(given, taken, segment, bits),
                          dict(zip(Regrouper.INPUTS, (source.valid, source.data, ready), strict=True)),
                          Regrouper.OUTPUTS)
    m.d.comb += source.ready.eq(found[0])
    return found[1], found[2], ready


__all__ = ["place_regrouper", "place_wide_scan"]
