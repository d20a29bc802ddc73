"""What a simulation says: latency, throughput, energy, utilisation, and what the time went to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hetcc.plan.plan import Plan
from hetcc.simulate.engine import Span, run
from hetcc.simulate.machine import SimulationOptions, schedule_of
from hetcc.simulate.task import Schedule

_LISTED = 8


@dataclass(frozen=True)
class Simulation:
    """The simulated run of one phase."""

    phase: str
    options: SimulationOptions
    schedule: Schedule
    spans: tuple[Span, ...]
    idle_w: dict[str, float]
    """Power at rest by device."""
    batch: int = 1

    @property
    def makespan_s(self) -> float:
        """From the start to the end of the last task."""
        return max((span.end_s for span in self.spans), default=0.0)

    @cached_property
    def latencies_s(self) -> tuple[float, ...]:
        """End of each request; all of them start at 0."""
        ends = [0.0] * self.options.requests
        for task, span in zip(self.schedule.tasks, self.spans, strict=True):
            ends[task.request] = max(ends[task.request], span.end_s)
        return tuple(ends)

    @cached_property
    def busy_s(self) -> dict[str, float]:
        """Time places of each resource were held, added up."""
        busy: dict[str, list[float]] = {name: [] for name in self.schedule.places}
        for task, span in zip(self.schedule.tasks, self.spans, strict=True):
            for name in task.holds:
                busy[name].append(span.end_s - span.start_s)
        return {name: math.fsum(times) for name, times in busy.items()}

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of the makespan each resource was held, averaged over its places."""
        length_s = self.makespan_s or 1.0
        return {name: busy_s / (length_s * self.schedule.places[name]) for name, busy_s in self.busy_s.items()}

    @property
    def dynamic_j(self) -> float:
        """Energy of all tasks above idle power."""
        return math.fsum(task.energy_j for task in self.schedule.tasks)

    @property
    def idle_j(self) -> dict[str, float]:
        """Energy each device takes for being there, whether or not it works."""
        return {device: power_w * self.makespan_s for device, power_w in self.idle_w.items()}

    @cached_property
    def critical_tasks(self) -> tuple[int, ...]:
        """The chain of tasks that ends last, each the cause of the next, waits in queues included."""
        if not self.spans:
            return ()
        position = max(range(len(self.spans)), key=lambda index: (self.spans[index].end_s, index))
        chain = [position]
        while self.spans[position].cause >= 0:
            position = self.spans[position].cause
            chain.append(position)
        return tuple(reversed(chain))

    def to_json(self) -> dict[str, Any]:
        """The document of ``simulate --json``; seconds, joules and shares."""
        total_j = self.dynamic_j + math.fsum(self.idle_j.values())
        count = self.options.requests
        return {
            "kind": "simulated", "phase": self.phase, "requests": count, "batch": self.batch,
            "launch": self.options.launch, "latency_s": self.latencies_s[0],
            "mean_latency_s": math.fsum(self.latencies_s) / count, "max_latency_s": max(self.latencies_s),
            "makespan_s": self.makespan_s, "serial_s": self.schedule.serial_s,
            "critical_path_s": self.schedule.critical_path_s,
            "throughput_steps_per_s": count / self.makespan_s if self.makespan_s else None,
            "throughput_sequences_per_s": count * self.batch / self.makespan_s if self.makespan_s else None,
            "energy_j": {"dynamic": self.dynamic_j, "idle": self.idle_j, "total": total_j,
                         "per_request": total_j / count},
            "utilisation": self.utilisation,
            "bottleneck": self.bottleneck(),
        }

    def bottleneck(self) -> dict[str, Any]:
        """What the critical chain spends its time on: by kind and resource, and its longest tasks."""
        spent: dict[str, float] = {}
        for index in self.critical_tasks:
            task = self.schedule.tasks[index]
            where = task.holds[0] if task.holds else "nothing"
            label = f"{task.kind} on {where}" if task.kind != "transfer" else "transfer " + " to ".join(task.holds)
            spent[label] = spent.get(label, 0.0) + task.duration_s
        length_s = self.makespan_s or 1.0
        longest = sorted(self.critical_tasks, key=lambda index: (-self.schedule.tasks[index].duration_s, index))
        return {
            "shares": {label: time_s / length_s
                       for label, time_s in sorted(spent.items(), key=lambda item: (-item[1], item[0])) if time_s},
            "tasks": len(self.critical_tasks),
            "longest": [{"task": self.schedule.tasks[index].name, "request": self.schedule.tasks[index].request,
                         "time_s": self.schedule.tasks[index].duration_s} for index in longest[:_LISTED]],
        }


def simulate_phase(plan: Plan, phase: str, options: SimulationOptions | None = None) -> Simulation:
    """Simulate one phase of a plan.

    Raises:
        UserError: HET-B005 for a phase the plan does not have, HET-B003 for steps that cannot be.
    """
    chosen = options or SimulationOptions()
    steps = plan.phase(phase)
    schedule = schedule_of(steps, chosen)
    return Simulation(phase, chosen, schedule, run(schedule),
                      {device.name: device.idle_w for device in plan.devices}, steps.batch)
