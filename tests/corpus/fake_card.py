"""A card behind a C library that stands in for the driver of AMD or NVIDIA, as strict and as late as it may be.

Calls arrive through real C function pointers, so a wrong type or order of arguments reads wrong bytes here too. Work on
streams is done only when somebody waits for it: a missing wait, event or a freed array shows as wrong numbers.
"""

from __future__ import annotations

import _ctypes
import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from hetcc.backends.gpu.kernels.code_object import HIDDEN_PARAMETERS, CodeObject, Parameter, size_of

OK, INVALID, NO_MEMORY, NO_CARD, BAD_CONTEXT, WRONG_CHIP, BAD_HANDLE, NOT_FOUND = 0, 1, 2, 100, 201, 209, 400, 500
NAMES = {INVALID: "INVALID_VALUE", NO_MEMORY: "OUT_OF_MEMORY", NO_CARD: "NO_DEVICE", BAD_CONTEXT: "INVALID_CONTEXT",
         WRONG_CHIP: "NO_BINARY_FOR_GPU", BAD_HANDLE: "INVALID_HANDLE", NOT_FOUND: "NOT_FOUND"}
P, U32, I32, SIZE, U64, U8 = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64,
                              ctypes.c_ubyte)
_LAUNCH = (P, *[U32] * 7, P, P, P)
_HIP = {
    "hipInit": ("init", (U32,)), "hipGetDeviceCount": ("count", (P,)), "hipSetDevice": ("set_device", (I32,)),
    "hipMalloc": ("allocate", (P, SIZE)), "hipFree": ("free", (P,)),
    "hipMemcpyHtoDAsync": ("copy_in", (P, P, SIZE, P)), "hipMemcpyDtoHAsync": ("copy_out", (P, P, SIZE, P)),
    "hipMemcpyDtoDAsync": ("copy", (P, P, SIZE, P)), "hipMemsetD8Async": ("fill", (P, U8, SIZE, P)),
    "hipModuleLoadData": ("load", (P, P)), "hipModuleGetFunction": ("function", (P, P, ctypes.c_char_p)),
    "hipModuleUnload": ("unload", (P,)), "hipModuleLaunchKernel": ("launch", _LAUNCH),
    "hipStreamCreateWithFlags": ("new_stream", (P, U32)), "hipStreamDestroy": ("drop_stream", (P,)),
    "hipStreamSynchronize": ("finish_stream", (P,)), "hipEventCreateWithFlags": ("new_event", (P, U32)),
    "hipEventDestroy": ("drop_event", (P,)), "hipEventRecord": ("record", (P, P)),
    "hipStreamWaitEvent": ("wait", (P, P, U32)), "hipDeviceSynchronize": ("finish", ()),
    "hipGetErrorName": ("error_name", (I32,)), "hipGetErrorString": ("error_text", (I32,)),
}
_CUDA = {
    "cuInit": ("init", (U32,)), "cuDeviceGetCount": ("count", (P,)), "cuDeviceGet": ("get_device", (P, I32)),
    "cuDevicePrimaryCtxRetain": ("context", (P, I32)), "cuDevicePrimaryCtxRelease_v2": ("release", (I32,)),
    "cuCtxSetCurrent": ("enter", (P,)), "cuMemAlloc_v2": ("allocate", (P, SIZE)), "cuMemFree_v2": ("free", (U64,)),
    "cuMemcpyHtoDAsync_v2": ("copy_in", (U64, P, SIZE, P)), "cuMemcpyDtoHAsync_v2": ("copy_out", (P, U64, SIZE, P)),
    "cuMemcpyDtoDAsync_v2": ("copy", (U64, U64, SIZE, P)), "cuMemsetD8Async": ("fill", (U64, U8, SIZE, P)),
    "cuModuleLoadData": ("load", (P, P)), "cuModuleGetFunction": ("function", (P, P, ctypes.c_char_p)),
    "cuFuncSetAttribute": ("limit", (P, I32, I32)), "cuModuleUnload": ("unload", (P,)),
    "cuLaunchKernel": ("launch", _LAUNCH), "cuStreamCreate": ("new_stream", (P, U32)),
    "cuStreamDestroy_v2": ("drop_stream", (P,)), "cuStreamSynchronize": ("finish_stream", (P,)),
    "cuEventCreate": ("new_event", (P, U32)), "cuEventDestroy_v2": ("drop_event", (P,)),
    "cuEventRecord": ("record", (P, P)), "cuStreamWaitEvent": ("wait", (P, P, U32)), "cuCtxSynchronize": ("finish", ()),
    "cuGetErrorName": ("error_name", (I32, P)), "cuGetErrorString": ("error_text", (I32, P)),
}
PROTOTYPES = {"hip": _HIP, "cuda": _CUDA}
CONTEXT = 0x7777
Kernel = Callable[["FakeCard", tuple[int | float, ...], tuple[int, int, int]], None]


