"""A pyxrt-shaped module object whose compute units execute the functional model of a stage graph.

It has two memories, as a card has: what the host wrote reaches the compute unit only by a sync, and the other way
round. :class:`EmulatedXrt` refuses what real XRT takes silently and gets wrong (table in docs/fpga_simulation.md);
:class:`LenientXrt` does as XRT 2.13 does. Names follow pyxrt.
"""

from __future__ import annotations

import uuid as uuid_module
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.xrt.compute_unit import CommandState, ComputeUnit
from hetcc.backends.fpga.xrt.xclbin import Container, Unit, unpack

SCALARS = 1
"""Scalar arguments of every kernel: the mode."""
_INT_LIMIT = 2**31
Bytes = NDArray[numpy.uint8]


class SyncDirection(IntEnum):
    """``pyxrt.xclBOSyncDirection``."""

    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


class Xclbin:
    """``pyxrt.xclbin``: an opened file."""

    def __init__(self, path: str) -> None:
        try:
            content = Path(path).read_bytes()
        except OSError:
            raise RuntimeError(f"Failed to open file '{path}' for reading") from None
        try:
            self.container: Container = unpack(content)
        except ValueError:
            raise RuntimeError("Invalid xclbin") from None

    def get_uuid(self) -> uuid_module.UUID:
        """Identity of the file's content."""
        return uuid_module.UUID(bytes=self.container.uuid)


class Device:
    """``pyxrt.device`` with one programmable slot."""

    strict = True

    def __init__(self, _index: int | str = 0) -> None:
        self.units: dict[str, ComputeUnit] = {}
        self._uuid: uuid_module.UUID | None = None

    @property
    def unit(self) -> ComputeUnit | None:
        """The first compute unit, if the card is programmed."""
        return next(iter(self.units.values()), None)

    def load_xclbin(self, source: str | Xclbin) -> uuid_module.UUID:
        """Program the card."""
        opened = source if isinstance(source, Xclbin) else Xclbin(source)
        self.units = {packed.name: self.unit_of(packed) for packed in opened.container.units}
        self._uuid = opened.get_uuid()
        return self._uuid

    def written(self) -> None:
        """Memory has changed: units that listen look at their doorbells."""
        for unit in self.units.values():
            unit.ring()

    def check(self) -> None:
        """Raises RuntimeError when the card is gone."""

    def unit_of(self, packed: Unit) -> ComputeUnit:
        """What stands behind a kernel on this device."""
        return ComputeUnit(packed, strict=self.strict)

    def get_xclbin_uuid(self) -> uuid_module.UUID:
        """Identity of what the card runs."""
        if self._uuid is None:
            raise RuntimeError("no xclbin loaded")
        return self._uuid


