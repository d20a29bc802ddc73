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

from hetcc.backends.fpga import memory_map as places
from hetcc.backends.fpga.memory_map import MemoryMap, memory_map
from hetcc.backends.fpga.rtl.axi import (
    MAX_BURST,
    READ_BUFFER_BEATS,
    SMALL_BUFFER_BEATS,
    AxiMaster,
    WordWriter,
)
from hetcc.backends.fpga.rtl.axi_streams import Nest
from hetcc.backends.fpga.rtl.control import AxiLiteControl
from hetcc.backends.fpga.rtl.library import Library
from hetcc.backends.fpga.rtl.movers import (
    AppendMover,
    Program,
    Reader,
    RunReader,
    SmallReader,
    appendings_of,
    element_bytes,
    place_assembler,
    place_combiner,
    place_reader,
)
from hetcc.backends.fpga.runs import granule_of, runs_of
from hetcc.backends.fpga.stage_graph import Axis, InnerProduct, Map, Scan, StageGraph, Store, TopK

SMALL_BURST = 16


def loops_of(graph: StageGraph, operand: Any) -> tuple[str, ...]:
    """Loops over a stationary operand's words, slowest first, in the order the core takes them."""
    for stage in graph.stages:
        if isinstance(stage, InnerProduct) and stage.stationary is operand:
            return (*stage.lanes, *stage.over)
        if isinstance(stage, Map) and any(part is operand for part in stage.operands):
            return stage.lanes
    return ()


