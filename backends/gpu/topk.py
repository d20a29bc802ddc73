"""Exact selection and sorting out of operators that every IREE target lowers well.

IREE lowers ``sort`` and ``topk`` to a serial exchange sort: quadratic, unstable among equal values, limited by the
stack (CPU) or the shared memory (GPU), and it writes its operand. Here the same results come from comparisons, sums
and one scatter. Equal values are ordered by their index, lowest first; NaN counts as the largest value, as in torch.

All functions are traced by the importer, never run for a user; they work on torch tensors of any rank.
"""

from __future__ import annotations

from typing import Any

RANKED_EXTENT_LIMIT = 256
"""Up to this extent all elements are ranked; above it the k-th largest is searched for first."""


_LOWEST_INT32 = -(1 << 31)


def topk(tensor: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:  # noqa: A002
    """Values and int64 indices of the ``k`` largest (smallest) elements along ``dim``, in order."""
    del sorted  # an order is always given
    return _along_last(tensor, dim, lambda rows: _topk_rows(rows, k, largest))


def sort(tensor: Any, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    """Sorted values and their int64 indices along ``dim``; stable."""
    return _along_last(tensor, dim, lambda rows: _ranked_rows(rows, rows.shape[-1], descending))


def sort_stable(tensor: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    """As :func:`sort`, with the signature of ``aten.sort.stable``."""
    del stable
    return sort(tensor, dim, descending)


def _along_last(tensor: Any, dim: int, select: Any) -> tuple[Any, Any]:
    """Applies ``select`` (rows of a matrix -> flat positions per row) to ``dim`` and gathers the values."""
    import torch

    if tensor.dim() == 0:
        return tensor.clone(), torch.zeros((), dtype=torch.int64)
    moved = tensor.movedim(dim, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    indices = select(rows)
    values = torch.gather(rows, 1, indices)
    shape = (*moved.shape[:-1], indices.shape[1])
    return values.reshape(shape).movedim(-1, dim), indices.reshape(shape).movedim(-1, dim)


def _topk_rows(rows: Any, k: int, largest: bool) -> Any:
    """Indices ``[R, k]`` of the top k of each row of ``[R, n]``."""
    import torch

    if rows.shape[1] <= RANKED_EXTENT_LIMIT or k == rows.shape[1]:
        return _ranked_rows(rows, k, largest)
    keys = sortable_keys(rows, largest)
    chosen = _select(keys, k)
    compact = _compact(chosen, k)
    order = _rank(torch.gather(keys, 1, compact))
    return _place(order, compact, k)


def _ranked_rows(rows: Any, k: int, descending: bool) -> Any:
    """Indices of the first ``k`` of each row in sorted order, by ranking all elements."""
    import torch

    ranks = _rank(sortable_keys(rows, descending))
    positions = torch.arange(rows.shape[1]).unsqueeze(0).expand(rows.shape)
    return _place(ranks, positions, k)


def sortable_keys(rows: Any, descending: bool) -> Any:
    """Integers in the order of the elements: a larger key comes first.

    A float's bits, read as a signed integer, grow with the float when it is positive and shrink when it is negative;
    inverting all but the sign bit of the negative ones makes the order total. -0.0 is made 0.0, NaN the canonical one.
    Inversions are written as subtractions: torch-mlir takes no exclusive or with a constant.
    """
    import torch

    if rows.dtype == torch.float64:
        raise ValueError("float64 keys are not supported")
    if rows.dtype.is_floating_point:
        single = rows.to(torch.float32)
        single = torch.where(single == 0.0, torch.zeros_like(single), single)
        single = torch.where(single != single, torch.full_like(single, float("nan")), single)
        bits = single.view(torch.int32)
        keys = torch.where(bits < 0, (-1 - bits) + _LOWEST_INT32, bits)
    else:
        keys = rows.to(torch.int64 if rows.dtype == torch.int64 else torch.int32)
    return keys if descending else -1 - keys


def _rank(keys: Any) -> Any:
    """Place of each element of ``[R, n]`` when larger keys come first and equal keys in index order."""
    import torch

    count = keys.shape[1]
    position = torch.arange(count)
    mine, other = keys.unsqueeze(2), keys.unsqueeze(1)
    earlier = (position.unsqueeze(0) < position.unsqueeze(1)).unsqueeze(0)
    before = (other > mine) | ((other == mine) & earlier)
    return before.to(torch.int32).sum(2, dtype=torch.int32)


def _select(keys: Any, k: int) -> Any:
    """A mask of ``[R, n]`` that holds exactly the ``k`` largest keys of each row, lowest indices first among equals.

    The k-th largest key is built from its highest bit down: a bit stays set if at least ``k`` keys are that large.
    """
    import torch

    bits = 64 if keys.dtype == torch.int64 else 32
    lowest = -(1 << (bits - 1))
    threshold = torch.full((keys.shape[0], 1), lowest, dtype=keys.dtype)
    for bit in range(bits - 1, -1, -1):
        candidate = torch.zeros_like(threshold) if bit == bits - 1 else threshold + (1 << bit)
        enough = (keys >= candidate).to(torch.int32).sum(1, keepdim=True, dtype=torch.int32) >= k
        threshold = torch.where(enough, candidate, threshold)
    above = keys > threshold
    tied = keys == threshold
    missing = k - above.to(torch.int32).sum(1, keepdim=True, dtype=torch.int32)
    return above | (tied & (_running_count(tied) <= missing))


def _running_count(mask: Any) -> Any:
    """Number of set elements up to and including each, along rows."""
    import torch

    return torch.cumsum(mask.to(torch.int32), 1, dtype=torch.int32)


def _compact(chosen: Any, k: int) -> Any:
    """Indices ``[R, k]`` of the ``k`` set elements of each row, ascending."""
    import torch

    slots = torch.where(chosen, _running_count(chosen) - 1, k)
    positions = torch.arange(chosen.shape[1]).unsqueeze(0).expand(chosen.shape)
    return _place(slots, positions, k)


def _place(slots: Any, items: Any, k: int) -> Any:
    """``out[r, slots[r, i]] = items[r, i]`` for slots below ``k``; the rest fall into a slot that is cut off."""
    import torch

    rows, count = slots.shape
    width = k + 1
    base = (torch.arange(rows) * width).unsqueeze(1)
    flat = (torch.clamp(slots.to(torch.int64), max=k) + base).reshape(-1)
    target = torch.zeros(rows * width, dtype=torch.int64)
    placed = torch.ops.aten.index_put.default(target, [flat], items.reshape(rows * count))
    return placed.reshape(rows, width)[:, :k]
