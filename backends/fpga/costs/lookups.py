"""Entries of a lookup on chip: which memory they lie in, and what copies of them take; estimated."""

from __future__ import annotations

import math

from hetcc.backends.fpga.costs.unit_resources import CARD, NOTHING, Resources, memory
from hetcc.backends.fpga.stages.loads import ultra_blocks, ultra_rows

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
    return "block" if blocks <= ultra_blocks(math.ceil(entries / granule), 32 * granule) / CARD.uram else "ultra"


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
    rows, bits_of_row = math.ceil(entries / granule), 32 * granule
    choosing_blocks = bits_of_row * (ultra_rows(rows) - 1) * ports
    return Resources(choosing_blocks, 0, 0, 0, ultra_blocks(rows, bits_of_row)).plus(control)


def _block_copy(entries: int, granule: int, ports: int) -> Resources:
    """Of two ports, halves of a block give 18 bits of 1,024 rows each, however few rows there are."""
    rows = math.ceil(entries / granule)
    if ports == 1:
        return memory(max(rows, 65), 32 * granule)
    halves = math.ceil(32 * granule / _HALF_BITS) * math.ceil(rows / _HALF_ROWS)
    return Resources(32 * granule * (math.ceil(rows / 4096) - 1) * ports, 0, 0, halves / 2, 0)


__all__ = ["LOOKUP_PORTS", "lookup_copies", "lookup_style"]
