"""Element types, tensor types and literals between ONNX and hetcc.

A literal is how a small known tensor (a shape, an axis, a scalar) stands in ``Node.arguments``: the typed triple
``(dtype, shape, values)``. Being part of the arguments it is part of the digest of a program too, so two regions that
differ only in such a number are never taken for one another. One value stands for all elements of a long one
when they are equal.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy
import onnx

from hetcc.errors import UserError
from hetcc.ir import Argument, DType, TensorType

SPELT_OUT_ELEMENTS = 64
"""Literals up to this length list all their elements."""

Literal = tuple[DType, tuple[int, ...], tuple[bool | int | float, ...]]

_ONNX_OF = {
    DType.FLOAT64: onnx.TensorProto.DOUBLE, DType.FLOAT32: onnx.TensorProto.FLOAT,
    DType.FLOAT16: onnx.TensorProto.FLOAT16, DType.BFLOAT16: onnx.TensorProto.BFLOAT16,
    DType.FLOAT8_E4M3FN: onnx.TensorProto.FLOAT8E4M3FN, DType.FLOAT8_E5M2: onnx.TensorProto.FLOAT8E5M2,
    DType.INT64: onnx.TensorProto.INT64, DType.INT32: onnx.TensorProto.INT32, DType.INT16: onnx.TensorProto.INT16,
    DType.INT8: onnx.TensorProto.INT8, DType.UINT8: onnx.TensorProto.UINT8, DType.BOOL: onnx.TensorProto.BOOL,
}
_DTYPE_OF = {number: dtype for dtype, number in _ONNX_OF.items()}


def onnx_number_of(dtype: DType) -> int:
    """``TensorProto.DataType`` of an element type."""
    return int(_ONNX_OF[dtype])


def dtype_of(onnx_number: int, where: str) -> DType:
    """The element type of a ``TensorProto.DataType``.

    Raises:
        UserError: HET-C009, hetcc has no such element type (strings, complex numbers, 4-bit integers).
    """
    if onnx_number not in _DTYPE_OF:
        known = onnx_number in onnx.TensorProto.DataType.values()
        name = onnx.TensorProto.DataType.Name(onnx_number) if known else str(onnx_number)
        raise UserError("HET-C009", f"element type {name} is not supported", where=where,
                        fix="convert the model to one of: " + ", ".join(dtype.value for dtype in DType))
    return _DTYPE_OF[onnx_number]


def numpy_dtype_of(dtype: DType) -> numpy.dtype[Any]:
    """The numpy element type that ONNX tensors of ``dtype`` are read as."""
    found: numpy.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(_ONNX_OF[dtype])
    return found


def tensor_type_of(array: numpy.ndarray, where: str) -> TensorType:
    """The TensorType of an array read from ONNX."""
    return TensorType(tuple(array.shape), dtype_of(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), where))


def type_proto_of(tensor_type: TensorType) -> Any:
    """The ``TypeProto`` of a TensorType."""
    return onnx.helper.make_tensor_type_proto(_ONNX_OF[tensor_type.dtype], tensor_type.shape)


def literal_of(array: numpy.ndarray, where: str) -> Literal:
    """``array`` as a literal argument."""
    found = tensor_type_of(array, where)
    values = array.reshape(-1)
    if array.size > SPELT_OUT_ELEMENTS and is_uniform(array):
        values = values[:1]
    # The element types that numpy lacks print as objects; double precision holds each of them exactly.
    numbers = values.astype(numpy.float64) if found.dtype.is_floating else values
    return found.dtype, found.shape, tuple(numbers.tolist())


def is_uniform(array: numpy.ndarray) -> bool:
    """Whether all elements have equal bits and there is at least one."""
    return array.size > 0 and array.tobytes() == array.reshape(-1)[:1].tobytes() * array.size


def is_literal(argument: Argument) -> TypeGuard[Literal]:
    """Whether an argument is a literal tensor."""
    return isinstance(argument, tuple) and len(argument) == 3 and isinstance(argument[0], DType)


def array_of(literal: Literal) -> numpy.ndarray:
    """The array a literal stands for."""
    dtype, shape, values = literal
    if len(values) == 1:
        return numpy.full(shape, values[0], numpy_dtype_of(dtype))
    return numpy.array(values, dtype=numpy_dtype_of(dtype)).reshape(shape)
