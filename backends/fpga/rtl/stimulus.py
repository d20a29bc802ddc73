"""The words a streaming core is fed for one instance, taken from the kernel's buffers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.functional import addresses
from hetcc.backends.fpga.numbers import Array
from hetcc.backends.fpga.stage_graph import Access, Axis, InnerProduct, Map, Scan, StageGraph

Words = NDArray[numpy.uint32]


@dataclass(frozen=True)
class Stimulus:
    """Input words of one instance."""

    load: Words
    """Stationary operands, in the order of ``StreamCore.loads``."""
    beats: Words
    """``[rows * beats per row, words per beat]``."""
    sides: tuple[Words, ...]
    """``[rows / together, together]`` words for each side operand."""


def stimuli(graph: StageGraph, buffers: Mapping[str, Array], core: Any) -> Iterator[Stimulus]:
    """The stimulus of every instance, in order; rows must have been appended before (``functional.append_rows``)."""
    for point in itertools.product(*(range(axis.extent) for axis in graph.instances)):
        fixed = {axis.name: index for axis, index in zip(graph.instances, point, strict=True)}
        scan = cast(Scan, graph.of_kind(Scan)[0])
        words = _words(buffers, scan.table, (*graph.keys, *_axes(graph, scan.lanes)), fixed)
        rows = words.reshape(core.rows // core.together, -1)
        load = [_words(buffers, load.operand, _axes(graph, _loops_of(graph, load.operand)), fixed)
                for load in core.loads]
        yield Stimulus(
            numpy.concatenate(load) if load else numpy.zeros(0, numpy.uint32),
            _beats(rows, core.beat_words, core.beats),
            tuple(_words(buffers, access, graph.keys, fixed).reshape(-1, core.together) for access in core.sides))


def _beats(rows: Words, beat_words: int, beats: int) -> Words:
    padded = numpy.zeros((len(rows), beat_words * beats), numpy.uint32)
    padded[:, :rows.shape[1]] = rows
    return padded.reshape(-1, beat_words)


def _axes(graph: StageGraph, names: Sequence[str]) -> tuple[Axis, ...]:
    return tuple(graph.axis(name) for name in names)


def _loops_of(graph: StageGraph, operand: Access) -> tuple[str, ...]:
    """Loops over a stationary operand's words, slowest first."""
    for stage in graph.stages:
        if isinstance(stage, InnerProduct) and stage.stationary is operand:
            return (*stage.lanes, *stage.over)
        if isinstance(stage, Map) and any(part is operand for part in stage.operands):
            return stage.lanes
    return ()


def _words(buffers: Mapping[str, Array], access: Access, axes: Sequence[Axis], fixed: Mapping[str, int]) -> Words:
    chosen = buffers[access.buffer][addresses(access, axes, fixed)]
    shape = tuple(axis.extent for axis in axes)
    return numpy.ascontiguousarray(numpy.broadcast_to(chosen, shape)).reshape(-1).view(numpy.uint32)


__all__ = ["Stimulus", "Words", "stimuli"]
