"""What a rewriting pass says about what it considered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewrite that was considered, and what became of it."""

    node: str
    applied: bool
    reason: str
    rule: str = ""
    """Name of the pass."""