class BufferObject:
    """``pyxrt.bo``: a buffer with a host side and a device side."""

    normal, cacheable, device_only, host_only, p2p, svm = 0, 1 << 24, 1 << 28, 1 << 29, 1 << 30, 1 << 27

    group: int
    _flags: int
    _strict: bool
    _card: Device

    def __init__(self, owner: Device | BufferObject, size: int, flags: int, group: int | None = None) -> None:
        if isinstance(owner, BufferObject):
            offset = flags
            if offset + size > owner.size():
                raise RuntimeError("invalid sub-buffer size or offset: Invalid argument")
            self.group, self._flags, self._strict = owner.group, owner._flags, owner._strict
            self._card = owner._card
            self._host: Bytes = owner._host[offset:offset + size]
            self.device_memory: Bytes = owner.device_memory[offset:offset + size]
            return
        if group is None:
            raise TypeError("bo(): incompatible constructor arguments")
        self.group, self._flags, self._strict, self._card = group, flags, owner.strict, owner
        self._host = numpy.zeros(0 if flags == self.device_only else size, numpy.uint8)
        self.device_memory = numpy.zeros(size, numpy.uint8)

    def size(self) -> int:
        """Bytes."""
        return int(self.device_memory.size)

    def _host_side(self) -> Bytes:
        if self._flags == self.device_only:
            raise RuntimeError("device only buffer has no host buffer")
        return self._host

    def write(self, data: Any, seek: int) -> None:
        """Copy into the host side."""
        view = memoryview(data)
        if not view.c_contiguous and self._strict:
            raise ValueError("a non-contiguous array would arrive in the wrong order")
        raw = numpy.frombuffer(view.tobytes(), numpy.uint8)
        host = self._host_side()
        if seek + raw.size > host.size:
            raise RuntimeError("attempting to write past buffer size: Invalid argument")
        host[seek:seek + raw.size] = raw

    def read(self, size: int, skip: int) -> NDArray[numpy.int8]:
        """Copy out of the host side."""
        host = self._host_side()
        if skip + size > host.size:
            raise RuntimeError("attempting to read past buffer size: Invalid argument")
        return host[skip:skip + size].view(numpy.int8).copy()

    def map(self) -> memoryview:
        """The host side itself."""
        return memoryview(self._host_side().data)

    def sync(self, direction: SyncDirection, size: int, offset: int) -> None:
        """Copy between the two sides."""
        self._card.check()
        host = self._host_side()
        if offset + size > host.size:
            raise RuntimeError("attempting to sync past buffer size: Invalid argument")
        part = slice(offset, offset + size)
        if direction == SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE:
            self.device_memory[part] = host[part]
            self._card.written()
        else:
            host[part] = self.device_memory[part]


class Kernel:
    """``pyxrt.kernel``."""

    none, shared, exclusive = 0, 1, 2

    def __init__(self, device: Device, uuid: uuid_module.UUID, name: str, mode: int = 1) -> None:
        if not device.units or uuid != device.get_xclbin_uuid():
            raise RuntimeError("xclbin id mismatch: Invalid argument")
        base, _, units = name.partition(":")
        if base not in device.units:
            raise RuntimeError(f"No such kernel '{base}': Invalid argument")
        unit = device.units[base]
        if units and units.strip("{}") != unit.packed.instance:
            raise RuntimeError(f"No compute units matching '{name}'")
        if unit.exclusive_owner is not None or (mode == self.exclusive and unit.registers):
            raise RuntimeError(f"Conflicting access mode for IP({list(device.units).index(base)})")
        self.unit = unit
        self.strict = device.strict
        if mode == self.exclusive:
            self.unit.exclusive_owner = self

    def group_id(self, position: int) -> int:
        """Bank of an argument; to be passed on, not to be understood."""
        banks = self.unit.packed.banks
        if not 0 <= position < len(banks):
            raise IndexError(f"argument index {position} out of range")
        return banks[position]

    @property
    def count(self) -> int:
        """Arguments: the pointers, and the scalars behind them."""
        return len(self.unit.packed.banks) + SCALARS

    def __call__(self, *arguments: Any) -> Run:
        run = Run(self)
        if self.strict and not self.unit.needed <= len(arguments) <= self.count:
            raise TypeError(f"{len(arguments)} arguments for {self.count}")
        for position, argument in enumerate(arguments[:self.count]):
            if self.strict or _is_taken(argument):
                run.set_arg(position, argument)
        run.start()
        return run


