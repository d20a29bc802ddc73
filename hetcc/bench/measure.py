"""The measuring loop: repeats of all programs in turn, until their times stand still or the budget is spent.

Programs take turns, so that a disturbance of seconds meets all of them a little and none of them entirely. One number
stands for the repeats of a program, the same in the fit and in the check: their 20% quantile. Disturbances only ever
add time, and the quantile does not rest on a single lucky repeat as a minimum would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy

from hetcc.bench.engine import Engine, Step
from hetcc.errors import ToolError
from hetcc.stopwatch import silent

QUANTILE = 0.2
_SETTLED = 0.02
"""The quantile of the first half of the repeats and of all differ by less than this where times stand still."""
_SETTLED_SHARE = 0.9
_PARTS = 5
_TURN_S = 4e-3
_REPEATS_PER_TURN = 6


@dataclass(frozen=True)
class Timing:
    """Repeats of one program."""

    samples_s: tuple[float, ...]

    @property
    def time_s(self) -> float:
        """What stands for the repeats: their 20% quantile."""
        return float(numpy.quantile(self.samples_s, QUANTILE))

    @property
    def spread(self) -> float:
        """How well the time is repeated: half of its range over five fifths of the repeats, relative.

        Much less than the range of single repeats, half of which meet some disturbance.
        """
        if self.time_s <= 0.0:
            return 0.0
        parts = numpy.array_split(numpy.asarray(self.samples_s), min(_PARTS, len(self.samples_s)))
        times = [float(numpy.quantile(part, QUANTILE)) for part in parts]
        return (max(times) - min(times)) / (2.0 * self.time_s)


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop."""

    seconds: float = 90.0
    """Of wall clock; the round that is running is finished."""
    least_rounds: int = 8
    most_rounds: int = 60


def measure(programs: Mapping[str, Step], engine: Engine, budget: Budget,
            progress: Callable[[str], None] = silent) -> dict[str, Timing]:
    """Times of programs.

    Args:
        programs: by name; every call runs one once and waits for it.
        engine: whose clock counts.
        budget: when to stop.
        progress: told about rounds.

    Raises:
        ToolError: HET-T002, the clock stood still during a program.
    """
    samples: dict[str, list[float]] = {name: [] for name in programs}
    order = random.Random(0)
    names = list(programs)
    started = time.monotonic()
    rounds = 0
    while rounds < budget.most_rounds:
        order.shuffle(names)
        for name in names:
            samples[name] += _turn(programs[name], engine)
        rounds += 1
        progress(f"measure: round {rounds}")
        late = time.monotonic() - started > budget.seconds
        if late or (rounds >= budget.least_rounds and _settled(samples)):
            break
    still = next((name for name, found in samples.items() if not max(found, default=0.0) > 0.0), None)
    if still is not None:
        raise ToolError("HET-T002", "the clock stood still while a program ran", where=still,
                        fix="measure on a machine whose clock resolves microseconds")
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def _turn(step: Step, engine: Engine) -> list[float]:
    """One repeat that does not count, because the program before left other data in the caches, and some that do."""
    start = engine.now_s()
    step()
    first = engine.now_s() - start
    found = []
    for _ in range(max(1, min(_REPEATS_PER_TURN, int(_TURN_S / max(first, 1e-9))))):
        start = engine.now_s()
        step()
        found.append(engine.now_s() - start)
    return found


def _settled(samples: Mapping[str, list[float]]) -> bool:
    """Whether for most programs a second half of the repeats changed little."""
    steady = 0
    for found in samples.values():
        half, whole = (float(numpy.quantile(part, QUANTILE)) for part in (found[:len(found) // 2 or 1], found))
        steady += abs(half - whole) <= _SETTLED * whole
    return steady >= _SETTLED_SHARE * len(samples)


__all__ = ["QUANTILE", "Budget", "Timing", "measure"]
