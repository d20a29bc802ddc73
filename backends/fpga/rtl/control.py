"""The AXI4-Lite slave of a kernel: ``ap_ctrl_hs`` control, interrupts, and the argument registers.

=======  ==========================================================================================
offset   register
=======  ==========================================================================================
0x00     bit 0 ap_start (reads 1 until the run is done), 1 ap_done (cleared by reading), 2 ap_idle,
         3 ap_ready (cleared by reading), 7 auto_restart
0x04     global interrupt enable (bit 0)
0x08     interrupt enable: bit 0 done, bit 1 ready
0x0c     interrupt status; writing a one toggles the bit
0x10     arguments, at the offsets of the memory map; pointers are two words, low word first
=======  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Elaboratable, Module, Signal

ADDRESS_BITS = 12


class AxiLiteControl(Elaboratable):
    """See the module.

    Args:
        arguments: (byte offset, bits: 32 or 64) of every argument register.
    """

    def __init__(self, arguments: Sequence[tuple[int, int]]) -> None:
        self._arguments = tuple(arguments)
        self.awvalid = Signal()
        self.awready = Signal()
        self.awaddr = Signal(ADDRESS_BITS)
        self.wvalid = Signal()
        self.wready = Signal()
        self.wdata = Signal(32)
        self.wstrb = Signal(4)
        self.bvalid = Signal()
        self.bready = Signal()
        self.bresp = Signal(2)
        self.arvalid = Signal()
        self.arready = Signal()
        self.araddr = Signal(ADDRESS_BITS)
        self.rvalid = Signal()
        self.rready = Signal()
        self.rdata = Signal(32)
        self.rresp = Signal(2)
        self.interrupt = Signal()
        self.start = Signal()
        """High from the start of a run to its end."""
        self.done = Signal()
        """Pulsed by the kernel at the end of a run."""
        self.values = [Signal(bits, name=f"argument{at}") for at, (_, bits) in enumerate(self._arguments)]

    def ports(self) -> tuple[Any, ...]:
        """All ports but clock and reset."""
        return (self.awvalid, self.awready, self.awaddr, self.wvalid, self.wready, self.wdata, self.wstrb, self.bvalid,
                self.bready, self.bresp, self.arvalid, self.arready, self.araddr, self.rvalid, self.rready, self.rdata,
                self.rresp, self.interrupt, self.start, self.done, *self.values)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        write, address, data = self._writes(m)
        control_read = self._reads(m)
        self._control(m, write, address, data, control_read)
        for (offset, bits), value in zip(self._arguments, self.values, strict=True):
            for word in range(bits // 32):
                for byte in range(4):
                    with m.If(write & (address == offset + 4 * word) & self.wstrb[byte]):
                        low = 32 * word + 8 * byte
                        m.d.sync += value[low:low + 8].eq(data[8 * byte:8 * byte + 8])
        return m

    def _writes(self, m: Module) -> tuple[Any, Any, Any]:
        """The write channels: an address first, then its data; (strobe, address, data)."""
        held, address = Signal(), Signal(ADDRESS_BITS)
        m.d.comb += [self.awready.eq(~held & ~self.bvalid), self.wready.eq(held)]
        write = self.wvalid & self.wready
        with m.If(self.awvalid & self.awready):
            m.d.sync += [held.eq(1), address.eq(self.awaddr)]
        with m.If(write):
            m.d.sync += [held.eq(0), self.bvalid.eq(1)]
        with m.Elif(self.bvalid & self.bready):
            m.d.sync += self.bvalid.eq(0)
        return write, address, self.wdata

    def _reads(self, m: Module) -> Any:
        """The read channels; the wire that says the control word is being read."""
        m.d.comb += self.arready.eq(~self.rvalid)
        taken = self.arvalid & self.arready
        with m.If(taken):
            m.d.sync += [self.rvalid.eq(1), self.rdata.eq(self._read_data(m))]
        with m.Elif(self.rvalid & self.rready):
            m.d.sync += self.rvalid.eq(0)
        return taken & (self.araddr == 0)

    def _read_data(self, m: Module) -> Any:
        found = Signal(32)
        self._words = {0x00: Signal(32), 0x04: Signal(32), 0x08: Signal(32), 0x0C: Signal(32)}
        words = dict(self._words)
        for (offset, bits), value in zip(self._arguments, self.values, strict=True):
            for word in range(bits // 32):
                words[offset + 4 * word] = value[32 * word:32 * word + 32]
        with m.Switch(self.araddr):
            for offset, word in words.items():
                with m.Case(offset):
                    m.d.comb += found.eq(word)
        return found

    def _control(self, m: Module, write: Any, address: Any, data: Any, control_read: Any) -> None:
        idle, done, ready, restart = Signal(init=1), Signal(), Signal(), Signal()
        enabled, enable, status = Signal(), Signal(2), Signal(2)
        m.d.comb += [
            self._words[0x00][0].eq(self.start), self._words[0x00][1].eq(done), self._words[0x00][2].eq(idle),
            self._words[0x00][3].eq(ready), self._words[0x00][7].eq(restart), self._words[0x04].eq(enabled),
            self._words[0x08].eq(enable), self._words[0x0C].eq(status), self.interrupt.eq(enabled & status.any()),
        ]
        with m.If(control_read):
            m.d.sync += [done.eq(0), ready.eq(0)]
        with m.If(self.done):
            m.d.sync += [done.eq(1), ready.eq(1), self.start.eq(restart), idle.eq(~restart)]
        with m.If(write & self.wstrb[0]), m.Switch(address):
            with m.Case(0x00):
                m.d.sync += restart.eq(data[7])
                with m.If(data[0]):
                    m.d.sync += [self.start.eq(1), idle.eq(0)]
            with m.Case(0x04):
                m.d.sync += enabled.eq(data[0])
            with m.Case(0x08):
                m.d.sync += enable.eq(data[:2])
        toggled = Signal(2)
        with m.If(write & self.wstrb[0] & (address == 0x0C)):
            m.d.comb += toggled.eq(data[:2])
        m.d.sync += status.eq((status ^ toggled) | (enable & self.done.replicate(2)))


__all__ = ["ADDRESS_BITS", "AxiLiteControl"]
