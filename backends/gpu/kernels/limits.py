"""What all kernel operations share: targets, types, limits, and how a size is refused."""

from __future__ import annotations

from hetcc.errors import UserError
from hetcc.ir import DType

Constants = tuple[tuple[str, int | float | bool | str], ...]

INTERPRETER = "interpreter"
TARGETS = ("gfx90a", "gfx942", "sm_80", "sm_90", INTERPRETER)
FLOATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)
EXTENT_LIMIT = 1 << 30
"""Entries of a row: positions are 32-bit integers, and some room is needed behind the last."""
PROGRAMS_WANTED = 256
"""A row is split until about this many programs run: a few on each compute unit of the targets."""


def checked_target(target: str) -> str:
    """The target itself.

    Raises:
        UserError: HET-G001, kernels are not tuned for this target.
    """
    if target not in TARGETS:
        raise UserError("HET-G001", f"no kernels for the target '{target}'", fix="one of " + ", ".join(TARGETS))
    return target


def require(holds: bool, what: str) -> None:
    """Refuses a size.

    Raises:
        UserError: HET-G001 with ``what`` if ``holds`` is false.
    """
    if not holds:
        raise UserError("HET-G001", what)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()
