"""Closed forms of the units' resources against yosys (xcup).

    python benchmarks/fpga/resources.py [PATTERN]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

FITTED = (("multiply32",), ("multiply16",), ("add",), ("dots", 8, 16, 1), ("dots", 32, 16, 1), ("dots", 8, 8, 2),
          ("dots", 32, 8, 2), ("quantise", 8, 16), ("quantise", 32, 16), ("quantise", 8, 8), ("float", 38, 16),
          ("float", 22, 8), ("sort", 4), ("sort", 8), ("merge", 4, 32), ("merge", 1, 1024), ("merge", 1, 64),
          ("keep", 4, 32), ("keep", 1, 1024), ("merge", 4, 128), ("merge", 8, 16))
HELD_OUT = (("dots", 64, 16, 1), ("dots", 64, 8, 2), ("quantise", 64, 16), ("quantise", 32, 8), ("float", 30, 16),
            ("sort", 16), ("merge", 16, 8), ("merge", 1, 512), ("merge", 8, 64), ("keep", 16, 128), ("keep", 8, 64))


def measure(name: str, *sizes: int) -> Any:
    """What yosys says of one unit."""
    from hetcc.backends.fpga.rtl.fp32 import Adder, Multiplier
    from hetcc.backends.fpga.rtl.library import Library
    from hetcc.backends.fpga.rtl.merge import RowSorter, RunMerger
    from hetcc.backends.fpga.rtl.products import IntegerDots
    from hetcc.backends.fpga.rtl.quantise import IntegerToFloat, VectorQuantiser
    from hetcc.backends.fpga.rtl.synthesis import synthesise
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
    return synthesise(unit, Library(shared=True), tuple(getattr(unit, port) for port in ports))


def main() -> None:
    """Print one line per unit."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    for held, cases in ((False, FITTED), (True, HELD_OUT)):
        for case in cases:
            if pattern not in case[0]:
                continue
            start = time.monotonic()
            print("held out" if held else "fitted", case, measure(*case), f"{time.monotonic() - start:.0f} s",
                  flush=True)


if __name__ == "__main__":
    main()
