"""Strided accesses as runs of neighbouring elements: what a burst can fetch and what always shares a memory word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hetcc.backends.fpga.stages.stage_graph import Access, Axis

WORD_BYTES = 64
"""Of a word of memory, as wide as a port."""
Loop = tuple[int, int]
"""Trip count and stride in elements."""


@dataclass(frozen=True)
class Runs:
    """An access as runs: ``outer`` and ``inner`` loops, slowest first, over runs of ``elements`` neighbours."""

    offset: int
    outer: tuple[Loop, ...]
    inner: tuple[Loop, ...]
    elements: int


def runs_of(access: Access, outer: Sequence[Axis], inner: Sequence[Axis]) -> Runs:
    """The runs of an access over loops, slowest first; ``inner`` is what is asked for at a time.

    Args:
        access: the pattern.
        outer: loops that start a new portion.
        inner: loops within a portion.
    """
    strides = dict(access.strides)

    def merged(axes: Sequence[Axis]) -> list[Loop]:
        found: list[Loop] = []
        for axis in axes:
            stride = strides.get(axis.name, 0)
            if found and found[-1][1] == stride * axis.extent and axis.extent > 1:
                found[-1] = (found[-1][0] * axis.extent, stride)
            elif axis.extent > 1:
                found.append((axis.extent, stride))
        return found

    around, within = merged(outer), merged(inner)
    elements = 1
    if within and within[-1][1] == 1:
        elements = within.pop()[0]
    return Runs(access.offset, tuple(around), tuple(within), elements)


def granule_of(runs: Runs, row: int, size: int) -> int:
    """Elements that are always neighbours in one word and in one row: the granule of an unpacker.

    Args:
        runs: of the access.
        row: elements of a row.
        size: bytes of an element.
    """
    together = math.gcd(runs.elements, row, runs.offset, *(stride for _, stride in (*runs.outer, *runs.inner)))
    granule = WORD_BYTES // size
    while together % granule:
        granule //= 2
    return granule


__all__ = ["WORD_BYTES", "Loop", "Runs", "granule_of", "runs_of"]
