"""A simulation as lines of text: a row per resource, darker where it is busier."""

from __future__ import annotations

from hetcc.simulate.outcome import Simulation
from hetcc.units import format_time

_SHADES = " .:-=+*#%@"
_LEAST_WIDTH = 16


def timeline_text(simulation: Simulation, width: int) -> str:
    """Rows of at most ``width`` characters; each character is the share of its moment a resource was held."""
    names = [name for name, busy_s in simulation.busy_s.items() if busy_s]
    if not names or not simulation.makespan_s:
        return "nothing takes any time"
    label = max(len(name) for name in names)
    columns = max(width - label - 9, _LEAST_WIDTH)
    lines = [f"{name:<{label}} |{_row(simulation, name, columns)}| {simulation.utilisation[name]:4.0%}"
             for name in names]
    end = format_time(simulation.makespan_s)
    scale = "0" + end.rjust(columns - 1)
    note = f"one character is {format_time(simulation.makespan_s / columns)}; {_SHADES[1]} little, {_SHADES[-1]} all"
    return "\n".join([*lines, " " * label + "  " + scale, note])


def _row(simulation: Simulation, name: str, columns: int) -> str:
    scale = columns / simulation.makespan_s
    shares = [0.0] * columns
    places = simulation.schedule.places[name]
    for task, span in zip(simulation.schedule.tasks, simulation.spans, strict=True):
        if name not in task.holds:
            continue
        start, end = span.start_s * scale, span.end_s * scale
        for column in range(int(start), min(int(end) + 1, columns)):
            shares[column] += max(min(end, column + 1) - max(start, column), 0.0) / places
    top = len(_SHADES) - 1
    return "".join(_SHADES[min(max(round(share * top), 1 if share > 1e-9 else 0), top)] for share in shares)
