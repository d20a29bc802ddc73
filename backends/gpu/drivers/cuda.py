"""NVIDIA cards through the CUDA driver, ``libcuda.so.1``, called as its public header declares the functions.

The card's primary context is used, as IREE's CUDA driver does, so addresses mean the same to both.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p

from hetcc.backends.gpu.drivers.library import Interface, LibraryDriver
from hetcc.backends.gpu.kernels.code_object import CodeObject

_SHARED_WITHOUT_ASKING_BYTES = 48 << 10
"""A block gets more only after the kernel's limit was raised (CUDA programming guide, compute capability 7.x on)."""
_LIMIT_OF_SHARED = 8
"""``CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES``."""

CUDA = Interface(
    kind="cuda",
    libraries=("libcuda.so.1", "libcuda.so"),
    how_to_get="install NVIDIA's driver for the card (https://www.nvidia.com/drivers)",
    functions={
        "init": ("cuInit", (c_uint,)),
        "count": ("cuDeviceGetCount", (POINTER(c_int),)),
        "device": ("cuDeviceGet", (POINTER(c_int), c_int)),
        "context": ("cuDevicePrimaryCtxRetain", (POINTER(c_void_p), c_int)),
        "release": ("cuDevicePrimaryCtxRelease_v2", (c_int,)),
        "enter": ("cuCtxSetCurrent", (c_void_p,)),
        "allocate": ("cuMemAlloc_v2", (POINTER(c_uint64), c_size_t)),
        "free": ("cuMemFree_v2", (c_uint64,)),
        "copy_in": ("cuMemcpyHtoDAsync_v2", (c_uint64, c_void_p, c_size_t, c_void_p)),
        "copy_out": ("cuMemcpyDtoHAsync_v2", (c_void_p, c_uint64, c_size_t, c_void_p)),
        "copy": ("cuMemcpyDtoDAsync_v2", (c_uint64, c_uint64, c_size_t, c_void_p)),
        "zero": ("cuMemsetD8Async", (c_uint64, c_ubyte, c_size_t, c_void_p)),
        "load": ("cuModuleLoadData", (POINTER(c_void_p), c_char_p)),
        "function": ("cuModuleGetFunction", (POINTER(c_void_p), c_void_p, c_char_p)),
        "limit": ("cuFuncSetAttribute", (c_void_p, c_int, c_int)),
        "unload": ("cuModuleUnload", (c_void_p,)),
        "launch": ("cuLaunchKernel", (c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p))),
        "new_stream": ("cuStreamCreate", (POINTER(c_void_p), c_uint)),
        "drop_stream": ("cuStreamDestroy_v2", (c_void_p,)),
        "finish_stream": ("cuStreamSynchronize", (c_void_p,)),
        "new_event": ("cuEventCreate", (POINTER(c_void_p), c_uint)),
        "drop_event": ("cuEventDestroy_v2", (c_void_p,)),
        "record": ("cuEventRecord", (c_void_p, c_void_p)),
        "wait": ("cuStreamWaitEvent", (c_void_p, c_void_p, c_uint)),
        "finish": ("cuCtxSynchronize", ()),
        "error_name": ("cuGetErrorName", (c_int, POINTER(c_char_p))),
        "error_text": ("cuGetErrorString", (c_int, POINTER(c_char_p))),
    })


class CudaDriver(LibraryDriver):
    """An NVIDIA card."""

    interface = CUDA
    address_type = c_uint64

    def _open(self, ordinal: int) -> None:
        self._require_card(ordinal)
        self._card = self._made("device", ordinal, kind=c_int)
        self._context = self._made("context", self._card)

    def _enter(self) -> None:
        self._call("enter", self._context)

    def _prepare(self, function: int, code: CodeObject) -> None:
        if code.shared_bytes > _SHARED_WITHOUT_ASKING_BYTES:
            self._call("limit", function, _LIMIT_OF_SHARED, code.shared_bytes, where=code.symbol)

    def _describe(self, number: int) -> tuple[str, str]:
        found = []
        for word in ("error_name", "error_text"):
            place = ctypes.c_char_p()
            self._functions[word](number, ctypes.byref(place))
            found.append((place.value or b"").decode())
        return found[0] or f"error {number}", found[1]

    def close(self) -> None:
        """See :class:`GpuDriver`; the card's context is given back too."""
        super().close()
        if self._context:
            self._call("release", self._card)
            self._context = 0
