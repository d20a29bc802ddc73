"""A simulation as a trace that Perfetto and Chrome's tracing page open: the JSON form of the trace event format."""

from __future__ import annotations

import json
from typing import Any

from hetcc.simulate.outcome import Simulation

_PROCESS = 1
_MICROSECONDS = 1e6


def trace_document(simulation: Simulation) -> dict[str, Any]:
    """Complete events (``"ph": "X"``), one thread per place of every resource; times in microseconds.

    Tasks that take no time are left out. A task that holds two resources appears on both.
    """
    lanes = _Lanes(simulation)
    events = []
    for index in sorted(range(len(simulation.spans)), key=lambda item: (simulation.spans[item].start_s, item)):
        task, span = simulation.schedule.tasks[index], simulation.spans[index]
        if not task.duration_s:
            continue
        for name in task.holds:
            events.append({
                "ph": "X", "name": task.name, "cat": task.kind, "pid": _PROCESS,
                "tid": lanes.take(name, span.start_s, span.end_s), "ts": span.start_s * _MICROSECONDS,
                "dur": (span.end_s - span.start_s) * _MICROSECONDS,
                "args": {"request": task.request, "step": task.step, "waited_us":
                         (span.start_s - span.ready_s) * _MICROSECONDS, "energy_j": task.energy_j}})
    title = f"{simulation.phase}, simulated"
    head: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": _PROCESS, "tid": 0,
                                   "args": {"name": title}}]
    for tid, name in enumerate(lanes.names, start=1):
        head.append({"ph": "M", "name": "thread_name", "pid": _PROCESS, "tid": tid, "args": {"name": name}})
        head.append({"ph": "M", "name": "thread_sort_index", "pid": _PROCESS, "tid": tid, "args": {"sort_index": tid}})
    return {"displayTimeUnit": "ms", "otherData": {"kind": "simulated", "phase": simulation.phase,
                                                   "requests": simulation.options.requests},
            "traceEvents": head + events}


def trace_text(simulation: Simulation) -> str:
    """The document as the text of a file; the same simulation gives the same bytes."""
    return json.dumps(trace_document(simulation), separators=(",", ":"), sort_keys=True) + "\n"


class _Lanes:
    """Threads of the trace: one per place of a resource, because events of one thread must not overlap."""

    def __init__(self, simulation: Simulation) -> None:
        self.names: list[str] = []
        self.first: dict[str, int] = {}
        self.free_s: dict[str, list[float]] = {}
        for name, places in simulation.schedule.places.items():
            self.first[name] = len(self.names) + 1
            self.free_s[name] = [0.0] * places
            self.names += [name if places == 1 else f"{name} {place}" for place in range(places)]

    def take(self, name: str, start_s: float, end_s: float) -> int:
        """The thread of the first place that is free, which is then busy until ``end_s``."""
        places = self.free_s[name]
        place = next((index for index, free_s in enumerate(places) if free_s <= start_s), 0)
        places[place] = end_s
        return self.first[name] + place
