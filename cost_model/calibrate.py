"""Fits a device profile to measured times.

What is fitted is what plans are priced with: the predicted time of an observation is the launch of its region and the
prices of its clusters, by ``gpu.kernel_parts``. Three stages, each with the numbers of the ones before held fixed:

1. launches, from the class with the smallest programs that differ in how many they are;
2. bandwidths of memory and cache, the usable share of the cache, overlap and padding of products, from the class that
   moves the most bytes;
3. per class the fractions, the latency, the share in what the cache gains, and the curve over sizes, whose points are
   spread over the sizes observed.

Each stage is a least-squares fit of logarithms, ``log(predicted / measured)``, with a loss that grows linearly with
outliers (``scipy.optimize.least_squares``, soft L1) and weak priors: time grows linearly with bytes, latency is small.
Exponents of curves are never negative, so that predictions stay monotone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy

from hetcc.cost_model.device import Device
from hetcc.cost_model.draft import ClassDraft, Draft, Facts, device_of
from hetcc.cost_model.parts import MATRIX_CLASSES, WorkItem
from hetcc.cost_model.price import parts_of
from hetcc.cost_model.profile import PROJECTION
from hetcc.cost_model.quantity import Corner
from hetcc.errors import UserError
from hetcc.ir import OperatorClass

Cluster = tuple[WorkItem, ...]
_MATRIX = frozenset({PROJECTION, *(item.value for item in MATRIX_CLASSES)})
_POINTS = 12
_PRIOR_WEIGHT = 0.03
_SAME_INTENSITY = 1.3
_LEAST_EXPONENT = 0.01
"""Times of two sizes differ at least so much that the digits written to a file keep their order."""
_STEP = 1e-3
"""Of finite differences: numbers of a profile have six digits, so much smaller steps would show nothing."""
_MOST_STEPS = 40
_FEW_STEPS = 6
_USABLE_SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
_OUTLIER = 0.1
"""Relative error from which on an observation counts as an outlier."""


@dataclass(frozen=True)
class Observation:
    """A measured time of a program."""

    kind: str
    """Class that the program measures."""
    name: str
    clusters: tuple[Cluster, ...]
    time_s: float
    spread: float = 0.0
    """Of the repeats, relative."""

    @cached_property
    def counted(self) -> tuple[tuple[Cluster, int], ...]:
        """Distinct clusters and how often each is run."""
        keys = {_key(cluster): cluster for cluster in self.clusters if cluster}
        counts = Counter(_key(cluster) for cluster in self.clusters if cluster)
        return tuple((cluster, counts[key]) for key, cluster in keys.items())

    @property
    def launches(self) -> int:
        """How many kernels are launched."""
        return sum(count for _, count in self.counted)

    @property
    def bytes_moved(self) -> int:
        """By all clusters."""
        return sum(count * work.bytes_moved for cluster, count in self.counted for work, _, _ in cluster)

    @property
    def flops(self) -> int:
        """By all clusters."""
        return sum(count * work.flops for cluster, count in self.counted for work, _, _ in cluster)


def fit_profile(observations: Sequence[Observation], facts: Facts) -> Draft:
    """The numbers of a profile.

    Args:
        observations: to be fitted; those held out must not be among them.
        facts: names, and what no measurement shows.

    Raises:
        UserError: HET-M003, nothing was measured, or a time is not positive and finite.
    """
    if not observations:
        raise UserError("HET-M003", "nothing was measured", fix="calibrate at least one operator class")
    for one in observations:
        if not (math.isfinite(one.time_s) and one.time_s > 0.0):
            raise UserError("HET-M003", f"'{one.name}' took {one.time_s} s", fix="measure again")
    by_kind: dict[str, list[Observation]] = {}
    for one in observations:
        by_kind.setdefault(one.kind, []).append(one)
    draft = _started(by_kind)
    # Two programs with as little work as possible and different numbers of launches tell both launches.
    least = min(sorted(by_kind), key=lambda kind: (len({one.launches for one in by_kind[kind]}) < 2, min(
        one.bytes_moved / max(one.launches, 1) for one in by_kind[kind])))
    draft = _within_all(_fit_launches(draft, by_kind[least], facts), observations)
    most = max(by_kind, key=lambda kind: (kind == PROJECTION, max(one.bytes_moved for one in by_kind[kind])))
    draft = _fit_memory(draft, most, by_kind[most], facts)
    for kind, found in by_kind.items():
        if kind != most:
            draft = _fit_class(draft, kind, found, facts)
    device = device_of(draft, facts)
    # What the form of the model cannot follow is as unsure as what the repeats scatter.
    misfits = {kind: float(numpy.mean([abs(math.log(predicted_s(one, device) / one.time_s)) for one in found]))
               for kind, found in by_kind.items()}
    return replace(draft, classes={kind: replace(one, spread=max(one.spread, misfits[kind]))
                                   for kind, one in draft.classes.items()})


def predicted_s(observation: Observation, device: Device) -> float:
    """What the profile says the observation takes."""
    baseline = device.baseline()
    total = baseline.region_launch_s.value
    for cluster, count in observation.counted:
        total += count * parts_of(cluster, device, baseline, Corner.LIKELY).time_s
    return total


def _started(by_kind: Mapping[str, Sequence[Observation]]) -> Draft:
    """Where the fit starts: the best rates seen. The peaks stay; fractions are relative to them."""
    everything = [one for found in by_kind.values() for one in found]
    rates = {matrix: max((one.flops / one.time_s for kind, found in by_kind.items() for one in found
                          if (kind in _MATRIX) == matrix), default=0.0) for matrix in (True, False)}
    best = max(*rates.values(), 1.0)
    bandwidth = max((one.bytes_moved / one.time_s for one in everything), default=1.0)
    fastest = min(one.time_s / (one.launches + 2) for one in everything)
    return Draft(max(bandwidth, 1.0) / 2, max(bandwidth, 1.0), region_s=fastest, launch_s=fastest / 2,
                 matrix_flops=rates[True] or best, vector_flops=rates[False] or best,
                 spread=float(numpy.median([one.spread for one in everything])))


def _fit_launches(draft: Draft, found: Sequence[Observation], facts: Facts) -> Draft:
    """Launch of a region and of a kernel, with a plain bandwidth for what the smallest class does beside."""
    def build(numbers: numpy.ndarray) -> Draft:
        region, launch, rate = (math.exp(number) for number in numbers)
        kind = found[0].kind
        return replace(draft, region_s=region, launch_s=launch, bandwidth=rate, cache_bandwidth=rate,
                       classes={kind: ClassDraft(1.0, 1e3)})

    start = [math.log(draft.region_s), math.log(draft.launch_s), math.log(draft.bandwidth)]
    fitted = build(_solve(build, found, start, [(-math.inf, math.inf)] * 3, facts))
    return replace(draft, region_s=fitted.region_s, launch_s=fitted.launch_s)


def _within_all(draft: Draft, observations: Sequence[Observation]) -> Draft:
    """Launches no longer than any program leaves room for; what a class needs beyond them is its latency."""
    region = min(draft.region_s, *(one.time_s for one in observations))
    rooms = [(one.time_s - region) / one.launches for one in observations if one.launches and one.time_s > region]
    return replace(draft, region_s=region, launch_s=min(draft.launch_s, *rooms))


def _fit_memory(draft: Draft, kind: str, found: Sequence[Observation], facts: Facts) -> Draft:
    """What all classes share, from the class that moves the most; its own fraction and its share in the cache are
    1 by definition.

    The error has steps over the usable share of the cache, where another working set fits. So shares are tried in turn.
    """
    shape = _Shape.of(kind, found, draft)
    own = slice(2, None)  # its fraction and its share in the cache are 1
    start = [math.log(draft.bandwidth), math.log(2.0), math.log(3.0), math.log(1.5), *shape.start[own]]
    limits = [(-math.inf, math.inf), (0.0, math.log(20.0)), (0.0, math.log(8.0)), (0.0, math.log(8.0)),
              *shape.limits[own]]

    def build_for(usable: float) -> Callable[[numpy.ndarray], Draft]:
        def build(numbers: numpy.ndarray) -> Draft:
            bandwidth, ratio, overlap, granule = (math.exp(number) for number in numbers[:4])
            shared = replace(draft, bandwidth=bandwidth, cache_bandwidth=bandwidth * ratio, usable=usable,
                             overlap=overlap, granule=granule)
            return replace(shared, classes={kind: shape.drafted([0.0, 1.0, *numbers[4:]], found)})

        return build

    tried = [(*_solved(build_for(usable), found, start, limits, facts, most=_FEW_STEPS), usable)
             for usable in _USABLE_SHARES]
    usable = min(tried, key=lambda entry: entry[0])[2]
    return _rescaled(build_for(usable)(_solve(build_for(usable), found, start, limits, facts)), kind)


def _rescaled(draft: Draft, kind: str) -> Draft:
    """The same times, with bandwidths that are those of the largest size observed and not of some smaller one."""
    one = draft.classes[kind]
    share = one.bandwidth_fraction * (one.sizes[-1][1] if one.sizes else 1.0)
    return replace(draft, bandwidth=draft.bandwidth * share, cache_bandwidth=draft.cache_bandwidth * share,
                   classes={kind: replace(one, bandwidth_fraction=one.bandwidth_fraction / share)})


def _fit_class(draft: Draft, kind: str, found: Sequence[Observation], facts: Facts) -> Draft:
    shape = _Shape.of(kind, found, draft)

    def build(numbers: numpy.ndarray) -> Draft:
        return replace(draft, classes={kind: shape.drafted(list(numbers), found)})

    fitted = build(_solve(build, found, shape.start, shape.limits, facts))
    return replace(draft, classes={**draft.classes, **fitted.classes})


@dataclass(frozen=True)
class _Shape:
    """Which numbers of a class are free: fraction, share in the cache, latency, arithmetic if it can be told apart, and
    the exponents of the curve.
    """

    points: tuple[int, ...]
    separable: bool
    compute_fraction: float
    """Where arithmetic cannot be told apart: twice the best rate seen, so that it decides nothing."""
    start: list[float]
    limits: list[tuple[float, float]]
    unit_s: float
    """Latencies are counted in this."""

    @classmethod
    def of(cls, kind: str, found: Sequence[Observation], draft: Draft) -> _Shape:
        sizes = sorted({work.bytes_moved for one in found for cluster, _ in one.counted for work, operator, _ in cluster
                        if work.bytes_moved and _is(kind, operator)})
        points = _spread_over(sizes)
        ratios = [one.flops / max(one.bytes_moved, 1) for one in found]
        separable = min(ratios) > 0.0 and max(ratios) > _SAME_INTENSITY * min(ratios)
        peak = draft.matrix_flops if kind in _MATRIX else draft.vector_flops
        rate = max(one.flops / one.time_s for one in found) / peak
        rate = rate if rate > 0.0 else 1.0
        exponents = max(len(points) - 1, 0)
        start = [0.0, 1.0, 0.1, *([math.log(rate)] if separable else []), *([1.0] * exponents)]
        limits = [(-math.inf, math.inf), (0.0, 1.0), (0.0, math.inf), *([(-math.inf, math.inf)] if separable else []),
                  *([(_LEAST_EXPONENT, 3.0)] * exponents)]
        return cls(points, separable, 2.0 * rate, start, limits, draft.launch_s)

    def drafted(self, numbers: Sequence[float], found: Sequence[Observation]) -> ClassDraft:
        """The class at these numbers. Factors follow from exponents: times from point to point are powers of size."""
        fraction, share, latency, *rest = (float(number) for number in numbers)
        compute = math.exp(rest.pop(0)) if self.separable else self.compute_fraction
        factors = [1.0] * min(len(self.points), 1)
        for (lower, upper), exponent in zip(zip(self.points[:-1], self.points[1:], strict=True), rest, strict=True):
            factors.append(factors[-1] * (upper / lower) ** (1.0 - exponent))
        top = max(factors, default=1.0)
        sizes = tuple((at, factor / top) for at, factor in zip(self.points, factors, strict=True))
        spread = float(numpy.median([one.spread for one in found]))
        return ClassDraft(math.exp(fraction) * top, compute, latency * self.unit_s, share, sizes, spread,
                          self.separable)


def _is(kind: str, operator: OperatorClass) -> bool:
    return operator.value == kind or (kind == PROJECTION and operator is OperatorClass.MATMUL)


def _spread_over(sizes: Sequence[int]) -> tuple[int, ...]:
    """A few of the sizes, about evenly in their logarithm; all if they are few."""
    count = min(_POINTS, len(sizes))
    if count < 2:
        return ()
    wanted = numpy.geomspace(sizes[0], sizes[-1], count)
    return tuple(sorted({min(sizes, key=lambda size: abs(math.log(size / at))) for at in wanted}))


def _solve(build: Callable[[numpy.ndarray], Draft], found: Sequence[Observation], start: Sequence[float],
           limits: Sequence[tuple[float, float]], facts: Facts) -> numpy.ndarray:
    """The numbers with the least error."""
    return _solved(build, found, start, limits, facts)[1]


def _solved(build: Callable[[numpy.ndarray], Draft], found: Sequence[Observation], start: Sequence[float],
            limits: Sequence[tuple[float, float]], facts: Facts,
            most: int = _MOST_STEPS) -> tuple[float, numpy.ndarray]:
    """The least error and its numbers; where the observations leave a number open, it stays where it started."""
    from scipy.optimize import least_squares

    wished = numpy.asarray(start, dtype=float)
    low, high = (numpy.asarray(ends, dtype=float) for ends in zip(*limits, strict=True))
    measured = numpy.log([one.time_s for one in found])

    def residuals(numbers: numpy.ndarray) -> numpy.ndarray:
        device = device_of(build(numbers), facts)
        errors = numpy.log([predicted_s(one, device) for one in found]) - measured
        return numpy.concatenate([errors, _PRIOR_WEIGHT * (numbers - wished)])

    def slopes(numbers: numpy.ndarray) -> numpy.ndarray:
        # All numbers are logarithms, exponents or counts of launches: one step suits them all.
        here, columns = residuals(numbers), []
        for place in range(len(numbers)):
            step = _STEP if numbers[place] + _STEP <= high[place] else -_STEP
            moved = numbers.copy()
            moved[place] += step
            columns.append((residuals(moved) - here) / step)
        return numpy.stack(columns, axis=1)

    inside = numpy.clip(wished, low + 1e-6, high - 1e-6)
    solution = least_squares(residuals, inside, jac=slopes, bounds=(low, high), loss="soft_l1", f_scale=_OUTLIER,
                             max_nfev=most, xtol=1e-5, ftol=1e-6)
    return float(solution.cost), solution.x


def _key(cluster: Cluster) -> tuple[object, ...]:
    """Equal for clusters with equal prices."""
    return tuple((work, work.product, work.recent, operator_class, dtype) for work, operator_class, dtype in cluster)


__all__ = ["Cluster", "Observation", "fit_profile", "predicted_s"]
