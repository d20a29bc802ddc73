"""Arrays on a card by value name: IREE's modules and raw kernel launches read and write the same memory.

IREE allocates, and is asked for the addresses. The other way round, memory of the driver lent to IREE, was tried: IREE
3.13 refuses to copy into it, which updates of caches do. Where IREE gives no addresses (its CUDA driver does not), each
side has memory of its own and values cross through the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from hetcc.backends.gpu.drivers.contract import GpuDriver
from hetcc.backends.gpu.drivers.dlpack import DEVICE_TYPES, address_in
from hetcc.backends.gpu.kernels.launches import ALIGNMENT_BYTES
from hetcc.backends.gpu.memory import GpuMemory, LoadedModule, numpy_dtype_of
from hetcc.errors import UserError
from hetcc.ir import DType, TensorType

_MOST_LENT = 64
"""Arrays of the caller that are kept alive before the card is waited for."""


class Allocation:
    """Memory on the card; it goes back to the pool when nothing holds it any more.

    What IREE has seen goes back to IREE instead, because IREE may have given its address to a result.
    """

    def __init__(self, pool: Pool, address: int, size_bytes: int, buffer: Any) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.buffer = buffer
        """IREE's buffer; None for memory of the driver."""
        self.seen_by_iree = False
        self._pool = pool

    def __del__(self) -> None:
        self._pool.take_back(self)


class Pool:
    """Memory that is used again instead of being freed and allocated at every step.

    With one stream, order on the stream keeps a new user behind the old one. With several, memory is used again only
    after the whole card was waited for.

    Args:
        driver: of the card.
        make: (address, IREE's buffer or None) of new memory of so many bytes.
    """

    def __init__(self, driver: GpuDriver, make: Callable[[int], tuple[int, Any]]) -> None:
        self.driver = driver
        self.several_streams = False
        self.bytes_allocated = 0
        self._make = make
        self._ready: dict[int, list[tuple[int, Any]]] = {}
        self._fresh: dict[int, list[tuple[int, Any]]] = {}

    def take(self, size_bytes: int) -> Allocation:
        """Memory of so many bytes, at least one; its contents are arbitrary."""
        size = max(size_bytes, 1)
        if not self._ready.get(size) and self._fresh.get(size):
            if self.several_streams:
                self.driver.synchronize()
            for known, places in self._fresh.items():
                self._ready.setdefault(known, []).extend(places)
            self._fresh.clear()
        waiting = self._ready.get(size)
        if waiting:
            return Allocation(self, waiting[-1][0], size, waiting.pop()[1])
        self.bytes_allocated += size
        address, buffer = self._make(size)
        return Allocation(self, address, size, buffer)

    def take_back(self, allocation: Allocation) -> None:
        """Called when an allocation is not held any more."""
        if allocation.seen_by_iree:
            self.bytes_allocated -= allocation.size_bytes
        else:
            place = (allocation.address, allocation.buffer)
            self._fresh.setdefault(allocation.size_bytes, []).append(place)

    def trim(self) -> None:
        """Gives up everything that nobody uses."""
        for table in (self._ready, self._fresh):
            for size, places in table.items():
                self.bytes_allocated -= size * len(places)
                for address, buffer in places:
                    if buffer is None:
                        self.driver.free(address)
            table.clear()


@dataclass
class _Value:
    """What a name stands for. It has an address, or a view of IREE, or both once both sides used it."""

    kind: TensorType
    memory: Allocation | None = None
    view: Any = None
    exported: Any = field(default=None, repr=False)
    """Keeps the address of a result of IREE valid."""
    address: int = 0


