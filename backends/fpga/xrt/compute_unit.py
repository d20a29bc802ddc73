"""What stands behind a kernel of the emulator: registers, buffers in parts, the mailbox, and the stage graph."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.memory_map import (
    ANSWER_OFFSET,
    DOORBELL_OFFSET,
    MAILBOX,
    MODE,
    MODE_PERSISTENT,
    MODE_RELOAD,
    RELOAD_OFFSET,
    STATUS_COMPLETED,
    STATUS_POSITION,
    STOP,
    memory_map,
)
from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.backends.fpga.stages.functional import PositionError, execute
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.stage_graph import Append, StageGraph
from hetcc.backends.fpga.xrt.kept_table import KeptTable
from hetcc.backends.fpga.xrt.xclbin import Unit


class CommandState(IntEnum):
    """``pyxrt.ert_cmd_state``."""

    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_QUEUED = 2
    ERT_CMD_STATE_RUNNING = 3
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_SUBMITTED = 7
    ERT_CMD_STATE_TIMEOUT = 8
    ERT_CMD_STATE_NORESPONSE = 9


class ComputeUnit:
    """Registers and the stage graph behind them; outlives the kernels opened on it.

    Args:
        packed: of the file.
        strict: whether a run on a table that is not what was kept on chip is refused; a card works on what it has.
    """

    def __init__(self, packed: Unit, *, strict: bool = True) -> None:
        self.packed = packed
        data = packed.emulation_data
        self.graph = StageGraph.from_json(data) if data else None
        self._map = memory_map(self.graph) if self.graph is not None else None
        self.needed = len(self._map.pointers) - 1 if self._map is not None else len(packed.banks)
        """Arguments without which a run makes no sense; registers of the others are 0 after a reset, which means no
        mailbox and one run per start."""
        self.registers: dict[int, Any] = {}
        self.exclusive_owner: object | None = None
        self.executed_stages = 0
        self.listening = False
        """In the persistent mode."""
        self.was_rung = False
        """Whether the last run was asked for by the doorbell, not by ap_start."""
        self._kept = KeptTable(self.graph, strict) if self.graph is not None and is_resident(self.graph) else None
        self._heard = 0

    def start(self) -> CommandState:
        """ap_start: one run, or the persistent mode."""
        mode = self.registers.get(self._map.named(MODE).position, 0) if self._map is not None else 0
        if self._kept is not None and mode & MODE_RELOAD:
            self._kept.content = None
        if mode & MODE_PERSISTENT:
            if self._mailbox() is None:
                return CommandState.ERT_CMD_STATE_ERROR
            self.listening, self._heard = True, 0
            self.ring()
            return CommandState.ERT_CMD_STATE_RUNNING
        return self._run(0)

    def state(self, state: CommandState) -> CommandState:
        """The state of a run that was last seen in ``state``: what listened and was told to stop is done."""
        ended = state is CommandState.ERT_CMD_STATE_RUNNING and not self.listening
        return CommandState.ERT_CMD_STATE_COMPLETED if ended else state

    def ring(self) -> None:
        """Look at the doorbell, as the hardware does all the time."""
        mailbox = self._mailbox()
        if not self.listening or mailbox is None:
            return
        rung = int(mailbox[DOORBELL_OFFSET:DOORBELL_OFFSET + 4].view("<u4")[0])
        if rung == STOP:
            self.listening = False
        elif rung != self._heard:
            self._heard = rung
            if self._kept is not None and mailbox[RELOAD_OFFSET] & 1:
                self._kept.content = None
            self._run(rung)

    def compute(self, graph: StageGraph, views: Mapping[str, NDArray[numpy.generic]]) -> tuple[int, int]:
        """Run once on the buffers, by the functional model; ``was_rung`` says what asked for it.

        Returns:
            status and cycles of the answer; the model has no cycles.
        """
        try:
            self.executed_stages += execute(graph, views)
        except PositionError:
            return STATUS_POSITION, 0
        return STATUS_COMPLETED, 0

    def _run(self, sequence: int) -> CommandState:
        """One run on device memory; ERROR when nothing stands behind the unit, or nobody would hear of a refusal."""
        if self.graph is None or len(self.registers) < self.needed:
            return CommandState.ERT_CMD_STATE_ERROR
        views: dict[str, NDArray[numpy.generic]] = {}
        for buffer in self.graph.buffers:
            parts = self._parts(buffer.name)
            if parts is None:
                return CommandState.ERT_CMD_STATE_ERROR
            layout, kind = layout_of(self.graph, buffer.name), storage_type(buffer.element)
            dense = parts[0][:layout.size_bytes] if layout.plain else layout.gather(parts)
            views[buffer.name] = dense.view(kind)
        self.was_rung = sequence > 0
        given = self._kept.exchange(views, self.registers[self._map.of_buffer(self._kept.name)[0].position]) \
            if self._kept is not None and self._map is not None else views
        status, cycles = self.compute(self.graph, given)
        if self._kept is not None:
            self._kept.keep(given, views, completed=status == STATUS_COMPLETED)
        for name in {stage.table.buffer for stage in self.graph.of_kind(Append)}:
            self._put_back(name, views[name])
        mailbox = self._mailbox()
        if mailbox is not None:
            answer = numpy.array([sequence, status, cycles & 0xFFFFFFFF, cycles >> 32], "<u4")
            mailbox[ANSWER_OFFSET:ANSWER_OFFSET + answer.nbytes] = answer.view(numpy.uint8)
        elif status != STATUS_COMPLETED:
            return CommandState.ERT_CMD_STATE_ERROR
        return CommandState.ERT_CMD_STATE_COMPLETED

    def _put_back(self, name: str, content: NDArray[numpy.generic]) -> None:
        """What was appended to, into its parts."""
        assert self.graph is not None
        layout, parts = layout_of(self.graph, name), self._parts(name)
        if layout.plain or parts is None:
            return
        for part, dealt in zip(parts, layout.deal(content), strict=True):
            part[:dealt.size] = dealt

    def _parts(self, name: str) -> list[NDArray[numpy.uint8]] | None:
        """Device memory of a buffer's parts, each as long as it must be; None when one is missing or too short."""
        assert self.graph is not None and self._map is not None
        layout = layout_of(self.graph, name)
        least = layout.size_bytes if layout.plain else layout.part_bytes
        found = [getattr(self.registers.get(argument.position), "device_memory", None)
                 for argument in self._map.of_buffer(name)]
        if any(part is None or part.size < least for part in found):
            return None
        return [part if layout.plain else part[:least] for part in found if part is not None]

    def _mailbox(self) -> NDArray[numpy.uint8] | None:
        """Device memory of the mailbox, if there is one."""
        if self._map is None:
            return None
        target = self.registers.get(self._map.named(MAILBOX).position)
        found: NDArray[numpy.uint8] | None = getattr(target, "device_memory", None)
        return found


__all__ = ["CommandState", "ComputeUnit"]
