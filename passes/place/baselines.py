"""Simple placers: what one would do without solving anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hetcc.ir.tags import Stage
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.place.follow import with_followers
from hetcc.plan.placement import Cluster, PlacementProblem


def _prefer(cluster: Cluster, problem: PlacementProblem, device: str) -> str:
    """``device`` if the cluster allows it, else the first of the problem's devices that it allows."""
    if device in cluster.costs:
        return device
    return next(name for name in problem.devices if name in cluster.costs)


@dataclass(frozen=True)
class GpuOnly:
    """Everything on the GPU that may run there."""

    name: ClassVar[str] = "gpu-only"
    device: str = "gpu"

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name."""
        del facts
        return {cluster.name: _prefer(cluster, problem, self.device) for cluster in problem.clusters}


@dataclass(frozen=True)
class FpgaOnly:
    """Everything on the FPGA that may run there, the rest on the first device that takes it."""

    name: ClassVar[str] = "fpga-only"
    device: str = "fpga"

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name."""
        del facts
        return {cluster.name: _prefer(cluster, problem, self.device) for cluster in problem.clusters}


@dataclass(frozen=True)
class StageRule:
    """Some stages of the memory pipeline on the FPGA (those arXiv 2603.29002 maps there), the rest on the GPU."""

    name: ClassVar[str] = "stage-rule"
    stages: tuple[Stage, ...] = (Stage.RELEVANCY, Stage.RETRIEVAL)
    device: str = "fpga"
    otherwise: str = "gpu"

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name; what only the mapped stages read, and the device takes, goes with them."""
        mapped = {cluster.name for cluster in problem.clusters
                  if facts.stage.get(cluster.name) in self.stages and self.device in cluster.costs}
        wanted = with_followers(problem, mapped, self.device)
        return {cluster.name: _prefer(cluster, problem, self.device if cluster.name in wanted else self.otherwise)
                for cluster in problem.clusters}


@dataclass(frozen=True)
class IntensityThreshold:
    """Clusters below a number of flops per byte on the FPGA. Here to show that intensity alone decides nothing."""

    name: ClassVar[str] = "intensity-threshold"
    flops_per_byte: float = 10.0
    """Upper end of the range arXiv 2603.29002 gives for relevancy and retrieval."""
    device: str = "fpga"
    otherwise: str = "gpu"

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name; clusters of unknown intensity count as above the threshold."""
        return {
            cluster.name: _prefer(
                cluster, problem,
                self.device if facts.intensity.get(cluster.name, float("inf")) < self.flops_per_byte
                else self.otherwise)
            for cluster in problem.clusters
        }
