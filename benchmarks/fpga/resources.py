"""Closed forms of the units' resources against yosys (xcup).

    python benchmarks/fpga/resources.py [PATTERN]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

CASES: tuple[tuple[Any, ...], ...] = (
    ("multiply32",), ("multiply16",), ("add",), ("dots", 8, 16, 1), ("dots", 16, 16, 1), ("dots", 8, 8, 2),
    ("quantise", 8, 16), ("quantise", 8, 8), ("float", 38, 16), ("sort", 4), ("merge", 4, 16), ("merge", 1, 1024),
    ("keep", 4, 16),
    # Not used to fit:
    ("dots", 32, 16, 1), ("dots", 32, 8, 2), ("dots", 32, 8, 1), ("quantise", 32, 16), ("quantise", 24, 8),
    ("float", 22, 8), ("sort", 8), ("merge", 8, 16), ("merge", 1, 512), ("merge", 1, 4096), ("keep", 8, 16),
)


def unit_of(name: str, *sizes: int) -> tuple[Any, tuple[Any, ...]]:
    """A unit and its ports."""
    from hetcc.backends.fpga.rtl.fp32 import Adder, Multiplier
    from hetcc.backends.fpga.rtl.merge import RowSorter, RunMerger
    from hetcc.backends.fpga.rtl.products import IntegerDots
    from hetcc.backends.fpga.rtl.quantise import IntegerToFloat, VectorQuantiser
    from hetcc.backends.fpga.rtl.topk import ENTRY_BITS

    merger = ("clear", "valid_in", "row_in", "valid_out", "row_out")
    makers: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "multiply32": (Multiplier, ("a", "b", "result")),
        "multiply16": (lambda: Multiplier(16), ("a", "b", "result")),
        "add": (Adder, ("a", "b", "result")),
        "dots": (IntegerDots, ("row", "stationary", "total")),
        "quantise": (VectorQuantiser, ("vector", "result", "exponent")),
        "float": (IntegerToFloat, ("total", "exponents", "bad", "result")),
        "sort": (lambda width: RowSorter(width, ENTRY_BITS), ("row", "result")),
        "merge": (lambda width, rows: RunMerger(width, ENTRY_BITS, rows, False), merger),
        "keep": (lambda width, rows: RunMerger(width, ENTRY_BITS, rows, True), merger),
    }
    make, ports = makers[name]
    unit = make(*sizes)
    return unit, tuple(getattr(unit, port) for port in ports)


def main() -> None:
    """Print one line per unit."""
    from hetcc.backends.fpga.rtl.synthesis import synthesise

    chosen = [case for case in CASES if len(sys.argv) < 2 or sys.argv[1] in case[0]]
    for case, found in zip(chosen, synthesise([unit_of(*case) for case in chosen]), strict=True):
        print(case, found, flush=True)


if __name__ == "__main__":
    main()
