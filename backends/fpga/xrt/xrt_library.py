"""XRT without its Python binding: a pyxrt-shaped module over the C interface of ``libxrt_coreutil``.

Distributions ship the library and not ``pyxrt``. What is here has the names and the meaning of pyxrt 2.13, as far as
``driver.py`` uses it; failures are RuntimeError with the text of XRT's own error number (its sentence goes to stderr).
Handles are closed in the order XRT needs (run, buffer, kernel, device), also at the end of the program.
"""

from __future__ import annotations

import ctypes
import os
import uuid as uuid_module
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.xrt.emulator import CommandState, SyncDirection
from hetcc.backends.fpga.xrt.xclbin import read_sections

LIBRARY = "libxrt_coreutil.so.2"
_HANDLE, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "xrtDeviceOpen": (_HANDLE, (ctypes.c_uint,)),
    "xrtDeviceClose": (ctypes.c_int, (_HANDLE,)),
    "xrtDeviceLoadXclbinFile": (ctypes.c_int, (_HANDLE, ctypes.c_char_p)),
    "xrtDeviceGetXclbinUUID": (ctypes.c_int, (_HANDLE, ctypes.c_char_p)),
    "xrtPLKernelOpen": (_HANDLE, (_HANDLE, ctypes.c_char_p, ctypes.c_char_p)),
    "xrtPLKernelOpenExclusive": (_HANDLE, (_HANDLE, ctypes.c_char_p, ctypes.c_char_p)),
    "xrtKernelClose": (ctypes.c_int, (_HANDLE,)),
    "xrtKernelArgGroupId": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "xrtKernelArgOffset": (ctypes.c_uint32, (_HANDLE, ctypes.c_int)),
    "xrtBOAlloc": (_HANDLE, (_HANDLE, _SIZE, ctypes.c_uint64, ctypes.c_uint32)),
    "xrtBOFree": (ctypes.c_int, (_HANDLE,)),
    "xrtBOAddress": (ctypes.c_uint64, (_HANDLE,)),
    "xrtBOSync": (ctypes.c_int, (_HANDLE, ctypes.c_int, _SIZE, _SIZE)),
    "xrtBOWrite": (ctypes.c_int, (_HANDLE, ctypes.c_void_p, _SIZE, _SIZE)),
    "xrtBORead": (ctypes.c_int, (_HANDLE, ctypes.c_void_p, _SIZE, _SIZE)),
    "xrtRunOpen": (_HANDLE, (_HANDLE,)),
    "xrtRunClose": (ctypes.c_int, (_HANDLE,)),
    "xrtRunStart": (ctypes.c_int, (_HANDLE,)),
    "xrtRunWaitFor": (ctypes.c_int, (_HANDLE, ctypes.c_uint)),
    "xrtRunState": (ctypes.c_int, (_HANDLE,)),
    # A C function with a variable last argument: its value is given the type it needs at each call.
    "xrtRunSetArg": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
}


@cache
def library() -> Any:
    """The loaded library.

    Raises:
        OSError: there is none.
    """
    loaded = ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL, use_errno=True)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _handle(name: str, *arguments: Any) -> int:
    """What a C function opened.

    Raises:
        RuntimeError: nothing.
    """
    found = getattr(library(), name)(*arguments)
    if not found:
        raise RuntimeError(_failure(name))
    return int(found)


def _done(name: str, *arguments: Any) -> None:
    if getattr(library(), name)(*arguments) != 0:
        raise RuntimeError(_failure(name))


def _failure(name: str) -> str:
    number = ctypes.get_errno()
    return f"{name}: {os.strerror(number) if number else 'failed'}"


class Device:
    """``pyxrt.device``."""

    def __init__(self, index: int = 0) -> None:
        self.handle = _handle("xrtDeviceOpen", index)
        weakref.finalize(self, library().xrtDeviceClose, self.handle)

    def load_xclbin(self, path: str) -> uuid_module.UUID:
        """Program the card."""
        # XRT 2.13 follows the offsets of a damaged file, and may take the whole program with it.
        try:
            read_sections(Path(path).read_bytes())
        except OSError:
            raise RuntimeError(f"Failed to open file '{path}' for reading") from None
        except ValueError:
            raise RuntimeError("Invalid xclbin") from None
        _done("xrtDeviceLoadXclbinFile", self.handle, path.encode())
        return self.get_xclbin_uuid()

    def get_xclbin_uuid(self) -> uuid_module.UUID:
        """Identity of what the card runs."""
        found = ctypes.create_string_buffer(16)
        _done("xrtDeviceGetXclbinUUID", self.handle, found)
        return uuid_module.UUID(bytes=found.raw)


