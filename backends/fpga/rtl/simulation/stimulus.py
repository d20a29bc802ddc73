"""The words a streaming core is fed for one instance, taken from the kernel's buffers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.memory.layout import dealt_rows
from hetcc.backends.fpga.stages.functional import addresses
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.slices import other_tables, slice_words
from hetcc.backends.fpga.stages.stage_graph import Access, Axis, Scan, StageGraph

Words = NDArray[numpy.uint32]
_INFINITY = 0x7F800000


@dataclass(frozen=True)
class Stimulus:
    """Input words of one instance."""

    load: Words
    """Stationary operands, in the order of ``StreamCore.loads``: ``[granules, words of the widest]``."""
    beats: Words
    """``[rows * beats per row, words per beat]``."""
    sides: tuple[Words, ...]
    """``[rows / together, together]`` words for each side operand, beats as above for each further table."""


def stimuli(graph: StageGraph, buffers: Mapping[str, Array], core: Any) -> Iterator[Stimulus]:
    """The stimulus of every instance, in order; rows must have been appended before (``functional.append_rows``)."""
    beside = other_tables(graph)
    by_beats = long_rows(graph) is not None or slice_words(graph) > 0
    for point in itertools.product(*(range(axis.extent) for axis in graph.instances)):
        fixed = {axis.name: index for axis, index in zip(graph.instances, point, strict=True)}
        scan = cast(Scan, graph.of_kind(Scan)[0])
        words = _words(buffers, scan.table, (*graph.keys, *_axes(graph, scan.lanes)), fixed)
        dealt = dealt_rows(graph)
        rows = _steps(words.reshape(core.rows // dealt, -1), core.together)
        if dealt > 1:
            # One row of every block passes at a time.
            turned = rows.reshape(len(rows), core.together, dealt, -1).transpose(0, 2, 1, 3)
            rows = numpy.ascontiguousarray(turned).reshape(core.steps, -1)
        load = [_granules(_words(buffers, load.operand, _axes(graph, load.loops), fixed), load.granule, core.load_words)
                for load in core.loads]
        yield Stimulus(
            numpy.concatenate(load) if load else numpy.zeros((0, 1), numpy.uint32),
            _beats(rows, core.beat_words, core.beats, core.together if by_beats else 1),
            (*(_steps(_words(buffers, access, graph.keys, fixed).reshape(core.rows, -1), core.together)
               for access in core.sides[:len(core.sides) - len(beside)]),
             *(_table_beats(graph, buffers, table, core, fixed) for table in beside)))


def _table_beats(graph: StageGraph, buffers: Mapping[str, Array], scan: Scan, core: Any,
                 fixed: Mapping[str, int]) -> Words:
    """A table that passes beside the first, in the same beats."""
    words = _words(buffers, scan.table, (*graph.keys, *_axes(graph, scan.lanes)), fixed)
    _, beat_words, beats = core.beats_of(scan)
    return _beats(_steps(words.reshape(core.rows, -1), core.together), beat_words, beats, core.together)


def _steps(rows: Words, together: int) -> Words:
    """Words of the rows that pass together, side by side; where rows are missing stands what would win."""
    missing = numpy.full((-len(rows) % together, rows.shape[1]), _INFINITY, numpy.uint32)
    return numpy.concatenate([rows, missing]).reshape(-1, together * rows.shape[1])


def _beats(rows: Words, beat_words: int, beats: int, parts: int) -> Words:
    """Steps cut into beats; one of several parts has its part of every beat."""
    each = rows.reshape(len(rows) * parts, -1)
    padded = numpy.zeros((len(each), beat_words // parts * beats), numpy.uint32)
    padded[:, :each.shape[1]] = each
    dealt = padded.reshape(len(rows), parts, beats, -1).transpose(0, 2, 1, 3)
    return numpy.ascontiguousarray(dealt).reshape(-1, beat_words)


def _granules(words: Words, size: int, most: int) -> Words:
    """Words in the lowest places of beats."""
    whole = numpy.pad(words, (0, -len(words) % size))
    return numpy.pad(whole.reshape(-1, size), ((0, 0), (0, most - size)))


def _axes(graph: StageGraph, names: Sequence[str]) -> tuple[Axis, ...]:
    return tuple(graph.axis(name) for name in names)


def _words(buffers: Mapping[str, Array], access: Access, axes: Sequence[Axis], fixed: Mapping[str, int]) -> Words:
    chosen = buffers[access.buffer][addresses(access, axes, fixed)]
    shape = tuple(axis.extent for axis in axes)
    return numpy.ascontiguousarray(numpy.broadcast_to(chosen, shape)).reshape(-1).view(numpy.uint32)


__all__ = ["Stimulus", "Words", "stimuli"]
