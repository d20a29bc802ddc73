"""Which caches count, and what room they leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hetcc.errors import UserError
from hetcc.runtime.counters import Counter, check_room, counters_of
from tests.unit.aten_programs import capture

TABLE, COUNT, ROWS = torch.zeros(10, 4), torch.zeros((), dtype=torch.int64), torch.ones(3, 4)


def program(positions: Any, step: int = 3) -> Any:
    def run(table: torch.Tensor, count: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        table.index_copy_(0, positions(count), rows)
        count.add_(step)
        return table.sum()

    return capture(run, (TABLE, COUNT, ROWS), caches=(0, 1))


@pytest.mark.parametrize(("positions", "room"), [
    (lambda count: torch.arange(3) + count, 7),
    (lambda count: count + torch.arange(2, 5), 5),
    (lambda count: (torch.arange(3) + count).reshape(1, 3).reshape(3), 7),
    (lambda count: torch.arange(0, 6, 2) + count + 1, 4),
])
def test_positions_that_are_sums(positions: Any, room: int) -> None:
    (counter,) = counters_of(program(positions))
    assert (counter.step, counter.room) == (3, room)


@pytest.mark.parametrize("positions", [
    lambda count: (torch.arange(3) + count) % 10,
    lambda count: torch.arange(3) * count,
    lambda count: torch.arange(3) + count + count,
    lambda count: torch.add(torch.arange(3), count, alpha=2),
    lambda count: torch.arange(3),
])
def test_positions_that_are_not(positions: Any) -> None:
    assert counters_of(program(positions)) == ()


def test_room() -> None:
    counters, counts = (Counter("a", 3, 7), Counter("b", 1, 7)), {"a": 7}
    check_room(counters, counts, "decode")
    assert counts == {"a": 10, "b": 1}
    with pytest.raises(UserError, match=r"hold 10 entries .* room for 10") as caught:
        check_room(counters, counts, "decode")
    assert caught.value.code == "HET-R002" and counts == {"a": 10, "b": 1}, "a refused step counts nothing"
