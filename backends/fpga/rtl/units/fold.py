"""The aligned pairwise tree over terms that come one after another: one adder per level instead of one per pair."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import ADD_LATENCY
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.units.merge import pulse

MINUS_ZERO = 1 << 31
"""What is added where a term has no partner: it changes no number, not even the sign of a zero."""


class Fold(Elaboratable):
    """Sums of ``count`` terms each, for ``contexts`` sums at once.

    Terms come in order; of every term one value per context, in order. The sums leave
    ``cycles_long.fold_latency(count)`` cycles after their last terms, in the order of the contexts. Any number of
    cycles may pass between two values, and the terms of the next sums may follow at once.

    Args:
        library: where the adders come from.
        count: terms of a sum.
        contexts: sums that are made in turns.
        width: sums that are made beside each other, a value of each per cycle.
    """

    INPUTS = ("clear", "valid", "values")
    OUTPUTS = ("out_valid", "sums")

    def __init__(self, library: Library, count: int, contexts: int = 1, width: int = 1) -> None:
        self._library, self._count, self._contexts, self._width = library, count, contexts, width
        self.clear = Signal()
        self.valid = Signal()
        self.values = Signal(32 * width)
        self.out_valid = Signal()
        self.sums = Signal(32 * width)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        valid, values, count = self.valid, self.values, self._count
        while count > 1:
            valid, values = self._level(m, valid, values, count)
            count = (count + 1) // 2
        m.d.comb += [self.out_valid.eq(valid), self.sums.eq(values)]
        return m

    def _level(self, m: Module, valid: Any, values: Any, count: int) -> tuple[Any, Any]:
        """Neighbours are added; the first of a pair waits for the second."""
        term, context = Signal(range(count)), Signal(range(max(self._contexts, 2)))
        turn = context == self._contexts - 1
        with m.If(self.clear):
            m.d.sync += [term.eq(0), context.eq(0)]
        with m.Elif(valid):
            m.d.sync += context.eq(Mux(turn, 0, context + 1))
            with m.If(turn):
                m.d.sync += term.eq(Mux(term == count - 1, 0, term + 1))
        alone = (term == count - 1) & ~term[0]
        waits = valid & ~term[0] & ~alone
        held = self._held(m, context, waits, values)
        left = Signal(len(values))
        m.d.comb += left.eq(Mux(alone, Cat(Const(MINUS_ZERO, 32) for _ in range(self._width)), held))
        sums = [self._library.binary(m, "add", left.word_select(at, 32), values.word_select(at, 32))
                for at in range(self._width)]
        return pulse(m, valid & ~waits, ADD_LATENCY, self.clear), Cat(*sums)

    def _held(self, m: Module, context: Any, waits: Any, values: Any) -> Any:
        if self._contexts == 1:
            held = Signal(len(values))
            with m.If(waits):
                m.d.sync += held.eq(values)
            return held
        memory = Memory(shape=len(values), depth=self._contexts, init=[])
        m.submodules += memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [write.addr.eq(context), write.data.eq(values), write.en.eq(waits), read.addr.eq(context)]
        return read.data


__all__ = ["MINUS_ZERO", "Fold"]
