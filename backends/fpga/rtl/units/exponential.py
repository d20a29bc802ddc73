"""``e**x`` for numbers that are not positive, bit for bit ``attention.exponential``, one per cycle."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles_attention import EXPONENTIAL_LATENCY
from hetcc.backends.fpga.rtl.units.fp32 import is_nan
from hetcc.backends.fpga.rtl.units.library import delay
from hetcc.backends.fpga.stages.attention import (
    ARGUMENT_PLACES,
    DIGIT_BITS,
    DROPPED_PLACES,
    FRACTION_BITS,
    LARGEST_EXPONENT,
    LN2_FACTOR,
    LN2_PLACES,
    LOG2E_PLACES,
    TABLE_PLACES,
    log2e,
    table,
)

_WHOLE_BITS = 8
_WIDEST_SHIFT = 35


class Exponential(Elaboratable):
    """``result = e**a``, :data:`EXPONENTIAL_LATENCY` cycles later; NaN of what is positive."""

    latency = EXPONENTIAL_LATENCY

    def __init__(self) -> None:
        self.a = Signal(32)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        digits, whole = self._scaled(m)
        part = self._power(m, digits)
        nan = is_nan(self.a) | (~self.a[31] & (self.a[23:31] != 0))
        zero = self.a[23:31] > LARGEST_EXPONENT
        nan, zero = (delay(m, bit, EXPONENTIAL_LATENCY - 1) for bit in (nan, zero))
        # Both factors are above a half and at most one, so the leading bit is the 30th, or the 31st of one itself.
        rounded = Signal(25)
        m.d.comb += rounded.eq(part[6:] + (part[5] & (part[:5].any() | part[6])))
        exponent = Signal(9)
        m.d.comb += exponent.eq(126 + rounded[24])
        tiny = delay(m, whole, EXPONENTIAL_LATENCY - 7) >= exponent
        biased = (exponent - delay(m, whole, EXPONENTIAL_LATENCY - 7))[:8]
        m.d.sync += self.result.eq(Mux(nan, 0x7FC00000, Mux(zero | tiny, 0, Cat(rounded[:23], biased, Const(0, 1)))))
        return m

    def _scaled(self, m: Module) -> tuple[Any, Any]:
        """Six cycles: ``-x log2(e)``, its fraction as three digits and its whole part."""
        biased = self.a[23:31]
        significand, shift = Signal(24), Signal(8)
        m.d.sync += [significand.eq(Mux(biased == 0, 0, Cat(self.a[:23], Const(1, 1)))),
                     shift.eq(Mux(biased > LARGEST_EXPONENT, 0, LARGEST_EXPONENT - biased))]
        doubled, argument = Signal(35), Signal(34)
        wide = Cat(Const(0, 10), significand)
        m.d.sync += doubled.eq(wide >> Mux(shift > _WIDEST_SHIFT, _WIDEST_SHIFT, shift[:6]))
        m.d.sync += argument.eq((doubled + 1) >> 1)
        product, later = Signal(34 + LOG2E_PLACES + 1), Signal(34 + LOG2E_PLACES + 1)
        m.d.sync += [product.eq(argument * Const(log2e(), LOG2E_PLACES + 1)), later.eq(product)]
        places = ARGUMENT_PLACES + LOG2E_PLACES - DROPPED_PLACES - FRACTION_BITS
        rounded = Signal(_WHOLE_BITS + FRACTION_BITS)
        m.d.sync += rounded.eq(((later >> DROPPED_PLACES) + (1 << (places - 1))) >> places)
        return rounded[:FRACTION_BITS], rounded[FRACTION_BITS:]

    @staticmethod
    def _power(m: Module, fraction: Any) -> Any:
        """Five cycles: ``2**-fraction`` with 30 places."""
        found = []
        for digit in (1, 2):
            memory = Memory(shape=TABLE_PLACES + 1, depth=2**DIGIT_BITS, init=list(table(digit)))
            m.submodules += memory
            port = memory.read_port(domain="sync")
            m.d.comb += port.addr.eq(fraction.word_select(3 - digit, DIGIT_BITS))
            found.append(port.data)
        off = Signal(DIGIT_BITS + 4)
        m.d.sync += off.eq((fraction[:DIGIT_BITS] * LN2_FACTOR + (1 << (LN2_PLACES - 1))) >> LN2_PLACES)
        half = 1 << (TABLE_PLACES - 1)
        product, part = Signal(2 * TABLE_PLACES + 2), Signal(TABLE_PLACES + 1)
        rest, rest2 = Signal(TABLE_PLACES + 1), Signal(TABLE_PLACES + 1)
        m.d.sync += [product.eq(found[0] * found[1]), rest.eq((1 << TABLE_PLACES) - off),
                     part.eq((product + half) >> TABLE_PLACES), rest2.eq(rest)]
        second, result = Signal(2 * TABLE_PLACES + 2), Signal(TABLE_PLACES + 1)
        m.d.sync += [second.eq(part * rest2), result.eq((second + half) >> TABLE_PLACES)]
        return result


__all__ = ["Exponential"]
