"""What is asked of whoever compares two programs before a rewrite is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hetcc.ir.graph import Graph


@dataclass(frozen=True)
class CheckRequest:
    """Two programs that should agree, with what their random inputs must respect."""

    before: Graph
    after: Graph
    compared: tuple[str, ...]
    """Outputs of both that have to agree."""
    indices: str = ""
    """Integer input holding distinct positions below ``extent``, if there is one."""
    extent: int = 0
    mask_inputs: frozenset[str] = frozenset()
    """Inputs that only ever mask scores; these are also tried with very negative entries."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What comparing two programs showed."""

    agrees: bool
    relative_error: float
    detail: str = ""


Checker = Callable[[CheckRequest], CheckResult]
"""Runs both programs on random inputs; passes are handed one, so that they need no numerical library."""
