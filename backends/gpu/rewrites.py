"""Replacements, at import, of operators that torch-mlir or IREE does not take, gets wrong or lowers badly.

Each function has the signature of the aten overload it replaces and gives the same numbers. ``NotImplemented`` leaves
the operator as it is. docs/gpu.md says what happened without each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def replacements() -> dict[Any, Callable[..., Any]]:
    """Operator overload -> replacement, on top of torch-mlir's own decompositions."""
    import torch
    from torch_mlir.extras.fx_decomp_util import get_decomposition_table

    from hetcc.backends.gpu import topk

    aten = torch.ops.aten
    return {
        **get_decomposition_table(),
        aten.topk.default: topk.topk,
        aten.sort.default: topk.sort,
        aten.sort.stable: topk.sort_stable,
        aten.scatter.value: _scatter_value,
        aten.scatter.src: _scatter_source,
        aten.index_put.default: _index_put,
        aten._unsafe_index_put.default: _index_put,
        aten.index_copy.default: _index_copy,
        aten.empty.memory_format: _empty,
        aten.empty_like.default: _zeros_like,
        aten.new_empty.default: _new_zeros,
        aten.histc.default: _histc,
    }


def _scatter_value(data: Any, dim: int, index: Any, value: float) -> Any:
    """Writes a constant along ``dim``; duplicates write the same."""
    return _scatter_flat(data, dim, index, data.new_full(index.shape, value))


def _scatter_source(data: Any, dim: int, index: Any, source: Any) -> Any:
    """Writes ``source`` along ``dim``; which of several duplicates wins is unspecified, as in torch."""
    return _scatter_flat(data, dim, index, source[tuple(slice(0, extent) for extent in index.shape)])


def _scatter_flat(data: Any, dim: int, index: Any, updates: Any) -> Any:
    """Element scatter as one scatter over the flattened tensor, with flat positions computed from the indices."""
    import torch

    if data.dim() == 0:
        return updates.reshape(data.shape)
    axis = dim % data.dim()
    position = torch.zeros((), dtype=torch.int64)
    stride = 1
    for other in range(data.dim() - 1, -1, -1):
        if other == axis:
            part = index
        else:
            part = torch.arange(index.shape[other]).reshape([-1 if at == other else 1 for at in range(data.dim())])
        position = position + part * stride
        stride *= data.shape[other]
    flat = torch.ops.aten.index_put.default(data.reshape(-1), [position.expand(index.shape).reshape(-1)],
                                            updates.reshape(-1))
    return flat.reshape(data.shape)


def _index_put(data: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """Rows replaced along one axis become a scatter of whole rows, which IREE does in place."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if accumulate or len(given) != 1 or given[0][1].dim() != 1 or _is_bool(given[0][1]):
        return NotImplemented
    axis, index = given[0]
    if axis == 0 and values.shape == (index.shape[0], *data.shape[1:]):
        return NotImplemented
    return _rows_replaced(data, axis, index, values)


def _index_copy(data: Any, dim: int, index: Any, source: Any) -> Any:
    if data.dim() == 0:
        return source.reshape(data.shape)
    axis = dim % data.dim()
    shape = (*data.shape[:axis], index.numel(), *data.shape[axis + 1:])
    return _rows_replaced(data, axis, index.reshape(-1), source.reshape(shape))


def _rows_replaced(data: Any, axis: int, index: Any, rows: Any) -> Any:
    """``data`` with the slices at ``index`` along ``axis`` replaced.

    One index tensor for each axis up to ``axis``, and no reshape of ``data``: behind a reshape of its result IREE
    copies the whole tensor once more, and for an index on ``axis`` alone torch-mlir scatters single elements.
    """
    import torch

    extent = data.shape[axis]
    points = [torch.where(index < 0, index + extent, index)]
    for outer in range(axis - 1, -1, -1):
        points = [torch.arange(data.shape[outer]).reshape(-1, *(1 for _ in range(axis - outer))), *points]
    shape = (*data.shape[:axis], index.shape[0], *data.shape[axis + 1:])
    return torch.ops.aten.index_put.default(data, points, rows.expand(shape))


def _is_bool(index: Any) -> bool:
    import torch

    return bool(index.dtype == torch.bool)


def _empty(size: Sequence[int], **options: Any) -> Any:
    """Zeros: what is uninitialised may be anything, and must be the same every time."""
    import torch

    return torch.zeros(size, dtype=options.get("dtype"))


def _zeros_like(data: Any, **options: Any) -> Any:
    import torch

    return torch.zeros(data.shape, dtype=options.get("dtype") or data.dtype)


def _new_zeros(data: Any, size: Sequence[int], **options: Any) -> Any:
    import torch

    return torch.zeros(size, dtype=options.get("dtype") or data.dtype)


def _histc(data: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:  # noqa: A002
    """Counts per bin by comparing each element's bin with every bin; needs limits that do not depend on the data."""
    import torch

    if min == max:
        return NotImplemented
    flat = data.reshape(-1)
    scaled = torch.floor((flat - min) * (bins / (max - min))).to(torch.int64)
    inside = (flat >= min) & (flat <= max)
    bin_of = torch.where(inside, torch.clamp(scaled, max=bins - 1), -1)
    hits = bin_of.unsqueeze(0) == torch.arange(bins).unsqueeze(1)
    return hits.to(torch.int32).sum(1, dtype=torch.int32).to(data.dtype)
