"""A prediction better than Amdahl's bound is refused."""

from __future__ import annotations

import pytest

from hetcc.errors import InternalError
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.estimate import CostTable
from hetcc.passes.place import finish
from hetcc.plan.placement import Cluster, Cost, Objective, Placement, PlacementProblem
from hetcc.planning import check_amdahl


def problem() -> PlacementProblem:
    """Two clusters that take 10 s and 30 s on the GPU; the second takes 5 s on the FPGA."""
    clusters = (Cluster("first", ("first",), {"gpu": Cost(10.0)}),
                Cluster("second", ("second",), {"gpu": Cost(30.0), "fpga": Cost(5.0)}))
    launch = {"gpu": Cost(0.0), "fpga": Cost(1.0)}
    return PlacementProblem("two", ("gpu", "fpga"), clusters, (), launch, {}, Objective())


def placed(device: str) -> Placement:
    """Everything on the GPU but the second cluster."""
    return finish(problem(), {"first": "gpu", "second": device}, "by hand", 0.0)


def test_honest_predictions_pass() -> None:
    """16 s with the second cluster moved is above the 10 s that stay."""
    check_amdahl(CostTable({}, problem(), ClusterFacts()), placed("fpga"), placed("gpu"))


def test_too_good_predictions_are_bugs() -> None:
    """9 s cannot be: the first cluster alone takes 10 s."""
    honest = placed("fpga")
    better = Placement(honest.device_of, honest.regions, Cost(9.0), 9.0, 0.0, "by hand")
    with pytest.raises(InternalError, match="HET-I001"):
        check_amdahl(CostTable({}, problem(), ClusterFacts()), better, placed("gpu"))
