"""What is simulated: tasks that wait for each other and hold resources, and two bounds that need no simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.errors import InternalError


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that takes time."""

    name: str
    kind: str
    """``call`` (the host starts a region), ``work``, ``transfer`` or ``commit``."""
    duration_s: float
    holds: tuple[str, ...] = ()
    """Resources held from start to end, a place on each; none: it waits for nothing but ``waits``."""
    waits: tuple[int, ...] = ()
    """Positions of earlier tasks that must have finished."""
    request: int = 0
    step: int = 0
    """Position of its step in the plan."""
    energy_j: float = 0.0
    """Above idle power."""


@dataclass(frozen=True)
class Schedule:
    """Tasks, and how many of them each resource takes at a time.

    Raises:
        InternalError: a task waits for itself or a later one, holds a resource that is not there, or takes a time that
            is negative or not finite.
    """

    tasks: tuple[Task, ...]
    places: Mapping[str, int]

    def __post_init__(self) -> None:
        for position, task in enumerate(self.tasks):
            if not all(0 <= wait < position for wait in task.waits):
                raise InternalError("HET-I001", f"task {position} waits for {task.waits}", where=task.name)
            if not 0.0 <= task.duration_s < math.inf:
                raise InternalError("HET-I001", f"task {position} takes {task.duration_s} s", where=task.name)
            unknown = [name for name in task.holds if self.places.get(name, 0) < 1]
            if unknown or len(set(task.holds)) != len(task.holds):
                raise InternalError("HET-I001", f"task {position} holds {task.holds}, there are {dict(self.places)}",
                                    where=task.name)

    @property
    def serial_s(self) -> float:
        """Every task after the other: no schedule that is never idle takes longer."""
        return math.fsum(task.duration_s for task in self.tasks)

    @property
    def critical_path_s(self) -> float:
        """The longest chain of waits: no machine takes less, however many resources it has."""
        ends: list[float] = []
        for task in self.tasks:
            ends.append(task.duration_s + max((ends[wait] for wait in task.waits), default=0.0))
        return max(ends, default=0.0)
