"""Same meaning, fewer and better nodes."""

from hetcc.passes.normalize.narrow_selection import (
    Checker,
    CheckRequest,
    CheckResult,
    NarrowToSelection,
    Rewrite,
)
from hetcc.passes.normalize.simplify import Simplify

__all__ = ["CheckRequest", "CheckResult", "Checker", "NarrowToSelection", "Rewrite", "Simplify"]
