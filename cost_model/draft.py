"""A device profile while it is being fitted: plain numbers, which become a profile with intervals and sources."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hetcc.cost_model.profile import DEFAULT, Device, Power
from hetcc.cost_model.quantity import Provenance, Quantity

MEASURED_BASELINE = "measured"


@dataclass(frozen=True)
class Facts:
    """What a fit does not find: names, and the profile that lends what no microbenchmark shows."""

    name: str
    title: str
    source: str
    """Command and machine, for every measured number."""
    date: datetime.date
    template: Device
    """Capacity, power and, unless ``on_chip_bytes`` is given, the size of the cache come from here, as assumed."""
    code_target: str = ""
    on_chip_bytes: int = 0
    """Size of the last-level cache; 0: that of the template."""
    compute_units: int = 1

    @cached_property
    def power(self) -> Power:
        """What the template says of power, said to be assumed."""
        return Power.model_validate(_lent(self.template.power.model_dump(mode="json"), self))

    @cached_property
    def capacity(self) -> Quantity:
        """The template's memory capacity, said to be assumed."""
        return Quantity.model_validate(_lent(self.template.memory.capacity_bytes.model_dump(mode="json"), self))

    @property
    def cache_bytes(self) -> int:
        """Size of the last-level cache."""
        return self.on_chip_bytes or int(self.template.memory.on_chip_bytes.value)


@dataclass(frozen=True)
class ClassDraft:
    """One operator class; fields as in ``profile.Achieved``."""

    bandwidth_fraction: float = 1.0
    compute_fraction: float = 1.0
    latency_s: float = 0.0
    cache_share: float = 1.0
    sizes: tuple[tuple[int, float], ...] = ()
    """(bytes, factor) of ``bandwidth_by_size``."""
    spread: float = 0.0
    """Half width of the intervals, relative."""
    separable: bool = True
    """False: arithmetic could not be told apart from traffic; its fraction is an upper bound."""
    measured: bool = True


@dataclass(frozen=True)
class Draft:
    """All numbers that are fitted."""

    bandwidth: float
    cache_bandwidth: float
    usable: float = 0.5
    overlap: float = 4.0
    region_s: float = 0.0
    launch_s: float = 0.0
    matrix_flops: float = 1.0
    vector_flops: float = 1.0
    granule: float = 1.0
    """Rows that a product with fewer is padded to."""
    classes: Mapping[str, ClassDraft] = field(default_factory=dict)
    spread: float = 0.0
    """Half width of the intervals of what all classes share, relative."""


def profile_data(draft: Draft, facts: Facts) -> dict[str, Any]:
    """The profile as ``Device`` reads it; written to a file it is a profile like any other."""
    found = _data(draft, facts)
    found["power"] = facts.power.model_dump(mode="json")
    found["memory"]["capacity_bytes"] = facts.capacity.model_dump(mode="json")
    return found


def device_of(draft: Draft, facts: Facts) -> Device:
    """The profile."""
    return Device.model_validate(_data(draft, facts))


def _data(draft: Draft, facts: Facts) -> dict[str, Any]:
    """The profile; what does not depend on the draft is there as records, which are not checked again."""
    shared = _Numbers(facts, draft.spread)
    launch = shared.of(draft.launch_s, "s")
    return {
        "schema": "hetcc-device/1", "name": facts.name, "title": facts.title, "kind": "gpu",
        "code_target": facts.code_target, "default_baseline": MEASURED_BASELINE,
        "compute_units": shared.exactly(facts.compute_units, "1", "as compiled and run"),
        "memory": _memory(draft, facts, shared),
        "matrix_flops_per_s": {"float32": shared.of(draft.matrix_flops, "flop/s")},
        "vector_flops_per_s": {"float32": shared.of(draft.vector_flops, "flop/s")},
        "power": facts.power,
        "baselines": {MEASURED_BASELINE: {
            "description": "What code that hetcc generates reaches on this device, fitted to microbenchmarks",
            "kernel_launch_s": launch, "region_launch_s": shared.of(draft.region_s, "s"),
            "overlap_exponent": shared.exactly(draft.overlap, "1", facts.source),
            "tiles": {name: shared.exactly(value, "1", facts.source) for name, value in (
                ("rows", max(draft.granule, 1.0)), ("columns", 1.0), ("granule", draft.granule), ("split_depth", 1.0),
                ("ramp", 1.0))},
            "achieved": {name: _achieved(one, facts) for name, one in sorted(_with_default(draft).items())},
        }},
    }


