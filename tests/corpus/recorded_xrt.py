"""A pyxrt-shaped module that remembers every call it passes on, and the same calls made again on another one.

What is remembered is plain data, so that it can be made again in another process: opened files and kernels, buffers
with their memory group, synchronisations, arguments of every run. Contents are not remembered, only how many bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy

Call = list[Any]
_CHUNK = 251


class RecordedXrt:
    """Stands where ``pyxrt`` stands, in front of ``xrt``; ``calls`` grows."""

    def __init__(self, xrt: Any, files: Path) -> None:
        self.calls: list[Call] = []
        self._xrt, self._files = xrt, files
        self._count = 0
        self.xclBOSyncDirection, self.ert_cmd_state = xrt.xclBOSyncDirection, xrt.ert_cmd_state

    def _number(self, kind: str, *facts: Any) -> int:
        self._count += 1
        self.calls.append([kind, self._count, *facts])
        return self._count

    def device(self, index: int) -> Any:
        """``pyxrt.device``."""
        return _Device(self, self._xrt.device(index), self._number("device", index))

    def kernel(self, device: _Device, uuid: Any, name: str) -> Any:
        """``pyxrt.kernel``."""
        made = self._xrt.kernel(device.real, uuid, name)
        return _Kernel(self, made, self._number("kernel", device.number, name))

    @property
    def bo(self) -> Any:
        """``pyxrt.bo``."""
        outer = self

        class Buffers:
            normal = outer._xrt.bo.normal

            def __new__(cls, device: _Device, size: int, flags: int, group: int) -> Any:
                made = outer._xrt.bo(device.real, size, flags, group)
                return _Buffer(outer, made, outer._number("bo", device.number, size, flags, group))

        return Buffers

    def run(self, kernel: _Kernel) -> Any:
        """``pyxrt.run``."""
        return _Run(self, self._xrt.run(kernel.real), self._number("run", kernel.number))

    def keep(self, path: str) -> str:
        """A copy of an opened file, which may be gone later."""
        content = Path(path).read_bytes()
        place = self._files / f"{len(list(self._files.iterdir()))}.xclbin"
        place.write_bytes(content)
        return place.name


class _Wrapped:
    def __init__(self, outer: RecordedXrt, real: Any, number: int) -> None:
        self.outer, self.real, self.number = outer, real, number


class _Device(_Wrapped):
    def load_xclbin(self, path: str) -> Any:
        self.outer.calls.append(["load", self.number, self.outer.keep(path)])
        return self.real.load_xclbin(path)

    @property
    def unit(self) -> Any:
        return self.real.unit


class _Kernel(_Wrapped):
    def group_id(self, position: int) -> int:
        group = int(self.real.group_id(position))
        self.outer.calls.append(["group", self.number, position, group])
        return group


class _Buffer(_Wrapped):
    def write(self, data: Any, seek: int) -> None:
        self.outer.calls.append(["write", self.number, memoryview(data).nbytes, seek])
        self.real.write(data, seek)

    def read(self, size: int, skip: int) -> Any:
        self.outer.calls.append(["read", self.number, size, skip])
        return self.real.read(size, skip)

    def sync(self, direction: Any, size: int, offset: int) -> None:
        self.outer.calls.append(["sync", self.number, int(direction), size, offset])
        self.real.sync(direction, size, offset)


class _Run(_Wrapped):
    def set_arg(self, position: int, value: Any) -> None:
        is_buffer = isinstance(value, _Buffer)
        self.outer.calls.append(["set", self.number, position, is_buffer, value.number if is_buffer else int(value)])
        self.real.set_arg(position, value.real if is_buffer else value)

    def start(self) -> None:
        self.outer.calls.append(["start", self.number])
        self.real.start()

    def wait(self, timeout_ms: int) -> Any:
        state = self.real.wait(timeout_ms)
        self.outer.calls.append(["wait", self.number, timeout_ms, int(state)])
        return state


class Replay:
    """Makes recorded calls on another module.

    Everything must answer as it was recorded: memory groups, final states, and what was written is what is read while
    the kernels compute nothing.
    """

    def __init__(self, xrt: Any, files: Path) -> None:
        self._xrt, self._files = xrt, files
        self._made: dict[int, Any] = {}
        self._uuids: dict[int, Any] = {}
        self._contents: dict[int, numpy.ndarray] = {}

    def make(self, calls: list[Call]) -> int:
        """Make all calls; the number of runs that completed."""
        for call in calls:
            getattr(self, f"_{call[0]}")(*call[1:])
        return sum(call[0] == "wait" for call in calls)

    def _device(self, number: int, index: int) -> None:
        self._made[number] = self._xrt.device(index)

    def _load(self, number: int, name: str) -> None:
        self._uuids[number] = self._made[number].load_xclbin(str(self._files / name))

    def _kernel(self, number: int, device: int, name: str) -> None:
        self._made[number] = self._xrt.kernel(self._made[device], self._uuids[device], name)

    def _group(self, number: int, position: int, group: int) -> None:
        found = self._made[number].group_id(position)
        assert found == group, (position, found, group)

    def _bo(self, number: int, device: int, size: int, flags: int, group: int) -> None:
        self._made[number] = self._xrt.bo(self._made[device], size, flags, group)
        self._contents[number] = numpy.zeros(size, numpy.uint8)
        self._made[number].write(self._contents[number], 0)

    def _write(self, number: int, size: int, seek: int) -> None:
        content = ((numpy.arange(size) + number) % _CHUNK).astype(numpy.uint8)
        self._made[number].write(content, seek)
        self._contents[number][seek:seek + size] = content

    def _read(self, number: int, size: int, skip: int) -> None:
        found = numpy.asarray(self._made[number].read(size, skip)).view(numpy.uint8)
        assert numpy.array_equal(found, self._contents[number][skip:skip + size]), number

    def _sync(self, number: int, direction: int, size: int, offset: int) -> None:
        self._made[number].sync(self._xrt.xclBOSyncDirection(direction), size, offset)

    def _run(self, number: int, kernel: int) -> None:
        self._made[number] = self._xrt.run(self._made[kernel])

    def _set(self, number: int, position: int, is_buffer: bool, value: int) -> None:
        self._made[number].set_arg(position, self._made[value] if is_buffer else value)

    def _start(self, number: int) -> None:
        self._made[number].start()

    def _wait(self, number: int, timeout_ms: int, state: int) -> None:
        found = self._made[number].wait(timeout_ms)
        assert int(found) == state, (found, state)


def link_shim(folder: Path) -> dict[str, str]:
    """A folder in which XRT finds its shim wherever the distribution put it, and the environment that names it.

    Raises:
        RuntimeError: the libraries cannot be found.
    """
    import ctypes.util
    import subprocess

    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    places = {line.split()[0]: line.split()[-1] for line in listed.splitlines() if "=>" in line}
    (folder / "lib").mkdir()
    for name in ("libxrt_noop.so.2", "libxrt_core.so.2"):
        if name not in places:
            raise RuntimeError(f"{name} is not known to the linker ({ctypes.util.find_library('xrt_core')})")
        (folder / "lib" / name).symlink_to(places[name])
    return {"XILINX_XRT": str(folder), "XCL_EMULATION_MODE": "noop"}


if __name__ == "__main__":
    import json

    from hetcc.backends.fpga.xrt.xrt_library import LibraryXrt

    folder = Path(sys.argv[1])
    sys.stdout.write(f"{Replay(LibraryXrt, folder).make(json.loads((folder / 'calls.json').read_text()))}\n")
