"""Runs a whole emitted kernel on memory: the Verilog, built with Verilator, against the HBM model of ``hbm.py``."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.memory_map import (
    ANSWER_OFFSET,
    HBM_BANK_BYTES,
    MAILBOX_BYTES,
    MemoryMap,
    memory_map,
)
from hetcc.backends.fpga.rtl.simulation.bench import bench_text
from hetcc.backends.fpga.rtl.simulation.simulator import build_simulator
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.store import Store

_ALIGNMENT = 4096
MAX_CYCLES = 200_000_000
APART_CYCLES = 1_300
"""Between runs whose cycles are compared with the closed form: more than memory's refresh takes to come round at 300
MHz, so that no page is still open from the run before and runs begin at all moments between refreshes."""


@dataclass(frozen=True)
class KernelRun:
    """What a simulation gave; cycles are simulated."""

    cycles: tuple[int, ...]
    """Per run: from the write of ap_start to the interrupt, or from the doorbell to its answer."""
    kernel_cycles: int
    """What the kernel counted itself in the last run."""
    status: int
    """Of the last run, from the mailbox."""
    beats_read: tuple[int, ...]
    """64-byte beats by master, all runs; polls included."""
    words_written: tuple[int, ...]
    read_span: tuple[tuple[int, int], ...] = ()
    """By master, cycles from reset in which its first and its last beat came."""
    write_span: tuple[tuple[int, int], ...] = ()
    """The same of words that memory has."""
    begun: tuple[int, ...] = ()
    """Per run, the cycle from reset in which ap_start was written or the doorbell rung."""


def build_kernel(verilog: bytes, kernel: str, graph: StageGraph, folder: Path, *, hbm: HbmModel | None = None,
                 clock_hz: float = DEFAULT_CLOCK_HZ, timeout_s: float = 600.0, store: Store | None = None) -> None:
    """Build the simulator of a kernel in a folder; the program is ``<folder>/obj/Vkernel``.

    Args:
        verilog: what ``verilog.write_kernel`` gave.
        kernel: its top module.
        graph: the kernel, as given to ``write_kernel``.
        folder: where to build.
        hbm: the memory.
        clock_hz: clock of the kernel.
        timeout_s: after which the build has failed.
        store: where built simulators are kept; the user's cache when absent.

    Raises:
        ToolError: HET-T001 without verilator, HET-T002 when it fails.
    """
    build_simulator(verilog, kernel, bench_text(memory_map(graph), hbm or HbmModel(), clock_hz), folder,
                    timeout_s=timeout_s, store=store or Store())


def run_kernel(graph: StageGraph, buffers: Mapping[str, Array], folder: Path, *, runs: int = 1,
               persistent: bool = False, stall: float = 0.0, seed: int = 0, apart: int = 0) -> KernelRun:
    """Run what :func:`build_kernel` made on buffers, which are written in place.

    Args:
        graph: the kernel.
        buffers: as in ``functional.execute``.
        folder: of the simulator.
        runs: how often, on the same buffers.
        persistent: by doorbells instead of ap_start.
        stall: share of cycles in which a channel of the memory pauses, beside its own timing.
        seed: of the pauses.
        apart: cycles between runs, in which the memory refreshes.

    Raises:
        ToolError: HET-T002, it failed; a broken rule of the bus is such a failure.
    """
    memory = memory_map(graph)
    regions = _regions(graph, memory, buffers)
    header = struct.pack("<7Q", len(regions), runs, int(persistent), int(stall * 1000), seed * 2654435761 % 2**31 + 1,
                         MAX_CYCLES, apart)
    job = [header, *(struct.pack("<QQ", base, part.size) + part.tobytes() for base, part in regions)]
    (folder / "job.bin").write_bytes(b"".join(job))
    tools.run([str(folder / "obj" / "Vkernel"), "job.bin", "answer.bin"], folder)
    return _read_back(graph, memory, buffers, regions, (folder / "answer.bin").read_bytes(), runs)


def _regions(graph: StageGraph, memory: MemoryMap, buffers: Mapping[str, Array]) -> list[tuple[int, Array]]:
    """Address and contents of every pointer argument; each pseudo-channel is filled from its start."""
    used: dict[int, int] = {}
    parts: dict[str, list[Array]] = {"": [numpy.zeros(MAILBOX_BYTES, numpy.uint8)]}
    found = []
    for argument, bank in zip(memory.pointers, memory.banks, strict=True):
        if argument.buffer not in parts:
            parts[argument.buffer] = layout_of(graph, argument.buffer).deal(buffers[argument.buffer])
        content = parts[argument.buffer][argument.stripe]
        base = used.get(bank, _ALIGNMENT)
        used[bank] = base + -(-content.size // _ALIGNMENT) * _ALIGNMENT
        found.append((bank * HBM_BANK_BYTES + base, content))
    return found


def _read_back(graph: StageGraph, memory: MemoryMap, buffers: Mapping[str, Array], regions: list[tuple[int, Array]],
               content: bytes, runs: int) -> KernelRun:
    numbers = numpy.frombuffer(content, "<u8", 2 * runs + 6 * len(memory.masters))
    at = 8 * len(numbers)
    parts: dict[str, list[Array]] = {}
    for argument, (_, given) in zip(memory.pointers, regions, strict=True):
        parts.setdefault(argument.buffer, []).append(numpy.frombuffer(content, numpy.uint8, given.size, at))
        at += given.size
    for buffer in graph.buffers:
        target = buffers[buffer.name]
        dense = layout_of(graph, buffer.name).gather(parts[buffer.name])
        target[...] = dense.view(target.dtype).reshape(target.shape)
    answer = parts[""][0][ANSWER_OFFSET:ANSWER_OFFSET + 16].view("<u4")
    moved = numbers[2 * runs:].reshape(-1, 6)
    return KernelRun(tuple(int(one) for one in numbers[:runs]), int(answer[2]), int(answer[1]),
                     tuple(int(one) for one in moved[:, 0]), tuple(int(one) for one in moved[:, 1]),
                     tuple((int(first), int(last)) for first, last in moved[:, 2:4]),
                     tuple((int(first), int(last)) for first, last in moved[:, 4:]),
                     tuple(int(one) for one in numbers[runs:2 * runs]))


__all__ = ["APART_CYCLES", "MAX_CYCLES", "KernelRun", "build_kernel", "run_kernel"]
