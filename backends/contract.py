"""What every back end answers: can you run this node, what files do you emit for a region, how is it launched.

Support is a verdict with a reason, never a bare boolean; the same record is printed by ``hetcc explain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy

from hetcc.ir import Graph, Node


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
    policy: str = "exact"
    """Numeric policy of what was made; see ``--policy``."""
    exact_because: str = ""
    """Why it is exact although another policy was asked for."""


class Support(Protocol):
    """The half of a back end that planning needs; works with no vendor tool installed."""

    name: str

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """Whether this back end can run ``node`` of ``graph``."""
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
