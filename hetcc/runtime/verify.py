"""Comparing a run with the reference: numbers, selections, and where the work ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy

from hetcc.errors import UserError
from hetcc.plan.plan import RegionSpec
from hetcc.runtime.session import Session
from hetcc.runtime.trace import Coverage, RunTrace

RELATIVE_TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}
_MASKED = -1e30
_SCORE_ROUNDING = 1e-4


@dataclass(frozen=True)
class PolicyLimits:
    """What a numeric policy that somebody asked for may change."""

    relative: float
    """Of outputs, over the largest magnitude; entries chosen otherwise change them too."""
    score: float
    """Of scores: entries so near to the last one chosen may change places."""


POLICY_LIMITS = {
    "exact": PolicyLimits(0.0, _SCORE_ROUNDING), "quantised:int16": PolicyLimits(2e-2, 4e-3),
    "quantised:bf16": PolicyLimits(2e-1, 6e-2), "quantised:int8": PolicyLimits(4e-1, 3e-1)}
"""Scores: twice the largest errors in docs/fpga_stages.md of data without heavy tails, over the largest score."""


class SelectionLike(Protocol):
    """Scores and chosen indices of one selection."""

    scores: numpy.ndarray
    indices: numpy.ndarray


class StepLike(Protocol):
    """One step of a reference run."""

    inputs: Mapping[str, numpy.ndarray]
    outputs: Mapping[str, numpy.ndarray]
    selections: Mapping[str, SelectionLike]


class RunLike(Protocol):
    """Caches to begin with, and steps."""

    caches: Mapping[str, numpy.ndarray]
    steps: tuple[StepLike, ...]


@dataclass(frozen=True)
class SelectionComparison:
    """How many selections agree."""

    compared: int = 0
    equal: int = 0
    ties: int = 0
    """Entries chosen differently whose scores are equal to rounding."""
    wrong: int = 0
    """Entries chosen differently for no such reason."""

    def __add__(self, other: SelectionComparison) -> SelectionComparison:
        return SelectionComparison(self.compared + other.compared, self.equal + other.equal, self.ties + other.ties,
                                   self.wrong + other.wrong)


@dataclass(frozen=True)
class Verification:
    """The outcome for one phase."""

    phase: str
    steps: int
    relative_error: float
    tolerance: float
    selections: SelectionComparison
    coverage: Coverage
    engines: Mapping[str, str]
    """What executed each device's regions, said as it is."""
    measured_time_s: float
    missing_outputs: tuple[str, ...] = ()
    simulated_runs: int = 0
    """How often a kernel ran in simulated hardware, all steps together."""
    simulated_cycles: int = 0
    """Cycles of these runs."""
    doorbell_runs: int = 0
    """How many of these runs were asked for by a doorbell; the others by ap_start."""
    doorbell_cycles: int = 0
    """What of the cycles is from doorbells to their answers; the others are from ap_start to the interrupt."""

    @property
    def passed(self) -> bool:
        """Whether numbers, selections and coverage are all as they must be."""
        close = self.relative_error <= self.tolerance
        return close and not self.selections.wrong and not self.coverage.problems and not self.missing_outputs

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "phase": self.phase, "passed": self.passed, "steps": self.steps, "relative_error": self.relative_error,
            "tolerance": self.tolerance,
            "selections": {"compared": self.selections.compared, "equal": self.selections.equal,
                           "ties": self.selections.ties, "wrong": self.selections.wrong},
            "coverage": self.coverage.to_json(), "engines": dict(self.engines),
            "measured_time_s": self.measured_time_s,
            "simulated": {"kernel_runs": self.simulated_runs, "cycles": self.simulated_cycles,
                          "doorbell_runs": self.doorbell_runs, "doorbell_cycles": self.doorbell_cycles},
        }

    def require(self) -> None:
        """Refuse a run that differs.

        Raises:
            UserError: HET-R001 different numbers or selections, HET-R003 too little coverage.
        """
        self.coverage.require(self.phase)
        if not self.relative_error <= self.tolerance:
            raise UserError("HET-R001", f"{self.phase} differs by {self.relative_error:.2e} relative, limit "
                            f"{self.tolerance:.0e}", where=self.phase,
                            fix="bisect with --place to see which region is wrong, and report it")
        if self.selections.wrong or self.missing_outputs:
            raise UserError("HET-R001", f"{self.phase} selected {self.selections.wrong} entries that the reference did "
                            f"not; {len(self.missing_outputs)} outputs are missing", where=self.phase,
                            fix="bisect with --place to see which region is wrong, and report it")


