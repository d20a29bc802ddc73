"""The rewritten selections equal torch's stable sort, before any compiler sees them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hetcc.backends.gpu import topk

torch = pytest.importorskip("torch")

FLOATS = st.one_of(st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0]),
                   st.floats(width=32, allow_subnormal=True))


@settings(max_examples=60)
@given(arrays.arrays("float32", st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=FLOATS), st.data())
def test_topk_is_the_head_of_a_stable_sort(rows, data) -> None:
    tensor = torch.from_numpy(rows)
    count = data.draw(st.integers(1, rows.shape[1]))
    largest = data.draw(st.booleans())
    values, indices = topk.topk(tensor, count, -1, largest)
    expected_values, expected = torch.sort(tensor, dim=-1, descending=largest, stable=True)
    assert torch.equal(indices, expected[:, :count])
    assert torch.equal(values.nan_to_num(7.5), expected_values[:, :count].nan_to_num(7.5))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "int32", "uint8"])
@pytest.mark.parametrize(("extent", "count"), [(257, 1), (300, 300), (700, 64)])
@pytest.mark.parametrize("largest", [True, False])
def test_long_rows_are_searched(dtype: str, extent: int, count: int, largest: bool) -> None:
    torch.manual_seed(extent)
    tensor = torch.randint(0, 9, (2, extent)).to(getattr(torch, dtype))
    _, indices = topk.topk(tensor, count, -1, largest)
    assert torch.equal(indices, torch.sort(tensor, dim=-1, descending=largest, stable=True)[1][:, :count])


def test_rows_that_are_masked_out_entirely_give_the_lowest_indices() -> None:
    _, indices = topk.topk(torch.full((1, 400), float("-inf")), 5)
    assert indices.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_sort_along_any_axis(dim: int) -> None:
    torch.manual_seed(0)
    tensor = torch.randint(0, 3, (4, 5, 3)).float()
    values, indices = topk.sort(tensor, dim, True)
    expected = torch.sort(tensor, dim=dim, descending=True, stable=True)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])


def test_extreme_integers_keep_their_order() -> None:
    tensor = torch.tensor([[torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 0] * 100])
    _, indices = topk.topk(tensor, 101)
    assert torch.equal(indices, torch.sort(tensor, dim=-1, descending=True, stable=True)[1][:, :101])
