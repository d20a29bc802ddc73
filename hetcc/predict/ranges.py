"""Figures of a plan with their ranges.

All numbers of one device move together: at its fast end every number of the device is at the end that makes it faster,
at its slow end at the other. Devices and the link move independently of each other. So the time of a plan is a sum with
one term per device and one for the link, its range is the sum of their ranges, and the range of a ratio of two plans,
which share the same devices, is that over all combinations of ends: each device is equally fast in both plans. Ratios
of such sums are monotone in each term, so no extreme lies between the ends. A fusion saving moves with the time of the
cluster it is saved from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hetcc.cost_model.price import Price, reconfiguration
from hetcc.cost_model.transfer import route, transfer
from hetcc.passes.estimate import CostTable, DeviceSet
from hetcc.plan.placement import Placement

LINK = "link"
Ends = tuple[float, float, float]
"""Low, likely, high."""
_LIKELY = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A predicted number with its range."""

    likely: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """``{"likely": ..., "low": ..., "high": ...}``."""
        return {"likely": self.likely, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Terms:
    """What a plan takes, by device and link: low, likely, high."""

    time_s: Mapping[str, Ends]
    energy_j: Mapping[str, Ends]
    rest_s: Mapping[str, Ends]
    """The part of the time that is not memory processing: clusters outside the tagged stages and the launches that the
    GPU-only plan needs too. What a placement adds in launches and transfers counts as memory processing."""


class _Sum:
    def __init__(self) -> None:
        self.terms: dict[str, list[float]] = {}

    def add(self, where: str, ends: Ends, factor: float = 1.0) -> None:
        term = self.terms.setdefault(where, [0.0, 0.0, 0.0])
        for index, value in enumerate(ends):
            term[index] += factor * value

    def done(self) -> dict[str, Ends]:
        return {where: (term[0], term[1], term[2]) for where, term in self.terms.items()}


def terms_of(table: CostTable, placement: Placement, gpu_only: Placement, devices: DeviceSet) -> Terms:
    """The terms of one plan; their likely sum is the plan's predicted cost."""
    time, energy, rest = _Sum(), _Sum(), _Sum()
    problem = table.problem
    for name, device in placement.device_of.items():
        found = table.estimates[name]
        priced = found.prices[device]
        time.add(device, times(priced))
        energy.add(device, energies(priced))
        if found.group.stage is None:
            rest.add(device, times(priced))
    for plan, factor_of in ((placement, (time, energy)), (gpu_only, (rest, None))):
        for region in plan.regions:
            launch = devices.launch(region.device)
            factor_of[0].add(region.device, times(launch))
            if factor_of[1] is not None:
                factor_of[1].add(region.device, energies(launch))
    _add_loads(placement, devices, time, energy)
    region_of = placement.region_of
    for tensor in problem.tensors:
        home = region_of[tensor.producer]
        places = [region_of[name] for name in tensor.consumers]
        saving = tensor.fusion_saving.get(home.device)
        if saving is not None and places and all(place is home for place in places):
            priced = table.estimates[tensor.producer].prices[home.device]
            time.add(home.device, _alongside(saving.time_s, times(priced)), -1.0)
            energy.add(home.device, _alongside(saving.energy_j, energies(priced)), -1.0)
        for target in sorted({place.device for place in places} - {home.device}):
            paid = tensor.size_bytes if tensor.transfer[home.device, target].time_s else 0
            copy = transfer(home.device, target, paid, links=devices.links)
            hops = route(home.device, target, links=devices.links)
            time.add(LINK, (copy.low_s, copy.time_s, copy.high_s))
            energy.add(LINK, (paid * sum(hop.energy_j_per_byte.low for hop in hops), copy.energy_j,
                              paid * sum(hop.energy_j_per_byte.high for hop in hops)))
    return Terms(time.done(), energy.done(), rest.done())


def _add_loads(placement: Placement, devices: DeviceSet, time: _Sum, energy: _Sum) -> None:
    """Loads of other kernels, on the device that is loaded."""
    spent_s = placement.reconfiguration.time_s
    if not spent_s:
        return
    name, load = next((name, load) for name, profile in devices.profiles.items()
                      if (load := reconfiguration(profile)).time_s)
    time.add(name, times(load), spent_s / load.time_s)
    energy.add(name, energies(load), spent_s / load.time_s)


def times(priced: Price) -> Ends:
    """Low, likely and high time of a price."""
    return priced.low_s, priced.time_s, priced.high_s


def energies(priced: Price) -> Ends:
    """Low, likely and high energy of a price."""
    return priced.low_j, priced.energy_j, priced.high_j


def _alongside(saving: float, ends: Ends) -> Ends:
    """The saving at each end, moving with what it is saved from."""
    if ends[_LIKELY] == 0:
        return saving, saving, saving
    return saving * ends[0] / ends[1], saving, saving * ends[2] / ends[1]


def figure(value: Callable[[Callable[[Mapping[str, Ends]], float]], float], *terms: Mapping[str, Ends]) -> Figure:
    """A figure over all combinations of ends.

    Args:
        value: computes the figure from a function that adds up terms at one combination.
        terms: everything the figure depends on, to know which devices occur.
    """
    places = sorted({where for one in terms for where in one})
    found = []
    for ends in itertools.product((0, 2), repeat=len(places)):
        found.append(value(_adder(dict(zip(places, ends, strict=True)))))
    likely = value(_adder(dict.fromkeys(places, _LIKELY)))
    return Figure(likely, min([likely, *found]), max([likely, *found]))


def _adder(at: Mapping[str, int]) -> Callable[[Mapping[str, Ends]], float]:
    """Adds up terms, each at the end its device is at."""
    return lambda terms: sum(term[at[where]] for where, term in terms.items())


def ratio(above: float, below: float) -> float:
    """``above / below``; 1 when both are nothing."""
    return above / below if below else (1.0 if not above else float("inf"))
