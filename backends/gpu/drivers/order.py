"""The streams and events of a plan's steps, on a card."""

from __future__ import annotations

from collections.abc import Sequence

from hetcc.backends.gpu.drivers.contract import GpuDriver
from hetcc.errors import InternalError


class StepOrder:
    """Keeps the order that a plan's steps ask for: each step on its stream, behind the steps it waits for.

    A step on the same stream is waited for by being behind it; for one on another stream an event is recorded, and only
    for steps that another stream waits for.

    Args:
        driver: of the card.
        steps: (name of the stream, positions of the steps it waits for) of each step; None for a step of another
            device, for whose end the host has waited.

    Raises:
        InternalError: HET-I001, a step waits for itself or for a later one.
    """

    def __init__(self, driver: GpuDriver, steps: Sequence[tuple[str, Sequence[int]] | None]) -> None:
        self._driver = driver
        names = dict.fromkeys(step[0] for step in steps if step is not None)
        self.streams = {name: driver.new_stream() for name in names}
        self._stream = [self.streams[step[0]] if step is not None else None for step in steps]
        self._waits: list[tuple[int, ...]] = []
        for position, step in enumerate(steps):
            waits = tuple(step[1]) if step is not None else ()
            if any(earlier >= position for earlier in waits):
                raise InternalError("HET-I001", f"step {position} waits for step {max(waits)}, which is not before it")
            self._waits.append(tuple(earlier for earlier in waits if self._crosses(earlier, position)))
        awaited = sorted({earlier for waits in self._waits for earlier in waits})
        self._events = {earlier: driver.new_event() for earlier in awaited}

    def _crosses(self, earlier: int, position: int) -> bool:
        return self._stream[earlier] is not None and self._stream[earlier] != self._stream[position]

    def begin(self, position: int) -> int:
        """The stream of a step, after it was told to wait for what the step needs."""
        stream = self._stream[position]
        if stream is None:
            raise InternalError("HET-I001", f"step {position} is not a step of this card")
        for earlier in self._waits[position]:
            self._driver.wait(stream, self._events[earlier])
        return stream

    def end(self, position: int) -> None:
        """Says that all of a step was put on its stream."""
        stream = self._stream[position]
        if position in self._events and stream is not None:
            self._driver.record(self._events[position], stream)
