"""What is tidied in a freshly captured graph computes the same afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch

from hetcc.aten.simplify import drop_empty_parts, tidy
from hetcc.backends.host.program import load_host_program
from hetcc.capture.export import export_program
from tests.unit.aten_programs import arrays_for, capture


def one_left(x: torch.Tensor) -> torch.Tensor:
    """The whole is turned, nothing is passed by."""
    whole = torch.cat((x[..., :4] * 2, x[..., 4:]), dim=-1)
    return whole + whole


def two_left(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:0], x * 2, x[3:], x + 1), dim=0).relu()


def a_result(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:0], x * 2))


def joined_twice(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x, x[:0], x)) + 1


def all_empty(x: torch.Tensor) -> torch.Tensor:
    return x + torch.cat((x[:0], x[3:])).sum()


def another_type(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x.to(torch.int64), x[:0])) * 2


@pytest.mark.parametrize(("function", "joins"), [
    (one_left, 0), (two_left, 1), (a_result, 1), (joined_twice, 1), (all_empty, 1), (another_type, 1)])
def test_parts_without_elements(function: Callable[[torch.Tensor], torch.Tensor], joins: int) -> None:
    examples = [torch.randn(3, 4, generator=torch.Generator().manual_seed(0))]
    graph = capture(function, examples)
    assert any(not value.type.elements for value in graph.values.values())
    tidied = drop_empty_parts(graph)
    assert sum(node.operator.name == "cat" for node in tidied.nodes) == joins
    if function not in (joined_twice, all_empty):
        assert all(value.type.elements for value in tidied.values.values()), "and what made them is gone"
    found = load_host_program(tidied).run(arrays_for(tidied, examples))
    numpy.testing.assert_array_equal(found[tidied.outputs[0]], function(*examples).numpy())


def test_a_graph_without_empty_parts_is_left_alone() -> None:
    graph = capture(lambda x: torch.cat((x, x * 2)) + 1, [torch.ones(2)])
    assert drop_empty_parts(graph) is graph and tidy(graph) is not None


@pytest.mark.parametrize("order", [2, 1, float("inf"), 3])
def test_operators_without_a_class_are_spelt_out(order: float) -> None:
    """As torch defines them; those with a class stay."""
    class Norm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.vector_norm(x, ord=order, dim=-1, keepdim=True) * torch.nn.functional.softmax(x, -1)

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    program = export_program(Norm(), (x,))
    called = {node.target._schema.name for node in program.graph.nodes if node.op == "call_function"}
    assert "aten::linalg_vector_norm" not in called and "aten::_softmax" in called
    numpy.testing.assert_allclose(program.module()(x).numpy(), Norm()(x).numpy(), rtol=1e-6)
