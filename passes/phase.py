"""Everything that is known about one phase of a model once it has been planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.capture.model import CaptureRequest
from hetcc.cost_model.work import Work
from hetcc.ir import Graph, TaggedGraph
from hetcc.passes.clusters import Clustering
from hetcc.passes.estimate import CostTable
from hetcc.passes.normalize import Rewrite
from hetcc.passes.schedule import PricedStep, RegionProgram
from hetcc.passes.schedule.buffers import memory_bytes
from hetcc.passes.schedule.regions import Commits
from hetcc.plan.placement import Placement
from hetcc.plan.plan import BufferSpec


@dataclass(frozen=True)
class PlannedPhase:
    """Everything that is known about one phase before any code is generated."""

    name: str
    request: CaptureRequest
    tagged: TaggedGraph
    rewrites: tuple[Rewrite, ...]
    clustering: Clustering
    table: CostTable
    placement: Placement
    gpu_only: Placement
    programs: tuple[RegionProgram, ...]
    commits: Commits
    steps: tuple[PricedStep, ...]
    buffers: tuple[BufferSpec, ...]
    cache_device: Mapping[str, str]
    observed: tuple[str, ...]
    works: Mapping[str, Work]
    """Work of each region."""
    demotions: tuple[tuple[str, str, str], ...]
    """(cluster, device it was kept from, reason)."""

    @property
    def graph(self) -> Graph:
        """The graph that was placed."""
        return self.tagged.graph

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Bytes needed per device."""
        return memory_bytes(self.buffers)
