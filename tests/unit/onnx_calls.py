"""One ONNX program that uses every operator the GPU back end's table names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

Call = tuple[str, list[Any], dict[str, Any]]
"""Operator, inputs (arrays that become inputs of the program, or ``fixed`` arrays that stay literals), attributes."""


class fixed:
    """An input that is a literal of the program."""

    def __init__(self, *numbers: Any) -> None:
        self.array = numpy.asarray(numbers[0] if len(numbers) == 1 else numbers)


def onnx_calls() -> list[Call]:
    random = numpy.random.default_rng(0)

    def floats(*shape: int) -> numpy.ndarray:
        return random.standard_normal(shape).astype(numpy.float32)

    x, positive = floats(3, 4), numpy.abs(floats(3, 4)) + numpy.float32(0.1)
    p, q = x > 0, positive > 0.5
    rows = numpy.array([2, 0])
    unary = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sin",
             "Tanh", "LeakyRelu", "Round", "Sign", "Softplus"]
    compared = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
    return [
        *((name, [x], {}) for name in unary), *((name, [positive], {}) for name in ("Log", "Sqrt")),
        *((name, [x, positive], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")),
        *((name, [x.round(), positive.round()], {}) for name in compared),
        *((name, [p, q], {}) for name in ("And", "Or", "Xor")),
        ("IsNaN", [numpy.where(q, x, numpy.float32("nan"))], {}), ("Not", [p], {}), ("Pow", [positive, x], {}),
        ("Where", [p, x, positive], {}), ("Clip", [x, fixed(numpy.float32(-0.5)), fixed(numpy.float32(0.5))], {}),
        ("Cast", [x], {"to": 7}), ("Gelu", [x], {}), ("Softmax", [x], {"axis": -1}), ("LogSoftmax", [x], {"axis": 0}),
        ("LayerNormalization", [x, floats(4), floats(4)], {"axis": -1}),
        ("ArgMax", [x], {"axis": 1}), ("ArgMin", [x], {"axis": 0, "keepdims": 0}),
        *((name, [x, fixed([1])], {"keepdims": 0}) for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")),
        ("CumSum", [x, fixed(1)], {}), ("MatMul", [x, floats(4, 5)], {}),
        ("MatMul", [floats(2, 3, 4), floats(2, 4, 3)], {}),
        ("Gemm", [x, floats(4, 5), floats(5)], {}), ("Reshape", [x, fixed([2, 6])], {}),
        ("Flatten", [floats(2, 3, 4)], {}),
        ("Transpose", [floats(2, 3, 4)], {"perm": [2, 0, 1]}), ("Squeeze", [floats(1, 3), fixed([0])], {}),
        ("Unsqueeze", [x, fixed([1])], {}), ("Slice", [x, fixed([1]), fixed([3]), fixed([1])], {}),
        ("Expand", [floats(3, 1), fixed([3, 4])], {}), ("Tile", [x, fixed([2, 1])], {}),
        ("Concat", [x, positive], {"axis": 1}),
        ("Split", [x, fixed([1, 3])], {"axis": 1}), ("Gather", [x, rows], {"axis": 0}),
        ("GatherElements", [x, numpy.array([[1, 0], [3, 2], [0, 0]])], {"axis": 1}),
        ("ScatterElements", [x, numpy.array([[1, 0], [3, 2], [0, 1]]), floats(3, 2)], {"axis": 1}),
        ("ScatterND", [x, numpy.array([[2], [0]]), floats(2, 4)], {}),
        ("TopK", [x, fixed([2])], {"axis": 1}), ("TopK", [x.round(), fixed([3])], {"axis": 0, "largest": 0}),
        ("TopK", [floats(1, 600), fixed([5])], {}),
    ]


def newer_calls() -> list[Call]:
    """Operators that came with version 23 or 24."""
    random = numpy.random.default_rng(1)

    def floats(*shape: int) -> numpy.ndarray:
        return random.standard_normal(shape).astype(numpy.float32)

    keys = floats(1, 2, 5, 4)
    return [("RMSNormalization", [floats(3, 4), floats(4)], {"axis": -1}), ("Swish", [floats(3, 4)], {}),
            ("Attention", [floats(1, 4, 3, 4), keys, floats(1, 2, 5, 4)], {}),
            ("Attention", [floats(1, 2, 3, 4), keys, keys, floats(3, 5)], {"scale": 0.25})]


def save_program(path: Path, calls: list[Call] | None = None, version: int = 20) -> dict[str, numpy.ndarray]:
    """Writes the program of ``calls`` (by default :func:`onnx_calls`); the arrays of its inputs."""
    import onnx

    nodes, literals, inputs, arrays, outputs = [], [], [], {}, []
    for position, (operator, operands, attributes) in enumerate(calls or onnx_calls()):
        names = []
        for operand in operands:
            name = f"in{position}.{len(names)}"
            names.append(name)
            if isinstance(operand, fixed):
                literals.append(onnx.numpy_helper.from_array(operand.array, name))
            else:
                arrays[name] = numpy.ascontiguousarray(operand)
                element = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
                inputs.append(onnx.helper.make_tensor_value_info(name, element, operand.shape))
        count = {"TopK": 2, "Split": 2}.get(operator, 1)
        results = [f"{operator}.{position}.{index}" for index in range(count)]
        nodes.append(onnx.helper.make_node(operator, names, results, **attributes))
        outputs.extend(results)
    untyped = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "calls", inputs, untyped, literals)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    del model.graph.output[:]
    model.graph.output.extend(types[name] for name in outputs)
    onnx.save(model, str(path))
    return arrays
