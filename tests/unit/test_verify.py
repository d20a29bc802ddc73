"""Comparing runs with references, and counting where the work ran."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy
import pytest

from hetcc.errors import UserError
from hetcc.runtime.trace import NOT_COUNTED, Coverage, RunTrace, StepRecord
from hetcc.runtime.verify import SelectionComparison, Verification, compare_selection, relative_error


@dataclass(frozen=True)
class Chosen:
    scores: numpy.ndarray
    indices: numpy.ndarray


LOWEST = -3.4028234663852886e38
SCORES = numpy.array([[9.0, 8.0, 7.0, 7.0, 5.0, LOWEST]], numpy.float32)


def compared(chosen: list[Any], wanted: list[Any], scores: numpy.ndarray = SCORES) -> SelectionComparison:
    return compare_selection(numpy.array(chosen), Chosen(scores, numpy.array(wanted)))


def test_selections_that_agree() -> None:
    assert compared([[0, 1, 2]], [[0, 1, 2]]) == SelectionComparison(1, 1, 0, 0)
    assert compared([[2, 0, 1]], [[0, 1, 2]]) == SelectionComparison(1, 1, 0, 0), "the order does not matter"


def test_equal_scores_may_be_chosen_for_each_other() -> None:
    assert compared([[0, 1, 3]], [[0, 1, 2]]) == SelectionComparison(1, 0, 2, 0)
    nearly = SCORES + numpy.array([[0, 0, 0, 1e-4, 0, 0]], numpy.float32)
    assert compared([[0, 1, 3]], [[0, 1, 2]], nearly).wrong == 0
    not_quite = SCORES + numpy.array([[0, 0, 0, 1e-2, 0, 0]], numpy.float32)
    assert compared([[0, 1, 3]], [[0, 1, 2]], not_quite).wrong == 1


def test_wrong_selections() -> None:
    assert compared([[0, 1, 4]], [[0, 1, 2]]).wrong == 1, "7.0 may be at the edge, 5.0 may not"
    assert compared([[4, 2, 3]], [[0, 1, 2]]).wrong >= 2


def test_duplicates_are_wrong() -> None:
    assert compared([[0, 1, 1]], [[0, 1, 2]]).wrong >= 1
    assert compared([[0, 0, 0]], [[0, 0, 0]]).wrong >= 1, "even if the reference had them"


def test_masked_entries_do_not_count() -> None:
    wide = numpy.array([[9.0, 8.0, LOWEST, LOWEST, -numpy.inf]])
    assert compared([[0, 1, 2]], [[0, 1, 3]], wide) == SelectionComparison(1, 1, 0, 0)
    assert compared([[0, 2, 3]], [[0, 1, 3]], wide).wrong >= 1, "a visible entry was left out"


def test_a_reference_that_has_seen_less() -> None:
    """A growing cache has only the tokens so far; the static one of the program is longer."""
    assert compared([[0, 1, 7]], [[0, 1]], numpy.array([[2.0, 1.0]])) == SelectionComparison(1, 1, 0, 0)
    assert compared([[0, 6, 7]], [[0, 1]], numpy.array([[2.0, 1.0]])).wrong >= 1


def test_rows_are_compared_one_by_one() -> None:
    scores = numpy.concatenate([SCORES, SCORES[:, ::-1]]).reshape(2, 1, 6)
    total = compared([[[0, 1, 2]], [[0, 1, 2]]], [[[0, 1, 2]], [[5, 4, 3]]], scores)
    assert (total.compared, total.equal) == (2, 1) and total.wrong > 0


def test_relative_errors() -> None:
    expected = numpy.array([1.0, -4.0], numpy.float32)
    assert relative_error(expected, expected) == 0.0
    assert relative_error(numpy.array([1.0, -5.0]), expected) == 0.25
    assert relative_error(numpy.array([0.5]), numpy.zeros(1)) == 0.5, "nothing to relate it to"
    for wrong in ([numpy.nan, -4.0], [numpy.inf, -4.0], [1.0], [[1.0, -4.0]]):
        assert relative_error(numpy.array(wrong), expected) == float("inf")
    assert relative_error(numpy.zeros((0,)), numpy.zeros((0,))) == 0.0
    assert relative_error(numpy.array([1.0, 1.0]), numpy.array([1.0, numpy.nan])) == float("inf")


def launch(device: str, flops: int, moved: int, **changes: int) -> StepRecord:
    stages = {"stages_executed": 5} if device == "fpga" else {}
    return StepRecord(0, "launch", f"r_{device}", device, 0.001, "engine", flops, moved, **{**stages, **changes})


def coverage(*records: StepRecord) -> Coverage:
    return RunTrace(None, {}, {}, records).coverage()  # type: ignore[arg-type]


def test_everything_where_it_was_planned() -> None:
    found = coverage(launch("gpu", 60, 50), launch("fpga", 38, 45), launch("host", 2, 5),
                     StepRecord(1, "transfer", "x", "gpu", 0.5))
    assert found.problems == () and found.flops == {"gpu": 0.6, "fpga": 0.38, "host": 0.02}
    assert found.bytes_moved == {"gpu": 0.5, "fpga": 0.45, "host": 0.05}
    found.require("decode")


@pytest.mark.parametrize(("records", "said"), [
    ((launch("gpu", 90, 100), launch("host", 10, 0)), "90.0% of flops"),
    ((launch("gpu", 100, 80), launch("host", 0, 20)), "80.0% of bytes"),
    ((launch("gpu", 1, 1, torch_operators=3),), "torch ran 3 operators inside r_gpu"),
    ((launch("fpga", 1, 1, torch_operators=1),), "torch ran 1 operators inside r_fpga"),
    ((launch("gpu", 1, 1, torch_operators=NOT_COUNTED),), "not counted inside r_gpu"),
    ((launch("fpga", 1, 1, stages_executed=0),), "r_fpga was not executed by the stage interpreter"),
])
def test_too_little_where_it_was_planned(records: tuple[StepRecord, ...], said: str) -> None:
    found = coverage(*records)
    assert len(found.problems) == 1 and said in found.problems[0]
    with pytest.raises(UserError, match="HET-R003") as caught:
        found.require("decode")
    assert caught.value.code == "HET-R003"


def test_torch_on_the_host_is_no_problem() -> None:
    assert coverage(launch("gpu", 99, 99), launch("host", 1, 1, torch_operators=9)).problems == ()


GOOD = Verification("decode", 1, 1e-6, 1e-4, SelectionComparison(4, 4), Coverage({}, {}, ()), {}, 0.0)


def test_a_verification_that_passes() -> None:
    assert GOOD.passed and GOOD.to_json()["passed"]
    GOOD.require()


@pytest.mark.parametrize(("bad", "code"), [
    (replace(GOOD, relative_error=1e-3), "HET-R001"), (replace(GOOD, relative_error=float("nan")), "HET-R001"),
    (replace(GOOD, relative_error=float("inf")), "HET-R001"),
    (replace(GOOD, selections=SelectionComparison(4, 3, 0, 1)), "HET-R001"),
    (replace(GOOD, missing_outputs=("logits",)), "HET-R001"),
    (replace(GOOD, coverage=Coverage({}, {}, ("nothing ran",))), "HET-R003"),
])
def test_verifications_that_fail(bad: Verification, code: str) -> None:
    assert not bad.passed
    with pytest.raises(UserError) as caught:
        bad.require()
    assert caught.value.code == code
