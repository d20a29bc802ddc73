"""Where the pipeline of a streaming core has got to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Point:
    """Where the pipeline has got to."""

    values: list[Any]
    """Signals of this cycle's group: the lanes of one row after those of another."""
    valid: Any
    group: Any
    """Which group of the row; meaningless once the row is one value."""
    groups: int
    sides: dict[str, Any]
    """The rows' side operands, by name, one row's word after another's."""
    rows: int = 1
    """Rows (later: blocks of rows) of one cycle."""
    age: int = 0
    """Cycles since the row was issued."""

    @property
    def lanes(self) -> list[list[Any]]:
        """The values, row by row."""
        count = len(self.values) // self.rows
        return [self.values[at * count:(at + 1) * count] for at in range(self.rows)]


__all__ = ["Point"]
