"""Writes into caches: what exporters spread over several ONNX nodes becomes one ``CACHE_UPDATE``.

``index_copy`` along an axis has no ONNX operator before version 24. Exporters write it as a scatter of rows between two
transposes, or as an element-wise scatter with expanded indices. Both become one node with the operator
``onnx.IndexCopy.hetcc:N`` (``data``, ``indices`` of shape ``[n]``, ``updates``, keyword ``axis``), which
``hetcc.onnx.rebuild`` writes out as operators of version ``N`` again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy

from hetcc.ir import Argument, CacheUpdate, Node, Operand, OperatorClass, SourceOperator, TensorType, Value, live_nodes
from hetcc.onnx.types import literal_of

INDEX_COPY = "IndexCopy"
INDEX_COPY_DOMAIN = "hetcc"


@dataclass(frozen=True)
class _Write:
    """A recognised write: ``updates`` replace the slices of the cache at ``indices`` along ``axis``."""

    scatter: Node
    axis: int
    indices: str
    updates: str
    order: tuple[int, ...]
    """Permutation that turns ``updates`` into the cache's order of axes."""


def fuse_cache_updates(nodes: Iterable[Node], updates: Iterable[CacheUpdate], values: dict[str, Value],
                       results: Iterable[str]) -> tuple[Node, ...]:
    """``nodes`` with each recognised write as one ``CACHE_UPDATE``, and without the nodes this leaves unused.

    Args:
        nodes: nodes in order.
        updates: caches and their new values.
        values: all values; values of added nodes are added.
        results: values that must exist afterwards.
    """
    ordered = list(nodes)
    for update in updates:
        producer = {value: node for node in ordered for value in node.outputs}
        write = _rows_between_transposes(update, producer, values) or _expanded_indices(update, producer, values)
        if write is None:
            continue
        last = producer[update.value]
        names = {node.name for node in ordered}
        position = ordered.index(last)
        ordered[position:position + 1] = _written(write, update, last, producer, values, names)
    return live_nodes(ordered, tuple(results))


def _written(write: _Write, update: CacheUpdate, last: Node, producer: Mapping[str, Node], values: dict[str, Value],
             names: set[str]) -> list[Node]:
    """The nodes that replace ``last``, the producer of the cache's new value."""
    stem = _free(write.scatter.name.replace(write.scatter.operator.name, INDEX_COPY), names)
    made: list[Node] = []
    indices, new_rows = write.indices, write.updates
    count = values[indices].type.elements
    if values[indices].type.shape != (count,):
        indices = _source_of_shape(indices, (count,), producer, values)
    if values[indices].type.shape != (count,):
        literal = literal_of(numpy.array([count], numpy.int64), stem)
        made.append(_view(write.scatter, f"{stem}/indices", "Reshape", indices, (Operand(0), literal), (),
                          (("kind", "reshape"),)))
        values[f"{stem}/indices"] = Value(f"{stem}/indices", TensorType((count,), values[indices].type.dtype))
        indices = f"{stem}/indices"
    permutation, source = _permutation_before(new_rows, producer, len(write.order))
    order = tuple(permutation[axis] for axis in write.order)
    if order == tuple(range(len(order))):
        new_rows = source
    elif write.order != tuple(range(len(order))):
        new_rows = f"{stem}/updates"
        made.append(_view(write.scatter, new_rows, "Transpose", source, (Operand(0),), (("perm", order),),
                          (("kind", "permute"), ("permutation", order))))
        old = values[source].type
        values[new_rows] = Value(new_rows, TensorType(tuple(old.shape[axis] for axis in order), old.dtype))
    made.append(replace(
        write.scatter, name=stem, operator_class=OperatorClass.CACHE_UPDATE,
        operator=SourceOperator("onnx", INDEX_COPY, f"{INDEX_COPY_DOMAIN}:{write.scatter.operator.overload}"),
        inputs=(update.cache, indices, new_rows), outputs=last.outputs,
        arguments=(Operand(0), Operand(1), Operand(2)), keywords=(("axis", write.axis),),
        attributes=(("axis", write.axis), ("data", 0), ("indices", 1), ("updates", 2))))
    return made


def _view(like: Node, name: str, op_type: str, source: str, arguments: tuple[Argument, ...],
          keywords: tuple[tuple[str, tuple[int, ...]], ...], attributes: tuple[tuple[str, str | tuple[int, ...]], ...],
          ) -> Node:
    return replace(like, name=name, operator=replace(like.operator, name=op_type), operator_class=OperatorClass.VIEW,
                   inputs=(source,), outputs=(name,), arguments=arguments, keywords=keywords, attributes=attributes)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name


def _rows_between_transposes(update: CacheUpdate, producer: Mapping[str, Node], values: Mapping[str, Value],
                             ) -> _Write | None:
    rank = len(values[update.cache].type.shape)
    after, scattered = _permutation_before(update.value, producer, rank)
    scatter = producer.get(scattered)
    if (scatter is None or scatter.operator.name != "ScatterND" or scatter.operator_class is not OperatorClass.SCATTER
            or scatter.attribute("mode") != "rows"):
        return None
    before, data = _permutation_before(scatter.operand("data") or "", producer, rank)
    indices, updates = scatter.operand("indices"), scatter.operand("updates")
    if data != update.cache or indices is None or updates is None:
        return None
    if tuple(before[axis] for axis in after) != tuple(range(rank)):
        return None
    if len(values[indices].type.shape) != 2:
        return None
    return _Write(scatter, before[0], indices, updates, after)


def _permutation_before(value: str, producer: Mapping[str, Node], rank: int) -> tuple[tuple[int, ...], str]:
    """The permutation that makes ``value`` from the value returned with it (the identity when there is none)."""
    node = producer.get(value)
    permutation = node.attribute("permutation") if node is not None else None
    if node is not None and isinstance(permutation, tuple):
        return permutation, node.inputs[0]
    return tuple(range(rank)), value


def _expanded_indices(update: CacheUpdate, producer: Mapping[str, Node], values: Mapping[str, Value],
                      ) -> _Write | None:
    scatter = producer.get(update.value)
    if (scatter is None or scatter.operator.name != "ScatterElements"
            or scatter.operator_class is not OperatorClass.SCATTER or scatter.operand("data") != update.cache):
        return None
    axis, indices, updates = scatter.integer("axis"), scatter.operand("indices"), scatter.operand("updates")
    expand = producer.get(indices or "")
    if updates is None or expand is None or expand.attribute("kind") != "expand":
        return None
    cache_shape, new_shape = values[update.cache].type.shape, values[updates].type.shape
    count = new_shape[axis]
    whole_rows = new_shape == (*cache_shape[:axis], count, *cache_shape[axis + 1:])
    unexpanded = values[expand.inputs[0]].type.shape
    along_axis_only = unexpanded == tuple(count if place == axis else 1 for place in range(len(cache_shape)))
    if not whole_rows or not along_axis_only:
        return None
    return _Write(scatter, axis, expand.inputs[0], updates, tuple(range(len(cache_shape))))


def _source_of_shape(value: str, shape: tuple[int, ...], producer: Mapping[str, Node], values: Mapping[str, Value],
                     ) -> str:
    """What ``value`` was reshaped from, if that has ``shape``; else ``value`` itself."""
    current = value
    node = producer.get(current)
    while node is not None and node.attribute("kind") in ("reshape", "unsqueeze", "squeeze"):
        current = node.inputs[0]
        if values[current].type.shape == shape:
            return current
        node = producer.get(current)
    return value


__all__ = ["INDEX_COPY", "INDEX_COPY_DOMAIN", "fuse_cache_updates"]
