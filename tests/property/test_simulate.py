"""Simulated schedules: between the longest chain of waits and everything after everything, and the same every time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.simulate import Schedule, Task, run

RESOURCES = ("fpga", "gpu", "gpu in", "gpu out", "host thread")


@st.composite
def schedules(draw: Any) -> Schedule:
    count = draw(st.integers(0, 25))
    places = {name: draw(st.integers(1, 3)) for name in RESOURCES}
    tasks = []
    for position in range(count):
        waits = draw(st.sets(st.integers(0, position - 1), max_size=3)) if position else set()
        holds = draw(st.sets(st.sampled_from(RESOURCES), max_size=3))
        duration = draw(st.sampled_from((0.0, 1e-9, 1e-6, 3e-6, 1.0)) | st.floats(0.0, 1e-3))
        tasks.append(Task(f"t{position}", "work", duration, tuple(sorted(holds)), tuple(sorted(waits)),
                          request=draw(st.integers(0, 2))))
    return Schedule(tuple(tasks), places)


@given(schedules())
@settings(max_examples=120, deadline=None)
def test_makespan_lies_between_its_bounds(schedule: Schedule) -> None:
    spans = run(schedule)
    makespan_s = max((span.end_s for span in spans), default=0.0)
    slack_s = 1e-9 * schedule.serial_s
    assert schedule.critical_path_s - slack_s <= makespan_s <= schedule.serial_s + slack_s
    assert run(schedule) == spans


@given(schedules())
@settings(max_examples=120, deadline=None)
def test_waits_and_places_are_respected(schedule: Schedule) -> None:
    spans = run(schedule)
    for task, span in zip(schedule.tasks, spans, strict=True):
        assert span.ready_s == max((spans[wait].end_s for wait in task.waits), default=0.0)
        assert span.ready_s <= span.start_s
        assert span.end_s == pytest.approx(span.start_s + task.duration_s, rel=1e-9)
    for name, places in schedule.places.items():
        own = [span for task, span in zip(schedule.tasks, spans, strict=True) if name in task.holds and task.duration_s]
        for span in own:
            middle_s = (span.start_s + span.end_s) / 2
            if span.start_s < middle_s < span.end_s:
                assert sum(other.start_s < middle_s < other.end_s for other in own) <= places


@given(schedules())
@settings(max_examples=80, deadline=None)
def test_causes_lead_back_to_the_start_without_gaps(schedule: Schedule) -> None:
    spans = run(schedule)
    for span in spans:
        if span.cause >= 0:
            assert spans[span.cause].end_s == span.start_s
        else:
            assert span.start_s == 0.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_one_stream_takes_the_sum(durations: list[float]) -> None:
    tasks = tuple(Task(f"t{place}", "work", duration, ("gpu",)) for place, duration in enumerate(durations))
    schedule = Schedule(tasks, {"gpu": 1})
    assert max(span.end_s for span in run(schedule)) == pytest.approx(schedule.serial_s, rel=1e-12)
