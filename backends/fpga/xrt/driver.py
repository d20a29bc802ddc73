"""Drives one compute unit through pyxrt, the real module or the emulator; nothing here knows which.

Written to both interfaces of pyxrt: ``load_xclbin`` (2.13) and hardware contexts (2.16 and later). Only what both
versions take without a silent mistake is used: positional arguments, contiguous arrays, explicit sizes, all arguments
of every run, and the state of every run is looked at.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.memory_map import (
    ANSWER_BYTES,
    ANSWER_OFFSET,
    DOORBELL_OFFSET,
    MAILBOX,
    MAILBOX_BYTES,
    MODE_ONCE,
    MODE_PERSISTENT,
    MODE_RELOAD,
    STATUS_COMPLETED,
    STATUS_POSITION,
    STOP,
    memory_map,
)
from hetcc.backends.fpga.memory.resident import resident_table
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.errors import ToolError, UserError

DEFAULT_TIMEOUT_MS = 10_000


def real_xrt() -> Any:
    """The installed pyxrt module, or XRT's library behind the same names where only that is installed.

    Raises:
        ToolError: HET-T001, there is neither.
    """
    try:
        return importlib.import_module("pyxrt")
    except ImportError as error:
        from hetcc.backends.fpga.xrt.xrt_library import LIBRARY, LibraryXrt, library

        try:
            library()
        except OSError:
            raise ToolError("HET-T001", f"pyxrt cannot be imported ({error}), and there is no {LIBRARY}",
                            fix="install XRT and put its python folder on PYTHONPATH, or run emulated") from error
        return LibraryXrt


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel left in its mailbox after a run."""

    sequence: int
    """Number of the doorbell it answers; 0 after a plain run."""
    status: int
    cycles: int
    """As the kernel counted them; 0 where nothing counts."""


