"""Page pooling as a kernel operation: what Prepare Memory computes for indexes over pages of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Tensor
from hetcc.backends.gpu.kernels.limits import FLOATS, INTERPRETER, checked_target, power_of_two, require
from hetcc.ir import DType, TensorType

_KINDS = {"mean": 0, "min": 1, "max": 2, "bounds": 3}
"""``KIND`` of ``pooling.py``."""
_TILE_ELEMENTS = 8192
"""Elements that a program loads at once: 64 per thread of four warps, half of that on AMD."""
_LONGEST_STEP = 64
"""Entries of a page that are loaded at once."""


@dataclass(frozen=True, slots=True)
class PagePool:
    """``keys [batch, heads, cached, size]`` to one row per page of ``page`` entries.

    The last page may be short; it is pooled over the entries it has. Which of NaN and number is the larger is open.
    """

    batch: int
    heads: int
    cached: int
    size: int
    page: int
    kind: Literal["mean", "min", "max", "bounds"]
    """``bounds`` gives minima and maxima."""
    dtype: DType

    def __post_init__(self) -> None:
        """Checks the limits.

        Raises:
            UserError: HET-G001.
        """
        extents = (self.batch, self.heads, self.cached, self.size, self.page)
        require(min(extents) > 0, f"page pooling needs positive extents, these are {extents}")
        require(self.kind in _KINDS, f"pooling is {', '.join(_KINDS)}, not '{self.kind}'")
        require(self.dtype in FLOATS, f"pooling takes float32, float16, bfloat16, not {self.dtype.value}")
        require((self.cached + self.page) * self.size < 1 << 31, "a head has 2**31 elements or more")
        require(self.batch * self.heads < 1 << 16, "batch x heads is 65536 or more")

    @property
    def pages(self) -> int:
        """Pages of a head."""
        return -(-self.cached // self.page)

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``keys``."""
        return (("keys", TensorType((self.batch, self.heads, self.cached, self.size), self.dtype)),)

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``output``, or ``minimum`` and ``maximum``: ``[batch, heads, pages, size]``."""
        kind = TensorType((self.batch, self.heads, self.pages, self.size), self.dtype)
        roles = ("minimum", "maximum") if self.kind == "bounds" else ("output",)
        return tuple((role, kind) for role in roles)

    def plan(self, target: str) -> LaunchPlan:
        """One launch; programs hold some pages and up to 256 columns."""
        scale = 16 if checked_target(target) == INTERPRETER else 1
        columns = min(power_of_two(self.size), 256)
        entries = min(power_of_two(self.page), _LONGEST_STEP * scale)
        pages = max(1, min(_TILE_ELEMENTS * scale // (columns * entries), power_of_two(self.pages)))
        roles = [role for role, _ in self.outputs]
        written = [Tensor(role, self.dtype, written=True) for role in (roles[0], roles[-1])]
        launch = Launch(
            "pooling", "pool",
            (("keys", Tensor("keys", self.dtype)), ("first", written[0]), ("second", written[1])),
            (("KIND", _KINDS[self.kind]), ("ENTRIES", self.cached), ("SIZE", self.size), ("PAGE", self.page),
             ("BLOCK_PAGES", pages), ("BLOCK_ENTRIES", entries), ("BLOCK_SIZE", columns)),
            (-(-self.pages // pages), -(-self.size // columns), self.batch * self.heads), 4, 1)
        return LaunchPlan((launch,))
