"""A streaming kernel loaded and ready to be called, with its tables resident between calls."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from hetcc.backends.fpga.stages.numbers import Array, storage_type
from hetcc.backends.fpga.stages.packed import argument_of, pack
from hetcc.backends.fpga.stages.stage_graph import Buffer, BufferRole, StageGraph
from hetcc.backends.fpga.xrt.driver import DEFAULT_TIMEOUT_MS, KernelDriver
from hetcc.backends.fpga.xrt.emulator import EmulatedXrt
from hetcc.backends.fpga.xrt.xclbin import Container, unpack
from hetcc.errors import InternalError, UserError
from hetcc.ir import DType, Graph
from hetcc.ir.subgraph import interface_of

ENGINE = "stream-interpreter (emulated fpga)"
EMULATION_FILE = "emulation.xclbin"


def load_program(files: Mapping[str, bytes] | Path, region: Graph, xrt: Any = None) -> StreamProgram:
    """The program of an emitted region.

    Args:
        files: what ``emit`` made, or the folder it was written to.
        region: the region, for the names of its values (one kernel serves every region of equal digest).
        xrt: a pyxrt-shaped module; the emulator when absent.

    Raises:
        UserError: HET-B003, the emulation file is missing or damaged.
        InternalError: the files belong to another region.
    """
    content = _emulation_file(files)
    try:
        container = unpack(content)
        graph = StageGraph.from_json(container.emulation_data)
    except ValueError as error:
        raise UserError("HET-B003", f"{EMULATION_FILE} cannot be read: {error}", where=region.name) from error
    expected = [tuple(region.type_of(name).shape) for name in (*interface_of(region), *region.outputs)]
    if [argument_of(buffer).shape for buffer in graph.buffers] != expected:
        raise InternalError("HET-I001", "the kernel's buffers are not those of the region", where=region.name)
    with tempfile.TemporaryDirectory(prefix="hetcc-fpga-") as folder:
        path = Path(folder) / EMULATION_FILE
        path.write_bytes(content)
        return StreamProgram(graph, region, container, path, xrt or EmulatedXrt)


def _emulation_file(files: Mapping[str, bytes] | Path) -> bytes:
    if isinstance(files, Path):
        path = files if files.is_file() else files / EMULATION_FILE
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError("HET-B003", f"cannot read {path.name}: {error.strerror}", where=str(files)) from error
    for name, content in files.items():
        if name.rpartition("/")[2] == EMULATION_FILE:
            return content
    raise UserError("HET-B003", f"{EMULATION_FILE} is missing among the kernel's files")


class StreamProgram:
    """Runs a region on a compute unit; ``Program`` of the back-end contract."""

    engine = ENGINE

    def __init__(self, graph: StageGraph, region: Graph, container: Container, path: Path, xrt: Any) -> None:
        self._graph = graph
        self._region = region
        self._position = {name: at for at, name in enumerate((*interface_of(region), *region.outputs))}
        self._driver = KernelDriver(xrt, path, container.kernel, graph)
        self._bound: set[str] = set()
        self._weights: dict[str, Array] = {}
        """Scanned weights that are on the card already: the arrays they came from."""
        self.runs = 0
        self.by_doorbell = False
        """Whether the kernel listens from its first run on and is rung, rather than started every time."""

    @property
    def simulated_cycles(self) -> int:
        """Cycles of all runs so far where the unit is simulated hardware; 0 elsewhere."""
        return int(getattr(getattr(self._driver.device, "unit", None), "simulated_cycles", 0))

    @property
    def was_rung(self) -> bool:
        """Whether the emulated or simulated unit made its last run for a doorbell; false where nobody can tell."""
        return bool(getattr(getattr(self._driver.device, "unit", None), "was_rung", False))

    @property
    def executed_stages(self) -> int:
        """Stages the emulated compute unit has executed since loading, each once per instance."""
        unit = getattr(self._driver.device, "unit", None)
        return int(unit.executed_stages) if unit is not None else 0

    def bind_cache(self, name: str, content: Array) -> None:
        """Put a cache on the card, where it stays: later runs need not pass it.

        Raises:
            UserError: HET-R002, no such cache, or wrong shape or type.
        """
        if name not in self._region.caches:
            raise UserError("HET-R002", f"'{name}' is not a cache of the region", where=self._region.name)
        self._write(name, content)
        self._bound.add(name)

    def read_cache(self, name: str) -> Array:
        """What a cache on the card holds now.

        Raises:
            UserError: HET-R002, the cache was never bound.
        """
        if name not in self._bound:
            raise UserError("HET-R002", f"cache '{name}' is not on the card", where=self._region.name)
        return self._read(name)

    def run(self, arguments: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once.

        Args:
            arguments: array by name for each of ``interface_of(region)``; caches on the card may be left out.
                bfloat16 is the type of ``ml_dtypes``, or its 16 bits as uint16.
                A scanned weight is converted and written only when it is another array than last time.

        Returns:
            array for each output, and for each updated cache that was passed, its new value (under the update's name).

        Raises:
            UserError: HET-R002, an argument is missing or has the wrong shape or type.
            ToolError: HET-F002, the run did not complete.
        """
        for name in interface_of(self._region):
            if name in arguments:
                self._write(name, arguments[name])
                if name in self._region.caches:
                    self._bound.add(name)
            elif name not in self._bound:
                raise UserError("HET-R002", f"argument '{name}' is missing", where=self._region.name)
        self._make_run()
        self.runs += 1
        results = {name: self._read(name) for name in self._region.outputs}
        for update in self._region.updates:
            if update.cache in arguments:
                results[update.value] = self._read(update.cache)
        return results

    def _make_run(self) -> None:
        if not self.by_doorbell:
            self._driver.run()
            return
        if not self._driver.is_listening:
            self._driver.listen()
        self._driver.ring()

    def _write(self, name: str, content: Array) -> None:
        held = self._graph.buffers[self._position[name]]
        if held.role is BufferRole.WEIGHT and self._weights.get(name) is content:
            return
        buffer = argument_of(held)
        kind = storage_type(buffer.element)
        given = content.view(numpy.uint16) if content.dtype.name == "bfloat16" else content
        if given.shape != buffer.shape or given.dtype != kind:
            raise UserError("HET-R002", f"'{name}' is {content.dtype}{list(content.shape)}, expected "
                            f"{buffer.element.value}{list(buffer.shape)}", where=self._region.name)
        self._driver.write(self._position[name], given if held.packing is None else pack(held, given))
        if held.role is BufferRole.WEIGHT:
            self._weights[name] = content

    def _read(self, name: str) -> Array:
        buffer = self._graph.buffers[self._position[name]]
        raw = self._driver.read(self._position[name])
        return raw.view(_array_type(buffer)).reshape(buffer.shape)

    def close(self, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        """Dismiss the kernel if it listens; its tables stay on the card, and a later run makes it listen again.

        Args:
            timeout_ms: how long to wait for it.

        Raises:
            ToolError: HET-F002, it did not end as it should.
        """
        self._driver.dismiss(timeout_ms)

    def tables(self) -> tuple[str, ...]:
        """Names of the region's caches that the kernel keeps on the card."""
        return tuple(name for name in self._region.caches
                     if self._graph.buffers[self._position[name]].role is BufferRole.TABLE)


def _array_type(buffer: Buffer) -> numpy.dtype[Any]:
    """The numpy type of a buffer's elements outside the kernel."""
    if buffer.element is DType.BFLOAT16:
        import ml_dtypes

        short: numpy.dtype[Any] = numpy.dtype(ml_dtypes.bfloat16)
        return short
    return storage_type(buffer.element)


__all__ = ["EMULATION_FILE", "ENGINE", "StreamProgram", "load_program"]
