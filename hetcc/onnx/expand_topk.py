"""Long selections as rounds of short ones.

Code generators lower ``TopK`` to an exchange sort over the whole axis, quadratic in its extent (46 s for 131,072
entries on one core). Selecting within chunks first and then among the chunks' winners gives the same values and the
same indices: equal values keep the order of their indices in every round.
"""

from __future__ import annotations

import math

import numpy

from hetcc.ir import DType, Node, TensorType
from hetcc.onnx.expand import Emitter
from hetcc.onnx.types import literal_of, numpy_dtype_of

SHORT_EXTENT = 256
"""Up to this extent (or twice ``k``, if that is more) a selection is one operator."""


def expand_topk(emitter: Emitter, node: Node) -> bool:
    """Write a long ``TopK`` in rounds; False, with nothing written, when it is short or has no known ``k``."""
    source, axis, k = node.inputs[0], node.integer("axis"), node.integer("k")
    source_type = emitter.region.type_of(source)
    extent = source_type.shape[axis]
    chunk = max(SHORT_EXTENT, 2 * k)
    if extent <= chunk or k < 1:
        return False
    rank = len(source_type.shape)
    order = [*(place for place in range(rank) if place != axis), axis]
    outer = tuple(source_type.shape[place] for place in order[:-1])
    if axis != rank - 1:
        source_type = TensorType((*outer, extent), source_type.dtype)
        source = emitter.add(node, "Transpose", [source], source_type, perm=order)
    rows = math.prod(outer)
    values = emitter.reshape(node, source, source_type, (rows, extent))
    results = _rounds(emitter, node, values, TensorType((rows, extent), source_type.dtype), chunk)
    _put_back(emitter, node, results, outer, order)
    return True


def _rounds(emitter: Emitter, node: Node, values: str, tensor: TensorType, chunk: int) -> tuple[str, str]:
    """Values and indices ``[rows, k]`` of the selection along the last axis of ``values``."""
    k, (rows, extent) = node.integer("k"), tensor.shape
    indices = ""
    while extent > chunk:
        count = -(-extent // chunk)
        worst = _worst(tensor.dtype, bool(node.attribute("largest")))
        values = _padded(emitter, node, values, TensorType((rows, extent), tensor.dtype), count * chunk, worst)
        if indices:
            # A chunk with fewer than k real entries also selects filling; what that is looked up as does not matter.
            indices = _padded(emitter, node, indices, TensorType((rows, extent), DType.INT64), count * chunk, 0)
        chunks = emitter.reshape(node, values, TensorType((rows, count * chunk), tensor.dtype), (rows, count, chunk))
        best, places = _select(emitter, node, chunks, TensorType((rows, count, k), tensor.dtype))
        starts = emitter.literal(literal_of(numpy.arange(0, count * chunk, chunk).reshape(1, count, 1), "starts"))
        winners = TensorType((rows, count, k), DType.INT64)
        places = emitter.add(node, "Add", [places, starts], winners)
        places = emitter.reshape(node, places, winners, (rows, count * k))
        indices = _followed(emitter, node, indices, places, TensorType((rows, count * k), DType.INT64))
        values = emitter.reshape(node, best, TensorType((rows, count, k), tensor.dtype), (rows, count * k))
        extent = count * k
    best, places = _select(emitter, node, values, TensorType((rows, k), tensor.dtype))
    return best, _followed(emitter, node, indices, places, TensorType((rows, k), DType.INT64))


def _select(emitter: Emitter, node: Node, values: str, result: TensorType) -> tuple[str, str]:
    count = emitter.integers(node.integer("k"))
    best, places = emitter.add_many(
        node, "TopK", [values, count], (result, TensorType(result.shape, DType.INT64)), axis=-1,
        largest=int(bool(node.attribute("largest"))))
    return best, places


def _followed(emitter: Emitter, node: Node, indices: str, places: str, result: TensorType) -> str:
    """Original indices of the winners: those of the round before, looked up."""
    return emitter.add(node, "GatherElements", [indices, places], result, axis=1) if indices else places


def _worst(dtype: DType, largest: bool) -> float | int:
    """The value that is selected last; behind every real entry it is never selected before one."""
    if dtype.is_floating:
        return -math.inf if largest else math.inf
    limits = numpy.iinfo(numpy_dtype_of(dtype))
    return int(limits.min if largest else limits.max)


def _padded(emitter: Emitter, node: Node, values: str, tensor: TensorType, extent: int, filling: float | int) -> str:
    """Rows filled up to ``extent``."""
    if tensor.shape[1] == extent:
        return values
    filler = emitter.literal((tensor.dtype, (tensor.shape[0], extent - tensor.shape[1]), (filling,)))
    return emitter.add(node, "Concat", [values, filler], TensorType((tensor.shape[0], extent), tensor.dtype), axis=1)


def _put_back(emitter: Emitter, node: Node, results: tuple[str, str], outer: tuple[int, ...],
              order: list[int]) -> None:
    """Give the results the shape of the node's outputs, under their names."""
    k = node.integer("k")
    moved = order != list(range(len(order)))
    for found, output in zip(results, node.outputs, strict=True):
        target = emitter.region.type_of(output)
        shape = emitter.integers(*outer, k)
        if moved:
            unfolded = emitter.add(node, "Reshape", [found, shape], TensorType((*outer, k), target.dtype))
            emitter.add(node, "Transpose", [unfolded], output, perm=[order.index(place) for place in range(len(order))])
        else:
            emitter.add(node, "Reshape", [found, shape], output)
