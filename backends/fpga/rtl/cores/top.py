"""The streaming core: stages chained into one pipeline that never stalls inside, with valid/ready at its edges.

One run handles one instance:

1. ``start`` is pulsed; the core empties its selection and asks for the stationary operands on ``load_*``: for every
   operand in stage order, its lanes slowest, the contracted axis fastest, a granule of 32-bit words at a time
   (``stages/loads.py``), in the lowest bits;
2. rows arrive on ``row_*``, ``beat_words`` words per beat, and with each row one word on every ``side<n>_*``;
3. after the last row the k best entries leave on ``out_*``, best first; without a selection the stream's values
   leave as they come, in row order; ``done`` is high after the last until ``start``.

``together`` rows at a time are issued in ``groups`` cycles, ``lanes`` results of the first inner product of each row in
every one. Every unit has a fixed latency, so operands that belong to a row travel
beside it through shift registers. Rows in an integer format are converted on their way to the first inner product, and
so are, by the same unit, the stationary vectors before the first row.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed

from hetcc.backends.fpga.costs.cycles import extent_product, product_latency, quantise_latency
from hetcc.backends.fpga.memory.layout import dealt_rows
from hetcc.backends.fpga.rtl.cores.collect import collected
from hetcc.backends.fpga.rtl.cores.point import Point as _Point
from hetcc.backends.fpga.rtl.cores.stationary import converted_memories, incoming_vector, loaded_memories
from hetcc.backends.fpga.rtl.limits import scanning_product, selection_of
from hetcc.backends.fpga.rtl.memory.stream_output import place_stream_output, streamed_loops
from hetcc.backends.fpga.rtl.units.compaction import place_compaction
from hetcc.backends.fpga.rtl.units.element_units import aligned, applied, bits_of, is_flag, lane_places
from hetcc.backends.fpga.rtl.units.fp32 import Flushed, flushed
from hetcc.backends.fpga.rtl.units.library import Library, delay, latency_of
from hetcc.backends.fpga.rtl.units.merge import pulse
from hetcc.backends.fpga.rtl.units.products import floats_of
from hetcc.backends.fpga.rtl.units.quantise import VectorQuantiser, to_bfloat16
from hetcc.backends.fpga.rtl.units.topk import INDEX_BITS, TopKUnit
from hetcc.backends.fpga.stages.loads import Load, loads_of
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import (
    Access,
    Compact,
    Immediate,
    InnerProduct,
    Lookup,
    Map,
    Reduce,
    Scan,
    StageGraph,
    Store,
    Stream,
)
from hetcc.errors import InternalError

MAX_BEAT_WORDS = 16


class StreamCore(Elaboratable):
    """The hardware of a stage graph within the limits of ``limits.check``.

    Args:
        graph: the kernel.
        library: where units come from.
        lanes: results of the first inner product per cycle; a power of two that divides their number.
        together: rows at a time; of blocks of rows that are reduced, one row each (``layout.dealt_rows``), or else
            as many neighbours as divide a block or are a multiple of it. Rows that are missing may be anything.
        beat_words: 32-bit words of ``row_data``, which divide a row or are whole rows; 16 at most when absent.
    """

    def __init__(self, graph: StageGraph, library: Library, lanes: int, together: int = 1,
                 beat_words: int | None = None) -> None:
        self._graph = graph
        self._library = library
        scan = cast(Scan, graph.of_kind(Scan)[0])
        first = scanning_product(graph)
        self._selection = selection_of(graph)
        self._latency, self._room = 0, Signal(init=1)
        self.row_words = extent_product(graph, scan.lanes)
        # Without a product that reads the rows, all their words pass together.
        self._lanes = lanes if first else self.row_words
        self.groups = extent_product(graph, first.lanes) // lanes if first else 1
        self.rows = math.prod(axis.extent for axis in graph.keys)
        dealt = dealt_rows(graph)
        self.steps = math.ceil(self.rows // dealt / together) * dealt
        self.candidates = (extent_product(graph, self._selection.over) if self._selection else
                           math.prod(axis.extent for axis in streamed_loops(graph, graph.of_kind(Store)[0])[
                               len(graph.instances):]))
        self.together = together
        self._form = first.format if first else NumberFormat.FP32
        self._whole_rows = first is None
        self._loads_first = not self._form.integer_bits
        self.beat_words = beat_words or min(MAX_BEAT_WORDS, self.row_words * together)
        self.beats = math.ceil(self.row_words * together / self.beat_words)
        self.loads = loads_of(graph)
        self.sides = self._find_sides()
        self.own_sides = len(self.sides)
        """Sides before those that are further tables."""
        self.start = Signal()
        self.busy = Signal()
        self.done = Signal()
        self.load_valid = Signal()
        self.load_ready = Signal()
        self.load_data = Signal(32 * max((load.granule for load in self.loads), default=1))
        self.row_valid = Signal()
        self.row_ready = Signal()
        self.row_data = Signal(32 * self.beat_words)
        self.side_valid = [Signal(name=f"side{at}_valid") for at in range(len(self.sides))]
        self.side_ready = [Signal(name=f"side{at}_ready") for at in range(len(self.sides))]
        self.side_data = [Signal(32 * together, name=f"side{at}_data") for at in range(len(self.sides))]
        self.out_valid = Signal()
        self.out_ready = Signal()
        self.out_last = Signal()
        self.out_value = Signal(32)
        self.out_index = Signal(signed(32))

    def ports(self) -> tuple[Any, ...]:
        """All ports but clock and reset."""
        return (self.start, self.busy, self.done, self.load_valid, self.load_ready, self.load_data, self.row_valid,
                self.row_ready, self.row_data, *self.side_valid, *self.side_ready, *self.side_data, self.out_valid,
                self.out_ready, self.out_last, self.out_value, self.out_index)

    @property
    def load_words(self) -> int:
        """32-bit words of ``load_data``."""
        return len(self.load_data) // 32

    def beats_of(self, _scan: Scan) -> tuple[int, int, int]:
        """32-bit words of a table's rows, words of its beats, and beats of its rows."""
        return self.row_words, self.beat_words, self.beats

    # ---- operands

    def _find_sides(self) -> list[Access]:
        keys = {axis.name for axis in self._graph.keys}
        return [part for stage in self._graph.of_kind(Map) for part in stage.operands
                if isinstance(part, Access) and {name for name, _ in part.strides} & keys]

    # ---- structure

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        loaded, beat = self._load(m)
        point, row = self._rows(m, loaded, beat)
        if self._whole_rows:
            point = replace(point, values=[part.word_select(at, 32) for part in row for at in range(self.row_words)])
        tables = iter(self._tables)
        points = self._scanned(point, row)
        for stage in self._graph.stages:
            if isinstance(stage, InnerProduct):
                point = self._inner_product(m, points[stage.source.stage], row, next(tables), stage)
            elif isinstance(stage, Lookup):
                point = self._lookup(m, points[stage.source.stage], next(tables), stage)
            elif isinstance(stage, Map):
                point = self._map(m, stage, points, tables)
            elif isinstance(stage, Reduce):
                point = self._reduce(m, points[stage.source.stage], stage)
            points.setdefault(stage.name, point)
        self._finish(m, points)
        return m

    def _scanned(self, point: _Point, _row: Any) -> dict[str, _Point]:
        """Where the rows of each table are."""
        return {stage.name: point for stage in self._graph.of_kind(Scan)}

    def _lookup(self, m: Module, point: _Point, table: Any, stage: Lookup) -> _Point:
        raise InternalError("HET-I001", f"rows that pass as a whole are not looked up by ({stage.name})")

    def _rows(self, m: Module, loaded: Any, load_beat: Any) -> tuple[_Point, Any]:
        """The start of the pipeline: the rows of a step, ready for the first stage."""
        return self._convert(m, *self._issue(m, loaded), load_beat)

    def _load(self, m: Module) -> tuple[Any, Any]:
        """Memories of the stationary operands and the counter that fills them.

        Returns:
            the wire that says all words have come, and the number of the granule that comes.
        """
        self._tables: list[tuple[list[Any], int]] = []
        total = sum(load.beats for load in self.loads)
        loading, beat = Signal(), Signal(range(max(total, 1) + 1))
        m.d.comb += self.load_ready.eq(loading)
        taken = self.load_valid & loading
        with m.If(self.start):
            m.d.sync += [beat.eq(0), loading.eq(total > 0)]
        with m.Elif(taken):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == total - 1):
                m.d.sync += loading.eq(0)
        base = 0
        for load in self.loads:
            width = min(self._lanes, load.lanes)
            if base or self._loads_first:
                self._hold(m, load, width, base, beat, taken)
            base += load.beats
        return ~loading, beat

    def _hold(self, m: Module, load: Load, width: int, base: int, beat: Any, taken: Any) -> None:
        """The memories of one operand, which ``width`` lanes read at a time."""
        form = self._form if load.meets_rows else None
        active = taken & (beat >= base) & (beat < base + load.beats)
        memories = loaded_memories(m, self._library, load, width, active, self.load_data, form, self.start)
        self._tables.append((memories, load.lanes // width))

    def _issue(self, m: Module, loaded: Any) -> tuple[_Point, Any]:
        """Collects beats into rows and issues each row's groups; the start of the pipeline."""
        assembled, beat, full = Signal(32 * self.beat_words * self.beats), Signal(range(self.beats + 1)), Signal()
        row, group, active = Signal(32 * self.row_words * self.together), Signal(range(max(self.groups, 2))), Signal()
        left, running = Signal(range(self.steps + 1)), Signal()
        last = group == self.groups - 1
        sides_ready = Const(1, 1)
        for valid in self.side_valid[:self.own_sides]:
            sides_ready = sides_ready & valid
        advance = full & sides_ready & loaded & running & self._room & (~active | last)
        m.d.comb += self.row_ready.eq(running & (~full | advance) & ~self.start)
        with m.If(self.row_valid & self.row_ready):
            m.d.sync += assembled.eq(Cat(assembled, self.row_data)[32 * self.beat_words:])
            m.d.sync += beat.eq(Mux(beat == self.beats - 1, 0, beat + 1))
        m.d.sync += full.eq((full & ~advance) | (self.row_valid & self.row_ready & (beat == self.beats - 1)))
        size = 32 * self.row_words
        words = [self._library.place(m, f"hetcc_flushed{self.row_words}", lambda: Flushed(self.row_words),
                                     {"row": assembled[at * size:(at + 1) * size]}, ("result",), clocked=False)[0]
                 for at in range(self.together)]
        sides = {f"side{at}": Signal(32 * self.together, name=f"held{at}") for at in range(self.own_sides)}
        with m.If(advance):
            m.d.sync += [row.eq(Cat(*words)), group.eq(0), active.eq(1), left.eq(left - 1)]
            m.d.sync += [held.eq(data) for held, data in zip(sides.values(), self.side_data, strict=False)]
        with m.Elif(active):
            m.d.sync += group.eq(group + 1)
            with m.If(last):
                m.d.sync += [active.eq(0), group.eq(0)]
        m.d.comb += [ready.eq(advance) for ready in self.side_ready[:self.own_sides]]
        with m.If(advance & (left == 1)):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [left.eq(self.steps), running.eq(1), active.eq(0), full.eq(0), beat.eq(0), group.eq(0)]
        return _Point([], active, group, self.groups, sides, self.together), row

    def _convert(self, m: Module, point: _Point, row: Any, load_beat: Any) -> tuple[_Point, list[Any]]:
        """The rows in the format of the first inner product, and its stationary vectors if they are integers."""
        depth = self.row_words
        rows = [row.word_select(at, 32 * depth) for at in range(self.together)]
        bits = self._form.integer_bits
        if self._form is NumberFormat.BF16:
            made = [Signal(16 * depth) for _ in rows]
            m.d.sync += [short.eq(Cat(*(to_bfloat16(part.word_select(at, 32)) for at in range(depth))))
                         for short, part in zip(made, rows, strict=True)]
            return self._later(m, point, [], 1), made
        if not bits:
            return point, rows
        vector, complete = incoming_vector(m, self, depth, load_beat)
        latency, made = quantise_latency(depth), []
        for at, part in enumerate(rows):
            given = part if at else Mux(complete, vector, part)
            integers, exponent = self._library.place(
                m, f"hetcc_quantise{depth}_{self._form.value}", lambda: VectorQuantiser(depth, bits),
                {"row": given}, ("result", "exponent"))
            made.append(Cat(integers, exponent))
        self._keep_vectors(m, made[0], complete, latency)
        return self._later(m, point, [], latency), made

    def _keep_vectors(self, m: Module, converted: Any, complete: Any, latency: int) -> None:
        """Memories of the stationary vectors, each of which comes converted some cycles after it is complete."""
        load, filled = self.loads[0], pulse(m, complete, latency, self.start)
        ports = converted_memories(m, load, min(self._lanes, load.lanes), converted, filled, self.start)
        self._tables.insert(0, (ports, load.lanes // len(ports)))

    # ---- stages

    def _later(self, m: Module, point: _Point, values: list[Any], cycles: int) -> _Point:
        """The pipeline some cycles on, with new values."""
        self._latency += cycles
        return _Point(values, pulse(m, point.valid, cycles, self.start), delay(m, point.group, cycles),
                      point.groups, {name: delay(m, value, cycles) for name, value in point.sides.items()}, point.rows,
                      point.age + cycles)

    def _read(self, m: Module, point: _Point, table: tuple[list[Any], int]) -> list[Any]:
        ports, groups = table
        address = point.group if groups > 1 else Const(0, 1)
        m.d.comb += [port.addr.eq(address) for port in ports]
        return [port.data for port in ports]

    def _inner_product(self, m: Module, point: _Point, rows: list[Any], table: tuple[list[Any], int],
                       stage: InnerProduct) -> _Point:
        stationary = self._read(m, point, table)
        if isinstance(self._graph.stage(stage.source.stage), Scan):
            made = [value for row in rows
                    for value in floats_of(m, self._library, stage.format, row, stationary, self.row_words)]
            return self._later(m, point, made, product_latency(self.row_words, stage.format))
        products = [self._library.binary(m, "mul", value, word) for lanes in point.lanes
                    for value, word in zip(lanes, stationary, strict=True)]
        return self._combine(m, self._later(m, point, products, latency_of("mul")), "add")

    def _combine(self, m: Module, point: _Point, function: str) -> _Point:
        """All lanes of a row into one value: a tree over a group, then one over the groups of the row."""
        trees = [self._library.tree(m, function, lanes) for lanes in point.lanes]
        gathered = self._later(m, point, [value for value, _ in trees], trees[0][1])
        return self._collect(m, gathered, point.groups, function)

    def _collect(self, m: Module, point: _Point, count: int, function: str) -> _Point:
        """Of every row, ``count`` values that come one after another into one, by the aligned tree."""
        if count == 1:
            return replace(point, groups=1)
        complete, values, latency = collected(m, self._library, self.start, point, count, function)
        gathered = replace(point, valid=complete, group=Const(0, 1), groups=1)
        return self._later(m, gathered, values, latency)

    def _map(self, m: Module, stage: Map, points: dict[str, _Point], tables: Any) -> _Point:
        point, streams = aligned(m, stage, points)
        operands: list[list[Any]] = []
        keys = {axis.name for axis in self._graph.keys}
        for operand in stage.operands:
            if isinstance(operand, Stream):
                operands.append(streams[operand.stage])
            elif isinstance(operand, Immediate):
                operands.append([flushed(Const(bits_of(operand.value), 32))] * len(point.values))
            elif {name for name, _ in operand.strides} & keys:
                words = point.sides[f"side{self.sides.index(operand)}"]
                # A word per row, the same for all its lanes.
                each = len(point.values) // point.rows
                operands.append([flushed(words.word_select(at, 32)) for at in range(point.rows) for _ in range(each)])
            else:
                operands.append(self._read(m, point, next(tables)) * point.rows)
        values = applied(m, self._library, stage.function, operands, of_flags=is_flag(self._graph, stage.operands[0]))
        return self._later(m, point, values, latency_of(stage.function))

    def _reduce(self, m: Module, point: _Point, stage: Reduce) -> _Point:
        function = "add" if stage.function == "sum" else stage.function
        keys = {axis.name for axis in self._graph.keys}
        if set(stage.over) & keys:
            block = extent_product(self._graph, stage.over)
            if dealt_rows(self._graph) > 1:
                return self._collect(m, point, block, function)
            size = min(block, point.rows)
            trees = [self._library.tree(m, function, point.values[at:at + size])
                     for at in range(0, point.rows, size)]
            joined = self._later(m, replace(point, rows=point.rows // size), [value for value, _ in trees],
                                 trees[0][1])
            return self._collect(m, joined, block // size, function)
        if point.groups > 1:
            return self._combine(m, point, function)
        have = getattr(self._graph.stage(stage.source.stage), "lanes", ())
        places = lane_places(self._graph, have, stage.over, stage.lanes)
        trees = [self._library.tree(m, function, [lanes[place] for place in terms]) for lanes in point.lanes
                 for terms in places]
        return self._later(m, point, [value for value, _ in trees], trees[0][1])

    def _finish(self, m: Module, points: dict[str, _Point]) -> None:
        """Feed the selection and send its entries out; without one, the stream itself."""
        ends = self._selection or self._graph.of_kind(Store)[0]
        point = points[ends.source.stage]
        if isinstance(self._selection, Compact):
            place_compaction(m, self, self._selection, point.values, point.valid)
            return
        if self._selection is None:
            room = place_stream_output(m, self, point.values, point.valid, self._latency, self.groups, self.candidates)
            m.d.comb += self._room.eq(room)
            return
        unit = TopKUnit(self._library, self._selection.k, self._selection.largest, self.candidates,
                        len(point.values))
        m.submodules.selection = unit
        m.d.comb += [
            unit.clear.eq(self.start), unit.valid.eq(point.valid & self.busy), unit.values.eq(Cat(*point.values)),
            self.out_valid.eq(unit.out_valid & self.busy), unit.out_ready.eq(self.out_ready & self.busy),
            self.out_last.eq(unit.out_last), self.out_value.eq(unit.out_value), self.out_index.eq(unit.out_index),
        ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), self.done.eq(0)]
        with m.Elif(self.out_valid & self.out_ready & self.out_last):
            m.d.sync += [self.busy.eq(0), self.done.eq(1)]


__all__ = ["INDEX_BITS", "StreamCore"]
