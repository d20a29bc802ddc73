"""The modules of the built-in workloads. Each function returns (module, example inputs, caches) for one size."""

from __future__ import annotations

from typing import Any

Made = tuple[Any, dict[str, Any], dict[str, int]]


def _sparse_indexer(selected: int) -> Any:
    import torch

    class SparseIndexer(torch.nn.Module):
        """Scores of all keys, the best of them, and attention over those; keys and latents are appended to first."""

        def __init__(self, selected: int) -> None:
            super().__init__()
            self.selected = selected

        def forward(self, query: Any, head_weight: Any, key: Any, latent_query: Any, latent: Any, position: Any,
                    key_cache: Any, latent_cache: Any) -> Any:
            """One step: the attended latents and both caches."""
            key_cache = key_cache.index_copy(1, position, key)
            latent_cache = latent_cache.index_copy(1, position, latent)
            products = torch.relu(torch.matmul(query, key_cache.transpose(1, 2)))
            scores = (products * head_weight).sum(dim=1)
            chosen = scores.topk(min(self.selected, scores.shape[-1]), dim=-1).indices
            rows = torch.gather(latent_cache, 1, chosen.unsqueeze(-1).expand(-1, -1, latent_cache.shape[-1]))
            weights = torch.softmax(torch.matmul(latent_query, rows.transpose(1, 2)), dim=-1)
            return torch.matmul(weights, rows), key_cache, latent_cache

    return SparseIndexer(selected)


def sparse_indexer(batch: int, context: int, dtype: str, heads: int = 64, width: int = 128, selected: int = 2048,
                   attention_heads: int = 128, latent: int = 576) -> Made:
    """DeepSeek sparse attention after its projections."""
    import torch

    kind = getattr(torch, dtype)
    inputs = {
        "query": torch.zeros(batch, heads, width, dtype=kind), "head_weight": torch.zeros(batch, heads, 1, dtype=kind),
        "key": torch.zeros(batch, 1, width, dtype=kind),
        "latent_query": torch.zeros(batch, attention_heads, latent, dtype=kind),
        "latent": torch.zeros(batch, 1, latent, dtype=kind), "position": torch.tensor([context - 1]),
        "key_cache": torch.zeros(batch, context, width, dtype=kind),
        "latent_cache": torch.zeros(batch, context, latent, dtype=kind)}
    return _sparse_indexer(selected), inputs, {"key_cache": 1, "latent_cache": 2}


def _block_attention(selected: int, bounded: bool) -> Any:
    import torch

    class Blocks(torch.nn.Module):
        """Scores of blocks of tokens, the best blocks, and attention over their tokens."""

        def __init__(self, selected: int, bounded: bool) -> None:
            super().__init__()
            self.selected, self.bounded = selected, bounded

        def forward(self, gate: Any, query: Any, index: Any, upper: Any, keys: Any, values: Any) -> Any:
            """One step.

            Args:
                gate: [batch, groups, width].
                query: [batch, groups, heads, width].
                index: [batch, groups, blocks, width], pooled keys or lower bounds.
                upper: the same, upper bounds; not read without bounds.
                keys: [batch, groups, blocks, block x width].
                values: the same.
            """
            if self.bounded:
                one = gate.unsqueeze(2)
                scores = torch.maximum(one * index, one * upper).sum(dim=-1)
            else:
                scores = torch.softmax(torch.matmul(index, gate.unsqueeze(-1)).squeeze(-1), dim=-1)
            chosen = scores.topk(min(self.selected, scores.shape[-1]), dim=-1).indices
            where = chosen.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
            near, far = torch.gather(keys, 2, where), torch.gather(values, 2, where)
            tokens = (near.shape[0], near.shape[1], -1, query.shape[-1])
            weights = torch.softmax(torch.matmul(query, near.reshape(tokens).transpose(2, 3)), dim=-1)
            return torch.matmul(weights, far.reshape(tokens))

    return Blocks(selected, bounded)


