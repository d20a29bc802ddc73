"""Measuring and checking: repeats in turn on a device that is made up, verdicts, facts of machines, and the command."""

from __future__ import annotations

import datetime
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.bench import calibration
from hetcc.bench.calibration import Request, facts_of, fit_and_check, last_level_cache_bytes, processor_name
from hetcc.bench.cases import KINDS, QUICK_STEPS, STEPS, Case, StepCase, cases
from hetcc.bench.check import Check, Residual, checks_of
from hetcc.bench.engine import Step, arguments_of
from hetcc.bench.measure import Budget, Timing, measure
from hetcc.bench.programs import Program
from hetcc.cost_model.calibrate import Observation, predicted_s
from hetcc.cost_model.device import load_device
from hetcc.cost_model.draft import device_of
from hetcc.errors import ToolError, UserError
from hetcc.workloads.microbenchmarks import MICROBENCHMARKS, capture_microbenchmark

from corpus.command_line import hetcc
from corpus.made_up_device import FACTS, TRUTH, everything, held_out

TODAY = datetime.date(2026, 1, 1)


class MadeUp:
    """A device whose programs take the times they are given, and now and then longer."""

    target = "llvm-cpu"
    clock_name = "a clock that was made up"

    def __init__(self, disturbed: float = 0.0) -> None:
        self.time_s = 0.0
        self.disturbed = disturbed
        self.random = random.Random(0)
        self.calls: list[str] = []

    def program(self, name: str, time_s: float) -> Step:
        def step() -> None:
            self.calls.append(name)
            self.time_s += time_s * (5.0 if self.random.random() < self.disturbed else 1.0)

        return step

    def load(self, region: Any, files: Any, entry: str) -> Step:
        raise AssertionError("nothing is compiled here")

    def now_s(self) -> float:
        return self.time_s


def test_times_are_found_through_disturbances() -> None:
    device = MadeUp(disturbed=0.5)
    truth = {"short": 2e-5, "long": 3e-3}
    found = measure({name: device.program(name, time_s) for name, time_s in truth.items()}, device, Budget(5.0))
    assert {name: timing.time_s for name, timing in found.items()} == pytest.approx(truth, rel=1e-6)


def test_programs_take_turns_and_the_first_run_of_a_turn_does_not_count() -> None:
    device = MadeUp()
    found = measure({"a": device.program("a", 1e-3), "b": device.program("b", 1.0)}, device, Budget(5.0, 3, 3))
    counts = {name: device.calls.count(name) for name in "ab"}
    assert [len(found[name].samples_s) + 3 for name in "ab"] == [counts["a"], counts["b"]]
    turns = [name for place, name in enumerate(device.calls) if not place or device.calls[place - 1] != name]
    assert len(turns) >= 4


def test_the_budget_ends_what_does_not_settle() -> None:
    device = MadeUp(disturbed=0.5)
    found = measure({"a": device.program("a", 1.0)}, device, Budget(0.0, 5, 100))
    assert len(found["a"].samples_s) == 1


def test_a_clock_that_stands_still_is_an_error() -> None:
    device = MadeUp()
    with pytest.raises(ToolError, match="HET-T002"):
        measure({"a": device.program("a", 0.0)}, device, Budget(0.0))


