"""Same meaning, fewer and better nodes."""

from hetcc.passes.normalize.narrow_selection import NarrowToSelection, Rewrite
from hetcc.passes.normalize.simplify import Simplify

__all__ = ["NarrowToSelection", "Rewrite", "Simplify"]
