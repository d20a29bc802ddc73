"""Entries of a lookup on chip: which memory they lie in, and what copies of them take; estimated."""

from __future__ import annotations

import math

from hetcc.backends.fpga.costs.unit_resources import CARD, NOTHING, Resources, memory
from hetcc.backends.fpga.stages.loads import BLOCK_BITS, BLOCK_ROWS

LOOKUP_PORTS = 2
"""Positions that are read from one copy of the entries per cycle: the memories of the card have two ports."""
_HALF_ROWS, _HALF_BITS = 1024, 18


def lookup_style(entries: int, granule: int, ports: int = LOOKUP_PORTS) -> str:
    """``block`` or ``ultra`` RAM: the one of which a copy takes the smaller part of the card.

    Args:
        entries: 32-bit words.
        granule: of them that are written together and lie side by side.
        ports: of the copy, one or two.
    """
    blocks = _block_copy(entries, granule, ports).bram36 / CARD.bram36
    return "block" if blocks <= _ultra_blocks(entries, granule) / CARD.uram else "ultra"


def lookup_copies(entries: int, granule: int, positions: int) -> Resources:
    """All copies, with addresses and outputs, for so many positions per cycle."""
    pairs, single = divmod(positions, LOOKUP_PORTS)
    return _copy(entries, granule, LOOKUP_PORTS).times(pairs).plus(
        _copy(entries, granule, 1) if single else NOTHING)


def _copy(entries: int, granule: int, ports: int) -> Resources:
    bits = max(entries - 1, 1).bit_length()
    # A look-up table of six inputs chooses among four entries, or three and what was chosen before.
    choosing = 20 if granule == 2 else 32 * math.ceil((granule - 1) / 3)
    address = Resources(max(math.ceil(entries / granule) - 1, 1).bit_length(), 0, 0, 0, 0)
    control = Resources(36 + choosing, 34 + bits, 0, 0, 0).times(ports).plus(address)
    if lookup_style(entries, granule, ports) == "block":
        return _block_copy(entries, granule, ports).plus(control)
    deep = math.ceil(entries / granule / BLOCK_ROWS)
    return Resources(32 * granule * (deep - 1) * ports, 0, 0, 0, _ultra_blocks(entries, granule)).plus(control)


def _block_copy(entries: int, granule: int, ports: int) -> Resources:
    """Of two ports, halves of a block give 18 bits of 1,024 rows each, however few rows there are."""
    rows = math.ceil(entries / granule)
    if ports == 1:
        return memory(max(rows, 65), 32 * granule)
    halves = math.ceil(32 * granule / _HALF_BITS) * math.ceil(rows / _HALF_ROWS)
    return Resources(32 * granule * (math.ceil(rows / 4096) - 1) * ports, 0, 0, halves / 2, 0)


def _ultra_blocks(entries: int, granule: int) -> int:
    return math.ceil(entries / granule / BLOCK_ROWS) * math.ceil(32 * granule / BLOCK_BITS)


__all__ = ["LOOKUP_PORTS", "lookup_copies", "lookup_style"]
