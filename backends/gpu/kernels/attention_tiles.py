"""How attention is cut into programs on each GPU: rows and entries per tile, warps, stages, shares of the slots.

The numbers choose between code that computes the same. They come from what the compiler reports (registers, shared
memory) and from arithmetic, not from measurements; ``benchmarks/gpu`` is where they are to be tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetcc.backends.gpu.kernels.limits import checked_target, power_of_two

MAXIMUM_SPLITS = 256
"""More shares than this are not worth their joining."""
_FEW_SHARES = 4
"""So many shares of tiles with many rows are better than tiles with few rows, which read the cache more often."""
_SHARE_PRICE = 0.1
"""What another share is taken to cost, relative to the time of the kernel: an assumption."""
_JOINED_ELEMENTS = 4096
"""Elements of partial results that one program of the joining launch holds."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape of the work of one program."""

    rows: int
    """Most rows (query heads x queries) of a program; a power of two, at least 16."""
    entries: int
    """Cache entries per step; a power of two, at least 16."""
    warps: int
    stages: int
    """Depth of the software pipeline over the entries."""
    resident: int = 1
    """Programs that a compute unit holds at once, by registers and shared memory."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Tiles of one target by element size and extent of a padded key or value row."""

    units: int
    """Compute units of the smallest common card of the target: so many programs are wanted at least."""
    narrow: Tile
    """16 bits, up to 128 elements."""
    middle: Tile
    """16 bits, 256 elements."""
    wide: Tile
    """16 bits, 512 elements, where the programs fill the card with few shares."""
    wide_masked: Tile
    """The same with a mask, which takes shared memory too."""
    wide_split: Tile
    """16 bits, 512 elements, few rows."""
    single: Tile
    """float32, up to 128 elements. NVIDIA's matrix units do not do float32."""
    single_wide: Tile
    """float32, 256 or 512 elements."""


_CDNA = {"narrow": Tile(64, 64, 4, 2, 2), "middle": Tile(32, 32, 4, 2), "wide": Tile(64, 16, 4, 2),
         "wide_masked": Tile(64, 16, 4, 2), "wide_split": Tile(16, 32, 4, 2), "single": Tile(32, 32, 4, 2),
         "single_wide": Tile(16, 16, 4, 1)}
_SINGLE = {"single": Tile(16, 32, 4, 2, 2), "single_wide": Tile(16, 16, 8, 1)}
TUNINGS: dict[str, Tuning] = {
    "gfx90a": Tuning(104, **_CDNA),
    "gfx942": Tuning(304, **_CDNA),
    "sm_80": Tuning(108, Tile(64, 64, 4, 3, 2), Tile(32, 32, 4, 3), Tile(32, 32, 8, 3), Tile(32, 32, 8, 3),
                    Tile(16, 32, 4, 3), **_SINGLE),
    "sm_90": Tuning(132, Tile(64, 64, 4, 3, 3), Tile(64, 64, 8, 2), Tile(64, 64, 8, 3), Tile(64, 32, 8, 3),
                    Tile(16, 64, 4, 3), **_SINGLE),
    "interpreter": Tuning(1, *(Tile(128, 256, 4, 1) for _ in range(7))),
}
"""By target. Wide rows on sm_90 take 222 of 227 KiB of shared memory, on gfx90a all 64 KiB."""


@dataclass(frozen=True, slots=True)
class Cut:
    """An attention cut into programs."""

    tile: Tile
    rows: int
    """``BLOCK_M``."""
    row_tiles: int
    splits: int
    split_slots: int
    """Slots of one share; a multiple of the tile's entries."""


def padded(extent: int) -> int:
    """The smallest power of two that holds ``extent``, at least 16: what matrix units and ranges want."""
    return max(16, power_of_two(extent))


def cut(target: str, row: tuple[int, int], groups: int, group_rows: int, slots: int, masked: bool,
        splits: int | None) -> Cut:
    """Chooses tile and shares.

    Args:
        target: name of a target.
        row: elements of a key or value row, padded, and bytes of one.
        groups: groups of rows with a selection of their own (batch x cache heads x query blocks).
        group_rows: rows of a group.
        slots: cache entries per group.
        masked: with an additive mask.
        splits: shares wanted; None: enough to fill the card.

    Raises:
        UserError: HET-G001, no such target.
    """
    tuning = TUNINGS[checked_target(target)]
    tile = _tile(tuning, row, groups, group_rows, masked)
    rows = min(tile.rows, padded(group_rows))
    row_tiles = -(-group_rows // rows)
    if splits is None:
        splits = _splits(groups * row_tiles, tuning.units, tile.resident)
    splits = max(1, min(splits, MAXIMUM_SPLITS, -(-slots // tile.entries)))
    split_slots = -(-slots // (splits * tile.entries)) * tile.entries
    return Cut(tile, rows, row_tiles, -(-slots // split_slots), split_slots)


def _splits(programs: int, units: int, resident: int) -> int:
    """Shares that fill the card; where programs do not share a unit, also those that fill its last round better."""
    wanted = units * resident
    if 2 * programs <= wanted:
        return wanted // programs
    if resident > 1:
        return 1
    rounds = {splits: -(-programs * splits // units) / splits for splits in range(1, _FEW_SHARES + 1)}
    return min(rounds, key=lambda splits: rounds[splits] * (1 + _SHARE_PRICE * (splits - 1)))


def _tile(tuning: Tuning, row: tuple[int, int], groups: int, group_rows: int, masked: bool) -> Tile:
    elements, element_bytes = row
    if element_bytes > 2:
        return tuning.single if elements <= 128 else tuning.single_wide
    if elements <= 256:
        # A mask over many rows brings the narrow tile close to all registers of gfx90a.
        crowded = elements > 128 or (masked and group_rows > 16)
        return tuning.middle if crowded else tuning.narrow
    programs = groups * -(-group_rows // tuning.wide.rows)
    if _FEW_SHARES * programs < 0.75 * tuning.units:
        return tuning.wide_split
    return tuning.wide_masked if masked else tuning.wide


def joining_block(splits: int, value_size: int) -> tuple[int, int]:
    """Shares and value columns of a program that joins partial results."""
    shares = power_of_two(splits)
    return shares, min(padded(value_size), max(16, _JOINED_ELEMENTS // shares))