def _with_default(draft: Draft) -> dict[str, ClassDraft]:
    """Classes that were not measured get the slowest fractions of those that were: a guess on the safe side."""
    classes = dict(draft.classes)
    if DEFAULT not in classes:
        known = list(classes.values()) or [ClassDraft()]
        classes[DEFAULT] = ClassDraft(min(one.bandwidth_fraction for one in known),
                                      min(one.compute_fraction for one in known),
                                      spread=1.0, measured=False)
    return classes


def _memory(draft: Draft, facts: Facts, shared: _Numbers) -> dict[str, Any]:
    cache = facts.cache_bytes
    source = "size that the operating system names" if facts.on_chip_bytes else "that of the template"
    return {
        "capacity_bytes": facts.capacity,
        "bandwidth_bytes_per_s": shared.of(draft.bandwidth, "B/s"),
        "on_chip_bytes": shared.exactly(cache, "B", source),
        "on_chip_bandwidth_bytes_per_s": shared.of(draft.cache_bandwidth, "B/s"),
        "on_chip_usable_fraction": shared.of(draft.usable, "1"),
    }


def _achieved(one: ClassDraft, facts: Facts) -> dict[str, Any]:
    numbers = _Numbers(facts, one.spread, one.measured)
    arithmetic = _Numbers(facts, max(one.spread, 0.0 if one.separable else 1.0), one.measured and one.separable)
    found: dict[str, Any] = {"bandwidth_fraction": numbers.of(one.bandwidth_fraction, "1"),
                             "compute_fraction": arithmetic.of(one.compute_fraction, "1")}
    if one.latency_s > 0.0:
        found["latency_s"] = numbers.of(one.latency_s, "s")
    if one.cache_share < 1.0:
        found["cache_share"] = numbers.exactly(one.cache_share, "1", facts.source)
    if one.sizes:
        # The interval of the fraction holds for all sizes; one per point as well would count the same spread twice.
        found["bandwidth_by_size"] = [{"at": at, "factor": numbers.exactly(factor, "1", facts.source)}
                                      for at, factor in one.sizes]
    return found


def _lent(data: Any, facts: Facts) -> Any:
    """Numbers of the template, said to be assumed."""
    if isinstance(data, dict) and "value" in data:
        return {**data, "kind": Provenance.ASSUMED.value, "date": facts.date.isoformat(),
                "source": f"not measured; that of '{facts.template.name}': {data['source']}"}
    return {key: _lent(value, facts) for key, value in data.items()} if isinstance(data, dict) else data


@dataclass(frozen=True)
class _Numbers:
    """Quantities with one provenance and one relative interval."""

    facts: Facts
    spread: float
    measured: bool = True

    def of(self, value: float, unit: str) -> dict[str, Any]:
        """A number and its interval; six digits."""
        wide = 1.0 + self.spread
        return self._quantity(value, value / wide, value * wide, unit, self.facts.source if self.measured
                              else "not told apart by a measurement; " + self.facts.source)

    def exactly(self, value: float, unit: str, source: str) -> dict[str, Any]:
        """A number without an interval."""
        return self._quantity(value, value, value, unit, source)

    def _quantity(self, value: float, low: float, high: float, unit: str, source: str) -> dict[str, Any]:
        kind = Provenance.MEASURED if self.measured else Provenance.ASSUMED
        return {"value": _digits(value), "unit": unit, "low": _digits(low), "high": _digits(high), "kind": kind.value,
                "source": source, "date": self.facts.date.isoformat()}


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


__all__ = ["MEASURED_BASELINE", "ClassDraft", "Draft", "Facts", "device_of", "profile_data"]
