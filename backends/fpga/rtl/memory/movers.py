"""What moves data between the masters and the core: table readers, the reader of all that is small, appends, stores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from amaranth import Cat, Module, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.memory.layout import Layout
from hetcc.backends.fpga.rtl.memory.axi import BEAT_BYTES, BurstReader, WordWriter, WriteCombiner
from hetcc.backends.fpga.rtl.memory.axi_streams import OFFSET_BITS, Assembler, Nest, Unpacker
from hetcc.backends.fpga.rtl.memory.placer import WordPlacer
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.runs import Runs, runs_of
from hetcc.backends.fpga.stages.stage_graph import Append, Axis, StageGraph


def element_bytes(graph: StageGraph, buffer: str) -> int:
    """Bytes of a buffer's elements in memory."""
    return storage_type(graph.buffer(buffer).element).itemsize


@dataclass
class Reader:
    """One burst reader on a master: its request and data ends."""

    request_valid: Any
    request_ready: Any
    address: Any
    beats: Any
    beat_valid: Any
    beat_ready: Any
    beat_data: Any


def place_reader(m: Module, library: Library, master: Any, depth: int, burst: int) -> Reader:
    """A burst reader on the read channels of a master."""
    request = (Signal(), Signal(64), Signal(32), Signal())
    inputs = dict(zip(BurstReader.INPUTS, (*request, master.arready, master.rvalid, master.rdata), strict=True))
    found = library.place(m, f"hetcc_burst_reader_{depth}_{burst}", lambda: BurstReader(depth, burst), inputs,
                          BurstReader.OUTPUTS)
    ready, beat_valid, beat_data, arvalid, araddr, arlen, rready = found
    m.d.comb += [master.arvalid.eq(arvalid), master.araddr.eq(araddr), master.arlen.eq(arlen),
                 master.rready.eq(rready)]
    return Reader(request[0], ready, request[1], request[2], beat_valid, request[3], beat_data)


def place_unpacker(m: Module, library: Library, sizes: Sequence[int], stripes: int, readers: Sequence[Reader],
                   ready: Any) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    """An unpacker behind readers: (run_ready, valid, data, the run's fields to drive)."""
    probe = Unpacker(sizes, stripes)
    probe._MustUse__used = True  # only its port widths are needed
    run = tuple(Signal.like(getattr(probe, name)) for name in (
        "run_valid", "run_kind", "run_skip", "run_count", "run_turn"))
    inputs, outputs = probe.ports()
    beats = (Cat(*(reader.beat_valid for reader in readers)), Cat(*(reader.beat_data for reader in readers)))
    name = f"hetcc_unpacker_{'_'.join(map(str, sizes))}_of_{stripes}"
    found = library.place(m, name, lambda: Unpacker(sizes, stripes),
                          dict(zip(inputs, (*run, *beats, ready), strict=True)), outputs)
    m.d.comb += [reader.beat_ready.eq(found[1][at]) for at, reader in enumerate(readers)]
    return found[0], found[2], found[3], run