def _blocks(batch: int, context: int, dtype: str, sizes: tuple[int, int, int, int, int], bounded: bool) -> Made:
    groups, heads, width, block, selected = sizes
    import torch

    kind, blocks = getattr(torch, dtype), -(-context // block)
    index = (batch, groups, blocks, width)
    inputs = {"gate": torch.zeros(batch, groups, width, dtype=kind),
              "query": torch.zeros(batch, groups, heads, width, dtype=kind),
              "index": torch.zeros(*index, dtype=kind), "upper": torch.zeros(*index, dtype=kind),
              "keys": torch.zeros(batch, groups, blocks, block * width, dtype=kind),
              "values": torch.zeros(batch, groups, blocks, block * width, dtype=kind)}
    return _block_attention(selected, bounded), inputs, {}


def pooled_blocks(batch: int, context: int, dtype: str, groups: int = 8, heads_per_group: int = 4, width: int = 128,
                  block: int = 64, selected: int = 64) -> Made:
    """Block-sparse attention behind a gate over pooled keys."""
    return _blocks(batch, context, dtype, (groups, heads_per_group, width, block, selected), bounded=False)


def page_bounds(batch: int, context: int, dtype: str, groups: int = 8, heads_per_group: int = 4, width: int = 128,
                block: int = 16, selected: int = 256) -> Made:
    """Block-sparse attention behind bounds of the keys of each page."""
    return _blocks(batch, context, dtype, (groups, heads_per_group, width, block, selected), bounded=True)


def _flat_index(selected: int) -> Any:
    import torch

    class FlatIndex(torch.nn.Module):
        """Inner products with all documents, and the best documents."""

        def __init__(self, selected: int) -> None:
            super().__init__()
            self.selected = selected

        def forward(self, query: Any, documents: Any) -> Any:
            """Scores and places of the best documents; query [batch, width], documents [documents, width]."""
            scores = torch.matmul(query, documents.transpose(0, 1))
            return scores.topk(min(self.selected, scores.shape[-1]), dim=-1)

    return FlatIndex(selected)


def flat_inner_product(batch: int, context: int, dtype: str, width: int = 768, selected: int = 64) -> Made:
    """First-stage retrieval with a flat index."""
    import torch

    kind = getattr(torch, dtype)
    return _flat_index(selected), {"query": torch.zeros(batch, width, dtype=kind),
                                 "documents": torch.zeros(context, width, dtype=kind)}, {}


def _forward_index(selected: int) -> Any:
    import torch

    class ForwardIndex(torch.nn.Module):
        """BM25 with the weight of every entry kept with its document."""

        def __init__(self, selected: int) -> None:
            super().__init__()
            self.selected = selected

        def forward(self, query: Any, words: Any, weights: Any) -> Any:
            """Best documents; query [batch, vocabulary], words and weights [documents, entries]."""
            found = query[:, words]
            return (found * weights).sum(dim=-1).topk(min(self.selected, words.shape[0]), dim=-1)

    return ForwardIndex(selected)


def forward_index(batch: int, context: int, dtype: str, entries: int = 128, vocabulary: int = 65536,
                  selected: int = 64) -> Made:
    """BM25 over documents as rows of word numbers."""
    import torch

    kind = getattr(torch, dtype)
    return _forward_index(selected), {
        "query": torch.zeros(batch, vocabulary, dtype=kind),
        "words": torch.zeros(context, entries, dtype=torch.int32),
        "weights": torch.zeros(context, entries, dtype=kind)}, {}


def _memory_attention(width: int, kind: Any) -> Any:
    import torch

    class MemoryAttention(torch.nn.Module):
        """Projections of query and memory, softmax over the memory, weighted sum of the memory itself."""

        def __init__(self, width: int, kind: Any) -> None:
            super().__init__()
            self.query = torch.nn.Linear(width, width, bias=False, dtype=kind)
            self.key = torch.nn.Linear(width, width, bias=False, dtype=kind)

        def forward(self, summary: Any, memory: Any) -> Any:
            """Recalled memory; summary [batch, 1, width], memory [batch, entries, width]."""
            scores = torch.matmul(self.query(summary), self.key(memory).transpose(1, 2))
            return torch.matmul(torch.softmax(scores, dim=-1), memory)

    return MemoryAttention(width, kind)


def memory_attention(batch: int, context: int, dtype: str, width: int = 4096) -> Made:
    """Recall of hierarchical memory."""
    import torch

    kind = getattr(torch, dtype)
    return _memory_attention(width, kind), {"summary": torch.zeros(batch, 1, width, dtype=kind),
                                          "memory": torch.zeros(batch, context, width, dtype=kind)}, {}
