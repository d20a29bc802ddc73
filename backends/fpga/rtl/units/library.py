"""Instantiates arithmetic units: elaborated in place to be simulated, or as named modules that are written once.

A kernel has hundreds of equal multipliers. Elaborating each of them again would take minutes and give a file nobody
can read; in ``shared`` mode a unit becomes an instance of a module of its own, and ``modules`` lists what to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amaranth import ClockSignal, Instance, Module, Mux, ResetSignal, Signal

from hetcc.backends.fpga.costs.cycles import ADD_LATENCY, MULTIPLY_LATENCY, SELECT_LATENCY
from hetcc.backends.fpga.rtl.units.fp32 import Adder, Multiplier, is_nan

_BINARY_UNITS: dict[str, tuple[str, Callable[[], Any]]] = {
    "mul": ("hetcc_fp32_multiply", Multiplier), "add": ("hetcc_fp32_add", Adder),
}


class Library:
    """Makes units inside a module.

    Args:
        shared: refer to modules by name instead of elaborating each unit in place.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.modules: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def place(self, m: Module, name: str, make: Callable[[], Any], inputs: dict[str, Any],
              outputs: Sequence[str], *, clocked: bool = True) -> tuple[Any, ...]:
        """One unit with its inputs connected; its outputs.

        Args:
            m: where it goes.
            name: module name, the same for equal units.
            make: builds it; its ports are attributes.
            inputs: attribute -> what drives it.
            outputs: attributes to return.
            clocked: whether it has registers or memories.
        """
        if not self.shared:
            unit = make()
            m.submodules += unit
            m.d.comb += [getattr(unit, port).eq(value) for port, value in inputs.items()]
            return tuple(getattr(unit, port) for port in outputs)
        if name not in self.modules:
            unit = make()
            ports = tuple(getattr(unit, port) for port in (*inputs, *outputs))
            self.modules[name] = (unit, ports)
        unit = self.modules[name][0]
        found = tuple(Signal(len(getattr(unit, port)), name=f"{name}_{port}") for port in outputs)
        clock = {"i_clk": ClockSignal(), "i_rst": ResetSignal()} if clocked else {}
        m.submodules += Instance(
            name, **clock, **{f"i_{port}": value for port, value in inputs.items()},
            **{f"o_{port}": signal for port, signal in zip(outputs, found, strict=True)})
        return found

    def binary(self, m: Module, function: str, left: Any, right: Any) -> Any:
        """A two-operand unit: mul, add, sub, max or min."""
        if function == "sub":
            return self.binary(m, "add", left, right ^ (1 << 31))
        if function in _BINARY_UNITS:
            name, make = _BINARY_UNITS[function]
            return self.place(m, name, make, {"a": left, "b": right}, ("result",))[0]
        result = Signal(32)
        first, second = sort_key(left), sort_key(right)
        wins = (first >= second) if function == "max" else (first <= second)
        m.d.sync += result.eq(Mux(is_nan(left) | is_nan(right), 0x7FC00000, Mux(wins, left, right)))
        return result

    def unary(self, m: Module, function: str, value: Any) -> Any:
        """neg, abs, relu or cast (which does nothing to a binary32)."""
        result = Signal(32)
        chosen = {
            "neg": value ^ (1 << 31), "abs": value & 0x7FFFFFFF, "cast": value,
            "relu": Mux(value[31] & ~is_nan(value), 0, value),
        }[function]
        m.d.sync += result.eq(chosen)
        return result

    def tree(self, m: Module, function: str, terms: Sequence[Any]) -> tuple[Any, int]:
        """The aligned pairwise tree and its latency; an odd last term waits as long as its neighbours work."""
        level, latency = list(terms), 0
        while len(level) > 1:
            pairs = [self.binary(m, function, level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
            if len(level) % 2:
                pairs.append(delay(m, level[-1], latency_of(function)))
            level, latency = pairs, latency + latency_of(function)
        return level[0], latency


def latency_of(function: str) -> int:
    """Cycles of a unit."""
    return {"mul": MULTIPLY_LATENCY, "add": ADD_LATENCY, "sub": ADD_LATENCY}.get(function, SELECT_LATENCY)


def delay(m: Module, value: Any, cycles: int) -> Any:
    """The value some cycles later."""
    for _ in range(cycles):
        later = Signal(len(value))
        m.d.sync += later.eq(value)
        value = later
    return value


def sort_key(value: Any) -> Any:
    """33 bits would be needed to tell NaN kinds apart; 32 order floats with -0 equal to +0 and NaN last."""
    plain = Mux(value[31], ~value, value | (1 << 31))[:32]
    zero = value[:31] == 0
    return Mux(is_nan(value), 0xFFFFFFFF, Mux(zero, 1 << 31, plain))


__all__ = ["Library", "delay", "latency_of", "sort_key"]
