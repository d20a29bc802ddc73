"""Memory handed to IREE and taken from it, by address: DLPack capsules, made and read by hand.

The layout is that of ``dlpack.h`` before version 1.0, which IREE's Python runtime speaks (`DLManagedTensor`).
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any

from hetcc.ir import DType

DEVICE_TYPES = {"cpu": 1, "cuda": 2, "hip": 10}
"""kDLCPU, kDLCUDA, kDLROCM."""
_INTEGER, _UNSIGNED, _FLOAT, _BFLOAT, _BOOLEAN = 0, 1, 2, 4, 6
_NAME = b"dltensor"
_DELETER = ctypes.CFUNCTYPE(None, c_void_p)


class _Device(ctypes.Structure):
    _fields_ = (("device_type", c_int32), ("device_id", c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("device", _Device), ("ndim", c_int32), ("dtype", _Type),
                ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64))


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", _DELETER))


_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, ctypes.c_char_p, c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi))
_pointer_of = ctypes.PYFUNCTYPE(c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))
_held: dict[int, tuple[Any, ...]] = {}
"""What must live until the receiver calls the deleter, by the address of the structure."""
_leaving: deque[Any] = deque(maxlen=64)
"""What was held last: a deleter is code that must not be freed while it runs."""


def _type_of(dtype: DType) -> _Type:
    if dtype is DType.BOOL:
        code = _BOOLEAN
    elif dtype is DType.BFLOAT16:
        code = _BFLOAT
    elif dtype in (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64):
        code = _FLOAT
    else:
        code = _UNSIGNED if dtype is DType.UINT8 else _INTEGER
    return _Type(code, dtype.size_bytes * 8, 1)


def capsule_of(address: int, shape: tuple[int, ...], dtype: DType, kind: str, release: Callable[[], None]) -> Any:
    """A capsule for dense memory at ``address``; ``release`` is called when its receiver lets go of it.

    Args:
        address: of the first element.
        shape: of the tensor.
        dtype: element type.
        kind: ``hip``, ``cuda`` or ``cpu``.
        release: called once.
    """
    extents = (c_int64 * max(len(shape), 1))(*shape)
    managed = _Managed()
    place = ctypes.addressof(managed)

    def drop(_: int) -> None:
        release()
        _leaving.append(_held.pop(place, None))

    deleter = _DELETER(drop)
    managed.tensor = _Tensor(address, _Device(DEVICE_TYPES[kind], 0), len(shape), _type_of(dtype),
                             ctypes.cast(extents, POINTER(c_int64)), None, 0)
    managed.deleter = deleter
    _held[place] = (managed, extents, deleter)
    return _new_capsule(place, _NAME, None)


def address_in(capsule: Any) -> int:
    """Address of the first element of what a capsule holds; the capsule has to live as long as it is used."""
    managed = ctypes.cast(_pointer_of(capsule, _NAME), POINTER(_Managed)).contents
    return int(managed.tensor.data or 0) + int(managed.tensor.byte_offset)