class RunReader:
    """Reads all runs of one access once per ``clear``, as granules.

    Args:
        m: the module it is made in.
        library: where units come from.
        readers: burst readers of the stripes.
        bases: byte address of each stripe.
        runs: what to read.
        size: bytes of an element.
        granule: elements handed on at a time.
        clear: starts it.
    """

    def __init__(self, m: Module, library: Library, readers: Sequence[Reader], bases: Sequence[Any], runs: Runs,
                 size: int, granule: int, clear: Any) -> None:
        self.ready = Signal()
        run_ready, self.valid, self.data, run = place_unpacker(
            m, library, (granule * size,), len(readers), readers, self.ready)
        running, take = Signal(), Signal()
        nest = Nest(m, (*runs.outer, *runs.inner), 0, clear, take, runs.offset)
        with m.If(clear):
            m.d.sync += running.eq(1)
        with m.Elif(take & nest.last):
            m.d.sync += running.eq(0)
        can_take = run_ready
        for reader in readers:
            can_take = can_take & reader.request_ready
        m.d.comb += [take.eq(running & can_take), run[0].eq(take), run[1].eq(0)]
        first = Signal(OFFSET_BITS)
        m.d.comb += first.eq(nest.offset * size)
        turn = run[4]
        m.d.comb += [run[2].eq(first[:6] >> ((granule * size).bit_length() - 1)), run[3].eq(runs.elements // granule),
                     turn.eq(first[6:6 + len(turn)])]
        end = Signal(OFFSET_BITS)
        m.d.comb += end.eq((first + runs.elements * size + BEAT_BYTES - 1) >> 6)
        shift = (len(readers) - 1).bit_length()
        for at, (reader, base) in enumerate(zip(readers, bases, strict=True)):
            low, high = Signal(OFFSET_BITS), Signal(OFFSET_BITS)
            skip = len(readers) - 1 - at
            m.d.comb += [low.eq(((first >> 6) + skip) >> shift), high.eq((end + skip) >> shift),
                         reader.request_valid.eq(take), reader.address.eq(base + (low << 6)),
                         reader.beats.eq(high - low)]


@dataclass
class Program:
    """What the reader of small things reads, in order: all runs of ``runs`` once, or a portion of them per turn."""

    name: str
    buffer: str
    runs: Runs
    size: int
    """Bytes of an element."""
    each_instance: bool
    granule: int = 1
    """Elements that are handed on together; they are always neighbours in one word of memory, the last ones of a run
    perhaps with what follows it."""
    valid: Any = field(default_factory=Signal)
    """A granule of this program is there."""
    ready: Any = field(default_factory=Signal)

    @property
    def granule_bytes(self) -> int:
        """Of what is handed on together."""
        return self.granule * self.size

    @property
    def granules(self) -> int:
        """Of a run."""
        return math.ceil(self.runs.elements / self.granule)


@dataclass
class Appending:
    """One Append stage and what it needs on chip."""

    stage: Append
    positions: Program
    updates: Program
    rows: tuple[Axis, ...]
    """Loops that count the new rows."""


def appendings_of(graph: StageGraph) -> list[Appending]:
    """The appends of a kernel with the programs that read for them."""
    found = []
    for stage in graph.of_kind(Append):
        counted = {name for name, _ in stage.positions.strides}
        rows = tuple(axis for axis in stage.axes if axis.name in counted)
        positions, updates = (
            Program(f"{stage.name}_{what}", access.buffer, runs_of(access, (), axes),
                    element_bytes(graph, access.buffer), False)
            for what, access, axes in (("positions", stage.positions, rows), ("updates", stage.updates, stage.axes)))
        found.append(Appending(stage, positions, updates, rows))
    return found


def _row_numbers(appending: Appending) -> dict[str, int]:
    """What each loop over new rows adds to the number of a row."""
    number, place = {}, 1
    for axis in reversed(appending.rows):
        number[axis.name] = place
        place *= axis.extent
    return number


def place_writer(m: Module, library: Library, master: Any, sources: Sequence[tuple[Any, Any, Any, Any, Any]]) -> Any:
    """A word writer on a master and its sources (valid, ready to drive, address, data, strobe), the first one first;
    whether nothing is on its way.
    """
    request = (Signal(), Signal(64), Signal(512), Signal(64))
    inputs = dict(zip(WordWriter.INPUTS, (*request, master.awready, master.wready, master.bvalid), strict=True))
    ready, quiet, *driven = library.place(m, "hetcc_word_writer", WordWriter, inputs, WordWriter.OUTPUTS)
    ports = (master.awvalid, master.awaddr, master.wvalid, master.wdata, master.wstrb, master.bready)
    m.d.comb += [port.eq(value) for port, value in zip(ports, driven, strict=True)]
    m.d.comb += master.wlast.eq(1)
    free = ready
    for valid, granted, address, data, strobe in sources:
        m.d.comb += granted.eq(free)
        with m.If(valid & free):
            m.d.comb += [request[0].eq(1), request[1].eq(address), request[2].eq(data), request[3].eq(strobe)]
        free = free & ~valid
    return quiet


def place_combiner(m: Module, library: Library, size: int) -> dict[str, Any]:
    """A write combiner; its ports by name."""
    wires = {"valid": Signal(), "offset": Signal(OFFSET_BITS), "data": Signal(8 * size), "flush": Signal(),
             "word_ready": Signal()}
    found = library.place(m, f"hetcc_write_combiner_{size}", lambda: WriteCombiner(size, OFFSET_BITS), wires,
                          WriteCombiner.OUTPUTS)
    return {**wires, **dict(zip(WriteCombiner.OUTPUTS, found, strict=True))}


@dataclass
class Placed:
    """Words on their way to the parts of a buffer."""

    valid: Any
    ready: Any
    """To be driven."""
    stripe: Any
    position: Any
    """Word within the part."""
    data: Any
    strobe: Any
    empty: Any
    """Nothing is on its way."""


def place_placer(m: Module, library: Library, layout: Layout, combiner: dict[str, Any]) -> Placed:
    """Finds the places of a combiner's words in a table that is dealt out."""
    ready = Signal()
    inputs = dict(zip(WordPlacer.INPUTS, (*(combiner[f"word{what}"] for what in ("_valid", "", "_data", "_strobe")),
                                          ready), strict=True))
    bits = len(combiner["word"])
    found = library.place(m, f"hetcc_placer_{'_'.join(map(str, astuple(layout)))}", lambda: WordPlacer(layout, bits),
                          inputs, WordPlacer.OUTPUTS)
    taken, empty, valid, stripe, position, data, strobe = found
    m.d.comb += combiner["word_ready"].eq(taken)
    return Placed(valid, ready, stripe, position, data, strobe, combiner["empty"] & empty)


class AppendMover:
    """Checks all positions of one Append, then writes its rows, element by element, in order.

    Attributes: ``bad`` (a position is outside), ``checked`` (all have come), ``written`` (all elements were handed to
    the combiner), ``combiner`` (its ports), ``places`` (elements before each new row, by its number) and
    ``row_numbers`` (by loop, what it adds to that number).
    """

    def __init__(self, m: Module, library: Library, graph: StageGraph, appending: Appending, word: Any,
                 clear: Any) -> None:
        stage = appending.stage
        size = element_bytes(graph, stage.table.buffer)
        count = math.prod(axis.extent for axis in appending.rows)
        self.appending, self.row_numbers = appending, _row_numbers(appending)
        self.places = memory = Memory(shape=OFFSET_BITS, depth=count, init=[])
        m.submodules += memory
        self.bad, self.checked, self.written = Signal(), Signal(), Signal()
        self._check(m, appending, word, clear, memory, count)
        self._write(m, library, appending, word, clear, memory, size)

    def _check(self, m: Module, appending: Appending, word: Any, clear: Any, memory: Any, count: int) -> None:
        stage, program = appending.stage, appending.positions
        port, at = memory.write_port(), Signal(range(count + 1))
        position = word[:8 * program.size].as_signed()
        outside = (position < 0) | (position >= stage.rows)
        m.d.comb += [program.ready.eq(1), port.addr.eq(at), port.en.eq(program.valid),
                     port.data.eq((position[:32] * stage.row_stride)[:OFFSET_BITS])]
        with m.If(clear):
            m.d.sync += [at.eq(0), self.bad.eq(0), self.checked.eq(0)]
        with m.Elif(program.valid):
            m.d.sync += [at.eq(at + 1), self.bad.eq(self.bad | outside), self.checked.eq(at == count - 1)]

    def _write(self, m: Module, library: Library, appending: Appending, word: Any, clear: Any, memory: Any,
               size: int) -> None:
        stage, program = appending.stage, appending.updates
        self.combiner = place_combiner(m, library, size)
        take = Signal()
        table, number = dict(stage.table.strides), self.row_numbers
        target = Nest(m, [(axis.extent, table.get(axis.name, 0)) for axis in stage.axes], 0, clear, take,
                      stage.table.offset)
        row = Nest(m, [(axis.extent, number.get(axis.name, 0)) for axis in stage.axes], 0, clear, take)
        port = memory.read_port(domain="comb")
        m.d.comb += [
            port.addr.eq(row.offset), program.ready.eq(self.combiner["ready"]),
            self.combiner["valid"].eq(program.valid), take.eq(program.valid & self.combiner["ready"]),
            self.combiner["data"].eq(word[:8 * size]),
            self.combiner["offset"].eq((target.offset + port.data)[:OFFSET_BITS] << (size.bit_length() - 1)),
        ]
        with m.If(clear):
            m.d.sync += self.written.eq(0)
        with m.Elif(take & target.last):
            m.d.sync += self.written.eq(1)


def place_assembler(m: Module, library: Library, granule_bits: int, beat: int, row: int, source: Any) -> Any:
    """An assembler behind a reader: (beat_valid, beat_data, beat_ready to drive)."""
    if beat == 1:
        beat_ready = Signal()
        m.d.comb += source.ready.eq(beat_ready)
        return source.valid, source.data, beat_ready
    beat_ready = Signal()
    ready, valid, data = library.place(
        m, f"hetcc_assembler_{granule_bits}_{beat}_{row}", lambda: Assembler(granule_bits, beat, row),
        {"valid": source.valid, "data": source.data, "beat_ready": beat_ready}, ("ready", "beat_valid", "beat_data"))
    m.d.comb += source.ready.eq(ready)
    return valid, data, beat_ready


class SmallReader:
    """Reads positions and new rows once, then the stationary operands of every instance, all through one master.

    Args:
        m: the module it is made in.
        library: where units come from.
        reader: the burst reader.
        bases: byte address of each program's buffer.
        programs: in the order in which they are read; those of ``each_instance`` are last and repeat.
        gates: what has to be true before a program starts.
        clear: starts it.
    """

    def __init__(self, m: Module, library: Library, reader: Reader, bases: Sequence[Any], programs: Sequence[Program],
                 gates: Sequence[Any], clear: Any) -> None:
        sizes = sorted({program.granule_bytes for program in programs})
        ready = Signal()
        run_ready, self.valid, data, run = place_unpacker(m, library, sizes, 1, [reader], ready)
        self.granule = data
        self._programs = programs
        self._repeat = next((at for at, program in enumerate(programs) if program.each_instance), -1)
        self._ask(m, reader, bases, gates, clear, run_ready, run, sizes)
        self._answer(m, ready, clear)

    def _ask(self, m: Module, reader: Reader, bases: Sequence[Any], gates: Sequence[Any], clear: Any, run_ready: Any,
             run: tuple[Any, ...], sizes: Sequence[int]) -> None:
        turn, running = Signal(range(len(self._programs) + 1)), Signal()
        with m.If(clear):
            m.d.sync += [turn.eq(0), running.eq(1)]
        for at, (program, base, gate) in enumerate(zip(self._programs, bases, gates, strict=True)):
            take = Signal(name=f"take_{program.name}")
            runs = program.runs
            nest = Nest(m, (*runs.outer, *runs.inner), len(runs.inner), clear, take, runs.offset)
            here = running & (turn == at)
            first, end = Signal(OFFSET_BITS), Signal(OFFSET_BITS)
            m.d.comb += [first.eq(nest.offset * program.size),
                         end.eq((first + runs.elements * program.size + BEAT_BYTES - 1) >> 6),
                         take.eq(here & gate & run_ready & reader.request_ready)]
            with m.If(here):
                m.d.comb += [
                    reader.request_valid.eq(take), reader.address.eq(base + (first[6:] << 6)),
                    reader.beats.eq(end - first[6:]), run[0].eq(take), run[1].eq(sizes.index(program.granule_bytes)),
                    run[2].eq(first[:6] >> (program.granule_bytes.bit_length() - 1)),
                    run[3].eq(program.granules)]
            final = at == len(self._programs) - 1
            with m.If(take & nest.portion_last & ~clear):
                m.d.sync += turn.eq(self._repeat if final and self._repeat >= 0 else at + 1)
                if final:
                    m.d.sync += running.eq(~nest.last if self._repeat >= 0 else 0)

    def _answer(self, m: Module, ready: Any, clear: Any) -> None:
        turn, count = Signal(range(len(self._programs) + 1)), Signal(32)
        with m.If(clear):
            m.d.sync += [turn.eq(0), count.eq(0)]
        for at, program in enumerate(self._programs):
            total = math.prod(extent for extent, _ in program.runs.inner) * program.granules
            with m.If(turn == at):
                m.d.comb += [program.valid.eq(self.valid), ready.eq(program.ready)]
                with m.If(self.valid & program.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == total - 1):
                        final = at == len(self._programs) - 1
                        m.d.sync += [count.eq(0), turn.eq(self._repeat if final and self._repeat >= 0 else at + 1)]


__all__ = ["AppendMover", "Appending", "Placed", "Program", "Reader", "RunReader", "SmallReader", "appendings_of",
           "element_bytes", "place_assembler", "place_combiner", "place_placer", "place_reader", "place_unpacker",
           "place_writer"]
