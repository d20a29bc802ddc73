"""A whole kernel: control registers, AXI4 masters and the loop over instances around the streaming core.

One run: positions are read and checked, new rows are written, and only when the memory has answered all of those
writes does the scan start. Rows and per-row operands are fetched for all instances in one go, so the next instance's
rows wait in the buffers while the core drains its selection. After the last instance the results are flushed and the
answer (sequence number, status, cycles) goes to the mailbox.

In the persistent mode the kernel reads the doorbell word of its mailbox over and over; a value other than the last one
starts a run and is the sequence number of its answer; ``STOP`` ends the mode.
"""

from __future__ import annotations

from typing import Any, cast

from amaranth import Cat, ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Mux, ResetSignal, Signal

from hetcc.backends.fpga.memory import memory_map as places
from hetcc.backends.fpga.memory.layout import is_wide, layout_of
from hetcc.backends.fpga.memory.memory_map import MemoryMap, memory_map
from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.backends.fpga.rtl.control import AxiLiteControl
from hetcc.backends.fpga.rtl.memory.axi import (
    MAX_BURST,
    READ_BUFFER_BEATS,
    SMALL_BUFFER_BEATS,
    AxiMaster,
)
from hetcc.backends.fpga.rtl.memory.axi_streams import Nest
from hetcc.backends.fpga.rtl.memory.movers import (
    AppendMover,
    Placed,
    Program,
    Reader,
    RunReader,
    SmallReader,
    appendings_of,
    element_bytes,
    place_assembler,
    place_combiner,
    place_placer,
    place_reader,
    place_writer,
)
from hetcc.backends.fpga.rtl.memory.resident import TableFill, place_resident_scan
from hetcc.backends.fpga.rtl.memory.row_fetch import RowFetch
from hetcc.backends.fpga.rtl.memory.stream_output import stored_loops
from hetcc.backends.fpga.rtl.memory.wide import place_regrouper, place_wide_scan
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.runs import granule_of, runs_of
from hetcc.backends.fpga.stages.slices import other_tables
from hetcc.backends.fpga.stages.stage_graph import Gather, Scan, StageGraph, Store

SMALL_BURST = 16


