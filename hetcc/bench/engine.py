"""What runs the programs of a calibration: the engine that stands in for a GPU on this machine, or a card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy

from hetcc.backends.gpu.memory import GpuMemory, numpy_dtype_of
from hetcc.backends.gpu.program import GpuProgram
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of

Step = Callable[[], None]
SEED = 20260101
_LARGEST_INDEX = 512
"""Indices are below this, and below every axis of every table: whatever is looked up is there."""


class Engine(Protocol):
    """A device that a calibration can measure."""

    target: str
    """What code is generated for."""
    clock_name: str
    """What :meth:`now_s` counts, for the report."""

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> Step:
        """A program with arguments of its own; every call runs it once and waits for it."""
        ...

    def now_s(self) -> float:
        """The time spent so far."""
        ...


class CpuEngine:
    """Modules for this machine's processor, on the calling thread.

    The clock is that of the thread: what other programs take of the processor meanwhile does not count, what they take
    of caches and memory bandwidth does.
    """

    target = "llvm-cpu"
    clock_name = "processor time of the calling thread"

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> Step:
        """See :class:`Engine`."""
        program = GpuProgram(region, files, entry, GpuMemory("local-sync"))
        for name, array in arguments_of(region).items():
            program.memory.bind(name, array)
        return program.step

    def now_s(self) -> float:
        """See :class:`Engine`."""
        return time.thread_time()


class CardEngine:
    """A card behind its driver. Nobody has run this on a card yet; tests run it on a stand-in for the driver.

    Args:
        kind: ``hip`` or ``cuda``.
        target: the card's chip.

    Raises:
        ToolError: HET-T001, the driver is not installed or finds no card.
    """

    clock_name = "wall clock, from before the call until the card has finished"

    def __init__(self, kind: str, target: str) -> None:
        from hetcc.runtime.real_gpu import open_card

        self.target = target
        self._driver = open_card(kind)

    def load(self, region: Graph, files: Mapping[str, bytes], entry: str) -> Step:
        """See :class:`Engine`."""
        from hetcc.runtime.real_gpu import RealGpu

        card = RealGpu(self._driver)
        card.load(region, files, entry)
        for name, array in arguments_of(region).items():
            card.put(name, array)
        driver = self._driver

        def step() -> None:
            card.launch(region.name)
            driver.synchronize()

        return step

    def now_s(self) -> float:
        """See :class:`Engine`."""
        return time.perf_counter()


def open_engine(device: str, target: str) -> Engine:
    """The engine of a device.

    Args:
        device: ``cpu``, ``hip`` or ``cuda``.
        target: the chip of a card; not used for ``cpu``.

    Raises:
        ToolError: HET-T001, the driver is not installed or finds no card.
    """
    return CpuEngine() if device == "cpu" else CardEngine(device, target)


def arguments_of(region: Graph) -> dict[str, numpy.ndarray]:
    """Arguments of a program: small random numbers, and indices that every table has."""
    random = numpy.random.default_rng(SEED)
    lengths = [length for name in interface_of(region) if (kind := region.type_of(name)).dtype.is_floating
               for length in kind.shape if length > 1]
    limit = min([_LARGEST_INDEX, *lengths])
    found = {}
    for name in interface_of(region):
        kind = region.type_of(name)
        dtype = numpy_dtype_of(kind.dtype)
        if kind.dtype.is_floating:
            found[name] = (0.02 * random.standard_normal(kind.shape, numpy.float32)).astype(dtype)
        else:
            found[name] = (numpy.arange(kind.elements).reshape(kind.shape) * 7919 % limit).astype(dtype)
    return found


__all__ = ["CardEngine", "CpuEngine", "Engine", "arguments_of", "open_engine"]
