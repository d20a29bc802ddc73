"""AMD cards through the HIP runtime, ``libamdhip64.so``, whose functions are called as its public header declares them.

The library is called by ctypes rather than through the package hip-python: that package has to match the installed ROCm
version, so it could not be pinned, and about twenty functions are needed. IREE's HIP driver opens the same library
and uses the same primary context, so addresses mean the same to both.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_void_p

from hetcc.backends.gpu.drivers.library import Interface, LibraryDriver

HIP = Interface(
    kind="hip",
    libraries=("libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"),
    how_to_get="install ROCm (https://rocm.docs.amd.com), or put its lib folder into LD_LIBRARY_PATH",
    functions={
        "init": ("hipInit", (c_uint,)),
        "count": ("hipGetDeviceCount", (POINTER(c_int),)),
        "device": ("hipSetDevice", (c_int,)),
        "allocate": ("hipMalloc", (POINTER(c_void_p), c_size_t)),
        "free": ("hipFree", (c_void_p,)),
        "copy_in": ("hipMemcpyHtoDAsync", (c_void_p, c_void_p, c_size_t, c_void_p)),
        "copy_out": ("hipMemcpyDtoHAsync", (c_void_p, c_void_p, c_size_t, c_void_p)),
        "copy": ("hipMemcpyDtoDAsync", (c_void_p, c_void_p, c_size_t, c_void_p)),
        "zero": ("hipMemsetD8Async", (c_void_p, c_ubyte, c_size_t, c_void_p)),
        "load": ("hipModuleLoadData", (POINTER(c_void_p), c_char_p)),
        "function": ("hipModuleGetFunction", (POINTER(c_void_p), c_void_p, c_char_p)),
        "unload": ("hipModuleUnload", (c_void_p,)),
        "launch": ("hipModuleLaunchKernel", (c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p))),
        "new_stream": ("hipStreamCreateWithFlags", (POINTER(c_void_p), c_uint)),
        "drop_stream": ("hipStreamDestroy", (c_void_p,)),
        "finish_stream": ("hipStreamSynchronize", (c_void_p,)),
        "new_event": ("hipEventCreateWithFlags", (POINTER(c_void_p), c_uint)),
        "drop_event": ("hipEventDestroy", (c_void_p,)),
        "record": ("hipEventRecord", (c_void_p, c_void_p)),
        "wait": ("hipStreamWaitEvent", (c_void_p, c_void_p, c_uint)),
        "finish": ("hipDeviceSynchronize", ()),
        "error_name": ("hipGetErrorName", (c_int,)),
        "error_text": ("hipGetErrorString", (c_int,)),
    })


class HipDriver(LibraryDriver):
    """An AMD card. Chips are not compared: the driver refuses a code object for another chip when it is loaded."""

    interface = HIP

    def _open(self, ordinal: int) -> None:
        for word in ("error_name", "error_text"):
            self._functions[word].restype = ctypes.c_char_p
        self._require_card(ordinal)
        self.ordinal = ordinal

    def _enter(self) -> None:
        self._call("device", self.ordinal)

    def _describe(self, number: int) -> tuple[str, str]:
        name, text = (self._functions[word](number) or b"" for word in ("error_name", "error_text"))
        return name.decode() or f"error {number}", text.decode()
