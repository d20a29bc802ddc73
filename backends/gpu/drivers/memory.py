"""Arrays on a card by value name: IREE's modules and raw kernel launches read and write the same memory.

Memory is allocated by the driver and lent to IREE. What IREE allocates itself, its results, is asked for its address; where
IREE does not give one, the result is copied, once, on the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from hetcc.backends.gpu.drivers.contract import GpuDriver
from hetcc.backends.gpu.drivers.dlpack import DEVICE_TYPES, address_in, capsule_of
from hetcc.backends.gpu.kernels.launches import ALIGNMENT_BYTES
from hetcc.backends.gpu.memory import GpuMemory, LoadedModule, numpy_dtype_of
from hetcc.errors import UserError
from hetcc.ir import DType, TensorType


class Allocation:
    """Memory of the pool; it goes back there when nothing holds it any more."""

    def __init__(self, pool: Pool, address: int, size_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self._pool = pool

    def __del__(self) -> None:
        self._pool.take_back(self)


class Pool:
    """Memory of a card that is used again instead of being freed and allocated at every step.

    With one stream, order on the stream keeps a new user behind the old one. With several, memory is used again only
    after the whole card was waited for.
    """

    def __init__(self, driver: GpuDriver) -> None:
        self.driver = driver
        self.several_streams = False
        self.bytes_allocated = 0
        self._ready: dict[int, list[int]] = {}
        self._fresh: dict[int, list[int]] = {}

    def take(self, size_bytes: int) -> Allocation:
        """Memory of at least so many bytes; its contents are arbitrary."""
        size = max(1 << 8, -(-size_bytes // 256) * 256)
        if not self._ready.get(size) and self._fresh.get(size):
            if self.several_streams:
                self.driver.synchronize()
            for known, addresses in self._fresh.items():
                self._ready.setdefault(known, []).extend(addresses)
            self._fresh.clear()
        waiting = self._ready.get(size)
        if waiting:
            return Allocation(self, waiting.pop(), size)
        self.bytes_allocated += size
        return Allocation(self, self.driver.allocate(size), size)

    def take_back(self, allocation: Allocation) -> None:
        """Called when an allocation is not held any more."""
        self._fresh.setdefault(allocation.size_bytes, []).append(allocation.address)

    def trim(self) -> None:
        """Gives everything that nobody uses back to the driver."""
        for table in (self._ready, self._fresh):
            for size, addresses in table.items():
                for address in addresses:
                    self.driver.free(address)
                    self.bytes_allocated -= size
            table.clear()


@dataclass
class _Value:
    """What a name stands for: memory of the pool, or a result of IREE, or both at one address."""

    kind: TensorType
    memory: Allocation | None = None
    view: Any = None
    """IREE's view of it, made when IREE first needs it."""
    exported: Any = field(default=None, repr=False)
    """Keeps the address of a result of IREE alive."""
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
        self.pool = Pool(driver)
        self.stream = 0
        """Where copies and kernels go from now on; see :meth:`on`."""
        self.copies_of_results = 0
        """How many results of IREE had to be copied because it gave no address."""
        self._values: dict[str, _Value] = {}
        self._lent: list[Any] = []
        self._pending: set[int] = set()

    def bind(self, name: str, array: numpy.ndarray, share: bool = False) -> None:
        """See :class:`GpuMemory`; ``share`` has no effect, the card has its own memory."""
        del share
        try:
            kind = TensorType(array.shape, DType(array.dtype.name))
        except ValueError:
            raise UserError("HET-R002", f"element type {array.dtype.name} is not supported", where=name) from None
        address = self.reserve(name, kind)
        dense = numpy.ascontiguousarray(array)
        if dense.nbytes:
            self.driver.copy_in(address, dense, self.stream)
            self.used()
            self._lent.append(dense)
            if len(self._lent) > 64:
                self.settle()

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
        """Puts copies and kernels on another stream from now on. Whoever calls this makes streams wait for each other."""
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
        value = self._value(name)
        result = numpy.empty(value.kind.shape, numpy_dtype_of(value.kind.dtype))
        self.settle()
        if result.nbytes:
            self.driver.copy_out(result, self.address_of(name), self.stream)
            self.driver.synchronize(self.stream)
        return result

    def drop(self, names: Iterable[str]) -> None:
        """Forgets arrays; their memory goes back to the pool when nothing else holds it."""
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
            value.view = self._lend(value)
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
        self.settle()
        return super().call(module, arguments, results)

    def _value(self, name: str) -> _Value:
        try:
            return self._values[name]
        except KeyError:
            raise UserError("HET-R002", f"'{name}' has no value on the GPU", fix="bind it before the program runs"
                            ) from None

    def _lend(self, value: _Value) -> Any:
        """IREE's view of memory of the pool, which stays taken as long as IREE holds the view."""
        held = [value.memory]
        capsule = capsule_of(value.address, value.kind.shape, value.kind.dtype, self.driver.kind, held.clear)
        return self._device.from_dlpack_capsule(capsule)

    def _locate(self, value: _Value) -> None:
        """Finds the address of a result of IREE, or copies the result where IREE gives none or one that is not aligned."""
        try:
            capsule = self._device.create_dlpack_capsule(value.view, DEVICE_TYPES[self.driver.kind], 0)
            address = address_in(capsule)
        except (RuntimeError, ValueError):  # IREE exports not every kind of buffer
            capsule, address = None, 0
        if address and address % ALIGNMENT_BYTES == 0:
            value.exported, value.address = capsule, address
            return
        source = value.view
        value.memory = self.pool.take(value.kind.size_bytes)
        value.address = value.memory.address
        value.view = self._lend(value)
        self._copy_views(source, value.view)
        self.copies_of_results += 1

    def _copy_views(self, source: Any, target: Any) -> None:
        runtime = self._runtime
        done = self._device.create_semaphore(0)
        self._device.queue_copy(source.get_buffer(), target.get_buffer(),
                                wait_semaphores=runtime.HalFence.create_at(done, 0),
                                signal_semaphores=runtime.HalFence.create_at(done, 1))
        runtime.HalFence.create_at(done, 1).wait()
