"""The simulation itself: SimPy processes that wait, queue for resources, hold them and let go."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from hetcc.simulate.task import Schedule, Task


@dataclass(frozen=True, slots=True)
class Span:
    """When a task ran."""

    ready_s: float
    """When everything it waits for had finished."""
    start_s: float
    end_s: float
    cause: int
    """The task whose end let it start: the last it waited for, or the one it queued behind; -1 for none."""


def run(schedule: Schedule) -> tuple[Span, ...]:
    """Simulate; the same schedule gives the same spans.

    Resources are taken in the order of their names, so no two tasks can wait for each other; a free place goes to the
    waiting task of the lowest request, then of the lowest position. A resource with work waiting is never left free
    by choice, so the whole takes at most the sum of all tasks.
    """
    import simpy

    environment = simpy.Environment()
    machine = _Machine(environment, {name: simpy.PriorityResource(environment, capacity=places)
                                     for name, places in schedule.places.items()},
                       [environment.event() for _ in schedule.tasks])
    for position, task in enumerate(schedule.tasks):
        environment.process(machine.process(position, task))
    environment.run()
    return tuple(machine.spans[position] for position in range(len(schedule.tasks)))


class _Machine:
    def __init__(self, environment: Any, resources: dict[str, Any], finished: list[Any]) -> None:
        self.environment = environment
        self.resources = resources
        self.finished = finished
        self.spans: dict[int, Span] = {}
        self.released: dict[str, int] = {}
        """The task that last let go of a resource."""

    def process(self, position: int, task: Task) -> Generator[Any, Any, None]:
        """The life of one task."""
        for wait in task.waits:
            if not self.finished[wait].processed:
                yield self.finished[wait]
        ready_s = self.environment.now
        cause = max(task.waits, key=lambda wait: (self.spans[wait].end_s, wait), default=-1)
        held = []
        for name in sorted(task.holds):
            before_s = self.environment.now
            request = self.resources[name].request(priority=(task.request, position))
            held.append((name, request))
            yield request
            if self.environment.now > before_s:
                cause = self.released[name]
        start_s = self.environment.now
        if task.duration_s:
            yield self.environment.timeout(task.duration_s)
        self.spans[position] = Span(ready_s, start_s, self.environment.now, cause)
        for name, request in held:
            self.released[name] = position
            self.resources[name].release(request)
        self.finished[position].succeed()
