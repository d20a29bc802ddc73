"""Drives one compute unit through pyxrt, the real module or the emulator; nothing here knows which.

Written to both interfaces of pyxrt: ``load_xclbin`` (2.13) and hardware contexts (2.16 and later). Only what both
versions take without a silent mistake is used: positional arguments, contiguous arrays, explicit sizes, all arguments
of every run, and the state of every run is looked at.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from hetcc.backends.fpga.numbers import Array
from hetcc.errors import ToolError

DEFAULT_TIMEOUT_MS = 10_000


def real_xrt() -> Any:
    """The installed pyxrt module.

    Raises:
        ToolError: HET-T001, there is none.
    """
    try:
        return importlib.import_module("pyxrt")
    except ImportError as error:
        raise ToolError("HET-T001", f"pyxrt cannot be imported: {error}",
                        fix="install XRT and put its python folder on PYTHONPATH, or run emulated") from error


class KernelDriver:
    """One kernel with one device buffer per argument.

    Args:
        xrt: the module pyxrt, or the emulator in its place.
        path: the ``.xclbin`` file.
        kernel: name of the kernel.
        sizes_bytes: size of each argument's buffer.
        device_index: which card.

    Raises:
        ToolError: HET-F002, the runtime refused something.
    """

    def __init__(self, xrt: Any, path: Path, kernel: str, sizes_bytes: Sequence[int], device_index: int = 0) -> None:
        self._xrt = xrt
        self._name = kernel
        try:
            self._device = xrt.device(device_index)
            self._kernel = self._open(path)
            self._buffers = [xrt.bo(self._device, size, xrt.bo.normal, self._kernel.group_id(position))
                             for position, size in enumerate(sizes_bytes)]
        except (RuntimeError, IndexError, TypeError) as error:
            raise self._failure("open", error) from error

    @property
    def device(self) -> Any:
        """The pyxrt device object."""
        return self._device

    def _open(self, path: Path) -> Any:
        if hasattr(self._xrt, "hw_context"):
            identity = self._device.register_xclbin(self._xrt.xclbin(str(path)))
            return self._xrt.kernel(self._xrt.hw_context(self._device, identity), self._name)
        return self._xrt.kernel(self._device, self._device.load_xclbin(str(path)), self._name)

    def write(self, position: int, content: Array) -> None:
        """Copy an array into an argument's buffer on the card.

        Raises:
            ToolError: HET-F002, the runtime refused it.
        """
        raw = numpy.ascontiguousarray(content).reshape(-1).view(numpy.uint8)
        buffer = self._buffers[position]
        try:
            buffer.write(raw, 0)
            buffer.sync(self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE, int(raw.size), 0)
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._failure(f"write argument {position}", error) from error

    def read(self, position: int, size_bytes: int) -> Array:
        """The first bytes of an argument's buffer on the card.

        Raises:
            ToolError: HET-F002, the runtime refused it.
        """
        buffer = self._buffers[position]
        try:
            buffer.sync(self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE, size_bytes, 0)
            return numpy.asarray(buffer.read(size_bytes, 0)).view(numpy.uint8)
        except (RuntimeError, TypeError) as error:
            raise self._failure(f"read argument {position}", error) from error

    def run(self, scalars: Sequence[int] = (), timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        """Start the kernel on its buffers, wait, and insist that it completed.

        Args:
            scalars: arguments behind the buffers; each must fit 32 bits with sign.
            timeout_ms: how long to wait.

        Raises:
            ToolError: HET-F002, refused, or it ended in any state but COMPLETED.
        """
        for scalar in scalars:
            if not -(2**31) <= scalar < 2**31:
                raise ToolError("HET-F002", f"scalar argument {scalar} does not fit 32 bits", where=self._name)
        try:
            run = self._xrt.run(self._kernel)
            for position, value in enumerate((*self._buffers, *scalars)):
                run.set_arg(position, value)
            run.start()
            state = run.wait(timeout_ms)
        except (RuntimeError, IndexError, TypeError) as error:
            raise self._failure("run", error) from error
        completed = self._xrt.ert_cmd_state.ERT_CMD_STATE_COMPLETED
        if state != completed:
            raise ToolError("HET-F002", f"the run ended in state {state}, not {completed}", where=self._name,
                            fix="check that every appended row lies inside its table, then `xbutil examine`")

    def _failure(self, action: str, error: Exception) -> ToolError:
        return ToolError("HET-F002", f"could not {action}: {error}", where=self._name)


__all__ = ["DEFAULT_TIMEOUT_MS", "KernelDriver", "real_xrt"]
