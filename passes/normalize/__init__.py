"""Same meaning, fewer and better nodes."""

from hetcc.passes.normalize.narrow_selection import NarrowToSelection
from hetcc.passes.normalize.reassociate import Reassociate
from hetcc.passes.normalize.report import Rewrite
from hetcc.passes.normalize.simplify import Simplify

__all__ = ["NarrowToSelection", "Reassociate", "Rewrite", "Simplify"]