class _Symbol(_ctypes.CFuncPtr):
    """A function as a shared library hands it out: no types until somebody sets them."""

    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = ctypes.c_int


@dataclass
class _Loaded:
    name: str
    shared_limit: int = 48 << 10


@dataclass
class Launched:
    """A launch as it arrived."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    raw: tuple[bytes, ...]
    """Bytes of each argument that the kernel would read."""


@dataclass
class FakeCard:
    """The library and the card behind it.

    Args:
        kind: ``hip`` or ``cuda``.
        kernels: by symbol, types of all arguments and what it does; ``{}`` accepts no kernel.
        chip: number in the flags of code objects for this card.
        cards: how many the driver counts.
        capacity_bytes: memory of the card.
    """

    kind: str
    kernels: dict[str, tuple[tuple[str, ...], Kernel]] = field(default_factory=dict)
    chip: int = 0x3F
    cards: int = 1
    capacity_bytes: int = 1 << 24
    lacking: tuple[str, ...] = ()
    foreign_memory: bool = False
    """Whether addresses may be of memory that somebody else allocated on the card."""

    def __post_init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.launched: list[Launched] = []
        self.memory: dict[int, numpy.ndarray] = {}
        self.objects: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None] | int]] = {0: []}
        self.recorded: dict[int, int] = {}
        """Times each event was recorded; a stream waits for the newest one."""
        self.happened: dict[int, int] = {}
        self.current: int | None = None
        self._alive: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        symbols = PROTOTYPES[self.kind] if not name.startswith("_") else {}
        if name not in symbols or name in self.lacking:
            raise AttributeError(name)
        word, types = symbols[name]
        returned = ctypes.c_char_p if self.kind == "hip" and word.startswith("error") else ctypes.c_int
        if name not in self._alive:
            self._alive[name] = ctypes.CFUNCTYPE(returned, *types)(getattr(self, f"do_{word}"))
        symbol = _Symbol(ctypes.cast(self._alive[name], ctypes.c_void_p).value)
        symbol.library = self  # the functions go with the library
        return symbol

    # ---- the card's own work

    def block_of(self, address: int, size: int) -> numpy.ndarray:
        """Live memory, as bytes; an access outside of it fails the test."""
        for start, memory in self.memory.items():
            if start <= address and address + size <= start + memory.nbytes:
                return memory[address - start:address - start + size]
        if self.foreign_memory:
            return numpy.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        raise AssertionError(f"{size} bytes at {address:#x} are not allocated")

    def array(self, address: int, count: int, dtype: Any = numpy.float32) -> numpy.ndarray:
        """Elements in the card's memory."""
        return self.block_of(address, count * numpy.dtype(dtype).itemsize).view(dtype)

    def _queue(self, stream: int | None, work: Callable[[], None]) -> int:
        if (stream or 0) not in self.queues:
            return BAD_HANDLE
        self.queues[stream or 0].append(work)
        return OK

    def drain(self, stream: int) -> None:
        """Does what is on a stream, and first what it waits for elsewhere."""
        queue = self.queues[stream]
        while queue:
            queue.pop(0)()

    def _until(self, event: int, times: int) -> None:
        for stream in list(self.queues):
            while self.happened.get(event, 0) < times and self.queues[stream] and self._will(stream, event):
                self.queues[stream].pop(0)()

    def _will(self, stream: int, event: int) -> bool:
        return any(getattr(work, "event", None) == event for work in self.queues[stream])

    def _handle(self, place: int, thing: Any) -> int:
        handle = 0x1000 + 16 * len(self.objects)
        self.objects[handle] = thing
        ctypes.c_uint64.from_address(place).value = handle
        return handle

    def _guard(self) -> int:
        return BAD_CONTEXT if self.kind == "cuda" and self.current != CONTEXT else OK

    # ---- functions of the library

    def do_init(self, flags: int) -> int:
        return (OK if self.cards else NO_CARD) if flags == 0 else INVALID

    def do_count(self, place: int) -> int:
        ctypes.c_int.from_address(place).value = self.cards
        return OK

    def do_set_device(self, ordinal: int) -> int:
        self.current = ordinal
        return OK if ordinal < self.cards else INVALID

    def do_get_device(self, place: int, ordinal: int) -> int:
        ctypes.c_int.from_address(place).value = ordinal
        return OK

    def do_context(self, place: int, card: int) -> int:
        ctypes.c_uint64.from_address(place).value = CONTEXT
        self.log.append(("context", card))
        return OK

    def do_release(self, card: int) -> int:
        self.log.append(("release", card))
        return OK

    def do_enter(self, context: int) -> int:
        self.current = context
        return OK

    def do_allocate(self, place: int, size: int) -> int:
        if self._guard():
            return self._guard()
        if sum(memory.nbytes for memory in self.memory.values()) + size > self.capacity_bytes:
            return NO_MEMORY
        raw = numpy.full(size + 256, 0xA5, numpy.uint8)
        memory = raw[-raw.ctypes.data % 256:][:size]
        self.memory[memory.ctypes.data] = memory
        ctypes.c_uint64.from_address(place).value = memory.ctypes.data
        self.log.append(("allocate", size))
        return OK

    def do_free(self, address: int) -> int:
        self.do_finish()
        self.log.append(("free", address))
        return OK if self.memory.pop(address, None) is not None else INVALID

    def do_copy_in(self, address: int, host: int, size: int, stream: int | None) -> int:
        target = self.block_of(address, size)
        self.log.append(("copy_in", size, stream or 0))

        def work() -> None:
            target[:] = numpy.frombuffer(ctypes.string_at(host, size), numpy.uint8)

        return self._guard() or self._queue(stream, work)

    def do_copy_out(self, host: int, address: int, size: int, stream: int | None) -> int:
        source = self.block_of(address, size)
        self.log.append(("copy_out", size, stream or 0))
        return self._guard() or self._queue(stream, lambda: ctypes.memmove(host, source.tobytes(), size))

    def do_copy(self, address: int, origin: int, size: int, stream: int | None) -> int:
        target, source = self.block_of(address, size), self.block_of(origin, size)
        self.log.append(("copy", size, stream or 0))
        return self._guard() or self._queue(stream, lambda: target.__setitem__(slice(None), source))

    def do_fill(self, address: int, value: int, size: int, stream: int | None) -> int:
        target = self.block_of(address, size)
        self.log.append(("fill", value, size, stream or 0))
        return self._guard() or self._queue(stream, lambda: target.fill(value))

    def do_load(self, place: int, image: int) -> int:
        header = ctypes.string_at(image, 64)
        if header[:4] != b"\x7fELF":
            return INVALID
        if struct.unpack_from("<I", header, 48)[0] & 0xFF != self.chip:
            return WRONG_CHIP
        names = ctypes.string_at(image + 64, struct.unpack_from("<Q", header, 40)[0] - 64)
        self._handle(place, names.split(b"\0"))
        self.log.append(("load",))
        return self._guard()

    def do_function(self, place: int, module: int, name: bytes) -> int:
        if module not in self.objects:
            return BAD_HANDLE
        if name not in self.objects[module] or name.decode() not in self.kernels:
            return NOT_FOUND
        self._handle(place, _Loaded(name.decode()))
        return OK

    def do_limit(self, function: int, attribute: int, value: int) -> int:
        self.log.append(("limit", attribute, value))
        self.objects[function].shared_limit = value
        return OK if attribute == 8 else INVALID

    def do_unload(self, module: int) -> int:
        self.log.append(("unload",))
        return OK if self.objects.pop(module, None) is not None else BAD_HANDLE

    def do_launch(self, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int,
                  stream: int | None, parameters: int, extra: int | None) -> int:
        if self._guard():
            return self._guard()
        loaded = self.objects.get(function)
        if not isinstance(loaded, _Loaded) or extra is not None:
            return BAD_HANDLE
        if 0 in (gx, gy, gz) or bx * by * bz > 1024 or (self.kind == "cuda" and shared > loaded.shared_limit):
            return INVALID
        types, body = self.kernels[loaded.name]
        places = (ctypes.c_void_p * len(types)).from_address(parameters)
        raw = tuple(ctypes.string_at(place, size_of(kind)) for place, kind in zip(places, types, strict=True))
        self.launched.append(Launched(loaded.name, (gx, gy, gz), (bx, by, bz), shared, stream or 0, raw))
        self.log.append(("launch", loaded.name, stream or 0))
        values = tuple(_number(kind, data) for kind, data in zip(types, raw, strict=True))
        return self._queue(stream, lambda: body(self, values, (gx, gy, gz)))

    def do_new_stream(self, place: int, flags: int) -> int:
        handle = self._handle(place, "stream")
        self.queues[handle] = []
        self.log.append(("new_stream", flags))
        return OK

    def do_drop_stream(self, stream: int) -> int:
        self.log.append(("drop_stream", stream))
        return OK if self.queues.pop(stream, None) is not None else BAD_HANDLE

    def do_finish_stream(self, stream: int | None) -> int:
        if self._guard():
            return self._guard()
        if (stream or 0) not in self.queues:
            return BAD_HANDLE
        self.log.append(("finish_stream", stream or 0))
        self.drain(stream or 0)
        return OK

    def do_new_event(self, place: int, flags: int) -> int:
        self._handle(place, "event")
        self.log.append(("new_event", flags))
        return OK

    def do_drop_event(self, event: int) -> int:
        self.log.append(("drop_event", event))
        return OK if self.objects.get(event) == "event" else BAD_HANDLE

    def do_record(self, event: int, stream: int | None) -> int:
        if self.objects.get(event) != "event":
            return BAD_HANDLE
        self.log.append(("record", event, stream or 0))
        times = self.recorded[event] = self.recorded.get(event, 0) + 1

        def work() -> None:
            self.happened[event] = times

        work.event = event  # type: ignore[attr-defined]
        return self._queue(stream, work)

    def do_wait(self, stream: int | None, event: int, flags: int) -> int:
        if self.objects.get(event) != "event" or flags:
            return BAD_HANDLE
        self.log.append(("wait", stream or 0, event))
        times = self.recorded.get(event, 0)
        return self._queue(stream, lambda: self._until(event, times))

    def do_finish(self) -> int:
        self.log.append(("finish",))
        for stream in list(self.queues):
            self.drain(stream)
        return OK

    def do_error_name(self, number: int, place: int | None = None) -> Any:
        return self._text(f"ERROR_{NAMES[number]}".encode(), place)

    def do_error_text(self, number: int, place: int | None = None) -> Any:
        return self._text(NAMES[number].lower().replace("_", " ").encode(), place)

    def _text(self, text: bytes, place: int | None) -> Any:
        self._alive[repr(text)] = kept = ctypes.c_char_p(text)
        if place is None:
            return ctypes.cast(kept, ctypes.c_void_p).value
        ctypes.c_uint64.from_address(place).value = ctypes.cast(kept, ctypes.c_void_p).value or 0
        return OK


