"""Binary32 division, one per cycle: a quotient bit per stage, rounded to nearest even; subnormals are zero."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed

from hetcc.backends.fpga.costs.cycles_attention import DIVIDE_LATENCY
from hetcc.backends.fpga.rtl.units.fp32 import is_infinite, is_nan
from hetcc.backends.fpga.rtl.units.library import delay
from hetcc.backends.fpga.stages.numbers import QUIET_NAN_BITS

_INFINITY = 0x7F800000
_QUOTIENT_BITS = 25


class Divider(Elaboratable):
    """``result = a / b``, :data:`DIVIDE_LATENCY` cycles later."""

    latency = DIVIDE_LATENCY

    def __init__(self) -> None:
        self.a = Signal(32)
        self.b = Signal(32)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        special, forced, sign = self._special()
        special, forced, sign = (delay(m, value, DIVIDE_LATENCY - 1) for value in (special, forced, sign))
        first, second = (Cat(word[:23], Const(1, 1)) for word in (self.a, self.b))
        dividend, divisor, exponent = Signal(24), Signal(24), Signal(signed(11))
        m.d.sync += [dividend.eq(first), divisor.eq(second), exponent.eq(self.a[23:31] - self.b[23:31] + 127)]
        # The quotient of significands is made at least one, so that its leading bit is known.
        less = dividend < divisor
        rest, below, found = Signal(25), Signal(24), Const(0, 0)
        lowered = Signal(signed(11))
        m.d.sync += [rest.eq(Mux(less, dividend << 1, dividend)), below.eq(divisor), lowered.eq(exponent - less)]
        for _ in range(_QUOTIENT_BITS):
            fits = rest >= below
            left, under, quotient = Signal(25), Signal(24), Signal(len(found) + 1)
            m.d.sync += [left.eq((Mux(fits, rest - below, rest) << 1)[:25]), under.eq(below),
                         quotient.eq(Cat(fits, found))]
            rest, below, found = left, under, quotient
        final = delay(m, lowered, _QUOTIENT_BITS).as_signed()
        rounded = Signal(25)
        # Rounding up never reaches two: the largest quotient below it is a whole last place away.
        m.d.comb += rounded.eq(found[1:] + (found[0] & (rest.any() | found[1])))
        m.d.sync += self.result.eq(
            Mux(special, forced,
                Mux(final <= 0, Cat(Const(0, 31), sign),
                    Mux(final >= 255, Cat(Const(_INFINITY, 31), sign), Cat(rounded[:23], final[:8], sign)))))
        return m

    def _special(self) -> tuple[Any, Any, Any]:
        """Whether the result is forced by zeros, infinities or NaNs, to what, and its sign."""
        a, b = self.a, self.b
        zeros, infinite = (a[23:31] == 0, b[23:31] == 0), (is_infinite(a), is_infinite(b))
        nan = is_nan(a) | is_nan(b) | (zeros[0] & zeros[1]) | (infinite[0] & infinite[1])
        sign = a[31] ^ b[31]
        large = infinite[0] | zeros[1]
        forced = Mux(nan, QUIET_NAN_BITS, Mux(large, Cat(Const(_INFINITY, 31), sign), Cat(Const(0, 31), sign)))
        return nan | large | zeros[0] | infinite[1], forced, sign


__all__ = ["Divider"]
