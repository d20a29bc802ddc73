"""The part that the C interfaces of HIP and CUDA share: one is modelled on the other, call by call."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from hetcc.backends.gpu.drivers.contract import ArgumentBlock, Grid, Number, refused
from hetcc.backends.gpu.kernels.code_object import CodeObject
from hetcc.errors import ToolError

Types = tuple[Any, ...]


@dataclass(frozen=True)
class Interface:
    """Names and types of a driver's functions.

    ``functions`` has, by the word used here, the symbol and the types of its arguments. All return an error number, 0
    for success, but those in ``texts``.
    """

    kind: str
    libraries: tuple[str, ...]
    functions: Mapping[str, tuple[str, Types]]
    how_to_get: str


def open_library(interface: Interface) -> Any:
    """The driver's shared library.

    Raises:
        ToolError: HET-T001, it is not installed.
    """
    for name in interface.libraries:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise ToolError("HET-T001", f"the {interface.kind} driver is not installed: no {' or '.join(interface.libraries)}",
                    fix=interface.how_to_get)


def is_installed(interface: Interface) -> bool:
    """Whether the driver's library is here. Nothing is called."""
    try:
        open_library(interface)
    except ToolError:
        return False
    return True


class LibraryDriver:
    """A :class:`~hetcc.backends.gpu.drivers.contract.GpuDriver` over a C library; HIP and CUDA add what differs.

    Args:
        interface: names and types of the functions.
        library: the library, opened; by default the installed one.

    Raises:
        ToolError: HET-T001, no library or no card; HET-T002, the library lacks a function.
    """

    interface: Interface

    def __init__(self, library: Any = None, ordinal: int = 0) -> None:
        found = library if library is not None else open_library(self.interface)
        self.kind = self.interface.kind
        self._functions = {word: self._bound(found, *entry) for word, entry in self.interface.functions.items()}
        self._kernels: dict[tuple[bytes, str], int] = {}
        # The image of a loaded module stays in memory: a driver may read it when a kernel is first used.
        self._modules: list[int] = []
        self._streams: list[int] = []
        self._events: list[int] = []
        self._open(ordinal)

    def _bound(self, library: Any, symbol: str, types: Types) -> Any:
        try:
            function = getattr(library, symbol)
        except AttributeError:
            raise ToolError("HET-T002", f"the {self.interface.kind} driver has no {symbol}",
                            fix="install a newer driver") from None
        function.argtypes, function.restype = types, ctypes.c_int
        return function

    def _open(self, ordinal: int) -> None:
        raise NotImplementedError

    def _describe(self, number: int) -> tuple[str, str]:
        """Name and text of an error number."""
        raise NotImplementedError

    def _enter(self) -> None:
        """Makes the card the calling thread's own."""

    def _prepare(self, function: int, code: CodeObject) -> None:
        """What a new kernel needs before its first launch."""

    def _call(self, word: str, *arguments: Any, where: str = "") -> None:
        number = self._functions[word](*arguments)
        if number != 0:
            raise refused(self.interface.functions[word][0], *self._describe(number), where=where)

    def _made(self, word: str, *arguments: Any, kind: Any = ctypes.c_void_p, where: str = "") -> int:
        """What a function writes to its first argument."""
        place = kind()
        self._call(word, ctypes.byref(place), *arguments, where=where)
        return int(place.value or 0)

    def _require_card(self, ordinal: int) -> None:
        number = self._functions["init"](0)
        count = 0
        if number == 0:
            place = ctypes.c_int()
            number = self._functions["count"](ctypes.byref(place))
            count = place.value
        if number != 0 or ordinal >= count:
            reason = ": ".join(self._describe(number)) if number else f"it has {count}, number {ordinal} was asked for"
            raise ToolError("HET-T001", f"the {self.kind} driver finds no card to run on ({reason})",
                            fix="check that the card is visible (rocm-smi, nvidia-smi) and that you may use it")

    def allocate(self, size_bytes: int) -> int:
        """See :class:`GpuDriver`."""
        self._enter()
        return self._made("allocate", max(size_bytes, 1), kind=self.address_type, where=f"{size_bytes} bytes")

    address_type: Any = ctypes.c_void_p

    def free(self, address: int) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("free", address)

    def copy_in(self, address: int, array: numpy.ndarray, stream: int = 0) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("copy_in", address, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: numpy.ndarray, address: int, stream: int = 0) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("copy_out", array.ctypes.data, address, array.nbytes, stream)

    def copy(self, destination: int, source: int, size_bytes: int, stream: int = 0) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("copy", destination, source, size_bytes, stream)

    def zero(self, address: int, size_bytes: int, stream: int = 0) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("zero", address, 0, size_bytes, stream)

    def launch(self, code: CodeObject, arguments: Sequence[Number], grid: Grid, stream: int = 0) -> None:
        """See :class:`GpuDriver`."""
        block = ArgumentBlock(code, arguments)
        if 0 in grid:
            return
        self._enter()
        function = self._kernel(code)
        where = f"{code.symbol}, grid {grid[0]} x {grid[1]} x {grid[2]}, {code.threads} threads"
        self._call("launch", function, *grid, code.threads, 1, 1, code.shared_bytes, stream, block.addresses, None,
                   where=where)

    def _kernel(self, code: CodeObject) -> int:
        key = (code.content, code.symbol)
        if key not in self._kernels:
            module = self._made("load", code.content, where=code.symbol)
            self._modules.append(module)
            function = self._made("function", module, code.symbol.encode(), where=code.symbol)
            self._prepare(function, code)
            self._kernels[key] = function
        return self._kernels[key]

    def new_stream(self) -> int:
        """See :class:`GpuDriver`."""
        self._enter()
        self._streams.append(self._made("new_stream", 1))  # 1: does not wait for the default stream
        return self._streams[-1]

    def new_event(self) -> int:
        """See :class:`GpuDriver`."""
        self._enter()
        self._events.append(self._made("new_event", 2))  # 2: without a clock
        return self._events[-1]

    def record(self, event: int, stream: int) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("record", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        self._call("wait", stream, event, 0)

    def synchronize(self, stream: int | None = None) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        if stream is None:
            self._call("finish")
        else:
            self._call("finish_stream", stream)

    def close(self) -> None:
        """See :class:`GpuDriver`."""
        self._enter()
        for word, handles in (("drop_event", self._events), ("drop_stream", self._streams), ("unload", self._modules)):
            while handles:
                self._call(word, handles.pop())
        self._kernels.clear()
