"""How sure the placement is: the share of the box of all uncertain numbers in which it stays the best one found.

Every number of the devices and links in use that has a range is drawn independently and uniformly between its low and
its high end, everything is priced again, and the placement is compared with the best one for those prices. Layers that
cost the same and are placed the same are looked at once: the problem that is placed again holds one of each, everything
outside the layers, and their neighbours where the plan has them.

First a proof is tried. A placement is worth what it saves against every other, and clusters, transfers and savings that
both have cancel. So it stays the best if it is the best when all it has costs as much as it may and everything else as
little as it may. Launches are in both, more of them in one; the least advantage is a concave function of what a launch
costs, hence at one of the ends. The proof is tried with the ends of all ranges; then the placement stays the best in
the whole box; else with the ends of the draws, and then it does in all of them; else each draw is placed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hetcc.cost_model.energy import kernel_energy_j
from hetcc.cost_model.parts import WorkItem
from hetcc.cost_model.price import Bound, Price, parts_of
from hetcc.cost_model.quantity import Corner, Provenance, Quantity
from hetcc.cost_model.transfer import Link, route
from hetcc.passes.estimate import HOST, ClusterEstimate, CostTable, DeviceSet
from hetcc.passes.place.mincut import Relaxation
from hetcc.passes.place.optimal import Optimal
from hetcc.passes.place.regions import group_clusters
from hetcc.passes.place.table import PriceTable, objective_of, table_of
from hetcc.passes.savings import Crossing, find_savings
from hetcc.passes.uncertain import Path, link_title, quantities, with_values
from hetcc.plan.placement import Cluster, Cost, Placement, PlacementProblem, Tensor

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]
    Flags = NDArray[numpy.bool_]

SAMPLES = 64
SEED = 0
_EQUAL = 1e-9
_WILSON_Z = 1.959964
_SUSPECTS = 12
"""Numbers whose both ends are tried alone: those that differ most between draws that flip and draws that do not."""
_LARGEST_BOX = 6
"""Uncertain launches whose ends are all combined."""


@dataclass(frozen=True)
class Robustness:
    """How often a placement stays the best one found."""

    samples: int
    """Draws; none with a proof."""
    seed: int
    stays_optimal: float
    low: float
    """Wilson interval of the share at 95 %; with a proof the share itself."""
    high: float
    parameters: int
    flips: tuple[tuple[str, float], ...]
    """(number, share of its range's two ends at which it alone makes another placement better), most first."""
    proved: bool = False
    """Whether the placement is the best one in the whole box, by proof."""


def robustness(table: CostTable, placement: Placement, devices: DeviceSet, samples: int = SAMPLES,
               seed: int = SEED) -> Robustness:
    """The robustness of a placement; the same arguments give the same answer.

    Args:
        table: what was placed.
        placement: the one to judge.
        devices: what the table was priced for.
        samples: how many draws, at least one, if there is no proof.
        seed: of the draws.
    """
    import numpy

    judge = _Judge(table, placement, devices)
    numbers = judge.numbers()
    if judge.holds_everywhere():
        return Robustness(0, seed, 1.0, 1.0, 1.0, len(numbers), (), proved=True)
    draws = numpy.random.default_rng(seed).uniform(size=(samples, len(numbers)))
    kept = judge.stays({path: one.low + (one.high - one.low) * draws[:, place]
                        for place, (path, one) in enumerate(numbers)}, samples)
    share = float(kept.sum()) / samples
    low, high = wilson(int(kept.sum()), samples)
    return Robustness(samples, seed, share, low, high, len(numbers), _flips(judge, numbers, draws, kept))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval of a share at 95 %."""
    share, square = successes / trials, _WILSON_Z**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _WILSON_Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _flips(judge: _Judge, numbers: Sequence[tuple[Path, Quantity]], draws: Any, kept: Any) -> tuple[
        tuple[str, float], ...]:
    """Numbers that flip the placement alone, everything else at its likely value."""
    import numpy

    if kept.all() or not numbers:
        return ()
    stay = draws[kept].mean(axis=0) if kept.any() else draws[~kept].mean(axis=0) - 1
    apart = numpy.abs(stay - draws[~kept].mean(axis=0))
    suspects = sorted(range(len(numbers)), key=lambda index: (-float(apart[index]), index))[:_SUSPECTS]
    ends = {numbers[index][0]: numpy.full(2 * len(suspects), numbers[index][1].value) for index in suspects}
    for place, index in enumerate(suspects):
        path, number = numbers[index]
        ends[path][2 * place:2 * place + 2] = number.low, number.high
    stays = judge.stays(ends, 2 * len(suspects))
    found = [(".".join(numbers[index][0]), float((~stays[2 * place:2 * place + 2]).mean()))
             for place, index in enumerate(suspects)]
    return tuple(sorted(((name, share) for name, share in found if share), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class _Prices:
    """Prices of one problem at s points; as in ``PriceTable``, with the points last."""

    price: Floats
    transfer: Floats
    saving: Floats
    launch: Floats


class _Judge:
    """Prices the distinct layers of a problem at many points at once, and places them at each."""

    def __init__(self, table: CostTable, placement: Placement, devices: DeviceSet) -> None:
        import numpy

        self.table = table
        self.devices = devices
        self.device_of = placement.device_of
        problem = table.problem
        free = self._free(problem)
        self.tensors = [self._near(tensor, free) for tensor in problem.tensors
                        if tensor.producer in free or any(name in free for name in tensor.consumers)]
        near = {name for tensor in self.tensors for name in (tensor.producer, *tensor.consumers)} - free
        self.clusters = [cluster if cluster.name in free else replace(cluster, costs={
            self.device_of[cluster.name]: Cost()}) for cluster in problem.clusters if cluster.name in free | near]
        self.pinned = near
        self.links = self._links()
        self.base = table_of(replace(problem, clusters=tuple(self.clusters), tensors=tuple(self.tensors)))
        self.number = {name: place for place, name in enumerate(problem.devices)}
        self.device = numpy.array([self.number[self.device_of[cluster.name]] for cluster in self.clusters],
                                  dtype=numpy.int64)
        self.group = group_clusters(self.base, self.device)

    def _near(self, tensor: Tensor, free: set[str]) -> Tensor:
        """The tensor with one consumer per device for those that are not looked at."""
        others: dict[str, str] = {}
        for name in tensor.consumers:
            if name not in free:
                others.setdefault(self.device_of[name], name)
        kept = {*free, *others.values()}
        return replace(tensor, consumers=tuple(name for name in tensor.consumers if name in kept))

    def _free(self, problem: PlacementProblem) -> set[str]:
        """Clusters of one layer of each kind, and those outside the layers."""
        members: dict[str, list[Cluster]] = {}
        for cluster in problem.clusters:
            members.setdefault(cluster.layer, []).append(cluster)
        kinds: dict[object, str] = {}
        for layer, clusters in members.items():
            kind = tuple((tuple(cluster.costs.items()), self.device_of[cluster.name]) for cluster in clusters)
            kinds.setdefault((bool(layer), kind), layer)
        return {cluster.name for layer in kinds.values() for cluster in members[layer]}

    def _links(self) -> dict[tuple[str, str], tuple[Link, ...]]:
        own = sorted({device for cluster in self.clusters for device in cluster.costs})
        return {(source, target): route(source, target, links=self.devices.links)
                for source in own for target in own if source != target}

    def numbers(self) -> list[tuple[Path, Quantity]]:
        """Every number with a range that a price here may depend on, by path."""
        found: list[tuple[Path, Quantity]] = []
        weighs_energy = self.table.problem.objective.energy_weight > 0
        for name in sorted({device for cluster in self.clusters for device in cluster.costs}):
            profile = self.devices.profiles[name]
            chosen = self.devices.baseline_of(name) or profile.default_baseline
            rung = self.devices.by_doorbell and profile.baseline(chosen).doorbell_launch_s is not None
            unused = "region_launch_s" if rung else "doorbell_launch_s"
            for path, number in quantities(profile):
                other = path[0] == "baselines" and (path[1] != chosen or path[-1] == unused)
                if not other and (weighs_energy or path[0] != "power"):
                    found.append(((name, *path), number))
        for title, hop in {link_title(hop): hop for hops in self.links.values() for hop in hops}.items():
            found += [(("links", title, *path), number) for path, number in quantities(hop)
                      if weighs_energy or path[0] != "energy_j_per_byte"]
        return [(path, number) for path, number in found if number.low < number.high]

    def stays(self, values: Mapping[Path, Floats], points: int) -> Flags:
        """Per point, whether no better placement is found when numbers have these values ([points] each)."""
        import numpy

        prices = self._priced(values, points)
        if self._is_best_at_worst(prices):
            return numpy.ones(points, dtype=bool)
        return numpy.array([self._is_best(self._at(prices, point)) for point in range(points)], dtype=bool)

    def holds_everywhere(self) -> bool:
        """Whether the placement is the best one for all values of the numbers, by the proof of the module text.

        The ends of energy prices are not proved to be such, so nothing is claimed where energy counts.
        """
        if self.table.problem.objective.energy_weight > 0:
            return False
        return self._is_best_at_worst(self._ends())

    def _is_best_at_worst(self, prices: _Prices) -> bool:
        """The proof of the module text, for a box that holds all points."""
        import numpy

        base, device, group = self.base, self.device, self.group
        own = numpy.zeros(base.price.shape, dtype=bool)
        own[numpy.arange(len(device)), device] = True
        reader = device[base.reader]
        source = device[base.producer]
        paid = numpy.zeros(base.transfer.shape, dtype=bool)
        paid[base.reader_tensor, source[base.reader_tensor], reader] = True
        apart = group[base.producer[base.reader_tensor]] != group[base.reader]
        fused = numpy.bincount(base.reader_tensor[apart], minlength=len(base.producer)) == 0
        granted = numpy.zeros(base.saving.shape, dtype=bool)
        granted[fused, source[fused]] = True
        worst = replace(
            base, price=numpy.where(own, prices.price.max(axis=2), prices.price.min(axis=2)),
            transfer=numpy.where(paid, prices.transfer.max(axis=3), prices.transfer.min(axis=3)),
            saving=numpy.where(granted, prices.saving.min(axis=2), prices.saving.max(axis=2)))
        low, high = prices.launch.min(axis=1), prices.launch.max(axis=1)
        used = numpy.isin(numpy.arange(len(low)), device)
        ends = [(first, last) if where and first < last else (first,)
                for first, last, where in zip(low.tolist(), high.tolist(), used.tolist(), strict=True)]
        if sum(len(one) > 1 for one in ends) > _LARGEST_BOX:
            return False
        return all(self._is_bound(replace(worst, launch=numpy.array(launch))) for launch in itertools.product(*ends))

    def _is_bound(self, table: PriceTable) -> bool:
        """Whether the minimum cut says that nothing is better than the placement."""
        own = objective_of(table, self.device, self.group)
        return own <= Relaxation(table).solve().value + _EQUAL * abs(own)

    def _is_best(self, table: PriceTable) -> bool:
        if self._is_bound(table):
            return True
        own = objective_of(table, self.device, self.group)
        return own <= Optimal().search(table)[0].objective + _EQUAL * abs(own)

    def _at(self, prices: _Prices, point: int) -> PriceTable:
        return replace(self.base, price=prices.price[..., point], transfer=prices.transfer[..., point],
                       saving=prices.saving[..., point], launch=prices.launch[..., point])

    def _priced(self, values: Mapping[Path, Floats], points: int) -> _Prices:
        """All prices at these values."""
        inner: dict[str, dict[Path, Any]] = {name: {} for name in self.devices.profiles}
        for path, value in values.items():
            inner.setdefault(path[0], {})[path[1:]] = value
        profiles = {name: with_values(profile, inner[name]) for name, profile in self.devices.profiles.items()}
        devices = replace(self.devices, profiles=profiles)
        price_of = _LikelyPrices(devices, self.table.problem.objective.energy_weight > 0).of
        estimates = {}
        for cluster in self.clusters:
            if cluster.name not in self.pinned:
                before = self.table.estimates[cluster.name]
                estimates[cluster.name] = replace(before, prices={device: price_of(before.items, device)
                                                                  for device in cluster.costs})
        launch = {name: _cost(devices.launch(name)) for name in profiles}
        crossings = [Crossing(tensor.name, tensor.size_bytes, tensor.producer, tensor.consumers)
                     for tensor in self.tensors
                     if all(name in estimates for name in (tensor.producer, *tensor.consumers))]
        savings = find_savings(crossings, estimates, {name: profile for name, profile in profiles.items()
                                                      if name != HOST}, price_of)
        costs = {name: {device: _cost(one) for device, one in found.prices.items()}
                 for name, found in estimates.items()}
        return self._filled(costs, savings, launch, self._drawn_transfers(values, points), points)

    def _drawn_transfers(self, values: Mapping[Path, Floats], points: int) -> dict[int, dict[tuple[str, str], Cost]]:
        """Cost of each size on each route."""
        import numpy

        hops = {link_title(hop): hop for route_hops in self.links.values() for hop in route_hops}
        paths = {title: [path for path in values if path[:2] == ("links", title)] for title in hops}
        moved = {title: [with_values(hop, {path[2:]: float(values[path][point]) for path in paths[title]})
                         for point in range(points if paths[title] else 1)] for title, hop in hops.items()}
        sizes = {self._paid(tensor) for tensor in self.tensors} - {0}
        time: dict[tuple[str, int], Any] = {
            (title, size): numpy.array([hop.time_s(size) for hop in versions])
            for title, versions in moved.items() for size in sizes}
        joules: dict[str, Any] = {title: numpy.array([hop.energy_j_per_byte.value for hop in versions])
                                  for title, versions in moved.items()}
        return {size: {ends: Cost(sum(time[link_title(hop), size] for hop in own),
                                  sum(joules[link_title(hop)] * size for hop in own))
                       for ends, own in self.links.items()} for size in sizes}

    def _paid(self, tensor: Tensor) -> int:
        return tensor.size_bytes if any(cost.time_s for cost in tensor.transfer.values()) else 0

    def _ends(self) -> _Prices:
        """All prices at the ends of their ranges, as two points."""
        import numpy

        def ends(low: float, high: float) -> Any:
            return numpy.array([low, high])

        estimates = self.table.estimates
        costs = {cluster.name: {device: Cost(ends(one.low_s, one.high_s)) for device in cluster.costs
                                for one in [estimates[cluster.name].prices[device]]}
                 for cluster in self.clusters if cluster.name not in self.pinned}
        launch = {name: Cost(ends(one.low_s, one.high_s)) for name in self.devices.profiles
                  for one in [self.devices.launch(name)]}
        transfers = {size: {pair: Cost(sum(ends(hop.time_s(size, Corner.FAST), hop.time_s(size, Corner.SLOW))
                                           for hop in hops)) for pair, hops in self.links.items()}
                     for size in {self._paid(tensor) for tensor in self.tensors} - {0}}
        savings = {tensor.name: {device: Cost(ends(*self._ends_of_saving(tensor, device, estimates)))
                                 for device in tensor.fusion_saving} for tensor in self.tensors if tensor.fusion_saving}
        return self._filled(costs, savings, launch, transfers, 2)

    def _ends_of_saving(self, tensor: Tensor, device: str,
                        estimates: Mapping[str, ClusterEstimate]) -> tuple[float, float]:
        """What a stage hides behind another is the smaller of two times; what else is saved is at most everything."""
        first = estimates[tensor.producer].prices[device]
        others = [estimates[name].prices[device] for name in tensor.consumers]
        if self.devices.profiles[device].streaming is None:
            return 0.0, first.high_s + sum(one.high_s for one in others)
        return min(first.low_s, *(one.low_s for one in others)), min(first.high_s, max(one.high_s for one in others))

    def _filled(self, costs: Mapping[str, Mapping[str, Cost]], savings: Mapping[str, Mapping[str, Cost]],
                launch: Mapping[str, Cost], transfers: Mapping[int, Mapping[tuple[str, str], Cost]],
                points: int) -> _Prices:
        """The arrays of all prices; what is not named keeps the shape and zeros of the problem."""
        import numpy

        base, number, value = self.base, self.number, self.table.problem.objective.value
        found = _Prices(numpy.repeat(base.price[..., None], points, axis=-1),
                        numpy.zeros((*base.transfer.shape, points)), numpy.zeros((*base.saving.shape, points)),
                        numpy.zeros((*base.launch.shape, points)))
        for place, cluster in enumerate(self.clusters):
            for device, cost in costs.get(cluster.name, {}).items():
                extra = self.table.shadowing.get(cluster.name, {}).get(device)
                found.price[place, number[device]] = value(cost if extra is None else cost + extra)
        for place, tensor in enumerate(self.tensors):
            for (source, target), cost in transfers.get(self._paid(tensor), {}).items():
                found.transfer[place, number[source], number[target]] = value(cost)
            if tensor.consumers:
                for device, cost in savings.get(tensor.name, {}).items():
                    found.saving[place, number[device]] = value(cost)
        for device, cost in launch.items():
            found.launch[number[device]] = value(cost)
        return found


def _cost(priced: Price) -> Cost:
    return Cost(priced.time_s, priced.energy_j)


class _LikelyPrices:
    """Likely prices alone, for profiles that may hold arrays of numbers."""

    def __init__(self, devices: DeviceSet, with_energy: bool) -> None:
        self.devices = devices
        self.with_energy = with_energy

    def of(self, items: tuple[WorkItem, ...], device: str) -> Price:
        """The price of a cluster on a device."""
        profile = self.devices.profiles[device]
        baseline = profile.baseline(self.devices.baseline_of(device))
        real = [item for item in items if not item[0].is_nothing]
        time_s = parts_of(real, profile, baseline, Corner.LIKELY).time_s
        energy_j = kernel_energy_j(real, profile, baseline, time_s) if self.with_energy and real else 0.0
        return Price(time_s, energy_j, Bound.FREE, time_s, time_s, Provenance.ASSUMED)


__all__ = ["SAMPLES", "SEED", "Robustness", "robustness", "wilson"]