def test_spread_is_of_the_time_and_not_of_single_repeats() -> None:
    assert Timing((1.0,) * 20).spread == 0.0 and Timing((2.0,)).spread == 0.0
    assert Timing((1.0, 9.0, 1.0, 9.0) * 10).spread == 0.0
    drifting = Timing(tuple(1.0 + 0.1 * (place // 8) for place in range(40)))
    assert drifting.spread == pytest.approx(0.4 / 2.0 / drifting.time_s)


def test_every_class_has_cases_of_both_kinds_and_none_is_both() -> None:
    assert set(KINDS) == set(MICROBENCHMARKS)
    for quick in (False, True):
        found = cases(quick=quick)
        assert len({case.name for case in found}) == len(found)
        for kind in KINDS:
            sizes = {fitted: {case.settings for case in found if case.kind == kind and case.fitted is fitted}
                     for fitted in (True, False)}
            assert sizes[True] and not sizes[True] & sizes[False]
            assert quick or sizes[False]
    assert len(cases(["topk"])) < len(cases())
    assert {case.kind for case in cases(["topk"])} == {"topk", "elementwise"}
    with pytest.raises(UserError, match="HET-U001"):
        cases(["nothing"])


def test_no_product_of_a_checked_step_was_fitted() -> None:
    fitted = {tuple(dict(case.settings)[key] for key in ("depth", "columns")) for case in cases()
              if case.kind == "projection" and case.fitted}
    for step in (*STEPS, *QUICK_STEPS):
        wide = int(dict(step.overrides)["intermediate_size"])
        used = {(step.hidden, step.hidden), (step.hidden, step.hidden // 2), (step.hidden, wide), (wide, step.hidden)}
        assert not used & fitted


def test_fit_and_check_on_a_device_that_was_made_up() -> None:
    device = device_of(TRUTH, FACTS)
    observed: list[tuple[Case | StepCase, Observation]] = [(Case(one.kind, (("size", place),)), one)
                                                           for place, one in enumerate(everything())]
    observed += [(Case(one.kind, (("held", place),), False), one) for place, one in enumerate(held_out())]
    parts = [cluster for one in everything() for cluster in one.clusters]
    step = Observation(calibration.STEP, "step", tuple(parts), 1.0)
    observed.append((STEPS[0], replace(step, time_s=predicted_s(step, device))))
    found = fit_and_check(observed, FACTS)
    assert {check.kind: check.held for check in found.checks} == {
        "projection": 3, "elementwise": 2, "gather": 2, calibration.STEP: 1}
    for check in found.checks:
        assert check.error < 0.1 and check.within_target
    assert found.profile["baselines"]["measured"]["achieved"].keys() > {"projection", "gather", "default"}


def test_verdicts() -> None:
    def residual(measured: float, predicted: float, roofline: float, fitted: bool = False) -> Residual:
        return Residual("gather", "x", fitted, measured, 0.1, predicted, roofline)

    (check,) = checks_of([residual(1.0, 9.0, 9.0, fitted=True), residual(1.0, 1.3, 2.0), residual(2.0, 1.8, 3.0)])
    assert (check.fitted, check.held) == (1, 2)
    assert (check.error, check.worst, check.roofline_error) == pytest.approx((0.2, 0.3, 0.75))
    assert check.target == pytest.approx(0.15) and not check.within_target and check.halves_roofline
    assert checks_of([residual(1.0, 1.0, 1.0, fitted=True)]) == ()
    tight = Check("gather", 1, 1, 0.1, 0.1, 0.19, 0.0)
    assert tight.target == 0.1 and tight.within_target and not tight.halves_roofline


def test_facts_say_nothing_about_which_machine_it_was(tmp_path: Path) -> None:
    import platform

    facts = facts_of(Request(), TODAY)
    assert facts.code_target == "llvm-cpu" and "emulated" in facts.title and processor_name() in facts.source
    assert platform.node() not in facts.source.split()
    card = facts_of(Request("hip", "mi210"), TODAY)
    assert card.code_target == "gfx90a" and card.name == "mi210-calibrated" and card.compute_units == 104
    assert card.cache_bytes == load_device("mi210").memory.on_chip_bytes.value
    for template in ("", "u55c"):
        with pytest.raises(UserError, match="HET-U001"):
            facts_of(Request("cuda", template), TODAY)
    with pytest.raises(UserError, match="HET-M001"):
        facts_of(Request("cuda", "nothing"), TODAY)


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for index, text in enumerate(("32K\n", "2048K\n", "33M\n", "odd\n")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(text, encoding="utf-8")
    assert last_level_cache_bytes(tmp_path) == 33 << 20
    assert last_level_cache_bytes(tmp_path / "none") == 0


@pytest.mark.parametrize(("kind", "settings", "code"), [
    ("nothing", {}, "HET-C001"), ("gather", {"entries": 4}, "HET-C002")])
def test_microbenchmarks_that_do_not_exist(kind: str, settings: dict[str, int], code: str) -> None:
    with pytest.raises(UserError, match=code):
        capture_microbenchmark(kind, settings, "x")


def test_indices_are_inside_every_table() -> None:
    graph = capture_microbenchmark("gather", {"entries": 5, "taken": 9, "width": 8, "copies": 2}, "x")
    found = arguments_of(graph)
    whole = [array for array in found.values() if array.dtype == numpy.int64]
    assert len(whole) == 2 and all(array.min() >= 0 and array.max() < 5 for array in whole)


@pytest.mark.parametrize("words", [["--device", "abacus"], ["--output", "my.json"], ["--class", "nothing"],
                                   ["--device", "hip"]])
def test_the_command_refuses(words: list[str]) -> None:
    assert hetcc("calibrate", *words, "--json").document["error"]["code"] == "HET-U001"


def test_nothing_that_compiles_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "prepare", lambda wanted, engine, progress: ([], {"x": "no"}))
    with pytest.raises(UserError, match="HET-M003"):
        calibration.calibrate(Request(), MadeUp())


def test_the_command_with_measuring_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = MadeUp(disturbed=0.3)

    def prepared(wanted: Any, engine: Any, progress: Any) -> tuple[list[Program], dict[str, str]]:
        found = [(Case(one.kind, (("size", place),), place < len(everything())), one)
                 for place, one in enumerate([*everything(), *held_out()])]
        return [Program(case, one.clusters, device.program(case.name, one.time_s)) for case, one in found], {"y": "why"}

    monkeypatch.setattr(calibration, "prepare", prepared)
    monkeypatch.setattr("hetcc.bench.engine.open_engine", lambda kind, target: device)
    path = tmp_path / "my.toml"
    done = hetcc("calibrate", "--budget", "1", "--output", str(path))
    assert done.code == 0 and "not measured: y: why" in done.out and "gather" in done.out
    assert load_device(str(path)).baseline().launch_s.value == pytest.approx(TRUTH.launch_s, rel=0.2)
    document = hetcc("calibrate", "--budget", "1", "--json").document
    assert {one["class"] for one in document["checks"]} == {"projection", "elementwise", "gather"}
    assert document["profile"] == json.loads(json.dumps(document["profile"])) and document["kind"] == "measured"
    refused = hetcc("calibrate", "--budget", "1", "--output", str(tmp_path / "no" / "my.toml"), "--json")
    assert refused.document["error"]["code"] == "HET-B001"


def test_the_engine_on_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    done = hetcc("calibrate", "--quick", "--class", "elementwise", "--no-steps", "--budget", "1", "--output", str(path),
                 "--json")
    assert done.code == 0, done.err
    assert [one["class"] for one in done.document["checks"]] == ["elementwise"]
    assert all(one["measured_s"] > 0.0 and one["predicted_s"] > 0.0 for one in done.document["cases"])
    profile = load_device(str(path))
    assert profile.code_target == "llvm-cpu" and profile.baseline().kernel_launch_s.value > 0.0
