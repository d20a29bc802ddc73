"""From a placer's answer to a finished placement: regions, score, bound."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hetcc.errors import InternalError, UserError
from hetcc.passes.place.regions import split_regions
from hetcc.passes.place.score import score
from hetcc.plan.placement import Placement, PlacementProblem, Region

_FLOAT_ERROR = 1e-9
"""Relative amount by which sums of the same prices in different order may differ."""


def finish(
    problem: PlacementProblem, device_of: Mapping[str, str], partitioner: str, lower_bound: float, *,
    regions: tuple[Region, ...] | None = None,
) -> Placement:
    """Split an assignment into regions and score it.

    Args:
        problem: what was placed.
        device_of: device by cluster name, as a placer returned it.
        partitioner: who placed it.
        lower_bound: a proved lower bound for every placement of the problem.
        regions: what ``split_regions`` makes of the assignment, or regions that somebody asked for; absent: split here.

    Raises:
        UserError: HET-P001 if clusters are missing or unknown, HET-P005 for a device a cluster does not allow.
        InternalError: the objective is below the bound, so one of them is wrong.
    """
    _check(problem, device_of, partitioner)
    if regions is None:
        regions = split_regions(problem, device_of)
    cost = score(problem, device_of, regions)
    objective = problem.objective.value(cost)
    if objective < lower_bound - _FLOAT_ERROR * max(abs(objective), abs(lower_bound)):
        raise InternalError("HET-I001", f"objective {objective!r} is below the lower bound {lower_bound!r}",
                            where=f"{problem.name}, placed by {partitioner}")
    return Placement(MappingProxyType(dict(device_of)), regions, cost, objective, min(lower_bound, objective),
                     partitioner)


def _check(problem: PlacementProblem, device_of: Mapping[str, str], partitioner: str) -> None:
    clusters = problem.cluster_by_name
    if device_of.keys() != clusters.keys():
        wrong = sorted(device_of.keys() ^ clusters.keys())
        raise UserError("HET-P001", f"'{wrong[0]}' is {'not placed' if wrong[0] in clusters else 'not a cluster'} "
                                    f"({len(wrong)} such names)", where=f"partitioner '{partitioner}'")
    for name, device in device_of.items():
        if device not in clusters[name].costs:
            raise UserError("HET-P005", f"'{name}' cannot run on '{device}'; allowed: {list(clusters[name].costs)}",
                            where=f"partitioner '{partitioner}'")
