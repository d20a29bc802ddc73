"""Odd spellings of aten calls, and what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from hetcc.aten.classify import Call, classify, known_operators
from hetcc.ir import DType, Operand, OperatorClass, TensorType

X, INDEX, ROWS = Operand(0), Operand(1), Operand(2)


def attributes_of(name: str, arguments: tuple[Any, ...], shape: tuple[int, ...] = (2, 3, 8),
                  **keywords: Any) -> tuple[OperatorClass, dict[str, Any]]:
    types = (TensorType(shape, DType.FLOAT32), TensorType((4,), DType.INT64), TensorType(shape, DType.FLOAT32))
    operator_class, attributes = classify(Call(name, arguments, keywords, types, (TensorType(shape, DType.FLOAT32),)))
    assert list(attributes) == sorted(attributes)
    return operator_class, dict(attributes)


@pytest.mark.parametrize(("name", "arguments", "keywords", "operator_class", "expected"), [
    ("_softmax", (X, -1, False), {}, OperatorClass.SOFTMAX, {"axis": 2}),
    ("softmax", (X,), {"dim": -3}, OperatorClass.SOFTMAX, {"axis": 0}),
    ("cumsum", (X, -2), {}, OperatorClass.CUMULATIVE, {"axis": 1, "function": "sum"}),
    ("sum", (X, (-1, 0), True), {}, OperatorClass.REDUCTION, {"axes": (0, 2), "function": "sum", "keepdims": True}),
    ("mean", (X,), {"dim": (-1,)}, OperatorClass.REDUCTION, {"axes": (2,), "function": "mean", "keepdims": False}),
    ("amax", (X,), {}, OperatorClass.REDUCTION, {"axes": (0, 1, 2), "function": "max", "keepdims": False}),
    ("argmax", (X, -1), {"keepdim": True}, OperatorClass.REDUCTION,
     {"axes": (2,), "function": "argmax", "keepdims": True}),
    ("slice", (X, -1, 0, 2**63 - 1), {}, OperatorClass.VIEW,
     {"kind": "slice", "axis": 2, "start": 0, "stop": 8, "step": 1}),
    ("slice", (X, 1, -2, -1), {}, OperatorClass.VIEW, {"kind": "slice", "axis": 1, "start": 1, "stop": 2, "step": 1}),
    ("slice", (X,), {"dim": 2, "start": 6, "end": 4, "step": 2}, OperatorClass.VIEW,
     {"kind": "slice", "axis": 2, "start": 6, "stop": 6, "step": 2}),
    ("slice", (X, 2, None, None), {}, OperatorClass.VIEW,
     {"kind": "slice", "axis": 2, "start": 0, "stop": 8, "step": 1}),
    ("select", (X, -1, -1), {}, OperatorClass.VIEW, {"kind": "select", "axis": 2, "index": 7}),
    ("select", (X,), {"dim": 1, "index": 0}, OperatorClass.VIEW, {"kind": "select", "axis": 1, "index": 0}),
    ("permute", (X, (0, -1, -2)), {}, OperatorClass.VIEW, {"kind": "permute", "permutation": (0, 2, 1)}),
    ("transpose", (X, -1, -2), {}, OperatorClass.VIEW, {"kind": "permute", "permutation": (0, 2, 1)}),
    ("cat", ((X, ROWS), -1), {}, OperatorClass.CONCAT, {"axis": 2}),
    ("cat", ((X, ROWS),), {"dim": 1}, OperatorClass.CONCAT, {"axis": 1}),
    ("cat", ((X, ROWS),), {}, OperatorClass.CONCAT, {"axis": 0}),
    ("topk", (X, 4), {}, OperatorClass.TOPK, {"axis": 2, "input": 0, "k": 4, "largest": True}),
    ("topk", (X, 4, 1, False), {}, OperatorClass.TOPK, {"axis": 1, "input": 0, "k": 4, "largest": False}),
    ("topk", (X, 4), {"largest": False, "dim": 0}, OperatorClass.TOPK,
     {"axis": 0, "input": 0, "k": 4, "largest": False}),
    ("sort", (X,), {"descending": True}, OperatorClass.SORT, {"axis": 2, "input": 0, "descending": True}),
    ("native_layer_norm", (X, (3, 8)), {}, OperatorClass.NORMALIZATION, {"axes": (1, 2)}),
    ("addmm", (X, INDEX, ROWS), {}, OperatorClass.MATMUL, {"bias": 0, "lhs": 1, "rhs": 2}),
    ("embedding", (X, INDEX), {}, OperatorClass.GATHER, {"axis": 0, "data": 0, "indices": 1, "mode": "rows"}),
    ("gather", (X, -1, INDEX), {}, OperatorClass.GATHER, {"axis": 2, "data": 0, "indices": 1, "mode": "along"}),
    ("index", (X, (None, None, INDEX)), {}, OperatorClass.GATHER,
     {"axis": 2, "data": 0, "indices": 1, "mode": "rows"}),
    ("index", (X, (INDEX, INDEX)), {}, OperatorClass.GATHER, {"axis": 0, "data": 0, "indices": 1, "mode": "points"}),
    ("index_put", (X, (None, INDEX), ROWS), {}, OperatorClass.CACHE_UPDATE,
     {"axis": 1, "data": 0, "indices": 1, "updates": 2}),
    ("index_put", (X, (INDEX,), ROWS, True), {}, OperatorClass.SCATTER, {"axis": 0, "data": 0, "mode": "points"}),
    ("index_put", (X, (INDEX, INDEX), ROWS), {}, OperatorClass.SCATTER, {"axis": 0, "data": 0, "mode": "points"}),
    ("index_copy", (X, -2, INDEX, ROWS), {}, OperatorClass.CACHE_UPDATE,
     {"axis": 1, "data": 0, "indices": 1, "updates": 2}),
    ("scatter", (X, -1, INDEX, 0.0), {}, OperatorClass.SCATTER,
     {"axis": 2, "data": 0, "indices": 1, "mode": "along", "value": 0.0}),
    ("scatter", (X, -1, INDEX), {"value": True}, OperatorClass.SCATTER,
     {"axis": 2, "data": 0, "indices": 1, "mode": "along", "value": True}),
    ("scatter", (X, 0, INDEX, ROWS), {}, OperatorClass.SCATTER,
     {"axis": 0, "data": 0, "indices": 1, "mode": "along", "updates": 2}),
    ("scatter_add", (X, 0, INDEX, ROWS), {}, OperatorClass.SCATTER, {}),
    ("slice_scatter", (X, ROWS, -1, 0, 2), {}, OperatorClass.COPY, {"axis": 2, "kind": "slice_scatter"}),
    ("masked_fill", (X, INDEX, 0.0), {}, OperatorClass.ELEMENTWISE, {"function": "where"}),
    ("_to_copy", (X,), {"dtype": DType.FLOAT16}, OperatorClass.ELEMENTWISE, {"function": "cast"}),
    ("no_such_operator", (X,), {}, OperatorClass.OPAQUE, {}),
    ("fft_rfft", (X,), {}, OperatorClass.OPAQUE, {}),
])
def test_odd_spellings(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], operator_class: OperatorClass,
                       expected: dict[str, Any]) -> None:
    assert attributes_of(name, arguments, **keywords) == (operator_class, expected)


def test_transposes_without_axes() -> None:
    assert attributes_of("t", (X,), shape=(3, 3))[1]["permutation"] == (1, 0)
    assert attributes_of("t", (X,), shape=(3,))[1]["permutation"] == (0,)


def test_scalars_have_axes_too() -> None:
    assert attributes_of("sum", (X,), shape=())[1]["axes"] == ()
    assert attributes_of("_softmax", (X, -1), shape=())[1]["axis"] == 0


def test_stacking_is_not_a_concatenation() -> None:
    """``stack`` makes its axis; the last of the result is not the last of an input."""
    assert attributes_of("stack", ((X, ROWS), -1)) == (OperatorClass.COPY, {"axis": 3, "kind": "stack"})
    assert attributes_of("stack", ((X, ROWS),))[1] == {"axis": 0, "kind": "stack"}


def test_known_operators_are_listed() -> None:
    known = known_operators()
    assert list(known) == sorted(known) and {"topk", "index_copy", "bmm"} <= set(known)
    assert "no_such_operator" not in known
