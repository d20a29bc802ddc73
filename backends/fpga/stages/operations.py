"""What each unit computes: element-wise functions, the combining steps of reductions, and the selections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.numbers import Array, Floats
from hetcc.errors import InternalError
from hetcc.ir import DType


def select(scores: Floats, k: int, largest: bool) -> NDArray[numpy.int64]:
    """Positions of the k best scores, best first, the lower position first among equals; NaN counts as largest."""
    key = numbers.sort_key(scores)
    if not largest:
        key = ~key
    count = len(scores)
    position = numpy.arange(count, dtype=numpy.uint64)
    # One unsigned number per entry orders by score first and by falling position second.
    rank = (key.astype(numpy.uint64) << numpy.uint64(32)) | (numpy.uint64(0xFFFFFFFF) - position)
    best = numpy.partition(rank, count - k)[count - k:]
    best.sort()
    return (numpy.uint64(0xFFFFFFFF) - (best[::-1] & numpy.uint64(0xFFFFFFFF))).astype(numpy.int64)


def inner_products(rows: Floats, vectors: Floats, form: NumberFormat) -> Floats:
    """Inner products of table rows with stationary vectors in a format, to the bit of the hardware.

    Args:
        rows: ``[D, N]``, flushed; a row is a column.
        vectors: ``[D, M]``, flushed.
        form: of both factors.

    Returns:
        ``[M, N]``.
    """
    if form.integer_bits:
        return numbers.integer_dots(rows, vectors, form.integer_bits)
    if form is NumberFormat.BF16:
        rows, vectors = (numbers.flush(numbers.round_to(part, DType.BFLOAT16)) for part in (rows, vectors))
    return numbers.block_dots(rows, vectors, form.float_bits)


def compacted(flags: NDArray[numpy.bool_], capacity: int, fill: int) -> tuple[NDArray[numpy.int64],
                                                                              NDArray[numpy.int64]]:
    """Positions of the flags that are set, in order, and how many there are.

    Returns:
        ``[capacity]``: the first positions, ``fill`` behind the last; and ``[1]``: the number of all that are set.
    """
    found = numpy.flatnonzero(flags)
    listed = numpy.full(capacity, fill, numpy.int64)
    kept = min(len(found), capacity)
    listed[:kept] = found[:kept]
    return listed, numpy.array([len(found)], numpy.int64)


def looked_up(entries: Floats, index: NDArray[numpy.int64]) -> Floats:
    """Entries at positions; a negative one counts from the end, one outside gives NaN.

    Args:
        entries: ``[lanes..., E]``.
        index: ``[lanes..., rows]``; an extent is 1 where either does not depend on a lane.
    """
    count = entries.shape[-1]
    place = numpy.where(index < 0, index + count, index)
    outside = (place < 0) | (place >= count)
    shape = numpy.broadcast_shapes(entries.shape[:-1], index.shape[:-1])
    inside = numpy.broadcast_to(numpy.where(outside, 0, place), (*shape, index.shape[-1]))
    found = numpy.take_along_axis(numpy.broadcast_to(entries, (*shape, count)), inside, axis=-1)
    return cast(Floats, numpy.where(outside, numpy.float32(numpy.nan), found))


_COMPARE: Mapping[str, Callable[..., Array]] = {"ge": numpy.greater_equal, "gt": numpy.greater,
                                                "le": numpy.less_equal, "lt": numpy.less,
                                                "and": numpy.logical_and, "or": numpy.logical_or}


def apply_function(function: str, operands: list[Array]) -> Array:
    """One element-wise unit on broadcastable operands, before flushing and rounding.

    A comparison with NaN is false; -0 equals +0.
    """
    first = operands[0]
    if function == "cast":
        result: Array = first.astype(numpy.float32) if first.dtype == numpy.bool_ else first
    elif function in _COMPARE:
        result = _COMPARE[function](first, operands[1])
    elif function == "not":
        result = numpy.logical_not(first)
    elif function == "add":
        result = numpy.add(first, operands[1])
    elif function == "sub":
        result = numpy.subtract(first, operands[1])
    elif function == "mul":
        result = numpy.multiply(first, operands[1])
    elif function == "neg":
        result = numpy.negative(first)
    elif function == "abs":
        result = numpy.abs(first)
    elif function == "relu":
        positive = (cast(Floats, first) > 0) | numpy.isnan(cast(Floats, first))
        result = numpy.where(positive, first, numpy.float32(0))
    elif function == "max":
        result = larger(cast(Floats, first), cast(Floats, operands[1]))
    elif function == "min":
        result = smaller(cast(Floats, first), cast(Floats, operands[1]))
    elif function == "where":
        result = numpy.where(first, operands[1], operands[2])
    else:
        raise InternalError("HET-I001", f"no unit computes '{function}'")
    return result


def add(left: Floats, right: Floats) -> Floats:
    """The sum, flushed."""
    return numbers.flush(left + right)


def larger(left: Floats, right: Floats) -> Floats:
    """The larger, NaN where either is NaN."""
    chosen = numpy.where((left >= right) | numpy.isnan(left), left, right)
    return cast(Floats, chosen)


def smaller(left: Floats, right: Floats) -> Floats:
    """The smaller, NaN where either is NaN."""
    chosen = numpy.where((left <= right) | numpy.isnan(left), left, right)
    return cast(Floats, chosen)


__all__ = ["add", "apply_function", "compacted", "larger", "looked_up", "select", "smaller"]