class Run:
    """``pyxrt.run``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._state = CommandState.ERT_CMD_STATE_NEW
        self._set: set[int] = set()

    def set_arg(self, position: int, value: Any) -> None:
        """Set one argument."""
        if not 0 <= position < self._kernel.count:
            raise IndexError(f"argument index {position} out of range")
        if isinstance(value, BufferObject):
            group = self._kernel.group_id(position)
            if value.group != group:
                if self._kernel.strict:
                    raise RuntimeError(f"argument {position} lies in bank {value.group}, not {group}")
                value = _local_copy(value, group)
        elif isinstance(value, bool) or not isinstance(value, int) or not -_INT_LIMIT <= value < _INT_LIMIT:
            raise TypeError("set_arg(): incompatible function arguments")
        self._kernel.unit.registers[position] = value
        self._set.add(position)

    def start(self) -> None:
        """Start; the emulated unit is done at once, unless it listens to its doorbell from now on."""
        missing = sorted(set(range(self._kernel.unit.needed)) - self._set)
        if self._kernel.strict and missing:
            raise RuntimeError(f"arguments {missing} were never set")
        self._state = self._kernel.unit.start()

    def wait(self, _timeout_ms: int = 0) -> CommandState:
        """The final state. Real XRT waits for ever on a run that was not started; the emulator says so."""
        if self._state is CommandState.ERT_CMD_STATE_NEW:
            raise RuntimeError("waiting on a run that was never started")
        state = self.state()
        return CommandState.ERT_CMD_STATE_TIMEOUT if state is CommandState.ERT_CMD_STATE_RUNNING else state

    def state(self) -> CommandState:
        """The state now."""
        self._state = self._kernel.unit.state(self._state)
        return self._state


def _is_taken(argument: Any) -> bool:
    """Whether ``kernel(...)`` of XRT 2.13 writes the register; otherwise it keeps the value of an earlier run."""
    if isinstance(argument, BufferObject):
        return True
    return isinstance(argument, int) and -_INT_LIMIT <= argument < _INT_LIMIT


def _local_copy(source: BufferObject, bank: int) -> BufferObject:
    """What XRT silently does with a buffer in the wrong bank: the unit works on a copy."""
    copy = BufferObject.__new__(BufferObject)
    copy.group, copy._flags, copy._host, copy._strict = bank, source._flags, source._host.copy(), source._strict
    copy.device_memory, copy._card = source.device_memory.copy(), source._card
    return copy


class LenientDevice(Device):
    """A card behind the emulator that does as XRT 2.13 does."""

    strict = False


class EmulatedXrt:
    """Stands where the module ``pyxrt`` stands (the 2.13 interface) and refuses dangerous calls."""

    device = Device
    xclbin = Xclbin
    kernel = Kernel
    run = Run
    bo = BufferObject
    xclBOSyncDirection = SyncDirection  # noqa: N815 - pyxrt's own spelling
    ert_cmd_state = CommandState


class LenientXrt(EmulatedXrt):
    """The same, as forgiving as XRT 2.13."""

    device = LenientDevice


class HardwareContext:
    """``pyxrt.hw_context`` of 2.16 and later."""

    def __init__(self, device: Device, uuid: uuid_module.UUID) -> None:
        self.device, self.uuid = device, uuid


class RegisteringDevice(Device):
    """``pyxrt.device`` of 2.16 and later."""

    def register_xclbin(self, opened: Xclbin) -> uuid_module.UUID:
        """Make a file known; a context loads it."""
        return super().load_xclbin(opened)

    def load_xclbin(self, source: str | Xclbin) -> uuid_module.UUID:
        """Refused, as on the newer stack with hardware contexts."""
        raise RuntimeError("load_xclbin is not supported with hardware contexts: Operation not supported")


class ContextKernel(Kernel):
    """``pyxrt.kernel`` of 2.16 and later."""

    def __init__(self, context: HardwareContext, name: str) -> None:
        super().__init__(context.device, context.uuid, name)

    def group_id(self, position: int) -> int:
        """The bank with the slot above it."""
        return 1 << 16 | super().group_id(position)


class EmulatedXrtWithContexts(EmulatedXrt):
    """Stands where the module ``pyxrt`` stands (the 2.16 interface)."""

    device = RegisteringDevice
    kernel = ContextKernel  # type: ignore[assignment]
    hw_context = HardwareContext


__all__ = ["BufferObject", "CommandState", "EmulatedXrt", "EmulatedXrtWithContexts", "LenientXrt", "SyncDirection"]
