"""Runs the hardware of a stage graph, cycle by cycle, in Amaranth's simulator. For small sizes: about 10^3 cycles/s."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.rtl.simulation.stimulus import Stimulus, Words, stimuli
from hetcc.backends.fpga.stages.functional import append_rows
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.stage_graph import StageGraph

MAX_CYCLES = 200_000


@dataclass(frozen=True)
class Simulated:
    """What one instance gave."""

    values: Words
    """Bits of the selected scores, best first."""
    indices: NDArray[numpy.int64]
    cycles: int
    """From ``start`` to ``done``."""


def simulate(graph: StageGraph, buffers: Mapping[str, Array], lanes: int, *, stall: float = 0.0,
             seed: int = 0, together: int = 1) -> list[Simulated]:
    """Every instance of one run; rows are appended to the tables first, as the kernel does.

    Args:
        graph: a kernel within the limits of ``limits.check``.
        buffers: as in ``functional.execute``; outputs are not written.
        lanes: results of the first inner product per cycle.
        stall: share of cycles in which a source or the sink pauses.
        seed: of the pauses.
        together: rows per cycle.

    Raises:
        TimeoutError: the core did not finish within :data:`MAX_CYCLES`.
    """
    from amaranth.sim import Simulator

    from hetcc.backends.fpga.rtl.cores.cores import core_of
    from hetcc.backends.fpga.rtl.units.library import Library

    append_rows(graph, buffers)
    core = core_of(graph, Library(shared=False), lanes, together)
    bench = _Bench(stimuli(graph, buffers, core), core, stall, seed)
    simulator = Simulator(core)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.run)
    simulator.run()
    return bench.results


def _numbers(beats: Words) -> Iterator[int]:
    """Each row of words as one number, the first word in its lowest bits."""
    return (int.from_bytes(beat.tobytes(), "little") for beat in beats)


class _Source:
    """One input stream: offers its words in order, pausing now and then."""

    def __init__(self, valid: Any, ready: Any, data: Any, words: Iterable[int]) -> None:
        self._valid, self._ready, self._data = valid, ready, data
        self._words = iter(words)
        self._next = next(self._words, None)

    def offer(self, context: Any, pauses: bool) -> None:
        """Put the next word on the port, or nothing."""
        context.set(self._valid, int(self._next is not None and not pauses))
        if self._next is not None:
            context.set(self._data, self._next)

    def step(self, context: Any) -> None:
        """Move on if the word was taken."""
        if context.get(self._valid) and context.get(self._ready):
            self._next = next(self._words, None)


class _Bench:
    """Drives the ports of a core."""

    def __init__(self, instances: Iterable[Stimulus], core: Any, stall: float, seed: int) -> None:
        self._instances = instances
        self._core = core
        self._stall = stall
        self._random = random.Random(seed)
        self.results: list[Simulated] = []

    async def run(self, context: Any) -> None:
        """All instances, one after the other."""
        for stimulus in self._instances:
            self.results.append(await self._instance(context, stimulus))

    def _sources(self, stimulus: Stimulus) -> list[_Source]:
        core = self._core
        sides = zip(core.side_valid, core.side_ready, core.side_data, stimulus.sides, strict=True)
        return [_Source(core.row_valid, core.row_ready, core.row_data, _numbers(stimulus.beats)),
                _Source(core.load_valid, core.load_ready, core.load_data, _numbers(stimulus.load)),
                *(_Source(valid, ready, data, _numbers(words))
                  for valid, ready, data, words in sides)]

    def _pauses(self) -> bool:
        return self._random.random() < self._stall

    async def _instance(self, context: Any, stimulus: Stimulus) -> Simulated:
        core = self._core
        sources = self._sources(stimulus)
        context.set(core.start, 1)
        await context.tick()
        context.set(core.start, 0)
        values: list[int] = []
        indices: list[int] = []
        for cycles in range(1, MAX_CYCLES):
            for source in sources:
                source.offer(context, self._pauses())
            context.set(core.out_ready, int(not self._pauses()))
            for source in sources:
                source.step(context)
            if context.get(core.out_valid) and context.get(core.out_ready):
                values.append(context.get(core.out_value))
                indices.append(context.get(core.out_index))
            await context.tick()
            if context.get(core.done):
                return Simulated(numpy.array(values, numpy.uint32), numpy.array(indices, numpy.int64), cycles)
        raise TimeoutError(f"the core did not finish within {MAX_CYCLES} cycles")


__all__ = ["Simulated", "simulate"]
