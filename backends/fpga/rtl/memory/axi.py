"""AXI4 masters of 512 bits: reads in bursts with several outstanding, and writes of single words that were combined.

A burst has at most :data:`MAX_BURST` beats and ends where a block of so many beats ends, so it never crosses 4 KB. Data
come back in order because one ID is used. A read is asked for only when the buffer behind it has room for all of it, so
the data channel never waits and a slow consumer blocks nobody else.
"""

from __future__ import annotations

from typing import Any

from amaranth import Elaboratable, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from hetcc.backends.fpga.memory.memory_map import READ_BUFFER_BEATS

BEAT_BITS = 512
BEAT_BYTES = 64
MAX_BURST = 64
"""Beats; 64 of them are 4 KB."""
SMALL_BUFFER_BEATS = 64
MAX_WRITES = 63
"""Writes in flight."""
ADDRESS_BITS = 64
COUNT_BITS = 32


class AxiMaster:
    """The signals of one master, named as Vitis expects them."""

    def __init__(self, name: str, writes: bool) -> None:
        def wire(signal: str, width: int = 1) -> Any:
            return Signal(width, name=f"m_axi_{name}_{signal}")

        self.writes = writes
        self.arvalid, self.arready, self.araddr = wire("arvalid"), wire("arready"), wire("araddr", ADDRESS_BITS)
        self.arlen, self.arsize, self.arburst = wire("arlen", 8), wire("arsize", 3), wire("arburst", 2)
        self.rvalid, self.rready, self.rdata = wire("rvalid"), wire("rready"), wire("rdata", BEAT_BITS)
        self.rlast, self.rresp = wire("rlast"), wire("rresp", 2)
        self.awvalid, self.awready, self.awaddr = wire("awvalid"), wire("awready"), wire("awaddr", ADDRESS_BITS)
        self.awlen, self.awsize, self.awburst = wire("awlen", 8), wire("awsize", 3), wire("awburst", 2)
        self.wvalid, self.wready, self.wdata = wire("wvalid"), wire("wready"), wire("wdata", BEAT_BITS)
        self.wstrb, self.wlast = wire("wstrb", BEAT_BYTES), wire("wlast")
        self.bvalid, self.bready, self.bresp = wire("bvalid"), wire("bready"), wire("bresp", 2)

    def ports(self) -> tuple[Any, ...]:
        """All signals the master has."""
        read = (self.arvalid, self.arready, self.araddr, self.arlen, self.arsize, self.arburst, self.rvalid,
                self.rready, self.rdata, self.rlast, self.rresp)
        write = (self.awvalid, self.awready, self.awaddr, self.awlen, self.awsize, self.awburst, self.wvalid,
                 self.wready, self.wdata, self.wstrb, self.wlast, self.bvalid, self.bready, self.bresp)
        return read + (write if self.writes else ())

    def constants(self) -> list[Any]:
        """Full words, counting up."""
        return [self.arsize.eq(6), self.arburst.eq(1), self.awsize.eq(6), self.awburst.eq(1)]


class BurstReader(Elaboratable):
    """Turns requests for runs of words into bursts, and hands the words on in order.

    Args:
        depth: beats of the buffer; a power of two.
        burst: beats of the longest burst; a power of two, at most ``depth`` and :data:`MAX_BURST`.
    """

    INPUTS = ("request_valid", "request_address", "request_beats", "beat_ready", "arready", "rvalid", "rdata")
    OUTPUTS = ("request_ready", "beat_valid", "beat_data", "arvalid", "araddr", "arlen", "rready")

    def __init__(self, depth: int, burst: int) -> None:
        self._depth, self._burst = depth, burst
        self.request_valid = Signal()
        self.request_ready = Signal()
        self.request_address = Signal(ADDRESS_BITS)
        """In bytes, a multiple of 64."""
        self.request_beats = Signal(COUNT_BITS)
        """May be zero."""
        self.beat_valid = Signal()
        self.beat_ready = Signal()
        self.beat_data = Signal(BEAT_BITS)
        self.arvalid = Signal()
        self.arready = Signal()
        self.araddr = Signal(ADDRESS_BITS)
        self.arlen = Signal(8)
        self.rvalid = Signal()
        self.rready = Signal()
        self.rdata = Signal(BEAT_BITS)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=BEAT_BITS, depth=self._depth)
        address, left = Signal(ADDRESS_BITS), Signal(COUNT_BITS)
        room = Signal(range(self._depth + 1), init=self._depth)
        bits = (self._burst - 1).bit_length()
        to_boundary, length = Signal(bits + 1), Signal(bits + 1)
        m.d.comb += [
            to_boundary.eq(self._burst - (address[6:6 + bits] if bits else 0)),
            length.eq(Mux(left < to_boundary, left, to_boundary)),
            fifo.w_en.eq(self.rvalid), fifo.w_data.eq(self.rdata), self.rready.eq(1),
            self.beat_valid.eq(fifo.r_rdy), self.beat_data.eq(fifo.r_data), fifo.r_en.eq(self.beat_ready),
        ]
        issue, taken = Signal(), Signal()
        m.d.comb += [issue.eq((left != 0) & (room >= length) & (~self.arvalid | self.arready)),
                     taken.eq(self.beat_valid & self.beat_ready),
                     self.request_ready.eq((left == 0) | (issue & (left == length)))]
        with m.If(issue):
            m.d.sync += [self.arvalid.eq(1), self.araddr.eq(address), self.arlen.eq(length - 1),
                         left.eq(left - length), address.eq(address + (length << 6))]
        with m.Elif(self.arready):
            m.d.sync += self.arvalid.eq(0)
        m.d.sync += room.eq(room - Mux(issue, length, 0) + taken)
        with m.If(self.request_valid & self.request_ready):
            m.d.sync += [address.eq(self.request_address), left.eq(self.request_beats)]
        return m


