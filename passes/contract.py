"""What a placer is: a frozen dataclass whose fields are its options and whose ``place`` names a device per cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from hetcc.ir.tags import Stage
from hetcc.plan.placement import PlacementProblem


@dataclass(frozen=True)
class ClusterFacts:
    """What rule-based placers look at beside prices; clusters may be absent from either table."""

    stage: Mapping[str, Stage] = field(default_factory=dict)
    """Memory-pipeline stage by cluster name; absent: in no memory pipeline."""
    intensity: Mapping[str, float] = field(default_factory=dict)
    """Flops per byte moved to or from memory by cluster name; absent: unknown."""


class Placer(Protocol):
    """Chooses a device for every cluster. Regions, score and bound are not its business."""

    name: ClassVar[str]

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name, for every cluster, each on a device its ``costs`` allow."""
        ...


@dataclass(frozen=True, slots=True)
class BoundedAssignment:
    """An assignment of a placer that can also prove how good any placement may be."""

    device_of: Mapping[str, str]
    lower_bound: float
    """No placement of the problem has a smaller objective."""
    rounding: float
    """Upper limit of what scaling prices to integers changed; already taken off ``lower_bound``."""


class BoundingPlacer(Placer, Protocol):
    """A placer that proves a bound."""

    def place_with_bound(self, problem: PlacementProblem, facts: ClusterFacts) -> BoundedAssignment:
        """As ``place``, with the bound."""
        ...