class KernelDriver:
    """One kernel with its device buffers: one per argument, several for a table in parts.

    A kernel runs once (:meth:`run`), or it listens (:meth:`listen`) and is rung (:meth:`ring`) until it is dismissed
    (:meth:`dismiss`): then a run costs no call of the runtime.

    Args:
        xrt: the module pyxrt, or the emulator in its place.
        path: the ``.xclbin`` file.
        kernel: name of the kernel.
        graph: its stage graph, for the arguments and the layout of tables.
        device_index: which card.

    Raises:
        ToolError: HET-F002, the runtime refused something.
    """

    def __init__(self, xrt: Any, path: Path, kernel: str, graph: StageGraph, device_index: int = 0) -> None:
        self._xrt = xrt
        self._name = kernel
        self._map = memory_map(graph)
        self._layouts = [layout_of(graph, buffer.name) for buffer in graph.buffers]
        self._arguments = [self._map.of_buffer(buffer.name) for buffer in graph.buffers]
        self._kept = resident_table(graph)
        self._places = {buffer.name: place for place, buffer in enumerate(graph.buffers)}
        self._stale = bool(self._kept)
        self._sequence = 0
        self._listening: Any = None
        sizes = {argument.position: layout.part_bytes
                 for layout, arguments in zip(self._layouts, self._arguments, strict=True) for argument in arguments}
        sizes[self._map.named(MAILBOX).position] = MAILBOX_BYTES
        try:
            self._device = xrt.device(device_index)
            self._kernel = self._open(path)
            self._buffers = [xrt.bo(self._device, sizes[position], xrt.bo.normal, self._kernel.group_id(position))
                             for position in range(len(sizes))]
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

    def write(self, place: int, content: Array) -> None:
        """Copy an array into a buffer on the card, in its parts.

        Args:
            place: of the buffer in the stage graph.
            content: as the stage graph has it.

        Raises:
            ToolError: HET-F002, the runtime refused it.
        """
        layout = self._layouts[place]
        raw = numpy.ascontiguousarray(content).reshape(-1).view(numpy.uint8)
        parts = [raw] if layout.plain else layout.deal(raw)
        for argument, part in zip(self._arguments[place], parts, strict=True):
            self._put(argument.position, part, 0)
        self.changed(place)

    def changed(self, place: int) -> None:
        """Say that a buffer on the card is not what it was, by another hand than the kernel's or :meth:`write`.

        A kernel that keeps the table on chip reads it again in its next run; for any other buffer nothing happens.

        Args:
            place: of the buffer in the stage graph.
        """
        self._stale = self._stale or place == self._places.get(self._kept)

    def read(self, place: int) -> Array:
        """The bytes of a buffer on the card, its parts put together.

        Raises:
            ToolError: HET-F002, the runtime refused it.
        """
        layout = self._layouts[place]
        size = layout.size_bytes if layout.plain else layout.part_bytes
        parts = [self._get(argument.position, size, 0) for argument in self._arguments[place]]
        return parts[0] if layout.plain else layout.gather(parts)

    def run(self, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Answer:
        """Start the kernel on its buffers, wait, and insist that it completed.

        Args:
            timeout_ms: how long to wait.

        Raises:
            ToolError: HET-F002, refused, or it ended in any state but COMPLETED.
            UserError: HET-R002, a row was to be appended outside its table.
        """
        self._put(self._mailbox, numpy.zeros(MAILBOX_BYTES, numpy.uint8), 0)
        self._wait(self._start(MODE_ONCE), timeout_ms)
        return self._filled(self._answer())

    @property
    def is_listening(self) -> bool:
        """Whether the persistent mode was started."""
        return self._listening is not None

    def listen(self) -> None:
        """Start the persistent mode: from now on the kernel looks at its doorbell.

        Raises:
            ToolError: HET-F002, the runtime refused it, or it listens already.
        """
        if self._listening is not None:
            raise ToolError("HET-F002", "the kernel listens already", where=self._name, fix="dismiss it first")
        self._sequence = 0
        self._put(self._mailbox, numpy.zeros(MAILBOX_BYTES, numpy.uint8), 0)
        self._listening = self._start(MODE_PERSISTENT)
        state, wrong = self._listening.state(), self._xrt.ert_cmd_state.ERT_CMD_STATE_ERROR
        if state == wrong:
            self._listening = None
            raise ToolError("HET-F002", f"the kernel does not listen, its run is in state {state}", where=self._name)

    def ring(self, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Answer:
        """One run of a kernel that listens, on what its buffers hold.

        Raises:
            ToolError: HET-F002, it does not listen, or gave no answer in time.
            UserError: HET-R002, a row was to be appended outside its table.
        """
        if self._listening is None:
            raise ToolError("HET-F002", "the kernel does not listen", where=self._name, fix="call listen() first")
        self._sequence = self._sequence % (STOP - 1) + 1
        # The two words are neighbours, so the kernel sees both or neither.
        words = [self._sequence, int(self._stale)] if self._kept else [self._sequence]
        self._put(self._mailbox, numpy.array(words, "<u4").view(numpy.uint8), DOORBELL_OFFSET)
        end = time.monotonic() + timeout_ms / 1000
        while (answer := self._answer()).sequence != self._sequence:
            # A kernel that left the persistent mode by itself will not answer, so nobody needs to wait for it.
            state = self._listening.state()
            states = self._xrt.ert_cmd_state
            ended = state in (states.ERT_CMD_STATE_ERROR, states.ERT_CMD_STATE_ABORT)
            if ended:
                self._listening = None
            if ended or time.monotonic() > end:
                what = f"its run is in state {_name_of(state)}" if ended else f"none in {timeout_ms} ms"
                raise ToolError("HET-F002", f"no answer to doorbell {self._sequence}: {what}", where=self._name,
                                fix="`xbutil examine` shows the state of the card")
        return self._filled(answer)

    def dismiss(self, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        """End the persistent mode; nothing happens where a kernel does not listen.

        Raises:
            ToolError: HET-F002, it ended in any state but COMPLETED.
        """
        if self._listening is None:
            return
        run, self._listening = self._listening, None
        self._put(self._mailbox, numpy.array([STOP], "<u4").view(numpy.uint8), DOORBELL_OFFSET)
        self._wait(run, timeout_ms)

    # ---- parts

    @property
    def _mailbox(self) -> int:
        return self._map.named(MAILBOX).position

    def _start(self, mode: int) -> Any:
        try:
            run = self._xrt.run(self._kernel)
            for position, value in enumerate((*self._buffers, mode | (MODE_RELOAD if self._stale else 0))):
                run.set_arg(position, value)
            run.start()
        except (RuntimeError, IndexError, TypeError) as error:
            raise self._failure("run", error) from error
        return run

    def _wait(self, run: Any, timeout_ms: int) -> None:
        try:
            state = run.wait(timeout_ms)
        except RuntimeError as error:
            raise self._failure("wait", error) from error
        states = self._xrt.ert_cmd_state
        if state == states.ERT_CMD_STATE_COMPLETED:
            return
        what = (f"the run did not end within {timeout_ms} ms" if state == states.ERT_CMD_STATE_TIMEOUT else
                f"the run ended in state {_name_of(state)}, not in {_name_of(states.ERT_CMD_STATE_COMPLETED)}")
        raise ToolError("HET-F002", what, where=self._name, fix="`xbutil examine` shows the state of the card")

    def _answer(self) -> Answer:
        words = self._get(self._mailbox, ANSWER_OFFSET + ANSWER_BYTES, 0)[ANSWER_OFFSET:].view("<u4")
        return Answer(int(words[0]), int(words[1]), int(words[2]) | int(words[3]) << 32)

    def _filled(self, answer: Answer) -> Answer:
        """The same, checked; after a run that completed, what is kept on chip is what memory holds."""
        found = self._checked(answer)
        self._stale = False
        return found

    def _checked(self, answer: Answer) -> Answer:
        if answer.status == STATUS_POSITION:
            raise UserError("HET-R002", "a row was to be appended outside its table; nothing was written",
                            where=self._name, fix="every position must be at least 0 and below the rows of the table")
        if answer.status != STATUS_COMPLETED:
            raise ToolError("HET-F002", f"the kernel answered with status {answer.status}", where=self._name)
        return answer

    def _put(self, position: int, raw: Array, offset: int) -> None:
        """Bytes into a device buffer."""
        buffer = self._buffers[position]
        try:
            buffer.write(raw, offset)
            buffer.sync(self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE, int(raw.size), offset)
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._failure(f"write argument {position}", error) from error

    def _get(self, position: int, size_bytes: int, offset: int) -> Array:
        """Bytes out of a device buffer."""
        buffer = self._buffers[position]
        try:
            buffer.sync(self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE, size_bytes, offset)
            return numpy.asarray(buffer.read(size_bytes, offset)).view(numpy.uint8)
        except (RuntimeError, TypeError) as error:
            raise self._failure(f"read argument {position}", error) from error

    def _failure(self, action: str, error: Exception) -> ToolError:
        return ToolError("HET-F002", f"could not {action}: {error}", where=self._name)


def _name_of(state: Any) -> str:
    """``ERT_CMD_STATE_ABORT``, whatever the binding makes of a state."""
    return str(getattr(state, "name", state))


__all__ = ["DEFAULT_TIMEOUT_MS", "Answer", "KernelDriver", "real_xrt"]
