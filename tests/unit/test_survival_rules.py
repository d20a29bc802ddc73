"""What may be done twice, which rows a step appends, and how faults are spelled."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from hetcc.backends.fpga.xrt.faults import FAULTS, Fault
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph
from hetcc.ir.appends import appends_of
from hetcc.runtime.survival import DeviceLost, check_survivable, fragile_caches, rows_of
from tests.unit.aten_programs import capture

TABLE, COUNT, STATE, ROWS = (torch.zeros(10, 4), torch.zeros((), dtype=torch.int64), torch.zeros(4), torch.ones(3, 4))


def program(positions: Any = lambda count: torch.arange(3) + count, *, reads_old: bool = False) -> Graph:
    """A table that is appended to, a counter, and a state that is replaced."""
    def run(table: torch.Tensor, count: torch.Tensor, state: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        old = table.sum()
        table.index_copy_(0, positions(count), rows)
        count.add_(3)
        state.mul_(2.0)
        return table.sum() + state.sum() + (old if reads_old else 0.0)

    graph: Graph = capture(run, (TABLE, COUNT, STATE, ROWS), caches=(0, 1, 2))
    return graph


def test_a_table_that_only_its_update_reads_is_appended_to() -> None:
    graph = program()
    table, count, state = graph.caches
    append = appends_of(graph)[table]
    assert (append.axis, append.rows, append.size_bytes, append.counter) == (0, 3, 3 * 4 * 4, count)
    assert fragile_caches(graph, frozenset({count})) == (state,)
    assert set(fragile_caches(graph, frozenset())) == {count, state}
    assert rows_of(append, {count: 5}) == (slice(5, 8),)
    assert rows_of(append, {}) == rows_of(None, {count: 5}) == ()


def test_a_table_whose_old_rows_are_read_must_be_kept() -> None:
    graph = program(reads_old=True)
    assert graph.caches[0] not in appends_of(graph)
    assert graph.caches[0] in fragile_caches(graph, frozenset())


@pytest.mark.parametrize("positions", [
    lambda count: count + torch.arange(2, 5),
    lambda count: torch.arange(0, 6, 2) + count,
    lambda count: (torch.arange(3) + count) % 10,
])
def test_rows_that_are_not_the_next_ones_are_not_guessed(positions: Any) -> None:
    graph = program(positions)
    append = appends_of(graph)[graph.caches[0]]
    assert append.counter == "" and append.rows == 3
    assert rows_of(append, {graph.caches[1]: 5}) == ()


def test_rows_of_any_axis() -> None:
    append = appends_of(program())[program().caches[0]]
    table = numpy.arange(40).reshape(10, 4)
    assert table[rows_of(append, {append.counter: 7})].tolist() == table[7:10].tolist()


def lost(device: str) -> DeviceLost:
    return DeviceLost(device, ToolError("HET-R004", "step 3 failed", where="r", fix="look"),
                      ToolError("HET-F002", "ABORT"))


@pytest.mark.parametrize(("device", "single", "variant", "text"), [
    ("fpga", ["a"], True, "its cache 'a' is single"),
    ("fpga", ["a", "b", "c"], True, "its cache 'a' is single, and 2 more"),
    ("fpga", [], False, "the plan has no variant without the fpga"),
    ("gpu", [], False, "the plan has no variant without the gpu"),
])
def test_what_keeps_a_request_from_going_on(device: str, single: list[str], variant: bool, text: str) -> None:
    with pytest.raises(ToolError, match="HET-R004") as caught:
        check_survivable(lost(device), single, has_variant=variant, may_be_lost=device == "fpga")
    assert text in caught.value.what
    assert ("--caches" in caught.value.fix) == (device == "fpga")
    assert isinstance(caught.value.__cause__, ToolError)
    check_survivable(lost(device), [], has_variant=True, may_be_lost=False)


def test_faults_are_written_as_numbers_and_kinds() -> None:
    assert Fault.parse("3:abort") == Fault(3, "abort")
    assert Fault.parse("12:lost:late") == Fault(12, "lost", late=True)
    assert [Fault.parse(f"1:{kind}").kind for kind in FAULTS] == list(FAULTS)


@pytest.mark.parametrize("word", ["", "abort", "0:abort", "-1:abort", "3:", "3:broken", "3:abort:soon", "x:lost"])
def test_other_faults_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="HET-U001"):
        Fault.parse(word)
