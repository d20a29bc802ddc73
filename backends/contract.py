"""What every back end answers: can you run this node, what files do you emit for a region, how is it launched.

Support is a verdict with a reason, never a bare boolean; the same record is printed by ``hetcc explain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy

from hetcc.ir import DType, Graph, Node

EXACT = "exact"
"""The numeric policy that computes as the model does."""


@dataclass(frozen=True, slots=True)
class Supported:
    """The back end can run the node."""

    kernel: str
    """What would run it: ``iree``, ``stream``, ``torch``, ..."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The back end cannot run the node, and why."""

    rule: str
    """The rule that was broken, as a sentence."""
    limit: str = ""
    actual: str = ""

    def __str__(self) -> str:
        detail = f" (limit {self.limit}, actual {self.actual})" if self.limit or self.actual else ""
        return self.rule + detail


Verdict = Supported | Rejected


@dataclass(frozen=True)
class EmittedRegion:
    """What a back end made of one region."""

    engine: str
    """What executes it on this machine, said as it is: ``iree-llvm-cpu (emulated gpu)`` and the like."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Path relative to the back end's folder in the bundle -> contents. Same input, same bytes."""
    entry: str = ""
    """Path of the file the runtime loads, relative like ``files``; empty for the host."""
    policy: str = EXACT
    """Numeric policy of what was made; see ``--policy``."""
    exact_because: str = ""
    """Why it is exact although another policy was asked for."""


class Support(Protocol):
    """The half of a back end that planning needs; works with no vendor tool installed."""

    name: str
    fault_code: str
    """Error code by which its drivers say that a device did not do what it was told; empty: there is no such device, or
    nobody can tell. A device that can say so, and is not the one the others are replaced by, may be lost."""

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """Whether this back end can run ``node`` of ``graph``."""
        ...

    def factor_type(self, graph: Graph, node: Node, policy: str) -> DType | None:
        """What ``node`` multiplies in on this back end under a numeric policy; None: in the type of its operands.

        Raises:
            UserError: HET-U001, no such policy.
        """
        ...


class Program(Protocol):
    """A loaded region: call it with arrays, get arrays back."""

    engine: str

    def run(self, arguments: Mapping[str, numpy.ndarray]) -> Mapping[str, numpy.ndarray]:
        """Run once.

        Args:
            arguments: array for each name of ``interface_of(region)``.

        Returns:
            array for each output and each updated cache's new value, by value name.
        """
        ...
