"""A small attention block that selects what it attends to, as in DeepSeek-V3.2: the corpus model of both doors.

One decode step: an indexer scores every cached position (inner products over several heads, ReLU, weighted sum), the
best ``top_k`` positions are selected, everything else is masked, and dense attention runs over the static cache. The
caches are passed in and returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

INPUT_NAMES = ("hidden", "position", "key_cache", "value_cache", "index_cache")
OUTPUT_NAMES = ("output", "key_cache_out", "value_cache_out", "index_cache_out")


@dataclass(frozen=True)
class SparseBlockSize:
    """Extents of the block."""

    batch: int = 1
    context: int = 64
    hidden: int = 32
    heads: int = 4
    head_dim: int = 8
    index_heads: int = 2
    index_dim: int = 16
    top_k: int = 8


class Indexer(torch.nn.Module):
    """Scores of all cached positions for the current token: ``[batch, 1, context]``."""

    def __init__(self, size: SparseBlockSize) -> None:
        super().__init__()
        self.size = size
        self.query = torch.nn.Linear(size.hidden, size.index_heads * size.index_dim, bias=False)
        self.key = torch.nn.Linear(size.hidden, size.index_dim, bias=False)
        self.key_norm = torch.nn.LayerNorm(size.index_dim)
        self.head_weights = torch.nn.Linear(size.hidden, size.index_heads, bias=False)

    def forward(self, hidden: torch.Tensor, position: torch.Tensor, index_cache: torch.Tensor,
                mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = hidden.shape[0]
        query = self.query(hidden).view(batch, 1, self.size.index_heads, self.size.index_dim)
        index_cache = index_cache.index_copy(1, position, self.key_norm(self.key(hidden)))
        products = torch.matmul(query, index_cache.transpose(1, 2).unsqueeze(1))
        weights = self.head_weights(hidden) * self.size.index_heads**-0.5
        scores = (torch.relu(products) * weights.unsqueeze(-1)).sum(dim=2) * self.size.index_dim**-0.5
        return scores + mask, index_cache


class SparseBlock(torch.nn.Module):
    """One step of sparse attention over static caches."""

    def __init__(self, size: SparseBlockSize | None = None) -> None:
        super().__init__()
        self.size = size or SparseBlockSize()
        width = self.size.heads * self.size.head_dim
        self.indexer = Indexer(self.size)
        self.query = torch.nn.Linear(self.size.hidden, width, bias=False)
        self.key = torch.nn.Linear(self.size.hidden, width, bias=False)
        self.value = torch.nn.Linear(self.size.hidden, width, bias=False)
        self.output = torch.nn.Linear(width, self.size.hidden)

    def forward(self, hidden: torch.Tensor, position: torch.Tensor, key_cache: torch.Tensor,
                value_cache: torch.Tensor, index_cache: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch, heads, head_dim = hidden.shape[0], self.size.heads, self.size.head_dim
        future = torch.arange(self.size.context) > position
        mask = torch.zeros(self.size.context).masked_fill(future, float("-inf"))
        scores, index_cache = self.indexer(hidden, position, index_cache, mask)
        selected = scores.topk(self.size.top_k, dim=-1).indices
        sparse_mask = torch.full_like(scores, float("-inf")).scatter(-1, selected, 0.0) + mask
        query = self.query(hidden).view(batch, 1, heads, head_dim).transpose(1, 2)
        key = self.key(hidden).view(batch, 1, heads, head_dim).transpose(1, 2)
        value = self.value(hidden).view(batch, 1, heads, head_dim).transpose(1, 2)
        key_cache = key_cache.index_copy(2, position, key)
        value_cache = value_cache.index_copy(2, position, value)
        products = torch.matmul(query, key_cache.transpose(2, 3)) * head_dim**-0.5
        weights = torch.softmax(products + sparse_mask.unsqueeze(1), dim=-1)
        attended = torch.matmul(weights, value_cache).transpose(1, 2).reshape(batch, 1, heads * head_dim)
        return hidden + self.output(attended), key_cache, value_cache, index_cache


def example(size: SparseBlockSize | None = None, seed: int = 0) -> tuple[SparseBlock, tuple[torch.Tensor, ...]]:
    """A block with seeded weights and one step's arguments, in the order of ``INPUT_NAMES``; half the cache is full."""
    size = size or SparseBlockSize()
    torch.manual_seed(seed)
    block = SparseBlock(size).eval()
    generator = torch.Generator().manual_seed(seed + 1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    cache_shape = (size.batch, size.heads, size.context, size.head_dim)
    return block, (
        random(size.batch, 1, size.hidden), torch.tensor([size.context // 2]), random(*cache_shape),
        random(*cache_shape), random(size.batch, size.context, size.index_dim),
    )