class Kernel:
    """``pyxrt.kernel``."""

    none, shared, exclusive = 0, 1, 2

    def __init__(self, device: Device, uuid: uuid_module.UUID, name: str, mode: int = 1) -> None:
        self._device = device
        opens = "xrtPLKernelOpenExclusive" if mode == self.exclusive else "xrtPLKernelOpen"
        self.handle = _handle(opens, device.handle, uuid.bytes, name.encode())
        weakref.finalize(self, library().xrtKernelClose, self.handle)

    def group_id(self, position: int) -> int:
        """Memory group of an argument."""
        found = int(library().xrtKernelArgGroupId(self.handle, position))
        if found < 0:
            raise IndexError(f"argument {position} has no memory group")
        return found

    def offset(self, position: int) -> int:
        """Byte offset of an argument's register (not in pyxrt)."""
        found = int(library().xrtKernelArgOffset(self.handle, position))
        if found == 2**32 - 1:
            raise IndexError(f"argument index {position} out of range")
        return found


class BufferObject:
    """``pyxrt.bo``."""

    normal, cacheable, device_only, host_only, p2p, svm = 0, 1 << 24, 1 << 28, 1 << 29, 1 << 30, 1 << 27

    def __init__(self, device: Device, size: int, flags: int, group: int) -> None:
        self._device, self._size = device, size
        self.handle = _handle("xrtBOAlloc", device.handle, size, flags, group)
        weakref.finalize(self, library().xrtBOFree, self.handle)

    def size(self) -> int:
        """Bytes."""
        return self._size

    def address(self) -> int:
        """On the device."""
        return int(library().xrtBOAddress(self.handle))

    def write(self, data: Any, seek: int) -> None:
        """Copy into the host side; the array must be contiguous."""
        raw = numpy.frombuffer(memoryview(data).cast("B"), numpy.uint8)
        _done("xrtBOWrite", self.handle, raw.ctypes.data_as(ctypes.c_void_p), raw.size, seek)

    def read(self, size: int, skip: int) -> NDArray[numpy.int8]:
        """Copy out of the host side."""
        found = numpy.empty(size, numpy.int8)
        _done("xrtBORead", self.handle, found.ctypes.data_as(ctypes.c_void_p), size, skip)
        return found

    def sync(self, direction: SyncDirection, size: int, offset: int) -> None:
        """Copy between the two sides."""
        _done("xrtBOSync", self.handle, int(direction), size, offset)


class Run:
    """``pyxrt.run``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._buffers = kernel, {}  # type: tuple[Kernel, dict[int, BufferObject]]
        self._started = False
        self.handle = _handle("xrtRunOpen", kernel.handle)
        weakref.finalize(self, library().xrtRunClose, self.handle)

    def set_arg(self, position: int, value: Any) -> None:
        """Set one argument: a buffer, or an integer of 32 bits with sign."""
        if isinstance(value, BufferObject):
            self._buffers[position] = value
            given: Any = ctypes.c_void_p(value.handle)
        elif isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
            raise TypeError("set_arg(): incompatible function arguments")
        else:
            given = ctypes.c_int(value)
        _done("xrtRunSetArg", self.handle, position, given)

    def start(self) -> None:
        """Start."""
        _done("xrtRunStart", self.handle)
        self._started = True

    def wait(self, timeout_ms: int = 0) -> CommandState:
        """The state at the end, or after the timeout. XRT would wait for ever on a run that was not started."""
        if not self._started:
            raise RuntimeError("waiting on a run that was never started")
        return CommandState(library().xrtRunWaitFor(self.handle, timeout_ms))

    def state(self) -> CommandState:
        """The state now."""
        return CommandState(library().xrtRunState(self.handle))


class LibraryXrt:
    """Stands where the module ``pyxrt`` stands (the 2.13 interface)."""

    device = Device
    kernel = Kernel
    run = Run
    bo = BufferObject
    xclBOSyncDirection = SyncDirection  # noqa: N815 - pyxrt's own spelling
    ert_cmd_state = CommandState


__all__ = ["LIBRARY", "BufferObject", "Device", "Kernel", "LibraryXrt", "Run", "library"]
