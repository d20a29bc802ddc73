"""Weights laid out for the hardware in device memory: converted once instead of in every run.

A row of the weight becomes a row of whole 64-byte words, in contraction order. Under a policy of integers it holds
those of 8 or 16 bits, then one byte, the biased exponent of its largest magnitude (255: the row holds an infinity or a
NaN, and its integers are 0), then zeros; under ``exact`` binary32 numbers, then zeros. Integers and exponent are those
of ``numbers.quantise``, so the bits of a product do not depend on whether a weight was packed. The host packs when it
writes the argument; the card never sees the weight as the model has it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.numbers import Array, Floats
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.stage_graph import (
    Access,
    Axis,
    Buffer,
    BufferRole,
    InnerProduct,
    Packing,
    Scan,
    Stage,
    StageGraph,
)
from hetcc.errors import InternalError
from hetcc.ir import DType

Integers = NDArray[numpy.int64]


def packed_row_bytes(depth: int, bits: int) -> int:
    """Bytes of a packed row of ``depth`` integers of ``bits`` bits, or binary32 numbers (0): whole words."""
    used = depth * bits // 8 + 1 if bits else 4 * depth
    return math.ceil(used / WORD_BYTES) * WORD_BYTES


def is_packed(scan: Scan) -> bool:
    """Whether a scan reads packed rows, as bytes."""
    return scan.element is DType.UINT8


def with_packed_weights(graph: StageGraph) -> StageGraph:
    """The same kernel with every scanned weight packed whose rows one product contracts as a whole, if that helps."""
    for stage in graph.of_kind(InnerProduct):
        source = graph.stage(stage.source.stage)
        if isinstance(source, Scan) and not is_packed(source) and _wants_packing(graph, stage, source):
            graph = _packed(graph, stage, source)
    return graph


def _wants_packing(graph: StageGraph, product: InnerProduct, scan: Scan) -> bool:
    """Integers always; numbers as they are where their rows are not whole words one behind the other."""
    if product.format is NumberFormat.BF16 or graph.buffer(scan.table.buffer).role is not BufferRole.WEIGHT:
        return False
    if product.format.integer_bits:
        return True
    strides, step = dict(scan.table.strides), 1
    order = (*graph.instances, *graph.keys, *(graph.axis(name) for name in product.over))
    for axis in reversed(order):
        if strides.get(axis.name, step) != step:
            return True
        step *= axis.extent if strides.get(axis.name) else 1
    depth = math.prod(graph.axis(name).extent for name in product.over)
    return scan.element is not DType.FLOAT32 or scan.table.offset != 0 or 4 * depth % WORD_BYTES != 0


def _packed(graph: StageGraph, product: InnerProduct, scan: Scan) -> StageGraph:
    buffer = graph.buffer(scan.table.buffer)
    readers = [stage for stage in graph.stages if not isinstance(stage, Scan) and any(
        getattr(stage, name, None) == product.source for name in ("source",))]
    sharers = [other for other in graph.of_kind(Scan) if other.table.buffer == buffer.name]
    if (buffer.role is not BufferRole.WEIGHT or set(scan.lanes) != set(product.over) or len(readers) != 1
            or len(sharers) != 1):
        return graph
    bits, strides = product.format.integer_bits, dict(scan.table.strides)
    rows = tuple(axis for axis in (*graph.instances, *graph.keys) if strides.get(axis.name))
    depth = tuple(graph.axis(name) for name in product.over)
    size = packed_row_bytes(math.prod(axis.extent for axis in depth), bits)
    packing = Packing(buffer.element, buffer.shape, scan.table, rows, depth, bits)
    held = Buffer(buffer.name, BufferRole.WEIGHT, DType.UINT8, (math.prod(axis.extent for axis in rows), size), packing)
    byte = Axis(f"l{len(graph.lanes)}", size)
    steps, step = {byte.name: 1}, size
    for axis in reversed(rows):
        steps[axis.name] = step
        step *= axis.extent
    table = Access(buffer.name, 0, tuple(sorted(steps.items())))

    def changed(stage: Stage) -> Stage:
        return replace(scan, table=table, element=DType.UINT8, lanes=(byte.name,)) if stage is scan else stage

    return replace(graph, lanes=(*graph.lanes, byte), stages=tuple(changed(stage) for stage in graph.stages),
                   buffers=tuple(held if one is buffer else one for one in graph.buffers))


def argument_of(buffer: Buffer) -> Buffer:
    """The buffer as the region has it, before packing."""
    if buffer.packing is None:
        return buffer
    return Buffer(buffer.name, buffer.role, buffer.packing.element, buffer.packing.shape)


def pack(buffer: Buffer, content: Array) -> Array:
    """A weight as it is held in device memory.

    Args:
        buffer: a packed one.
        content: the weight, of the storage type of its element and with its elements in order.

    Returns:
        bytes, of the shape of the buffer.

    Raises:
        InternalError: the buffer is not packed.
    """
    from hetcc.backends.fpga.stages.functional import addresses

    packing = buffer.packing
    if packing is None:
        raise InternalError("HET-I001", f"{buffer.name} is not packed")
    where = addresses(packing.source, (*packing.rows, *packing.depth))
    shape = [axis.extent for axis in (*packing.rows, *packing.depth)]
    rows, size = buffer.shape
    chosen = content.reshape(-1)[numpy.broadcast_to(where, shape).reshape(rows, -1)]
    values = numbers.decode(chosen, packing.element)
    found = numpy.zeros((rows, size), numpy.uint8)
    if not packing.bits:
        found[:, :4 * values.shape[1]] = numpy.ascontiguousarray(values, "<f4").view(numpy.uint8)
        return found
    integers, exponents, bad = numbers.quantise(numpy.ascontiguousarray(values.T).astype(numpy.float32), packing.bits)
    whole = numpy.ascontiguousarray(integers.T).astype("<i1" if packing.bits == 8 else "<i2").view(numpy.uint8)
    found[:, :whole.shape[1]] = whole
    found[:, whole.shape[1]] = numpy.where(bad, 255, exponents + 127 + (packing.bits - 2))
    return found


def unpack(rows: Array, depth: int, bits: int) -> tuple[Integers, Integers, NDArray[numpy.bool_]]:
    """Packed rows as ``numbers.quantise`` gave them.

    Args:
        rows: ``[bytes, N]``.
        depth: integers of a row.
        bits: of an integer.

    Returns:
        integers ``[D, N]``, exponents ``[N]``, and which rows are not finite.
    """
    columns = numpy.ascontiguousarray(rows.T).view(numpy.uint8)
    whole = numpy.ascontiguousarray(columns[:, :depth * bits // 8]).view("<i1" if bits == 8 else "<i2")
    biased = columns[:, depth * bits // 8].astype(numpy.int64)
    bad = biased == 255
    # A row that is not finite has the exponent of one whose largest magnitude is zero.
    return whole.T.astype(numpy.int64), numpy.where(bad, 0, biased) - 127 - (bits - 2), bad


def packed_products(rows: Array, vectors: Floats, bits: int) -> Floats:
    """Inner products of packed rows, ``[bytes, N]``, with vectors ``[..., D]``: ``[..., N]``; 0 bits: binary32."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    if bits:
        found = numbers.quantised_dots(unpack(rows, vectors.shape[-1], bits),
                                       numbers.quantise(numpy.ascontiguousarray(flat.T), bits))
    else:
        words = numpy.ascontiguousarray(rows.T[:, :4 * flat.shape[1]]).view("<f4")
        floats = numbers.flush(numpy.ascontiguousarray(words.T))
        found = numbers.block_dots(floats, numpy.ascontiguousarray(flat.T))
    return found.reshape(*vectors.shape[:-1], rows.shape[-1])


__all__ = ["argument_of", "is_packed", "pack", "packed_products", "packed_row_bytes", "unpack", "with_packed_weights"]