_FORMATS = {"i1": "<?", "i8": "<b", "i16": "<h", "i32": "<i", "i64": "<q", "u8": "<B", "fp16": "<e", "fp32": "<f",
            "fp64": "<d"}


def _number(kind: str, raw: bytes) -> int | float:
    if kind == "bf16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    value: int | float = struct.unpack("<Q" if kind.startswith("*") else _FORMATS[kind], raw)[0]
    return value


def code_for(symbol: str, types: tuple[str, ...], target: str = "gfx90a", chip: int = 0x3F, shared_bytes: int = 0,
             warps: int = 4) -> CodeObject:
    """A code object that the fake card takes: an ELF header with the chip, and the names of its kernels behind it."""
    names = b"\0" + symbol.encode() + b"\0"
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 224, 1, 0, 0, 64 + len(names), chip, 64, 0, 0,
                         64, 0, 0)
    parameters = tuple(Parameter(f"p{place}", kind) for place, kind in enumerate(types))
    hidden = tuple(Parameter(name, kind) for name, kind in HIDDEN_PARAMETERS)
    threads = warps * (64 if target.startswith("gfx") else 32)
    return CodeObject(header + names, "hsaco" if target.startswith("gfx") else "cubin", target, symbol,
                      (*parameters, *hidden), shared_bytes, warps, threads)


def with_hidden(*types: str) -> tuple[str, ...]:
    """Types of all arguments of a kernel, Triton's own two pointers behind them."""
    return (*types, *(kind for _, kind in HIDDEN_PARAMETERS))