class Shell(Elaboratable):
    """The top module of a kernel.

    Args:
        graph: the kernel, within the limits of ``limits.check``.
        library: where units come from; in ``shared`` mode the core is a module of its own too.
        core: its ``StreamCore``.
        kernel: name of the top module.
    """

    def __init__(self, graph: StageGraph, library: Library, core: Any, kernel: str) -> None:
        self._graph, self._library, self._core, self._kernel = graph, library, core, kernel
        self.map: MemoryMap = memory_map(graph)
        self.ap_clk = Signal()
        self.ap_rst_n = Signal()
        self.control = AxiLiteControl([(argument.offset, 64 if argument.master >= 0 else 32)
                                       for argument in self.map.arguments])
        self.masters = [AxiMaster(master.name, master.writes) for master in self.map.masters]
        self.interrupt = Signal()
        self._slave = {name: Signal(len(getattr(self.control, name)), name=f"s_axi_control_{name}") for name in (
            "awvalid", "awready", "awaddr", "wvalid", "wready", "wdata", "wstrb", "bvalid", "bready", "bresp",
            "arvalid", "arready", "araddr", "rvalid", "rready", "rdata", "rresp")}

    def ports(self) -> tuple[Any, ...]:
        """All ports, clock and reset first."""
        return (self.ap_clk, self.ap_rst_n, self.interrupt, *self._slave.values(),
                *(port for master in self.masters for port in master.ports()))

    # ---- structure

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        m.domains.sync, m.domains.always = ClockDomain("sync"), ClockDomain("always", reset_less=True)
        # A register: the reset reaches every flip-flop, which a wire from a port could not do within a cycle.
        reset = Signal(init=1)
        m.d.always += reset.eq(~self.ap_rst_n)
        m.d.comb += [ClockSignal().eq(self.ap_clk), ClockSignal("always").eq(self.ap_clk), ResetSignal().eq(reset)]
        self._place_control(m)
        self._place_core(m)
        for master in self.masters:
            m.d.comb += master.constants()
        self._clear, self._scan_start, self._flush = Signal(), Signal(), Signal()
        self._sources: dict[int, list[tuple[Any, Any, Any, Any, Any]]] = {at: [] for at in range(len(self.masters))}
        self._poll = {name: Signal(width) for name, width in (("valid", 1), ("ready", 1), ("beat", 1))}
        self._fetched: list[Any] = []
        self._fill: TableFill | None = None
        self._place_small(m)
        self._place_rows(m)
        self._place_sides(m)
        self._place_stores(m)
        self._answer_source(m)
        self._place_writers(m)
        self._sequence(m)
        return m

    def _base(self, buffer: str, stripe: int = 0) -> Any:
        return self.control.values[self.map.of_buffer(buffer)[stripe].position]

    def _place_control(self, m: Module) -> None:
        m.submodules.control = self.control
        driven = {"awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp"}
        for name, wire in self._slave.items():
            port = getattr(self.control, name)
            # What is taken while registers are still held in reset would be forgotten.
            given = port & ~ResetSignal() if name.endswith("ready") else port
            m.d.comb += wire.eq(given) if name in driven else port.eq(wire)
        m.d.comb += self.interrupt.eq(self.control.interrupt)

    def _place_core(self, m: Module) -> None:
        core = self._core
        if not self._library.shared:
            m.submodules.core = core
            return
        driven = {id(port) for port in (core.busy, core.done, core.load_ready, core.row_ready, *core.side_ready,
                                        core.out_valid, core.out_last, core.out_value, core.out_index)}
        wires = {f"{'o' if id(port) in driven else 'i'}_{port.name}": port for port in core.ports()}
        m.submodules.core = Instance(f"{self._kernel}_core", i_clk=ClockSignal(), i_rst=ResetSignal(), **wires)

    def _place_small(self, m: Module) -> None:
        """Positions, new rows and stationary operands, through the first master."""
        graph, core = self._graph, self._core
        appendings = appendings_of(graph)
        loads = [Program(f"load{at}", load.operand.buffer, runs_of(
            load.operand, graph.instances, [graph.axis(name) for name in load.loops]),
            element_bytes(graph, load.operand.buffer), True, load.granule) for at, load in enumerate(core.loads)]
        programs = [*(one.positions for one in appendings), *(one.updates for one in appendings), *loads]
        raw = place_reader(m, self._library, self.masters[0], SMALL_BUFFER_BEATS, SMALL_BURST)
        self._doorbell, self._reload = raw.beat_data[:32], raw.beat_data[8 * places.RELOAD_OFFSET]
        asked = Reader(Signal(), raw.request_ready, Signal(64), Signal(32), raw.beat_valid, Signal(), raw.beat_data)
        mailbox = self.control.values[self.map.named(places.MAILBOX).position]
        polls = self._poll["valid"]
        m.d.comb += [
            raw.request_valid.eq(asked.request_valid | polls), raw.address.eq(Mux(polls, mailbox, asked.address)),
            raw.beats.eq(Mux(polls, 1, asked.beats)), raw.beat_ready.eq(asked.beat_ready | self._poll["beat"]),
            self._poll["ready"].eq(raw.request_ready)]
        self._beat_valid = raw.beat_valid
        self._appends: list[AppendMover] = []
        if not programs:
            return
        allowed = Signal()
        gates = [Const(1, 1)] * len(appendings) + [allowed] * len(appendings) + [Const(1, 1)] * len(loads)
        small = SmallReader(m, self._library, asked, [self._base(program.buffer) for program in programs], programs,
                            gates, self._clear)
        for appending in appendings:
            mover = AppendMover(m, self._library, graph, appending, small.granule, self._clear)
            self._appends.append(mover)
            self._write_from(m, mover.combiner, appending.stage.table.buffer, self._flush)
        self._checked = _all(mover.checked for mover in self._appends)
        self._bad = ~_all(~mover.bad for mover in self._appends)
        m.d.comb += allowed.eq(self._checked & ~self._bad)
        m.d.comb += [program.ready.eq(core.load_ready) for program in loads]
        m.d.comb += [core.load_valid.eq(~_all(~program.valid for program in loads)),
                     core.load_data.eq(small.granule[:len(core.load_data)])]

    def _place_rows(self, m: Module) -> None:
        """The table, through one master per stripe, in beats of the core."""
        graph, core = self._graph, self._core
        scan = cast(Scan, graph.of_kind(Scan)[0])
        readers, bases = self._table_readers(m, scan)
        if is_resident(graph):
            self._fill = place_resident_scan(m, self._library, graph, readers, bases, core, self._appends,
                                             self._scan_start)
            return
        valid, data, ready = self._rows_of(m, scan, readers, bases)
        # The next instance's rows wait here: the core would take one too many while it ends an instance.
        left = Signal(range(core.steps * core.beats + 1))
        more = left != 0
        m.d.comb += [core.row_valid.eq(valid & more), core.row_data.eq(data), ready.eq(core.row_ready & more)]
        with m.If(core.start):
            m.d.sync += left.eq(core.steps * core.beats)
        with m.Elif(valid & ready):
            m.d.sync += left.eq(left - 1)

    def _table_readers(self, m: Module, scan: Scan) -> tuple[list[Reader], list[Any]]:
        """A reader and the address of every stripe of a table."""
        arguments = self.map.of_buffer(scan.table.buffer)
        readers = [place_reader(m, self._library, self.masters[argument.master], READ_BUFFER_BEATS, MAX_BURST)
                   for argument in arguments]
        return readers, [self._base(scan.table.buffer, argument.stripe) for argument in arguments]

    def _rows_of(self, m: Module, scan: Scan, readers: list[Reader], bases: list[Any]) -> tuple[Any, Any, Any]:
        """A table, dealt out wide or of any shape: (valid, beat, ready to drive)."""
        graph, core = self._graph, self._core
        if is_wide(graph) is not None:
            return place_wide_scan(m, self._library, graph, scan, readers, bases, self._scan_start, core.start)
        size = element_bytes(graph, scan.table.buffer)
        runs = runs_of(scan.table, (), (*graph.instances, *graph.keys, *(graph.axis(name) for name in scan.lanes)))
        words, beat_words, _ = core.beats_of(scan)
        row = words * 4 // size
        granule = granule_of(runs, row, size)
        rows = RunReader(m, self._library, readers, bases, runs, size, granule, self._scan_start)
        beat = 4 * beat_words // (size * granule)
        valid, data, ready = place_assembler(m, self._library, 8 * size * granule, beat, row // granule, rows)
        return valid, data, ready

    def _place_sides(self, m: Module) -> None:
        """Further tables, and the words of a step of every operand that differs by row, each with its master."""
        graph, core = self._graph, self._core
        tables = other_tables(graph)
        for at, scan in enumerate(tables, len(core.sides) - len(tables)):
            valid, data, ready = self._rows_of(m, scan, *self._table_readers(m, scan))
            m.d.comb += [core.side_valid[at].eq(valid), core.side_data[at].eq(data), ready.eq(core.side_ready[at])]
        for at, access in enumerate(core.sides[:len(core.sides) - len(tables)]):
            argument = self.map.of_buffer(access.buffer)[0]
            reader = place_reader(m, self._library, self.masters[argument.master], SMALL_BUFFER_BEATS, SMALL_BURST)
            runs = runs_of(access, (), (*graph.instances, *graph.keys))
            size = element_bytes(graph, access.buffer)
            granule = granule_of(runs, core.rows, size) if core.together > 1 else 1
            side = RunReader(m, self._library, [reader], [self._base(access.buffer)], runs, size, granule,
                             self._scan_start)
            valid, data, ready = place_regrouper(m, self._library, side, granule, core.together, core.rows)
            m.d.comb += [core.side_valid[at].eq(valid), core.side_data[at].eq(data), ready.eq(core.side_ready[at])]

    def _place_stores(self, m: Module) -> None:
        """Every value that leaves the core goes to all stores; each takes it when it can."""
        graph, core = self._graph, self._core
        given = []
        for stage in graph.of_kind(Store):
            if isinstance(graph.stage(stage.source.stage), Gather):
                given.append(self._place_fetch(m, stage))
                continue
            size = element_bytes(graph, stage.target.buffer)
            combiner = place_combiner(m, self._library, size)
            sent, take = Signal(), Signal()
            strides = dict(stage.target.strides)
            nest = Nest(m, [(axis.extent, strides.get(axis.name, 0)) for axis in stored_loops(graph, stage)], 0,
                        self._clear, take, stage.target.offset)
            data = core.out_index if stage.source.port == "indices" else core.out_value
            # The count of a compaction is right with its last entry.
            wanted = core.out_last if stage.source.port == "count" else Const(1, 1)
            m.d.comb += [combiner["valid"].eq(core.out_valid & ~sent & wanted), combiner["data"].eq(data),
                         combiner["offset"].eq(nest.offset << (size.bit_length() - 1)),
                         take.eq(combiner["valid"] & combiner["ready"])]
            given.append(sent | combiner["ready"] | ~wanted)
            m.d.sync += sent.eq((sent | take) & ~(core.out_valid & core.out_ready))
            self._write_from(m, combiner, stage.target.buffer, self._flush)
        m.d.comb += core.out_ready.eq(_all(given))

    def _place_fetch(self, m: Module, store: Store) -> Any:
        """Rows where the selection says, through the master of their table; whether an entry was taken."""
        table = self._graph.stage(store.source.stage).table.buffer  # type: ignore[union-attr]
        reader = place_reader(m, self._library, self.masters[self.map.of_buffer(table)[0].master], READ_BUFFER_BEATS,
                              MAX_BURST)
        fetch = RowFetch(m, self._library, self._graph, store, reader, self._base(table), self._core, self._clear)
        self._write_from(m, fetch.combiner, store.target.buffer, self._flush)
        self._fetched.append(fetch.done)
        return fetch.taken

    # ---- writes

    def _write_from(self, m: Module, combiner: dict[str, Any], buffer: str, flush: Any) -> None:
        """Connect a combiner to the masters of a buffer's stripes."""
        layout = layout_of(self._graph, buffer)
        granted = []
        source = place_placer(m, self._library, layout, combiner) if not layout.plain else Placed(
            combiner["word_valid"], combiner["word_ready"], Const(0, 1), combiner["word"], combiner["word_data"],
            combiner["word_strobe"], combiner["empty"])
        for argument in self.map.of_buffer(buffer):
            mine = source.stripe == argument.stripe
            ready = Signal()
            address = self._base(buffer, argument.stripe) + (source.position << 6)
            self._sources[argument.master].append((source.valid & mine, ready, address, source.data, source.strobe))
            granted.append(ready & mine)
        m.d.comb += [source.ready.eq(~_all(~one for one in granted)), combiner["flush"].eq(flush)]
        self._empties = [*getattr(self, "_empties", []), source.empty]

    def _answer_source(self, m: Module) -> None:
        """The answer as one more source of the first master."""
        self._sequence_number, self._status, self._cycles = Signal(32), Signal(32), Signal(64)
        self._answer_valid, self._answer_ready = Signal(), Signal()
        mailbox = self.control.values[self.map.named(places.MAILBOX).position]
        data = Cat(self._sequence_number, self._status, self._cycles)
        self._sources[0].append((self._answer_valid, self._answer_ready, mailbox + places.ANSWER_OFFSET, data,
                                 Const((1 << 16) - 1, 64)))

    def _place_writers(self, m: Module) -> None:
        self._writes_idle = _all([place_writer(m, self._library, master, self._sources[at])
                                  for at, master in enumerate(self.masters) if master.writes])

    # ---- the order of things

    def _sequence(self, m: Module) -> None:
        core, control = self._core, self.control
        total = 1
        for axis in self._graph.instances:
            total *= axis.extent
        instance, persistent = Signal(range(total + 1)), Signal()
        self._stale, self._scanning = Signal(init=1), "SCAN" if self._fill is None else "COMPARE"
        mode = control.values[self.map.named(places.MODE).position]
        empty = _all(self._empties)
        m.d.sync += self._cycles.eq(Mux(self._clear, 1, self._cycles + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [persistent.eq(mode[0]), self._sequence_number.eq(0)]
                with m.If(control.start & ~control.done):
                    m.d.sync += self._stale.eq(self._stale | mode[1])
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.next = "BEGIN"
                with m.If(persistent):
                    m.next = "ASK"
            self._poll_states(m)
            with m.State("BEGIN"):
                m.d.comb += self._clear.eq(1)
                m.d.sync += [self._status.eq(places.STATUS_COMPLETED), instance.eq(0)]
                m.next = "CHECK" if self._appends else self._scanning
            if self._appends:
                self._append_states(m, empty)
            if self._fill is not None:
                self._fill.add_states(m, self._stale)
            with m.State("SCAN"):
                m.d.comb += self._scan_start.eq(1)
                m.next = "INSTANCE"
            with m.State("INSTANCE"):
                m.d.comb += core.start.eq(1)
                m.d.sync += instance.eq(instance + 1)
                m.next = "STREAM"
            with m.State("STREAM"), m.If(core.done):
                m.next = "FLUSH"
                with m.If(instance != total):
                    m.next = "INSTANCE"
            with m.State("FLUSH"):
                m.d.comb += self._flush.eq(1)
                with m.If(empty & self._writes_idle & _all(self._fetched)):
                    m.next = "ANSWER"
            self._answer_states(m, persistent)

    def _poll_states(self, m: Module) -> None:
        with m.State("ASK"):
            m.d.comb += self._poll["valid"].eq(1)
            with m.If(self._poll["ready"]):
                m.next = "HEAR"
        with m.State("HEAR"):
            m.d.comb += self._poll["beat"].eq(1)
            with m.If(self._beat_valid):
                m.next = "ASK"
                with m.If(self._doorbell == places.STOP):
                    m.next = "END"
                with m.Elif(self._doorbell != self._sequence_number):
                    m.d.sync += [self._sequence_number.eq(self._doorbell), self._stale.eq(self._stale | self._reload)]
                    m.next = "BEGIN"

    def _append_states(self, m: Module, empty: Any) -> None:
        with m.State("CHECK"), m.If(self._checked):
            m.next = "APPEND"
            with m.If(self._bad):
                m.d.sync += self._status.eq(places.STATUS_POSITION)
                m.next = "ANSWER"
        with m.State("APPEND"), m.If(_all(mover.written for mover in self._appends)):
            m.next = "SETTLE"
        with m.State("SETTLE"):
            m.d.comb += self._flush.eq(1)
            with m.If(empty & self._writes_idle):
                m.next = self._scanning

    def _answer_states(self, m: Module, persistent: Any) -> None:
        mailbox = self.control.values[self.map.named(places.MAILBOX).position]
        with m.State("ANSWER"):
            m.d.comb += self._answer_valid.eq(mailbox != 0)
            with m.If((mailbox == 0) | self._answer_ready):
                m.next = "SETTLED"
        with m.State("SETTLED"), m.If(self._writes_idle):
            with m.If(persistent):
                m.next = "ASK"
            with m.Else():
                m.next = "END"
        with m.State("END"):
            m.d.comb += self.control.done.eq(1)
            m.next = "IDLE"


def _all(bits: Any) -> Any:
    """Whether every bit is one."""
    found: Any = Const(1, 1)
    for bit in bits:
        found = found & bit
    return found


__all__ = ["Shell"]
