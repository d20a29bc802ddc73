"""What the rest of hetcc needs of a GPU driver, and how the arguments of a launch become bytes."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Protocol

import numpy

from hetcc.backends.gpu.kernels.code_object import CodeObject, Parameter
from hetcc.errors import ToolError, UserError

Number = int | float
Grid = tuple[int, int, int]


class GpuDriver(Protocol):
    """One card behind its driver. Addresses, streams and events are numbers; stream 0 is the default stream.

    All calls but :meth:`synchronize` may return before the card is done; work on one stream runs in order.

    Every method raises:
        ToolError: HET-G002, the driver refused the call, with the driver's own name and text of the error.
    """

    kind: str
    """``hip`` or ``cuda``, which is also what IREE calls its driver."""

    def allocate(self, size_bytes: int) -> int:
        """Address of new memory on the card, aligned to at least 256 bytes; its contents are arbitrary."""
        ...

    def free(self, address: int) -> None:
        """Give memory back; the driver first waits for what uses it."""
        ...

    def copy_in(self, address: int, array: numpy.ndarray, stream: int = 0) -> None:
        """Copy a dense array to the card. It must stay as it is until the stream was waited for."""
        ...

    def copy_out(self, array: numpy.ndarray, address: int, stream: int = 0) -> None:
        """Fill a dense array from the card; it has the values once the stream was waited for."""
        ...

    def copy(self, destination: int, source: int, size_bytes: int, stream: int = 0) -> None:
        """Copy within the card."""
        ...

    def zero(self, address: int, size_bytes: int, stream: int = 0) -> None:
        """Fill memory with zeros."""
        ...

    def launch(self, code: CodeObject, arguments: Sequence[Number], grid: Grid, stream: int = 0) -> None:
        """Launch a kernel; its code object is loaded the first time.

        Args:
            code: the kernel.
            arguments: an address or a number for each of ``code.visible``, in order.
            grid: blocks along x, y, z; nothing is launched if one of them is 0.
            stream: where it runs.

        Raises:
            UserError: HET-R002, the arguments are not as many or not of the kind the kernel takes.
        """
        ...

    def new_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        ...

    def new_event(self) -> int:
        """An event without a clock."""
        ...

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is on the stream now is done."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """What comes next on the stream starts after the event."""
        ...

    def synchronize(self, stream: int | None = None) -> None:
        """Wait, on the host, for a stream or for the whole card."""
        ...

    def close(self) -> None:
        """Give back streams, events and code objects; memory is the caller's."""
        ...


_FORMATS = {"i1": "<?", "i8": "<b", "u8": "<B", "i16": "<h", "u16": "<H", "fp16": "<e", "i32": "<i", "u32": "<I",
            "fp32": "<f", "i64": "<q", "u64": "<Q", "fp64": "<d"}
_CELL_BYTES = 8


def bytes_of(parameter: Parameter, value: Number) -> bytes:
    """An argument as the kernel reads it.

    Raises:
        UserError: HET-R002, the number does not fit into the parameter's type.
    """
    kind = parameter.triton_type
    try:
        if parameter.is_pointer:
            return struct.pack("<Q", value)
        if kind == "bf16":
            return _bfloat16(float(value))
        return struct.pack(_FORMATS[kind], bool(value) if kind == "i1" else value)
    except (struct.error, OverflowError, TypeError) as error:
        raise UserError("HET-R002", f"{value!r} cannot be passed as {kind}", where=parameter.name) from error


def _bfloat16(value: float) -> bytes:
    """Rounded to nearest, ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    if value == value:
        bits += 0x7FFF + (bits >> 16 & 1)
    return struct.pack("<H", bits >> 16 & 0xFFFF)


class ArgumentBlock:
    """Arguments in memory, and the array of their addresses that a launch function takes (``kernelParams``)."""

    def __init__(self, code: CodeObject, arguments: Sequence[Number]) -> None:
        visible = code.visible
        if len(arguments) != len(visible):
            raise UserError("HET-R002", f"{len(arguments)} arguments for a kernel that takes {len(visible)}",
                            where=code.symbol)
        count = len(code.parameters)
        self._cells = ctypes.create_string_buffer(_CELL_BYTES * max(count, 1))
        start = ctypes.addressof(self._cells)
        for place, (parameter, value) in enumerate(zip(visible, arguments, strict=True)):
            raw = bytes_of(parameter, value)
            ctypes.memmove(start + place * _CELL_BYTES, raw, len(raw))
        self.addresses = (ctypes.c_void_p * count)(*(start + place * _CELL_BYTES for place in range(count)))


def refused(call: str, name: str, text: str, where: str = "", fix: str = "") -> ToolError:
    """The error for a call that the driver refused."""
    return ToolError("HET-G002", f"{call} failed with {name}: {text}", where=where,
                     fix=fix or "see the driver's own log (dmesg); `hetcc doctor` says what is installed")
