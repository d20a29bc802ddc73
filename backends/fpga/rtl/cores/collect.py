"""Values that come one after another into one, by the aligned tree."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal

from hetcc.backends.fpga.costs.cycles_long import fold_latency
from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.units.fold import Fold
from hetcc.backends.fpga.rtl.units.library import Library


def collected(m: Module, library: Library, start: Any, point: Point, count: int,
              function: str) -> tuple[Any, list[Any], int]:
    """Of every value of a row that comes, ``count`` of them joined.

    Sums take an adder per level, since a tree would stand idle until its last term is there; comparisons are small, and
    stay a tree over the values that are kept.

    Args:
        m: where the units go.
        library: makes them.
        start: before the first value.
        point: where the values come.
        count: how many are joined, at least 2.
        function: add, max or min.

    Returns:
        whether the last of them comes; their results some cycles later; and how many.
    """
    arrived = Signal(range(count))
    complete = point.valid & (arrived == count - 1)
    with m.If(point.valid):
        m.d.sync += arrived.eq(Mux(complete, 0, arrived + 1))
    with m.If(start):
        m.d.sync += arrived.eq(0)
    if function == "add":
        width = len(point.values)
        sums = library.place(
            m, f"hetcc_fold{count}x{width}", lambda: Fold(library, count, 1, width),
            {"clear": start, "valid": point.valid, "values": Cat(*point.values)}, Fold.OUTPUTS)[1]
        return complete, [sums.word_select(at, 32) for at in range(width)], fold_latency(count)
    trees = []
    for given in point.values:
        window = [Signal(32) for _ in range(count - 1)]
        with m.If(point.valid):
            m.d.sync += [place.eq(value) for place, value in zip(window, (*window[1:], given), strict=True)]
        trees.append(library.tree(m, function, [*window, given]))
    return complete, [value for value, _ in trees], trees[0][1]


__all__ = ["collected"]
