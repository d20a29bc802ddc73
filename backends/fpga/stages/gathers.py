"""Rows that a selection names, copied from a table to an output bit by bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy
from numpy.typing import NDArray

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.addressing import addresses
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.runs import Runs, granule_of, runs_of
from hetcc.backends.fpga.stages.stage_graph import Access, Append, Gather, StageGraph, Store, operands_of


def entries_of(graph: StageGraph, stage: Gather) -> int:
    """Rows that are taken for every instance."""
    return graph.axis(stage.selected).extent if stage.selected else 1


def row_granule(graph: StageGraph, stage: Gather, store: Store) -> int:
    """Elements of a row that always lie together in one word of the table and in one of the output: one is moved per
    cycle.
    """
    row = math.prod(graph.axis(name).extent for name in stage.lanes)
    tables, targets = dict(stage.table.strides), dict(store.target.strides)
    loops = [(2, stage.row_stride), (2, targets.get(stage.selected, 0))]
    loops += [(2, strides.get(axis.name, 0)) for axis in graph.instances for strides in (tables, targets)]
    offset = math.gcd(stage.table.offset, store.target.offset)
    size = numbers.storage_type(graph.buffer(stage.table.buffer).element).itemsize
    return granule_of(Runs(offset, tuple(loops), (), row), row, size)


def check_gathers(graph: StageGraph) -> Rejected | None:
    """The first limit of the hardware that takes rows where a selection says."""
    stages: tuple[Gather, ...] = graph.of_kind(Gather)
    read = [operand.buffer for stage in graph.stages if not isinstance(stage, (Gather, Append, Store))
            for operand in operands_of(stage) if isinstance(operand, Access)]
    taken = [stage.table.buffer for stage in stages]
    if set(taken) & set(read) or len(set(taken)) < len(taken):
        return Rejected("rows are taken from a table that nothing else reads", "a buffer of its own", ", ".join(taken))
    for stage in stages:
        lanes = [graph.axis(name) for name in stage.lanes]
        row = math.prod(axis.extent for axis in lanes)
        stores = [store for store in graph.of_kind(Store) if store.source.stage == stage.name]
        for access in (stage.table, *(store.target for store in stores)):
            found = runs_of(Access(access.buffer, 0, access.strides), (), lanes)
            if found.inner or found.elements != row:
                return Rejected("a row that is taken is one run of neighbours", str(row), str(found.elements))
        known = {*stage.lanes, stage.selected, *(axis.name for axis in graph.instances)}
        if len(stores) != 1 or stores[0].element is not stage.element or set(stores[0].axes) - known:
            return Rejected("rows that are taken are written once and as they are", "1", str(len(stores)))
    return None


def store_rows(graph: StageGraph, buffers: Mapping[str, Array], instance: Mapping[str, int], store: Store,
               indices: NDArray[numpy.int64]) -> None:
    """What a store behind a ``Gather`` writes for one instance.

    Args:
        graph: the kernel.
        buffers: by name; the target is written.
        instance: index of every instance loop.
        store: its source is the gather.
        indices: ``[K]``, of the selection; a negative one counts from the end.
    """
    stage = graph.stage(store.source.stage)
    assert isinstance(stage, Gather)
    loops = [graph.axis(name) for name in store.axes if name not in instance]
    shape = tuple(axis.extent for axis in loops)
    rows = numpy.where(indices < 0, indices + stage.rows, indices) * stage.row_stride
    places = [len(rows) if axis.name == stage.selected else 1 for axis in loops]
    found = buffers[stage.table.buffer][addresses(stage.table, loops, instance) + rows.reshape(places)]
    if store.element is not stage.element:
        found = numbers.encode(numbers.decode(found, stage.element), store.element)
    target = addresses(store.target, loops, instance)
    buffers[store.target.buffer][numpy.broadcast_to(target, shape)] = numpy.broadcast_to(found, shape)


__all__ = ["check_gathers", "entries_of", "row_granule", "store_rows"]