class WriteCombiner(Elaboratable):
    """Puts neighbouring elements into one 64-byte word before it is written.

    Args:
        element_bytes: of every element; a power of two, at most 8.
        offset_bits: of a byte offset.
    """

    INPUTS = ("valid", "offset", "data", "flush", "word_ready")
    OUTPUTS = ("ready", "word_valid", "word", "word_data", "word_strobe", "empty")

    def __init__(self, element_bytes: int, offset_bits: int) -> None:
        self._size = element_bytes
        self.valid = Signal()
        self.ready = Signal()
        self.offset = Signal(offset_bits)
        self.data = Signal(8 * element_bytes)
        self.flush = Signal()
        self.empty = Signal()
        self.word_valid = Signal()
        self.word_ready = Signal()
        self.word = Signal(offset_bits - 6)
        """Number of the word."""
        self.word_data = Signal(BEAT_BITS)
        self.word_strobe = Signal(BEAT_BYTES)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        held = Signal()
        here = Signal()
        m.d.comb += [
            here.eq(self.offset[6:] == self.word), self.empty.eq(~held),
            self.word_valid.eq(held & (self.flush | (self.valid & ~here))),
            self.ready.eq(~held | here | self.word_ready),
        ]
        places = BEAT_BYTES // self._size
        with m.If(self.word_valid & self.word_ready):
            m.d.sync += [held.eq(0), self.word_strobe.eq(0)]
        with m.If(self.valid & self.ready):
            m.d.sync += [held.eq(1), self.word.eq(self.offset[6:])]
            for place in range(places):
                bits = slice(place * 8 * self._size, (place + 1) * 8 * self._size)
                chosen = self.offset[self._size.bit_length() - 1:6] == place
                with m.If(chosen):
                    m.d.sync += self.word_data[bits].eq(self.data)
                    m.d.sync += self.word_strobe[place * self._size:(place + 1) * self._size].eq((1 << self._size) - 1)
        return m


class WordWriter(Elaboratable):
    """The write channels of a master: one word per request, several in flight, answers counted."""

    INPUTS = ("valid", "address", "data", "strobe", "awready", "wready", "bvalid")
    OUTPUTS = ("ready", "idle", "awvalid", "awaddr", "wvalid", "wdata", "wstrb", "bready")

    def __init__(self) -> None:
        self.valid = Signal()
        self.ready = Signal()
        self.idle = Signal()
        self.address = Signal(ADDRESS_BITS)
        self.data = Signal(BEAT_BITS)
        self.strobe = Signal(BEAT_BYTES)
        self.awvalid = Signal()
        self.awready = Signal()
        self.awaddr = Signal(ADDRESS_BITS)
        self.wvalid = Signal()
        self.wready = Signal()
        self.wdata = Signal(BEAT_BITS)
        self.wstrb = Signal(BEAT_BYTES)
        self.bvalid = Signal()
        self.bready = Signal()

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        pending = Signal(range(MAX_WRITES + 1))
        taken = Signal()
        m.d.comb += [
            self.ready.eq((~self.awvalid | self.awready) & (~self.wvalid | self.wready) & (pending != MAX_WRITES)),
            taken.eq(self.valid & self.ready), self.idle.eq(pending == 0), self.bready.eq(1),
        ]
        m.d.sync += pending.eq(pending + taken - self.bvalid)
        with m.If(self.awready):
            m.d.sync += self.awvalid.eq(0)
        with m.If(self.wready):
            m.d.sync += self.wvalid.eq(0)
        with m.If(taken):
            m.d.sync += [self.awvalid.eq(1), self.awaddr.eq(self.address), self.wvalid.eq(1),
                         self.wdata.eq(self.data), self.wstrb.eq(self.strobe)]
        return m


__all__ = ["ADDRESS_BITS", "BEAT_BITS", "BEAT_BYTES", "COUNT_BITS", "MAX_BURST", "READ_BUFFER_BEATS",
           "SMALL_BUFFER_BEATS", "AxiMaster", "BurstReader", "WordWriter", "WriteCombiner"]