class CardMemory(GpuMemory):
    """Arrays on one card by value name, shared by the programs of one plan.

    Args:
        driver: of the card.
        iree_driver: IREE's name for the same card; by default the driver's kind.

    Raises:
        ToolError: HET-T001, the IREE runtime is not installed.
    """

    def __init__(self, driver: GpuDriver, iree_driver: str = "") -> None:
        super().__init__(iree_driver or driver.kind)
        self.driver = driver
        self.stream = 0
        """Where copies and kernels go from now on; see :meth:`on`."""
        self.copies_of_results = 0
        """How many values crossed between IREE and kernels by a copy, because IREE gave no usable address."""
        self._values: dict[str, _Value] = {}
        self._lent: list[Any] = []
        self._pending: set[int] = set()
        self.gives_addresses = self._probe()
        """Whether IREE's memory is the kernels' memory."""
        self.pool = Pool(driver, self._make if self.gives_addresses else lambda size: (driver.allocate(size), None))

    def bind(self, name: str, array: numpy.ndarray, share: bool = False) -> None:
        """See :class:`GpuMemory`; ``share`` has no effect, the card has its own memory."""
        del share
        try:
            kind = TensorType(array.shape, DType(array.dtype.name))
        except ValueError:
            raise UserError("HET-R002", f"element type {array.dtype.name} is not supported", where=name) from None
        if not self.gives_addresses:
            self._values[name] = _Value(kind, view=self._upload(_dense(array)))
            return
        self._copy_in(self.reserve(name, kind), array)

    def bind_zeros(self, name: str, kind: TensorType) -> None:
        """Puts zeros on the card under ``name``."""
        address = self.reserve(name, kind)
        self.driver.zero(address, kind.size_bytes, self.stream)
        self.used()

    def reserve(self, name: str, kind: TensorType) -> int:
        """Address of new memory under ``name``; what was there stays with whoever else has it."""
        memory = self.pool.take(kind.size_bytes)
        self._values[name] = _Value(kind, memory, address=memory.address)
        return memory.address

    def address_of(self, name: str) -> int:
        """Address of the value ``name``, aligned as kernels need it.

        Raises:
            UserError: HET-R002, nothing is under ``name``.
        """
        value = self._value(name)
        if not value.address:
            self._locate(value)
        return value.address

    def on(self, stream: int) -> None:
        """Puts copies and kernels on another stream from now on; the caller makes streams wait for each other."""
        self.pool.several_streams |= stream != self.stream
        self.stream = stream

    def used(self) -> None:
        """Says that something was put on the stream."""
        self._pending.add(self.stream)

    def settle(self) -> None:
        """Waits for everything that was put on streams."""
        for stream in sorted(self._pending):
            self.driver.synchronize(stream)
        self._pending.clear()
        self._lent.clear()

    def fetch(self, name: str) -> numpy.ndarray:
        """A copy, on the host, of what is under ``name``; HET-R002 if there is nothing."""
        return self._to_host(self._value(name))

    def drop(self, names: Iterable[str]) -> None:
        """Forgets arrays; their memory is free when nothing else holds it."""
        for name in names:
            self._values.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays that are bound (memory under two names counts twice)."""
        return sum(value.kind.size_bytes for value in self._values.values())

    def view(self, name: str) -> Any:
        """IREE's view of a value; HET-R002 if there is none."""
        value = self._value(name)
        if value.view is None:
            value.view = self._view_of(value)
        return value.view

    def keep(self, name: str, view: Any, dtype: DType) -> None:
        """Puts a result of IREE under ``name`` without a copy."""
        self._values[name] = _Value(TensorType(tuple(view.shape), dtype), view=view)

    def rename(self, value: str, cache: str) -> None:
        """Makes what is under ``value`` the contents of ``cache`` too: both names, one memory, no copy."""
        self._values[cache] = self._value(value)

    def call(self, module: LoadedModule, arguments: Sequence[tuple[str, bool]], results: int) -> list[Any]:
        """See :class:`GpuMemory`. IREE has streams of its own: what was launched is waited for first, and IREE waits
        for its own work before it returns.
        """
        for name, _ in arguments:
            self.view(name)
        self.settle()
        return super().call(module, arguments, results)

    def _value(self, name: str) -> _Value:
        try:
            return self._values[name]
        except KeyError:
            raise UserError("HET-R002", f"'{name}' has no value on the GPU", fix="bind it before the program runs"
                            ) from None

    def _probe(self) -> bool:
        """Whether IREE gives the addresses of memory it allocates."""
        try:
            self._make(ALIGNMENT_BYTES)
        except (RuntimeError, ValueError):
            return False
        return True

    def _make(self, size_bytes: int) -> tuple[int, Any]:
        runtime = self._runtime
        buffer = self._device.allocator.allocate_buffer(
            memory_type=int(runtime.MemoryType.DEVICE_LOCAL), allowed_usage=int(runtime.BufferUsage.DEFAULT),
            allocation_size=size_bytes)
        view = runtime.HalBufferView(buffer, (size_bytes,), self._type_of(DType.INT8))
        return self._exported(view)[1], buffer

    def _exported(self, view: Any) -> tuple[Any, int]:
        """A capsule and the address in it; IREE refuses for some buffers."""
        capsule = self._device.create_dlpack_capsule(view, DEVICE_TYPES[self.driver.kind], 0)
        return capsule, address_in(capsule)

    def _type_of(self, dtype: DType) -> Any:
        return self._runtime.array_interop.map_dtype_to_element_type(numpy_dtype_of(dtype))

    def _view_of(self, value: _Value) -> Any:
        memory = value.memory
        if memory is None or memory.buffer is None:
            self.copies_of_results += 1
            return self._upload(self._to_host(value))
        memory.seen_by_iree = True
        return self._runtime.HalBufferView(memory.buffer, value.kind.shape, self._type_of(value.kind.dtype))

    def _locate(self, value: _Value) -> None:
        """Finds the address of a result of IREE, or copies it where there is none, or none that is aligned."""
        if self.gives_addresses:
            try:
                capsule, address = self._exported(value.view)
            except (RuntimeError, ValueError):  # IREE exports not every kind of buffer
                capsule, address = None, 0
            if address and address % ALIGNMENT_BYTES == 0:
                value.exported, value.address = capsule, address
                return
        array = self._to_host(value)
        value.memory = self.pool.take(value.kind.size_bytes)
        value.address = value.memory.address
        self._copy_in(value.address, array)
        self.copies_of_results += 1

    def _copy_in(self, address: int, array: numpy.ndarray) -> None:
        dense = _dense(array)
        if not dense.nbytes:
            return
        self.driver.copy_in(address, dense, self.stream)
        self.used()
        self._lent.append(dense)
        if len(self._lent) > _MOST_LENT:
            self.settle()

    def _to_host(self, value: _Value) -> numpy.ndarray:
        self.settle()
        kind = numpy_dtype_of(value.kind.dtype)
        if not value.address:
            mapped = self._runtime.DeviceArray(self._device, value.view).to_host()
            return numpy.array(mapped, dtype=kind, copy=True).reshape(value.kind.shape)
        result = numpy.empty(value.kind.shape, kind)
        if result.nbytes:
            self.driver.copy_out(result, value.address, self.stream)
            self.driver.synchronize(self.stream)
        return result


def _dense(array: numpy.ndarray) -> numpy.ndarray:
    return array if array.flags.c_contiguous else numpy.ascontiguousarray(array)
