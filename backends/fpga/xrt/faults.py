"""A pyxrt-shaped module whose compute units fail when they are told to, to see what the rest makes of it.

It is the emulator with a script: the n-th run of the card, counted over all kernels, ends in another state than
COMPLETED, never ends, or finds the card gone. What a fault leaves behind is said too: a run that fails late has
appended its rows before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetcc.backends.fpga.xrt.compute_unit import CommandState, ComputeUnit
from hetcc.backends.fpga.xrt.emulator import Device, EmulatedXrt
from hetcc.backends.fpga.xrt.xclbin import Unit
from hetcc.errors import UserError

HANG, LOST = "hang", "lost"
STATES = {"error": CommandState.ERT_CMD_STATE_ERROR, "abort": CommandState.ERT_CMD_STATE_ABORT,
          "timeout": CommandState.ERT_CMD_STATE_TIMEOUT, "noresponse": CommandState.ERT_CMD_STATE_NORESPONSE}
FAULTS = (*STATES, HANG, LOST)


@dataclass(frozen=True, slots=True)
class Fault:
    """One run that fails.

    Raises:
        UserError: HET-U001, there is no such run or fault.
    """

    run: int
    """Which run of the card, from 1, counted over all kernels."""
    kind: str
    """A key of ``STATES``; ``hang``, it never ends; ``lost``, the card is gone from then on."""
    late: bool = False
    """Whether the run did its work first, so that tables hold what it appended."""

    def __post_init__(self) -> None:
        if self.run < 1 or self.kind not in FAULTS:
            raise UserError("HET-U001", f"--fault is '{self.run}:{self.kind}'",
                            fix=f"write N:KIND with N from 1 and KIND one of {', '.join(FAULTS)}")

    @classmethod
    def parse(cls, word: str) -> Fault:
        """``N:KIND``, or ``N:KIND:late``.

        Raises:
            UserError: HET-U001, it has another form.
        """
        number, _, rest = word.partition(":")
        kind, _, when = rest.partition(":")
        if not number.isdecimal() or when not in ("", "late"):
            raise UserError("HET-U001", f"--fault is '{word}'", fix="write N:KIND or N:KIND:late, such as 3:abort")
        return cls(int(number), kind, when == "late")


class FaultScript:
    """The faults of one card, and how many runs it has made."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = {fault.run: fault for fault in faults}
        self.runs = 0
        self.is_lost = False

    def next(self) -> Fault | None:
        """The fault of the run that starts now."""
        self.runs += 1
        return self._faults.get(self.runs)

    def lose(self) -> None:
        """The card is gone from now on."""
        self.is_lost = True
        self.check()

    def check(self) -> None:
        """Raises RuntimeError as XRT does when the card does not answer any more."""
        if self.is_lost:
            raise RuntimeError("device is lost: No such device")


class FaultyUnit(ComputeUnit):
    """A compute unit that follows the script."""

    def __init__(self, packed: Unit, script: FaultScript) -> None:
        super().__init__(packed)
        self._script = script
        self._failed: CommandState | None = None

    def start(self) -> CommandState:
        """ap_start; a run that fails ends in the state of the script."""
        self._script.check()
        self._failed = None
        return self.state(super().start())

    def state(self, state: CommandState) -> CommandState:
        """A unit that failed while it was listening is no longer running."""
        return super().state(state) if self._failed is None else self._failed

    def _run(self, sequence: int) -> CommandState:
        fault = self._script.next()
        if fault is None:
            return super()._run(sequence)
        if fault.late:
            super()._run(0)
        self.listening = False
        if fault.kind == LOST:
            self._script.lose()
        self._failed = STATES.get(fault.kind, CommandState.ERT_CMD_STATE_RUNNING)
        return self._failed


class FaultyDevice(Device):
    """A card that follows the script; several are opened on one, a kernel each."""

    def __init__(self, script: FaultScript, index: int | str = 0) -> None:
        super().__init__(index)
        self._script = script
        script.check()

    def unit_of(self, packed: Unit) -> ComputeUnit:
        """See :class:`Device`."""
        return FaultyUnit(packed, self._script)

    def check(self) -> None:
        """See :class:`Device`."""
        self._script.check()


class FaultyXrt(EmulatedXrt):
    """Stands where the module ``pyxrt`` stands.

    Args:
        faults: of the card.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.script = FaultScript(faults)
        self.device: Any = functools.partial(FaultyDevice, self.script)


__all__ = ["FAULTS", "Fault", "FaultScript", "FaultyXrt"]
