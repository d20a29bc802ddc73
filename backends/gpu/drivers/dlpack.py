"""Addresses of IREE's memory, out of the DLPack capsules that its Python runtime makes.

The layout is that of ``dlpack.h`` before version 1.0 (`DLManagedTensor`), whose first members are read.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any

DEVICE_TYPES = {"cpu": 1, "cuda": 2, "hip": 10}
"""kDLCPU, kDLCUDA, kDLROCM."""


class _Tensor(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
                ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)),
                ("strides", POINTER(c_int64)), ("byte_offset", c_uint64))


_pointer_of = ctypes.PYFUNCTYPE(c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def address_in(capsule: Any) -> int:
    """Address of the first element of what a capsule holds; the capsule has to live as long as it is used."""
    tensor = ctypes.cast(_pointer_of(capsule, b"dltensor"), POINTER(_Tensor)).contents
    return int(tensor.data or 0) + int(tensor.byte_offset)
