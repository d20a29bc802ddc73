"""Binary32 units: one operation per cycle, a fixed number of cycles later. Subnormals are zero, NaN is ``7FC00000``."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal

from hetcc.backends.fpga.costs.cycles import ADD_LATENCY, MULTIPLY_LATENCY
from hetcc.backends.fpga.stages.numbers import QUIET_NAN_BITS

_INFINITY = 0x7F800000


def is_nan(value: Any) -> Any:
    """Whether 32 bits are a NaN."""
    return (value[23:31] == 0xFF) & (value[:23] != 0)


def is_infinite(value: Any) -> Any:
    """Whether 32 bits are an infinity."""
    return (value[23:31] == 0xFF) & (value[:23] == 0)


def flushed(value: Any) -> Any:
    """32 bits with a subnormal replaced by a zero of its sign."""
    return Mux(value[23:31] == 0, Cat(Const(0, 31), value[31]), value)


class Flushed(Elaboratable):
    """A row of ``words`` words of 32 bits, flushed; no register."""

    def __init__(self, words: int) -> None:
        self._words = words
        self.row = Signal(32 * words)
        self.result = Signal(32 * words)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        m.d.comb += self.result.eq(Cat(*(flushed(self.row.word_select(at, 32)) for at in range(self._words))))
        return m


class Multiplier(Elaboratable):
    """``product = a * b``, :data:`MULTIPLY_LATENCY` cycles later, rounded to nearest even."""

    latency = MULTIPLY_LATENCY

    def __init__(self) -> None:
        self.a = Signal(32)
        self.b = Signal(32)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        sign, special, forced, exponent, product = self._multiply(m)
        # Normalise: the product of two 24-bit significands has its leading one at bit 47 or 46.
        high = product[47]
        significand, guard, sticky = Signal(24), Signal(), Signal()
        exponent3, sign3, special3, forced3 = Signal.like(exponent), Signal(), Signal(), Signal(32)
        m.d.sync += [
            significand.eq(Mux(high, product[24:48], product[23:47])),
            guard.eq(Mux(high, product[23], product[22])),
            sticky.eq(Mux(high, product[:23].any(), product[:22].any())),
            exponent3.eq(exponent + high), sign3.eq(sign), special3.eq(special), forced3.eq(forced),
        ]
        rounded = Signal(25)
        m.d.comb += rounded.eq(significand + (guard & (sticky | significand[0])))
        final = Signal.like(exponent3)
        m.d.comb += final.eq(exponent3 + rounded[24])
        # Below the normal range only a significand of all ones rounds up to the smallest normal number: there the
        # last place is twice as coarse, so the rounding above does not apply.
        tiny = exponent3 <= 0
        rescued = (exponent3 == 0) & significand.all()
        m.d.sync += self.result.eq(
            Mux(special3, forced3,
                Mux(tiny, Cat(Const(0, 23), rescued, Const(0, 7), sign3),
                    Mux(final >= 255, Cat(Const(_INFINITY, 31), sign3),
                        Cat(rounded[:23], final[:8], sign3)))))
        return m

    def _multiply(self, m: Module) -> tuple[Any, Any, Any, Any, Any]:
        """Two cycles: unpack with the special cases, then the significand product."""
        a, b = self.a, self.b
        zero = (a[23:31] == 0) | (b[23:31] == 0)
        sign_in = a[31] ^ b[31]
        infinite = is_infinite(a) | is_infinite(b)
        nan = is_nan(a) | is_nan(b) | (infinite & zero)
        left, right = Signal(24), Signal(24)
        exponent1 = Signal(range(-1024, 1024))
        sign1, special1, forced1 = Signal(), Signal(), Signal(32)
        m.d.sync += [
            left.eq(Cat(a[:23], Const(1, 1))), right.eq(Cat(b[:23], Const(1, 1))),
            exponent1.eq(a[23:31] + b[23:31] - 127), sign1.eq(sign_in), special1.eq(nan | infinite | zero),
            forced1.eq(Mux(nan, QUIET_NAN_BITS, Mux(infinite, Cat(Const(_INFINITY, 31), sign_in),
                                                    Cat(Const(0, 31), sign_in)))),
        ]
        product, exponent2 = Signal(48), Signal.like(exponent1)
        sign2, special2, forced2 = Signal(), Signal(), Signal(32)
        m.d.sync += [product.eq(left * right), exponent2.eq(exponent1), sign2.eq(sign1),
                     special2.eq(special1), forced2.eq(forced1)]
        return sign2, special2, forced2, exponent2, product


class Adder(Elaboratable):
    """``result = a + b``, :data:`ADD_LATENCY` cycles later, rounded to nearest even."""

    latency = ADD_LATENCY

    def __init__(self) -> None:
        self.a = Signal(32)
        self.b = Signal(32)
        self.result = Signal(32)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        sign, zero_sign, special, forced, exponent, total = self._add(m)
        # Normalise a 28-bit sum (carry, 24 bits, guard, round, sticky).
        leading = Signal(5)
        m.d.comb += leading.eq(28)
        for bit in range(28):
            with m.If(total[bit]):
                m.d.comb += leading.eq(27 - bit)
        shifted = Signal(28)
        exponent4, sign4, zero4 = Signal.like(exponent), Signal(), Signal()
        zero_sign4, special4, forced4 = Signal(), Signal(), Signal(32)
        m.d.sync += [
            shifted.eq(Mux(total[27], Cat(total[0] | total[1], total[2:28]), (total << leading)[1:28])),
            exponent4.eq(exponent + 1 - leading), sign4.eq(sign), zero4.eq(total == 0), zero_sign4.eq(zero_sign),
            special4.eq(special), forced4.eq(forced),
        ]
        rounded = Signal(25)
        m.d.comb += rounded.eq(shifted[3:27] + (shifted[2] & (shifted[:2].any() | shifted[3])))
        final = Signal.like(exponent4)
        m.d.comb += final.eq(exponent4 + rounded[24])
        m.d.sync += self.result.eq(
            Mux(special4, forced4,
                Mux(zero4, Cat(Const(0, 31), zero_sign4),
                    Mux(final <= 0, Cat(Const(0, 31), sign4),
                        Mux(final >= 255, Cat(Const(_INFINITY, 31), sign4),
                            Cat(rounded[:23], final[:8], sign4))))))
        return m

    def _order(self, m: Module) -> tuple[Any, ...]:
        """First cycle: flush, put the larger magnitude first, find the special cases."""
        a, b = flushed(self.a), flushed(self.b)
        swap = a[:31] < b[:31]
        large, small, distance = Signal(32), Signal(32), Signal(8)
        special, forced = Signal(), Signal(32)
        nan = is_nan(self.a) | is_nan(self.b) | (is_infinite(self.a) & is_infinite(self.b) & (self.a[31] ^ self.b[31]))
        infinite_sign = Mux(is_infinite(self.a), self.a[31], self.b[31])
        infinite = is_infinite(self.a) | is_infinite(self.b)
        m.d.sync += [
            large.eq(Mux(swap, b, a)), small.eq(Mux(swap, a, b)),
            distance.eq(Mux(swap, b[23:31] - a[23:31], a[23:31] - b[23:31])), special.eq(nan | infinite),
            forced.eq(Mux(nan, QUIET_NAN_BITS, Cat(Const(_INFINITY, 31), infinite_sign))),
        ]
        return large, small, distance, special, forced

    def _add(self, m: Module) -> tuple[Any, ...]:
        """Cycles two and three: align the smaller operand, keeping a sticky bit, then add or subtract."""
        large, small, distance, special, forced = self._order(m)
        left, right = Signal(27), Signal(27)
        wide = Cat(Const(0, 27), Const(0, 3), small[:23], small[23:31] != 0)
        moved = Signal(54)
        m.d.comb += moved.eq(wide >> Mux(distance > 27, 27, distance))
        subtract, exponent2 = Signal(), Signal(range(-64, 512))
        sign2, zero_sign2, special2, forced2 = Signal(), Signal(), Signal(), Signal(32)
        m.d.sync += [
            left.eq(Cat(Const(0, 3), large[:23], large[23:31] != 0)),
            right.eq(moved[27:54] | moved[:27].any()),
            subtract.eq(large[31] ^ small[31]), exponent2.eq(large[23:31]), sign2.eq(large[31]),
            zero_sign2.eq(large[31] & small[31]), special2.eq(special), forced2.eq(forced),
        ]
        total, exponent3 = Signal(28), Signal.like(exponent2)
        sign3, zero_sign3, special3, forced3 = Signal(), Signal(), Signal(), Signal(32)
        m.d.sync += [
            total.eq(Mux(subtract, left - right, left + right)), exponent3.eq(exponent2), sign3.eq(sign2),
            zero_sign3.eq(zero_sign2), special3.eq(special2), forced3.eq(forced2),
        ]
        return sign3, zero_sign3, special3, forced3, exponent3, total
