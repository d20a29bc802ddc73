"""How sure the placement is: the share of the box of all uncertain numbers in which it stays the best one found.

Every number of the devices and links in use that has a range is drawn independently and uniformly between its low and
its high end, everything is priced again, and the placement is compared with the best one for those prices. Layers that
cost the same and are placed the same are looked at once: the problem that is placed again holds one of each, everything
outside the layers, and their neighbours where the plan has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from pydantic import BaseModel

from hetcc.cost_model.price import region_launch
from hetcc.cost_model.quantity import Quantity
from hetcc.cost_model.transfer import Link, route
from hetcc.passes.estimate import HOST, CostTable, DeviceSet, PriceList
from hetcc.passes.place.finish import finish
from hetcc.passes.place.optimal import place_optimal
from hetcc.passes.savings import Crossing, find_savings
from hetcc.plan.placement import Cluster, Cost, Placement, PlacementProblem, Tensor

SAMPLES = 64
SEED = 0
_EQUAL = 1e-9
_WILSON_Z = 1.959964
_SUSPECTS = 12
"""Numbers whose both ends are tried alone: those that differ most between draws that flip and draws that do not."""
Path = tuple[str, ...]


@dataclass(frozen=True)
class Robustness:
    """How often a placement stays the best one found."""

    samples: int
    seed: int
    stays_optimal: float
    low: float
    """Wilson interval of the share at 95 %."""
    high: float
    parameters: int
    flips: tuple[tuple[str, float], ...]
    """(number, share of its range's two ends at which it alone makes another placement better), most first."""


def robustness(table: CostTable, placement: Placement, devices: DeviceSet, samples: int = SAMPLES,
               seed: int = SEED) -> Robustness:
    """The robustness of a placement; the same arguments give the same answer.

    Args:
        table: what was placed.
        placement: the one to judge.
        devices: what the table was priced for.
        samples: how many draws, at least one.
        seed: of the draws.
    """
    import numpy

    judge = _Judge(table, placement, devices)
    numbers = judge.numbers()
    draws = numpy.random.default_rng(seed).uniform(size=(samples, len(numbers)))
    values = [[one.low + (one.high - one.low) * float(share) for (_, one), share in zip(numbers, draw, strict=True)]
              for draw in draws]
    kept = [judge.stays({path: value for (path, _), value in zip(numbers, row, strict=True)}) for row in values]
    share = sum(kept) / samples
    low, high = wilson(sum(kept), samples)
    flips = _flips(judge, numbers, draws, kept)
    return Robustness(samples, seed, share, low, high, len(numbers), flips)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval of a share at 95 %."""
    share, square = successes / trials, _WILSON_Z**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _WILSON_Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _flips(judge: _Judge, numbers: Sequence[tuple[Path, Quantity]], draws: Any,
           kept: Sequence[bool]) -> tuple[tuple[str, float], ...]:
    """Numbers that flip the placement alone, everything else at its likely value."""
    import numpy

    flags = numpy.array(kept)
    if flags.all() or not numbers:
        return ()
    stay = draws[flags].mean(axis=0) if flags.any() else draws[~flags].mean(axis=0) - 1
    apart = numpy.abs(stay - draws[~flags].mean(axis=0))
    suspects = sorted(range(len(numbers)), key=lambda index: (-float(apart[index]), index))[:_SUSPECTS]
    found = []
    for index in sorted(suspects):
        path, number = numbers[index]
        flipped = sum(not judge.stays({path: end}) for end in (number.low, number.high))
        if flipped:
            found.append((".".join(path), flipped / 2))
    return tuple(sorted(found, key=lambda item: (-item[1], item[0])))


class _Judge:
    """Prices the distinct layers of a problem again and again."""

    def __init__(self, table: CostTable, placement: Placement, devices: DeviceSet) -> None:
        self.table = table
        self.devices = devices
        self.device_of = placement.device_of
        problem = table.problem
        free = self._free(problem)
        self.tensors = [self._near(tensor, free) for tensor in problem.tensors
                        if tensor.producer in free or any(name in free for name in tensor.consumers)]
        near = {name for tensor in self.tensors for name in (tensor.producer, *tensor.consumers)} - free
        self.clusters = [cluster for cluster in problem.clusters if cluster.name in free or cluster.name in near]
        self.pinned = near
        self.names = {cluster.name for cluster in self.clusters}
        self.links = self._links()

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
            for path, number in quantities(profile):
                other = path[0] == "baselines" and path[1] != chosen
                if not other and (weighs_energy or path[0] != "power"):
                    found.append(((name, *path), number))
        seen: set[str] = set()
        for hop in (hop for hops in self.links.values() for hop in hops):
            title = f"{hop.source.value}-to-{hop.destination.value}"
            if title not in seen:
                seen.add(title)
                found += [(("links", title, *path), number) for path, number in quantities(hop)
                          if weighs_energy or path[0] != "energy_j_per_byte"]
        return [(path, number) for path, number in found if number.low < number.high]

    def stays(self, values: Mapping[Path, float]) -> bool:
        """Whether no better placement is found when numbers have these values."""
        problem = self.problem(values)
        best = place_optimal(problem)
        own = finish(problem, {cluster.name: self.device_of[cluster.name] for cluster in self.clusters}, "plan",
                     -math.inf)
        return own.objective <= best.objective * (1 + _EQUAL)

    def problem(self, values: Mapping[Path, float]) -> PlacementProblem:
        """The distinct layers at other numbers."""
        profiles = {name: with_values(profile, {path[1:]: value for path, value in values.items() if path[0] == name})
                    for name, profile in self.devices.profiles.items()}
        devices = replace(self.devices, profiles=profiles)
        prices = PriceList(devices)
        estimates = {}
        clusters = []
        for cluster in self.clusters:
            if cluster.name in self.pinned:
                clusters.append(replace(cluster, costs={self.device_of[cluster.name]: Cost()}))
                continue
            before = self.table.estimates[cluster.name]
            priced = {device: prices.of(before.items, device) for device in cluster.costs}
            estimates[cluster.name] = replace(before, prices=priced)
            clusters.append(replace(cluster, costs={device: Cost(one.time_s, one.energy_j)
                                                    for device, one in priced.items()}))
        launch = {name: Cost(one.time_s, one.energy_j) for name, profile in profiles.items()
                  for one in [region_launch(profile, devices.baseline_of(name))]}
        return replace(self.table.problem, clusters=tuple(clusters), launch=launch,
                       tensors=self._tensors(values, estimates, devices, prices))

    def _tensors(self, values: Mapping[Path, float], estimates: Mapping[str, Any], devices: DeviceSet,
                 prices: PriceList) -> tuple[Tensor, ...]:
        crossings = [Crossing(tensor.name, tensor.size_bytes, tensor.producer, tensor.consumers)
                     for tensor in self.tensors
                     if all(name in estimates for name in (tensor.producer, *tensor.consumers))]
        profiles = {name: profile for name, profile in devices.profiles.items() if name != HOST}
        savings = find_savings(crossings, estimates, profiles, prices.of)
        links = {ends: tuple(_moved(hop, values) for hop in hops) for ends, hops in self.links.items()}
        known: dict[int, dict[tuple[str, str], Cost]] = {}
        found = []
        for tensor in self.tensors:
            paid = tensor.size_bytes if any(cost.time_s for cost in tensor.transfer.values()) else 0
            if paid not in known:
                known[paid] = {ends: Cost(sum(hop.time_s(paid) for hop in hops),
                                          sum(hop.energy_j_per_byte.value for hop in hops) * paid)
                               for ends, hops in links.items()}
            found.append(replace(tensor, transfer=known[paid], fusion_saving=savings.get(tensor.name, {})))
        return tuple(found)


def _moved(hop: Link, values: Mapping[Path, float]) -> Link:
    title = f"{hop.source.value}-to-{hop.destination.value}"
    moved: Link = with_values(hop, {path[2:]: value for path, value in values.items()
                                    if path[:2] == ("links", title)})
    return moved


def quantities(part: Any, path: Path = ()) -> Iterator[tuple[Path, Quantity]]:
    """Every number of a profile or link with its path, in the order of its fields."""
    if isinstance(part, Quantity):
        yield path, part
    else:
        for name, inner in _inside(part):
            yield from quantities(inner, (*path, name))


def _inside(part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, BaseModel):
        return [(name, getattr(part, name)) for name in type(part).model_fields]
    if isinstance(part, Mapping):
        return [(name.value if isinstance(name, Enum) else str(name), inner) for name, inner in part.items()]
    return [(str(place), inner) for place, inner in enumerate(part)] if isinstance(part, tuple) else []


def with_values(part: Any, values: Mapping[Path, float]) -> Any:
    """The profile or link with other likely values at these paths; what does not change is not copied."""
    if not values:
        return part
    if isinstance(part, Quantity):
        return part.model_copy(update={"value": values[()]})
    changed = {}
    for name, inner in _inside(part):
        own = {path[1:]: value for path, value in values.items() if path[0] == name}
        if own:
            changed[name] = with_values(inner, own)
    if isinstance(part, BaseModel):
        return part.model_copy(update=changed)
    if isinstance(part, Mapping):
        return {key: changed.get(key.value if isinstance(key, Enum) else str(key), inner)
                for key, inner in part.items()}
    return tuple(changed.get(str(place), inner) for place, inner in enumerate(part))
