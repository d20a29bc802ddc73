"""How well a fitted profile does on sizes that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

LEAST_TARGET = 0.1
SPREAD_FACTOR = 1.5
ROOFLINE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Residual:
    """One case: measured, and predicted twice."""

    kind: str
    name: str
    fitted: bool
    time_s: float
    spread: float
    predicted_s: float
    roofline_s: float

    @property
    def error(self) -> float:
        """Of the profile: (predicted - measured) / measured."""
        return self.predicted_s / self.time_s - 1.0

    @property
    def roofline_error(self) -> float:
        """The same of the roofline."""
        return self.roofline_s / self.time_s - 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """The held-out sizes of one class."""

    kind: str
    fitted: int
    """Sizes in the fit."""
    held: int
    """Sizes held out; the errors are theirs."""
    error: float
    """Mean of the absolute relative errors."""
    worst: float
    roofline_error: float
    spread: float
    """Median over the cases of the spread of the repeats."""

    @property
    def target(self) -> float:
        """What the error should not exceed: a tenth, or one and a half spreads if that is more."""
        return max(LEAST_TARGET, SPREAD_FACTOR * self.spread)

    @property
    def within_target(self) -> bool:
        """Whether it does not."""
        return self.error <= self.target

    @property
    def halves_roofline(self) -> bool:
        """Whether the error is at most half of the roofline's."""
        return self.error <= ROOFLINE_SHARE * self.roofline_error


def checks_of(residuals: Sequence[Residual]) -> tuple[Check, ...]:
    """Per class with held-out sizes, in the order of the cases."""
    found = []
    for kind in dict.fromkeys(one.kind for one in residuals):
        of_kind = [one for one in residuals if one.kind == kind]
        held = [one for one in of_kind if not one.fitted]
        if not held:
            continue
        errors = [abs(one.error) for one in held]
        found.append(Check(kind, len(of_kind) - len(held), len(held), float(numpy.mean(errors)), max(errors),
                           float(numpy.mean([abs(one.roofline_error) for one in held])),
                           float(numpy.median([one.spread for one in held]))))
    return tuple(found)


__all__ = ["Check", "Residual", "checks_of"]