class Shell(Elaboratable):
    """The top module of a kernel.

    Args:
        graph: the kernel, within the limits of ``limits.check``.
        library: where units come from; in ``shared`` mode the core is a module of its own too.
        core: its ``StreamCore``.
        kernel: name of the top module.
        stripes: parts of the table.
    """

    def __init__(self, graph: StageGraph, library: Library, core: Any, kernel: str, stripes: int = 1) -> None:
        self._graph, self._library, self._core, self._kernel = graph, library, core, kernel
        self.map: MemoryMap = memory_map(graph, stripes)
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
        m.domains.sync = ClockDomain("sync")
        m.d.comb += [ClockSignal().eq(self.ap_clk), ResetSignal().eq(~self.ap_rst_n)]
        self._place_control(m)
        self._place_core(m)
        for master in self.masters:
            m.d.comb += master.constants()
        self._clear, self._scan_start, self._flush = Signal(), Signal(), Signal()
        self._sources: dict[int, list[tuple[Any, Any, Any, Any, Any]]] = {at: [] for at in range(len(self.masters))}
        self._poll = {name: Signal(width) for name, width in (("valid", 1), ("ready", 1), ("beat", 1))}
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
            m.d.comb += wire.eq(port) if name in driven else port.eq(wire)
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
            load.operand, graph.instances, [graph.axis(name) for name in loops_of(graph, load.operand)]),
            element_bytes(graph, load.operand.buffer), True) for at, load in enumerate(core.loads)]
        programs = [*(one.positions for one in appendings), *(one.updates for one in appendings), *loads]
        raw = place_reader(m, self._library, self.masters[0], SMALL_BUFFER_BEATS, SMALL_BURST)
        self._doorbell = raw.beat_data[:32]
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
            mover = AppendMover(m, self._library, graph, appending, small.word, self._clear)
            self._appends.append(mover)
            self._write_from(m, mover.combiner, appending.stage.table.buffer, self._flush)
        self._checked = _all(mover.checked for mover in self._appends)
        self._bad = ~_all(~mover.bad for mover in self._appends)
        m.d.comb += allowed.eq(self._checked & ~self._bad)
        m.d.comb += [program.ready.eq(core.load_ready) for program in loads]
        m.d.comb += [core.load_valid.eq(~_all(~program.valid for program in loads)),
                     core.load_data.eq(small.word[:len(core.load_data)])]

    def _place_rows(self, m: Module) -> None:
        """The table, through one master per stripe, in beats of the core."""
        graph, core = self._graph, self._core
        scan = cast(Scan, graph.of_kind(Scan)[0])
        arguments = self.map.of_buffer(scan.table.buffer)
        readers = [place_reader(m, self._library, self.masters[argument.master], READ_BUFFER_BEATS, MAX_BURST)
                   for argument in arguments]
        size = element_bytes(graph, scan.table.buffer)
        lanes = [graph.axis(name) for name in scan.lanes]
        runs = runs_of(scan.table, (), (*graph.instances, *graph.keys, *lanes))
        granule = granule_of(runs, core.row_words, size)
        rows = RunReader(m, self._library, readers, [self._base(scan.table.buffer, argument.stripe)
                                                     for argument in arguments], runs, size, granule, self._scan_start)
        beat = len(core.row_data) // (8 * size * granule)
        valid, data, ready = place_assembler(m, self._library, 8 * size * granule, beat, core.row_words // granule,
                                             rows)
        # The next instance's rows wait here: the core would take one too many while it ends an instance.
        left = Signal(range(core.rows * core.beats + 1))
        more = left != 0
        m.d.comb += [core.row_valid.eq(valid & more), core.row_data.eq(data), ready.eq(core.row_ready & more)]
        with m.If(core.start):
            m.d.sync += left.eq(core.rows * core.beats)
        with m.Elif(valid & ready):
            m.d.sync += left.eq(left - 1)

    def _place_sides(self, m: Module) -> None:
        """One word per row of every operand that differs by row, each through a master of its own."""
        graph, core = self._graph, self._core
        for at, access in enumerate(core.sides):
            argument = self.map.of_buffer(access.buffer)[0]
            reader = place_reader(m, self._library, self.masters[argument.master], SMALL_BUFFER_BEATS, SMALL_BURST)
            runs = runs_of(access, (), (*graph.instances, *graph.keys))
            side = RunReader(m, self._library, [reader], [self._base(access.buffer)], runs,
                             element_bytes(graph, access.buffer), 1, self._scan_start)
            m.d.comb += [core.side_valid[at].eq(side.valid), core.side_data[at].eq(side.data),
                         side.ready.eq(core.side_ready[at])]

    def _place_stores(self, m: Module) -> None:
        """Every entry of the selection goes to all stores; each takes it when it can."""
        graph, core = self._graph, self._core
        given = []
        for stage in graph.of_kind(Store):
            size = element_bytes(graph, stage.target.buffer)
            combiner = place_combiner(m, self._library, size)
            sent, take = Signal(), Signal()
            strides = dict(stage.target.strides)
            selected = cast(TopK, graph.stage(stage.source.stage)).selected
            axes: list[Axis] = [*graph.instances, *([graph.axis(selected)] if selected else [])]
            nest = Nest(m, [(axis.extent, strides.get(axis.name, 0)) for axis in axes], 0, self._clear, take,
                        stage.target.offset)
            data = core.out_value if stage.source.port == "values" else core.out_index
            m.d.comb += [combiner["valid"].eq(core.out_valid & ~sent), combiner["data"].eq(data),
                         combiner["offset"].eq(nest.offset << (size.bit_length() - 1)),
                         take.eq(combiner["valid"] & combiner["ready"])]
            given.append(sent | combiner["ready"])
            m.d.sync += sent.eq((sent | take) & ~(core.out_valid & core.out_ready))
            self._write_from(m, combiner, stage.target.buffer, self._flush)
        m.d.comb += core.out_ready.eq(_all(given))

    # ---- writes

    def _write_from(self, m: Module, combiner: dict[str, Any], buffer: str, flush: Any) -> None:
        """Connect a combiner to the masters of a buffer's stripes."""
        arguments = self.map.of_buffer(buffer)
        shift = (len(arguments) - 1).bit_length()
        granted = []
        for argument in arguments:
            mine = (combiner["word"][:shift] == argument.stripe) if shift else Const(1, 1)
            ready = Signal()
            address = self._base(buffer, argument.stripe) + ((combiner["word"] >> shift) << 6)
            self._sources[argument.master].append(
                (combiner["word_valid"] & mine, ready, address, combiner["word_data"], combiner["word_strobe"]))
            granted.append(ready & mine)
        m.d.comb += [combiner["word_ready"].eq(~_all(~one for one in granted)), combiner["flush"].eq(flush)]
        self._combiners = [*getattr(self, "_combiners", []), combiner]

    def _answer_source(self, m: Module) -> None:
        """The answer as one more source of the first master."""
        self._sequence_number, self._status, self._cycles = Signal(32), Signal(32), Signal(64)
        self._answer_valid, self._answer_ready = Signal(), Signal()
        mailbox = self.control.values[self.map.named(places.MAILBOX).position]
        data = Cat(self._sequence_number, self._status, self._cycles)
        self._sources[0].append((self._answer_valid, self._answer_ready, mailbox + places.ANSWER_OFFSET, data,
                                 Const((1 << 16) - 1, 64)))

    def _place_writers(self, m: Module) -> None:
        idle = []
        for at, master in enumerate(self.masters):
            if not master.writes:
                continue
            request = (Signal(), Signal(64), Signal(512), Signal(64))
            inputs = dict(zip(WordWriter.INPUTS, (*request, master.awready, master.wready, master.bvalid), strict=True))
            ready, quiet, *driven = self._library.place(m, "hetcc_word_writer", WordWriter, inputs, WordWriter.OUTPUTS)
            ports = (master.awvalid, master.awaddr, master.wvalid, master.wdata, master.wstrb, master.bready)
            m.d.comb += [port.eq(value) for port, value in zip(ports, driven, strict=True)]
            m.d.comb += master.wlast.eq(1)
            idle.append(quiet)
            free = ready
            for valid, granted, address, data, strobe in self._sources[at]:
                m.d.comb += granted.eq(free)
                with m.If(valid & free):
                    m.d.comb += [request[0].eq(1), request[1].eq(address), request[2].eq(data), request[3].eq(strobe)]
                free = free & ~valid
        self._writes_idle = _all(idle)

    # ---- the order of things

    def _sequence(self, m: Module) -> None:
        core, control = self._core, self.control
        total = 1
        for axis in self._graph.instances:
            total *= axis.extent
        instance, persistent = Signal(range(total + 1)), Signal()
        empty = _all(combiner["empty"] for combiner in self._combiners)
        m.d.sync += self._cycles.eq(Mux(self._clear, 1, self._cycles + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [persistent.eq(control.values[self.map.named(places.MODE).position][0]),
                             self._sequence_number.eq(0)]
                with m.If(control.start & ~control.done):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                with m.If(persistent):
                    m.next = "ASK"
                with m.Else():
                    m.next = "BEGIN"
            self._poll_states(m)
            with m.State("BEGIN"):
                m.d.comb += self._clear.eq(1)
                m.d.sync += [self._status.eq(places.STATUS_COMPLETED), instance.eq(0)]
                m.next = "CHECK" if self._appends else "SCAN"
            if self._appends:
                self._append_states(m, empty)
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
                with m.If(empty & self._writes_idle):
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
                    m.d.sync += self._sequence_number.eq(self._doorbell)
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
                m.next = "SCAN"

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


__all__ = ["Shell", "loops_of"]
