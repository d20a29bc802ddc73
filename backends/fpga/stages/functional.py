"""Executes a stage graph on arrays, bit for bit as the hardware would (see ``numbers`` for the arithmetic)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hetcc.backends.fpga.stages import attention, numbers
from hetcc.backends.fpga.stages.addressing import addresses
from hetcc.backends.fpga.stages.gathers import store_rows
from hetcc.backends.fpga.stages.numbers import Array, Floats
from hetcc.backends.fpga.stages.operations import (
    add,
    apply_function,
    compacted,
    inner_products,
    larger,
    looked_up,
    select,
    smaller,
)
from hetcc.backends.fpga.stages.packed import is_packed, packed_products
from hetcc.backends.fpga.stages.stage_graph import (
    Access,
    Append,
    Axis,
    Compact,
    Export,
    Gather,
    Immediate,
    InnerProduct,
    Lookup,
    Map,
    Operand,
    Reduce,
    Scan,
    StageGraph,
    Store,
    Stream,
    TopK,
    WeightedSum,
    operands_of,
)
from hetcc.errors import InternalError
from hetcc.ir import DType

# Rows per step: one block of 128-element rows and its two scratch arrays stay in a second-level cache.
_BLOCK_ROWS = 512

Index = Mapping[str, int]


class PositionError(ValueError):
    """A row was to be appended outside the table; the compute unit stops in state ERROR."""


def execute(graph: StageGraph, buffers: Mapping[str, Array]) -> int:
    """Run the kernel once on its buffers, in place.

    Args:
        graph: the kernel.
        buffers: by buffer name, flat contiguous arrays of the storage type (``numbers.storage_type``); tables are
            appended to and outputs overwritten.

    Returns:
        number of stages executed, each counted once per instance.

    Raises:
        PositionError: a new row's position is outside the table; nothing was written.
    """
    run = _Run(graph, buffers)
    with numpy.errstate(over="ignore", invalid="ignore", under="ignore"):
        return run.all()


def append_rows(graph: StageGraph, buffers: Mapping[str, Array]) -> None:
    """The first thing a run does: new rows into their tables.

    Raises:
        PositionError: see :func:`execute`.
    """
    appends = graph.of_kind(Append)
    for stage in appends:
        found = buffers[stage.positions.buffer][addresses(stage.positions, stage.axes)]
        if found.size and (int(found.min()) < 0 or int(found.max()) >= stage.rows):
            raise PositionError(f"row {int(found.min())}..{int(found.max())} of a table of {stage.rows} rows")
    for stage in appends:
        positions = buffers[stage.positions.buffer][addresses(stage.positions, stage.axes)]
        targets = addresses(stage.table, stage.axes) + positions.astype(numpy.int64) * stage.row_stride
        rows = buffers[stage.updates.buffer][addresses(stage.updates, stage.axes)]
        # In order, so that of two rows for one position the later stays.
        buffers[stage.table.buffer][targets.reshape(-1)] = numpy.broadcast_to(rows, targets.shape).reshape(-1)


class _Run:
    """One execution: the arrays of the current instance and block of rows."""

    def __init__(self, graph: StageGraph, buffers: Mapping[str, Array]) -> None:
        self._graph = graph
        self._buffers = buffers
        self._extent = {axis.name: axis.extent for axis in (*graph.instances, *graph.keys, *graph.lanes)}
        self._keys = tuple(axis.name for axis in graph.keys)
        self._instance: dict[str, int] = {}
        self._block: dict[str, Array] = {}
        self._lanes: dict[str, tuple[str, ...]] = {}
        self._key_axes: dict[str, tuple[str, ...]] = {}
        self._scores: dict[str, list[Array]] = {}
        self._steps: dict[type, Callable[..., None]] = {
            Scan: self._scan, InnerProduct: self._inner_product, Lookup: self._lookup, Map: self._map,
            Reduce: self._reduce,
            TopK: self._collect, Compact: self._collect, Store: self._store_block, WeightedSum: self._collect_lanes,
        }
        self._trace_keys()

    def all(self) -> int:
        """Appends, then every instance over all blocks of rows, then exports."""
        append_rows(self._graph, self._buffers)
        streaming = [stage for stage in self._graph.stages if not isinstance(stage, (Append, Export))]
        executed = len(self._graph.of_kind(Append))
        for point in itertools.product(*(range(axis.extent) for axis in self._graph.instances)):
            self._instance = {axis.name: index for axis, index in zip(self._graph.instances, point, strict=True)}
            self._one_instance()
            executed += len(streaming)
        for export in self._graph.of_kind(Export):
            self._buffers[export.target][...] = self._buffers[export.table]
            executed += 1
        return executed

    def _one_instance(self) -> None:
        selections: list[TopK | Compact] = [*self._graph.of_kind(TopK), *self._graph.of_kind(Compact)]
        sums: tuple[WeightedSum, ...] = self._graph.of_kind(WeightedSum)
        self._scores = {stage.name: [] for stage in (*selections, *sums)}
        # The rows that are added up are read when all scores are known.
        read = {part.stage for stage in self._graph.stages for part in operands_of(stage) if isinstance(part, Stream)
                and not (isinstance(stage, WeightedSum) and part is stage.values)}
        weighted = {stage.values.stage for stage in sums} - read
        rows = math.prod(self._extent[name] for name in self._keys)
        step = self._block_rows()
        taken = {stage.name: stage for stage in self._graph.of_kind(Gather)}
        late = [stage for stage in self._graph.of_kind(Store)
                if stage.source.stage in self._scores or stage.source.stage in taken]
        for low in range(0, rows, step):
            self._range = (low, min(low + step, rows))
            self._block = {}
            for stage in self._graph.stages:
                if not isinstance(stage, (Append, Export, Gather)) and stage not in late and stage.name not in weighted:
                    self._steps[type(stage)](stage)
        for stage in selections:
            self._select(stage)
        for total in sums:
            self._attend(total, rows)
        for stage in late:
            if stage.source.stage in taken:
                indices = cast(NDArray[numpy.int64], self._block[f"{taken[stage.source.stage].source.stage}.indices"])
                store_rows(self._graph, self._buffers, self._instance, stage, indices)
            elif isinstance(self._graph.stage(stage.source.stage), WeightedSum):
                self._store_block(stage)
            else:
                self._store_selection(stage)

    def _block_rows(self) -> int:
        """Rows per block: whole groups of the rows that are reduced together."""
        shortest = min((len(axes) for axes in self._key_axes.values()), default=len(self._keys))
        group = math.prod(self._extent[name] for name in self._keys[shortest:])
        return group * max(1, _BLOCK_ROWS // group)

    def _trace_keys(self) -> None:
        """Lanes and remaining key axes of every stream."""
        for stage in self._graph.stages:
            if isinstance(stage, (Scan, InnerProduct, Lookup, Map, Reduce)):
                self._lanes[stage.name] = stage.lanes
            if isinstance(stage, Scan):
                self._key_axes[stage.name] = self._keys
            elif isinstance(stage, (InnerProduct, Lookup, Reduce)):
                before = self._key_axes[stage.source.stage]
                self._key_axes[stage.name] = tuple(name for name in before if name not in stage.over)
            elif isinstance(stage, Map):
                sources = [self._key_axes[part.stage] for part in stage.operands if isinstance(part, Stream)]
                self._key_axes[stage.name] = min(sources, key=len)

    # ---- reading and writing memory

    def _pattern(self, access: Access, lanes: tuple[str, ...], keys: tuple[str, ...]) -> NDArray[numpy.int64]:
        """Element numbers ``[lanes..., rows]`` (one row when the address does not depend on the row)."""
        strides = dict(access.strides)
        axes = [Axis(name, self._extent[name]) for name in lanes]
        offsets = addresses(access, axes, self._instance)[..., None]
        if any(strides.get(name) for name in keys):
            offsets = offsets + self._row_offsets(strides, keys)
        return offsets

    def _row_offsets(self, strides: Mapping[str, int], keys: tuple[str, ...]) -> NDArray[numpy.int64]:
        dropped = math.prod(self._extent[name] for name in self._keys[len(keys):])
        rows = numpy.arange(self._range[0] // dropped, self._range[1] // dropped)
        total = numpy.zeros(len(rows), numpy.int64)
        for name in reversed(keys):
            total += rows % self._extent[name] * strides.get(name, 0)
            rows = rows // self._extent[name]
        return total

    def _read(self, access: Access, lanes: tuple[str, ...], keys: tuple[str, ...]) -> Array:
        """Decoded elements ``[lanes..., rows]``; an extent is 1 where the address does not depend on the loop."""
        buffer = self._buffers[access.buffer]
        element = self._graph.buffer(access.buffer).element
        strides = dict(access.strides)
        single = keys and not any(strides.get(name) for name in keys[:-1])
        if len(keys) == 1 and single and strides.get(keys[0]):
            return numbers.decode(self._read_burst(buffer, access, lanes, strides[keys[0]]), element)
        return numbers.decode(buffer[self._pattern(access, lanes, keys)], element)

    def _read_burst(self, buffer: Array, access: Access, lanes: tuple[str, ...], row_stride: int) -> Array:
        """Rows one stride apart: a strided view, copied with the rows along the last axis."""
        strides = dict(access.strides)
        base = access.offset + sum(strides.get(name, 0) * index for name, index in self._instance.items())
        dropped = math.prod(self._extent[name] for name in self._keys[1:])
        low, high = self._range[0] // dropped, self._range[1] // dropped
        shape = tuple(self._extent[name] if strides.get(name) else 1 for name in lanes)
        steps = (*(strides.get(name, 0) for name in lanes), row_stride)
        last = base + low * row_stride + sum((extent - 1) * step for extent, step in zip(
            (*shape, high - low), steps, strict=True))
        if last >= buffer.size:
            raise InternalError("HET-I001", f"access to {access.buffer} ends at {last} of {buffer.size}")
        view = as_strided(buffer[base + low * row_stride:], (*shape, high - low),
                          tuple(step * buffer.itemsize for step in steps), writeable=False)
        return numpy.ascontiguousarray(view)

    def _floats(self, operand: Operand, lanes: tuple[str, ...], keys: tuple[str, ...]) -> Array:
        """An operand broadcastable to ``[lanes..., rows]``."""
        if isinstance(operand, Immediate):
            return numbers.flush(numpy.full((1,) * (len(lanes) + 1), operand.value, numpy.float32))
        if isinstance(operand, Access):
            return self._read(operand, lanes, keys)
        return self._aligned(self._block[operand.stage], self._lanes[operand.stage], lanes)

    @staticmethod
    def _aligned(block: Array, have: tuple[str, ...], want: tuple[str, ...]) -> Array:
        """The block with its lanes in the order ``want``, extents of one for those it lacks."""
        order = [have.index(name) for name in want if name in have]
        moved = numpy.transpose(block, (*order, len(have)))
        shape = iter(moved.shape)
        return moved.reshape(*(next(shape) if name in have else 1 for name in want), moved.shape[-1])

    # ---- stages

    def _scan(self, stage: Scan) -> None:
        self._block[stage.name] = self._read(stage.table, stage.lanes, self._keys)

    def _inner_product(self, stage: InnerProduct) -> None:
        scan = self._graph.stage(stage.source.stage)
        if isinstance(scan, Scan) and is_packed(scan):
            vectors = self._read(stage.stationary, (*stage.lanes, *stage.over), ())[..., 0]
            spread = numpy.broadcast_to(vectors, [self._extent[name] for name in (*stage.lanes, *stage.over)])
            flat = cast(Floats, spread.reshape((*spread.shape[:len(stage.lanes)], -1)))
            self._block[stage.name] = numbers.round_to(
                packed_products(self._block[scan.name], flat, stage.format.integer_bits), stage.element)
            return
        have = self._lanes[stage.source.stage]
        shared = tuple(name for name in have if name not in stage.over)
        source = self._aligned(self._block[stage.source.stage], have, (*shared, *stage.over))
        depth = math.prod(self._extent[name] for name in stage.over)
        rows = cast(Floats, source.reshape(*source.shape[:len(shared)], depth, source.shape[-1]))
        wide = self._read(stage.stationary, (*stage.lanes, *stage.over), ())[..., 0]
        own = tuple(self._extent[name] for name in stage.over)
        stationary = cast(Floats, numpy.broadcast_to(wide, (*wide.shape[:len(stage.lanes)], *own)).reshape(
            *wide.shape[:len(stage.lanes)], depth))
        shape = tuple(self._extent[name] for name in stage.lanes)
        found = self._products(stage, shared, rows, stationary, shape)
        self._block[stage.name] = numbers.round_to(found, stage.element)

    def _products(self, stage: InnerProduct, shared: tuple[str, ...], rows: Floats, stationary: Floats,
                  shape: tuple[int, ...]) -> Floats:
        """One call for every point of the lanes that source and result share."""
        of_table = isinstance(self._graph.stage(stage.source.stage), Scan)
        wide = numpy.broadcast_to(stationary, (*shape, stationary.shape[-1]))
        result = numpy.empty((*shape, rows.shape[-1]), numpy.float32)
        fixed = [stage.lanes.index(name) for name in shared]
        free = [at for at in range(len(shape)) if at not in fixed]
        for point in numpy.ndindex(*(shape[at] for at in fixed)):
            place: list[int | slice] = [slice(None)] * len(shape)
            for at, index in zip(fixed, point, strict=True):
                place[at] = index
            block = rows[tuple(index if rows.shape[at] > 1 else 0 for at, index in enumerate(point))]
            vectors = numpy.ascontiguousarray(wide[tuple(place)].reshape(-1, wide.shape[-1]).T)
            found = inner_products(block, vectors, stage.format) if of_table else numbers.tree_dots(block, vectors)
            result[tuple(place)] = found.reshape(*(shape[at] for at in free), rows.shape[-1])
        return result

    def _lookup(self, stage: Lookup) -> None:
        index = self._aligned(self._block[stage.source.stage], self._lanes[stage.source.stage], stage.lanes)
        entries = cast(Floats, self._read(stage.table, (*stage.lanes, *stage.over), ())[..., 0])
        self._block[stage.name] = looked_up(entries, cast(NDArray[numpy.int64], index.astype(numpy.int64)))

    def _map(self, stage: Map) -> None:
        keys = self._key_axes[stage.name]
        operands = [self._floats(operand, stage.lanes, keys) for operand in stage.operands]
        result = apply_function(stage.function, operands)
        if stage.element is not DType.BOOL:
            result = numbers.round_to(numbers.flush(cast(Floats, result)), stage.element)
        self._block[stage.name] = result

    def _reduce(self, stage: Reduce) -> None:
        have = self._lanes[stage.source.stage]
        before = self._key_axes[stage.source.stage]
        inner = tuple(name for name in before if name in stage.over)
        block = self._block[stage.source.stage]
        grouped = block.reshape(*block.shape[:-1], -1, *(self._extent[name] for name in inner))
        names = (*have, "", *inner)
        front = [names.index(name) for name in stage.over]
        rest = [names.index(name) for name in (*stage.lanes, "")]
        terms = numpy.transpose(grouped, (*front, *rest))
        merged = cast(Floats, numpy.ascontiguousarray(terms.reshape(-1, *terms.shape[len(front):])))
        combine = {"sum": add, "max": larger, "min": smaller}[stage.function]
        self._block[stage.name] = numbers.round_to(numbers.tree_fold(merged, combine), stage.element)

    def _collect(self, stage: TopK | Compact) -> None:
        self._scores[stage.name].append(self._block[stage.source.stage].reshape(-1))

    def _collect_lanes(self, stage: WeightedSum) -> None:
        self._scores[stage.name].append(self._block[stage.source.stage])

    def _attend(self, stage: WeightedSum, rows: int) -> None:
        """The second pass: rows of the values, a block at a time; a block is a whole subtree of the sum."""
        scan = cast(Scan, self._graph.stage(stage.values.stage))
        scores = cast(Floats, numpy.concatenate(self._scores[stage.name], axis=-1))
        terms, totals = attention.softmax_terms(scores)
        sums = []
        for low in range(0, rows, _BLOCK_ROWS):
            self._range = (low, min(low + _BLOCK_ROWS, rows))
            values = cast(Floats, self._read(scan.table, scan.lanes, self._keys))
            sums.append(attention.weighted_rows(terms[..., low:self._range[1]], values))
        lanes = self._lanes[stage.source.stage]
        self._lanes[stage.name] = (*lanes, *scan.lanes)
        ends = (*totals.shape, *[1] * len(scan.lanes))
        result = attention.quotients(numbers.tree_sum(numpy.stack(sums)), totals.reshape(ends))
        if stage.zero_when_masked:
            result = numpy.where(attention.all_masked(scores).reshape(ends), numpy.float32(0), result)
        self._block[stage.name] = numbers.round_to(result, stage.element)[..., None]

    def _select(self, stage: TopK | Compact) -> None:
        given = numpy.concatenate(self._scores[stage.name])
        if isinstance(stage, Compact):
            indices, count = compacted(given.astype(bool), stage.capacity, stage.fill)
            self._block[f"{stage.name}.indices"], self._block[f"{stage.name}.count"] = indices, count
            return
        scores = cast(Floats, given)
        chosen = select(scores, stage.k, stage.largest)
        self._block[f"{stage.name}.values"] = numbers.canonical(scores[chosen])
        self._block[f"{stage.name}.indices"] = chosen

    def _store_block(self, stage: Store) -> None:
        lanes = tuple(name for name in stage.axes if name not in self._instance and name not in self._keys)
        keys = self._key_axes.get(stage.source.stage, ())
        offsets = self._pattern(stage.target, lanes, keys)
        block = self._aligned(self._block[stage.source.stage], self._lanes[stage.source.stage], lanes)
        self._buffers[stage.target.buffer][offsets] = numbers.encode(
            numpy.broadcast_to(block, offsets.shape), stage.element)

    def _store_selection(self, stage: Store) -> None:
        chosen = self._block[f"{stage.source.stage}.{stage.source.port}"]
        outer = tuple(name for name in stage.axes if name not in self._instance)
        offsets = self._pattern(stage.target, outer, ())
        selected = cast("TopK | Compact", self._graph.stage(stage.source.stage)).selected
        shape = [len(chosen) if name == selected else 1 for name in outer]
        block = numpy.broadcast_to(chosen.reshape(shape), offsets.shape[:-1])
        self._buffers[stage.target.buffer][offsets[..., 0]] = numbers.encode(block, stage.element)


__all__ = ["PositionError", "addresses", "append_rows", "apply_function", "execute", "select"]