def verify_phase(session: Session, phase: str, reference: RunLike) -> Verification:
    """Run the reference's steps on the bundle, from the reference's caches, and compare every step."""
    limits = limits_of(session.plan.phase(phase).regions)
    for name, content in reference.caches.items():
        if name in session.cache_device:
            session.write_cache(name, content)
    worst = 0.0
    selections = SelectionComparison()
    traces: list[RunTrace] = []
    missing: set[str] = set()
    for step in reference.steps:
        trace = session.run(phase, step.inputs)
        traces.append(trace)
        for name, expected in step.outputs.items():
            if name not in trace.outputs:
                missing.add(name)
                continue
            worst = max(worst, relative_error(trace.outputs[name], expected))
        for name, chosen in trace.observed.items():
            found = step.selections.get(name)
            if found is None:
                missing.add(name)
            else:
                selections = selections + compare_selection(chosen, found, limits.score)
    dtype = session.plan.dtype
    engines = {record.device: record.engine for trace in traces for record in trace.records if record.engine}
    tolerance = max(RELATIVE_TOLERANCE.get(dtype, 1e-4), limits.relative)
    return Verification(phase, len(traces), worst, tolerance, selections,
                        traces[-1].coverage(), engines, sum(trace.measured_time_s for trace in traces),
                        tuple(sorted(missing)), *simulated_in(traces))


def simulated_in(traces: Iterable[RunTrace]) -> tuple[int, int, int, int]:
    """Runs in simulated hardware and their cycles; then those of doorbells alone."""
    records = [record for trace in traces for record in trace.records if record.simulated_cycles]
    rung = [record.simulated_cycles for record in records if record.by_doorbell]
    return len(records), sum(record.simulated_cycles for record in records), len(rung), sum(rung)


def limits_of(regions: Iterable[RegionSpec]) -> PolicyLimits:
    """The widest limits of the policies that regions were made with."""
    found = [POLICY_LIMITS["exact"], *(POLICY_LIMITS[region.policy] for region in regions)]
    return PolicyLimits(max(one.relative for one in found), max(one.score for one in found))


def relative_error(actual: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Largest difference over the largest magnitude of what is expected; infinite when something is not a number."""
    first, second = actual.astype(numpy.float64), expected.astype(numpy.float64)
    if first.shape != second.shape or not (numpy.isfinite(first).all() and numpy.isfinite(second).all()):
        return float("inf")
    scale = float(numpy.abs(second).max(initial=0.0)) or 1.0
    return float(numpy.abs(first - second).max(initial=0.0)) / scale


def compare_selection(chosen: numpy.ndarray, reference: SelectionLike,
                      rounding: float = _SCORE_ROUNDING) -> SelectionComparison:
    """Compare selected sets row by row, masked entries left out.

    Args:
        chosen: indices.
        reference: the scores and what they select.
        rounding: entries whose score is so near to the last one selected, over the largest, are ties.
    """
    scores = reference.scores.astype(numpy.float64)
    rows = scores.reshape(-1, scores.shape[-1])
    expected = reference.indices.reshape(len(rows), -1)
    actual = chosen.reshape(len(rows), -1)
    total = SelectionComparison()
    for row, wanted, taken in zip(rows, expected, actual, strict=True):
        visible = {int(index) for index in wanted if row[index] > _MASKED}
        # A static cache is longer than what the reference has seen; entries behind its end are masked in the program.
        found = {int(index) for index in taken if index < len(row) and row[index] > _MASKED}
        different = visible ^ found
        threshold = min((row[index] for index in visible), default=0.0)
        scale = max((abs(row[index]) for index in visible), default=1.0) or 1.0
        ties = sum(bool(abs(row[index] - threshold) <= rounding * scale) for index in different)
        wrong = len(different) - ties + abs(len(visible) - len(found)) + (len(taken) - len(set(taken.tolist())))
        total = total + SelectionComparison(1, int(not different), ties, wrong)
    return total
