"""Cycles and on-chip state of the stages that select rows by a flag."""

from __future__ import annotations

import math

from hetcc.backends.fpga.stages.runs import WORD_BYTES

MAX_ROWS = 2**25
"""Rows that a selection can tell apart."""
_USUAL_INDEX_BITS = 20


def index_bits(count: int) -> int:
    """Bits of an index among so many rows: 20, or 25 beyond 2**20."""
    return _USUAL_INDEX_BITS if count <= 2**_USUAL_INDEX_BITS else (MAX_ROWS - 1).bit_length()


def compact_latency(width: int) -> int:
    """Cycles from the last flags until all entries of the list can leave.

    Two registers before the network that pushes a row together, one per stage of it, one that counts, one per stage
    of the rotation, and one to write; less one, since the last flags and the first entry each have a cycle anyway.
    """
    return 3 + 2 * (width - 1).bit_length()


def compact_cycles(count: int, capacity: int, width: int) -> int:
    """Most cycles of a compaction until its last entry has left, nobody pausing: with no flag set, so that the whole
    list is filled up after the last row.

    With at least ``capacity`` flags set early enough it is ``ceil(count / width) + compact_latency(width) + 1``.
    """
    return math.ceil(count / width) + compact_latency(width) + max(capacity, 1)


def compact_state_bits(count: int, capacity: int, width: int) -> int:
    """Bits of the list: an index for each entry, in as many banks as flags per cycle (rounded up to a power of two)."""
    banks = 1 << (width - 1).bit_length()
    return index_bits(count) * banks * math.ceil(capacity / banks)


def fetch_cycles(entries: int, row_bytes: int) -> int:
    """Cycles of taking selected rows once the memory answers: every row is a read of its own, of whole words."""
    return entries * math.ceil(row_bytes / WORD_BYTES)


__all__ = ["MAX_ROWS", "compact_cycles", "compact_latency", "compact_state_bits", "fetch_cycles", "index_bits"]
