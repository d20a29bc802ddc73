"""Work in copies of the process."""

from __future__ import annotations

import os
from types import MappingProxyType

import pytest

from hetcc import copies
from hetcc.copies import in_copies
from hetcc.errors import UserError


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies.os, "sched_getaffinity", lambda _: {0, 1})


def test_results_come_in_order_and_from_other_processes() -> None:
    offset = 100
    found = list(in_copies(lambda place: (offset + place, os.getpid(), MappingProxyType({"place": place})), 9))
    assert [number for number, _, _ in found] == list(range(100, 109))
    assert os.getpid() not in {process for _, process, _ in found}
    assert [held["place"] for _, _, held in found] == list(range(9))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_few_pieces_are_done_here(count: int) -> None:
    assert list(in_copies(lambda place: os.getpid(), count)) == [os.getpid()] * count


def test_errors_are_those_of_this_process() -> None:
    def work(place: int) -> int:
        if place == 5:
            raise UserError("HET-R002", "five is too many", where="here", fix="take four")
        return place

    done = []
    with pytest.raises(UserError, match="five is too many"):
        for result in in_copies(work, 9):
            done.append(result)
    assert done == [0, 1, 2, 3, 4]


def test_a_copy_that_dies_costs_only_itself() -> None:
    here = os.getpid()

    def work(place: int) -> int:
        if place == 3 and os.getpid() != here:
            os._exit(1)
        return place

    assert list(in_copies(work, 9)) == list(range(9))
