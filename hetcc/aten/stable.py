"""Selections with a defined order: torch leaves open which of several equal values is taken, hetcc takes the first."""

from __future__ import annotations

from typing import Any


def stable_topk(tensor: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # noqa: A002
    """``torch.topk`` that orders equal values by index."""
    import torch

    del sorted
    values, indices = torch.sort(tensor, dim=dim, descending=largest, stable=True)
    return (values, indices) if tensor.dim() == 0 else (values.narrow(dim, 0, k), indices.narrow(dim, 0, k))


def stable_sort(tensor: Any, dim: int = -1, descending: bool = False) -> Any:
    """``torch.sort`` that keeps equal values in their order."""
    import torch

    return torch.sort(tensor, dim=dim, descending=descending, stable=True)
