"""Rows that pass a slice at a time: several tables side by side, or positions that are looked up.

The decision is made from the stage graph alone, so that cycles, limits and hardware agree.
"""

from __future__ import annotations

import math

from hetcc.backends.fpga.stages.stage_graph import InnerProduct, Lookup, Scan, StageGraph

SLICE_WORDS = 16
"""Most 32-bit words of a row that pass in one cycle: a word of memory."""
LOOKUP_LATENCY = 3
"""Cycles from a position to its entry: wrapped, read, checked."""


def slice_words(graph: StageGraph) -> int:
    """Elements of a row that pass in one cycle, a power of two that divides it; 0 where rows do not pass in slices."""
    scans = graph.of_kind(Scan)
    multiplied = any(isinstance(graph.stage(stage.source.stage), Scan) for stage in graph.of_kind(InnerProduct))
    if not scans or multiplied or (len(scans) == 1 and not graph.of_kind(Lookup)):
        return 0
    words = math.prod(graph.axis(name).extent for name in scans[0].lanes)
    return math.gcd(words, SLICE_WORDS)


def other_tables(graph: StageGraph) -> tuple[Scan, ...]:
    """The tables that are scanned beside the first."""
    return graph.of_kind(Scan)[1:]


__all__ = ["LOOKUP_LATENCY", "SLICE_WORDS", "other_tables", "slice_words"]
