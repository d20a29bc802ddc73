"""The placer to use: the best placement found, with a bound for how much better any could be.

The minimum cut knows all prices but the number of regions. So its assignment is scored after splitting, next to the
simple placements, and groups of alike regions are moved back to the first device while that helps. The bound is then
raised by *fixing*: with flow F and objective U of the best placement found, a cluster whose move away from the first
device costs more than U - F in the cut can not be there in any placement better than U. Holding such clusters gives
the cut more anchors (see ``mincut``); the bound is the smaller of U and the new cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hetcc.passes.contract import BoundedAssignment, ClusterFacts
from hetcc.passes.place.cut_network import Cut
from hetcc.passes.place.finish import finish
from hetcc.passes.place.mincut import Relaxation
from hetcc.passes.place.regions import group_clusters, regions_of
from hetcc.passes.place.table import PriceTable, objective_of, table_of
from hetcc.plan.placement import Placement, PlacementProblem

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]

_CLOSED = 1e-9
"""Relative gap below which searching on can only find rounding."""
_EVALUATED_CLUSTERS = 60_000
"""Clusters split and scored while improving, over all attempts: keeps the time near-linear."""
_MAXIMUM_ATTEMPTS = 64
_FIXING_ROUNDS = 3


@dataclass(frozen=True)
class Candidate:
    """A placement by number."""

    device: Integers
    """[n] device of each cluster."""
    group: Integers
    """[n] region of each cluster."""
    objective: float


@dataclass(frozen=True)
class ProvedBound:
    """No placement has a smaller objective than ``value``."""

    value: float
    rounding: float


@dataclass(frozen=True)
class Optimal:
    """Minimum cut, simple placements and local improvement; the best after splitting wins, ties go to the simplest."""

    name: ClassVar[str] = "optimal"
    improve: bool = True
    """Whether to improve the placement and tighten the bound when the cut leaves a gap between them."""

    def place(self, problem: PlacementProblem, facts: ClusterFacts) -> dict[str, str]:
        """Device by cluster name."""
        return dict(self.place_with_bound(problem, facts).device_of)

    def place_with_bound(self, problem: PlacementProblem, facts: ClusterFacts) -> BoundedAssignment:
        """Device by cluster name, and a lower bound for every placement of the problem."""
        del facts
        best, bound = self.search(table_of(problem))
        return BoundedAssignment(_named(problem, best.device), bound.value, bound.rounding)

    def search(self, table: PriceTable) -> tuple[Candidate, ProvedBound]:
        """The best placement found, by number, and the bound."""
        relaxation = Relaxation(table)
        cut = relaxation.solve()
        bound = ProvedBound(cut.value, cut.rounding)
        best = _best_of(table, [*_simple(table), relaxation.devices(cut)])
        if self.improve and not _is_closed(best, bound):
            best = _improve(table, best)
            best, bound = _tighten(table, best, bound, cut)
        return best, bound


def place_optimal(problem: PlacementProblem, facts: ClusterFacts | None = None) -> Placement:
    """The best placement found, with regions, score and bound."""
    del facts  # prices decide; the argument is there so that all placers are called alike
    best, bound = Optimal().search(table_of(problem))
    return finish(problem, _named(problem, best.device), Optimal.name, bound.value,
                  regions=regions_of(problem, best.device, best.group))


def _named(problem: PlacementProblem, device: Integers) -> dict[str, str]:
    """Device by cluster name."""
    return {cluster.name: problem.devices[index]
            for cluster, index in zip(problem.clusters, device.tolist(), strict=True)}


def _simple(table: PriceTable) -> list[Integers]:
    """Per device: everything on it that allows it, the rest on the first device that it allows."""
    import numpy

    allowed = table.allowed
    first = numpy.argmax(allowed, axis=1)
    return [numpy.where(allowed[:, device], device, first) for device in range(allowed.shape[1])]


def _best_of(table: PriceTable, choices: Iterable[Integers]) -> Candidate:
    """The best after splitting; of equally good ones the first."""
    distinct = {device.tobytes(): device for device in choices}.values()
    return min((_evaluate(table, device) for device in distinct), key=lambda candidate: candidate.objective)


def _evaluate(table: PriceTable, device: Integers) -> Candidate:
    group = group_clusters(table, device)
    return Candidate(device, group, objective_of(table, device, group))


def _is_closed(best: Candidate, bound: ProvedBound) -> bool:
    return best.objective - bound.value <= _CLOSED * abs(best.objective)


def _improve(table: PriceTable, best: Candidate) -> Candidate:
    """Move groups of alike regions back to the first device while that helps, within the budget of attempts."""
    attempts = min(_EVALUATED_CLUSTERS // max(len(best.device), 1), _MAXIMUM_ATTEMPTS)
    tried: set[tuple[float, ...]] = set()
    for _ in range(attempts):
        kinds = [kind for kind in _alike_regions(table, best) if kind[0] not in tried]
        if not kinds:
            break
        tried.add(kinds[0][0])
        candidate = _evaluate(table, _moved_first(best, kinds[0][1]))
        if candidate.objective < best.objective:
            best = candidate
    return best


def _moved_first(best: Candidate, regions: list[int]) -> Integers:
    import numpy

    return numpy.where(numpy.isin(best.group, regions), 0, best.device)


def _alike_regions(table: PriceTable, best: Candidate) -> list[tuple[tuple[float, ...], list[int]]]:
    """Regions that could move to the first device; those with the same device, size and prices are one kind."""
    import numpy

    count = int(best.group.max(initial=-1)) + 1
    allows = numpy.bincount(best.group, weights=~table.allowed[:, 0], minlength=count) == 0
    _, first = numpy.unique(best.group, return_index=True)
    moving = allows & (best.device[first] != 0)
    here = numpy.bincount(best.group, weights=table.price[numpy.arange(len(best.device)), best.device], minlength=count)
    size = numpy.bincount(best.group, minlength=count)
    kinds: dict[tuple[float, ...], list[int]] = {}
    for region in numpy.flatnonzero(moving).tolist():
        key = (float(best.device[first[region]]), float(size[region]), float(f"{here[region]:.9g}"))
        kinds.setdefault(key, []).append(region)
    return list(kinds.items())


def _tighten(table: PriceTable, best: Candidate, bound: ProvedBound, cut: Cut) -> tuple[Candidate, ProvedBound]:
    """Hold clusters on the first device that no better placement can have elsewhere, and cut again."""
    import numpy

    kept = numpy.zeros(len(best.device), dtype=bool)
    for _ in range(_FIXING_ROUNDS):
        margin = best.objective - cut.value
        fixed = kept | ((cut.slack_to_sink > margin) & table.allowed[:, 0])
        if _is_closed(best, bound) or (fixed == kept).all():
            break
        kept = fixed
        relaxation = Relaxation(table, kept)
        cut = relaxation.solve()
        # Every placement below the objective known when clusters were held is counted by this cut.
        raised = min(best.objective, cut.value)
        if raised > bound.value:
            bound = ProvedBound(raised, cut.rounding)
        best = min(best, _evaluate(table, relaxation.devices(cut)), key=lambda candidate: candidate.objective)
    return best, bound
