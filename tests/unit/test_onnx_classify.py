"""Classes of ONNX operators, and what stays opaque."""

from __future__ import annotations

import pytest

from hetcc.ir import Argument, DType, Operand, OperatorClass, TensorType
from hetcc.onnx.classify import Call, classify, known_operators

FLOAT = TensorType((2, 4, 8), DType.FLOAT32)
INTEGERS = TensorType((2, 4, 3), DType.INT64)


def integers(*numbers: int) -> Argument:
    return DType.INT64, (len(numbers),), numbers


def call(name: str, *arguments: Argument, version: int = 18, inputs: tuple[TensorType, ...] = (FLOAT,),
         outputs: tuple[TensorType, ...] = (FLOAT,), **keywords: Argument) -> tuple[OperatorClass, dict[str, object]]:
    found, attributes = classify(Call(name, version, arguments, keywords, inputs, outputs))
    return found, dict(attributes)


@pytest.mark.parametrize(("found", "expected"), [
    (call("Slice", Operand(0), integers(-3), integers(2**63 - 1), integers(-1)),
     (OperatorClass.VIEW, {"kind": "slice", "axis": 2, "start": 5, "stop": 8, "step": 1})),
    (call("Transpose", Operand(0)), (OperatorClass.VIEW, {"kind": "permute", "permutation": (2, 1, 0)})),
    (call("Gather", Operand(0), (DType.INT64, (), (-1,)), axis=1),
     (OperatorClass.VIEW, {"kind": "select", "axis": 1, "index": 3})),
    (call("Gather", Operand(0), Operand(1), axis=-2, inputs=(FLOAT, INTEGERS)),
     (OperatorClass.GATHER, {"data": 0, "indices": 1, "axis": 1, "mode": "rows"})),
    (call("GatherND", Operand(0), Operand(1), inputs=(FLOAT, INTEGERS)),
     (OperatorClass.GATHER, {"data": 0, "indices": 1, "axis": 0, "mode": "points"})),
    (call("TopK", Operand(0), integers(3), axis=-1, largest=0),
     (OperatorClass.TOPK, {"input": 0, "axis": 2, "k": 3, "largest": False})),
    (call("ReduceMean", Operand(0), integers(-1, 0), keepdims=0),
     (OperatorClass.REDUCTION, {"function": "mean", "axes": (0, 2), "keepdims": False})),
    (call("ReduceSum", Operand(0)),
     (OperatorClass.REDUCTION, {"function": "sum", "axes": (0, 1, 2), "keepdims": True})),
    (call("LayerNormalization", Operand(0), Operand(1), axis=-2, inputs=(FLOAT, FLOAT)),
     (OperatorClass.NORMALIZATION, {"axes": (1, 2)})),
    (call("MatMul", Operand(1), Operand(0), inputs=(FLOAT, FLOAT)), (OperatorClass.MATMUL, {"lhs": 1, "rhs": 0})),
    (call("Gemm", Operand(0), Operand(1), Operand(2), inputs=(FLOAT, FLOAT, FLOAT)),
     (OperatorClass.MATMUL, {"lhs": 0, "rhs": 1, "bias": 2})),
    (call("CumSum", Operand(0), (DType.INT64, (), (-1,))), (OperatorClass.CUMULATIVE, {"axis": 2, "function": "sum"})),
    (call("Softmax", Operand(0), axis=1), (OperatorClass.SOFTMAX, {"axis": 1})),
    (call("ScatterElements", Operand(0), Operand(1), (DType.FLOAT32, (2, 4, 3), (0.0,)), axis=2,
          inputs=(FLOAT, INTEGERS)),
     (OperatorClass.SCATTER, {"data": 0, "indices": 1, "axis": 2, "mode": "along", "value": 0.0})),
])
def test_classes_and_attributes(found: object, expected: object) -> None:
    assert found == expected


@pytest.mark.parametrize("found", [
    call("NoSuchOperator", Operand(0)),
    call("LogSoftmax", Operand(0)),
    call("CumSum", Operand(0), (DType.INT64, (), (1,)), reverse=1),
    call("CumSum", Operand(0), Operand(1), inputs=(FLOAT, INTEGERS)),
    call("Gemm", Operand(0), Operand(1), alpha=0.5, inputs=(FLOAT, FLOAT)),
    call("Gemm", Operand(0), Operand(1), transB=1, inputs=(FLOAT, FLOAT)),
    call("Slice", Operand(0), integers(3), integers(0), integers(1), integers(-1)),
    call("Softmax", Operand(0), axis=1, version=11),
    call("ScatterND", Operand(0), Operand(1), Operand(2), reduction="add", inputs=(FLOAT, INTEGERS, FLOAT)),
    call("MatMul", Operand(0), Operand(1), inputs=(FLOAT, TensorType((8,), DType.FLOAT32))),
    call("Reshape", Operand(0), Operand(1), inputs=(FLOAT, INTEGERS)),
    call("ReduceSum", Operand(0), noop_with_empty_axes=1),
    call("Attention", *(Operand(position) for position in range(3)), None, Operand(3), inputs=(FLOAT,) * 4),
    call("GatherND", Operand(0), Operand(1), batch_dims=1, inputs=(FLOAT, INTEGERS)),
], ids=lambda found: found[0].value)
def test_variants_no_class_states_exactly_are_opaque(found: object) -> None:
    assert found == (OperatorClass.OPAQUE, {})


def test_names_are_operators_of_onnx() -> None:
    import onnx

    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert set(known_operators()) <= schemas
