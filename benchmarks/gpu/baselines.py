"""The same computations in PyTorch, written as somebody would who cares about speed. Tensors come by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tensors = Mapping[str, Any]


def index_scores(tensors: Tensors) -> dict[str, Any]:
    """Weighted ReLU scores ``[batch, queries, entries]``; both products in the inputs' type, as is fastest."""
    import torch

    products = torch.matmul(tensors["query"], tensors["key"].transpose(-1, -2).unsqueeze(1))
    return {"scores": torch.matmul(tensors["weight"].unsqueeze(2), torch.relu(products)).squeeze(2).float()}


def page_bounds(tensors: Tensors) -> dict[str, Any]:
    """Upper bounds of inner products from channel minima and maxima of pages, summed over heads."""
    import torch

    query = tensors["query"]
    high = torch.matmul(query.clamp(min=0), tensors["maximum"].transpose(-1, -2).unsqueeze(1))
    low = torch.matmul(query.clamp(max=0), tensors["minimum"].transpose(-1, -2).unsqueeze(1))
    return {"scores": (high + low).float().sum(2)}


def topk(tensors: Tensors, k: int) -> dict[str, Any]:
    """Largest values and their indices."""
    values, indices = tensors["values"].topk(k)
    return {"chosen_values": values, "chosen_indices": indices}


def score_topk(tensors: Tensors, k: int) -> dict[str, Any]:
    """Index scores and their top-k."""
    return topk({"values": index_scores(tensors)["scores"]}, k)


def compact(tensors: Tensors, threshold: float) -> dict[str, Any]:
    """Indices above a threshold; the number of results makes the host wait."""
    import torch

    indices = torch.nonzero(tensors["values"][0] > threshold).squeeze(1)
    return {"count": torch.full((1,), indices.numel(), dtype=torch.int32, device=indices.device), "indices": indices}


def pool(tensors: Tensors, page: int, kind: str) -> dict[str, Any]:
    """Page pooling; the cache is a whole number of pages."""
    keys = tensors["keys"]
    pages = keys.reshape(*keys.shape[:2], keys.shape[2] // page, page, keys.shape[3])
    if kind == "bounds":
        return {"minimum": pages.amin(3), "maximum": pages.amax(3)}
    return {"output": pages.mean(3)}


def latent_attention(tensors: Tensors) -> dict[str, Any]:
    """Latent attention over selected entries: ``query [B,H,Q,L]``, ``keys [B,1,T,L]``, ``indices [B,Q,K]``."""
    import torch

    keys, rope = _selected(tensors["keys"], tensors["indices"]), _selected(tensors["keys_rope"], tensors["indices"])
    query, query_rope = tensors["query"].transpose(1, 2), tensors["query_rope"].transpose(1, 2)
    size = query.shape[-1] + query_rope.shape[-1]
    scores = torch.matmul(query, keys.transpose(-1, -2)) + torch.matmul(query_rope, rope.transpose(-1, -2))
    weights = torch.softmax(scores.float() * size**-0.5, -1).to(query.dtype)
    return {"output": torch.matmul(weights, keys).transpose(1, 2)}


def latent_attention_fused(tensors: Tensors) -> dict[str, Any]:
    """The same with PyTorch's fused attention, queries as batch."""
    import torch

    keys, rope = _selected(tensors["keys"], tensors["indices"]), _selected(tensors["keys_rope"], tensors["indices"])
    query = torch.cat((tensors["query"], tensors["query_rope"]), -1).transpose(1, 2).flatten(0, 1).unsqueeze(2)
    whole = torch.cat((keys, rope), -1).flatten(0, 1).unsqueeze(1)
    result = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), whole, keys.flatten(0, 1).unsqueeze(1))
    batch, heads, queries, latent = tensors["query"].shape
    return {"output": result.reshape(batch, queries, heads, latent).transpose(1, 2)}


def _selected(cache: Any, indices: Any) -> Any:
    """``[B, Q, K, D]``: rows of a cache with one head."""
    import torch

    batch = torch.arange(cache.shape[0], device=cache.device)[:, None, None]
    return cache[:, 0][batch, indices]


def grouped_attention(tensors: Tensors, block: int = 1) -> dict[str, Any]:
    """Attention of grouped heads over selected entries or blocks, by two products and a softmax."""
    import torch

    keys, values = _selected_heads(tensors, block)
    batch, heads, queries, size = tensors["query"].shape
    query = tensors["query"].reshape(batch, keys.shape[1], -1, queries, size).transpose(2, 3)
    weights = torch.softmax(torch.matmul(query, keys.transpose(-1, -2)).float() * size**-0.5, -1).to(query.dtype)
    return {"output": torch.matmul(weights, values).transpose(2, 3).reshape(batch, heads, queries, -1)}


def grouped_attention_fused(tensors: Tensors, block: int = 1) -> dict[str, Any]:
    """The same with PyTorch's fused attention: each query and cache head is a batch entry."""
    import torch

    keys, values = _selected_heads(tensors, block)
    batch, heads, queries, size = tensors["query"].shape
    query = tensors["query"].reshape(batch, keys.shape[1], -1, queries, size).transpose(2, 3)
    result = torch.nn.functional.scaled_dot_product_attention(query.flatten(0, 1), keys.flatten(0, 1),
                                                              values.flatten(0, 1))
    return {"output": result.reshape(query.shape[:-1] + values.shape[-1:]).transpose(2, 3).reshape(
        batch, heads, queries, -1)}


def _selected_heads(tensors: Tensors, block: int) -> tuple[Any, Any]:
    """Keys and values ``[B, cache heads, Q, entries, D]`` of what each query selects."""
    import torch

    indices = tensors["indices"]
    indices = indices.unsqueeze(1) if indices.dim() == 3 else indices
    device = indices.device
    batch = torch.arange(indices.shape[0], device=device)[:, None, None, None]
    heads = torch.arange(tensors["keys"].shape[1], device=device)[None, :, None, None]

    def rows(cache: Any) -> Any:
        if block == 1:
            return cache[batch, heads, indices]
        blocks = cache.reshape(*cache.shape[:2], cache.shape[2] // block, block, cache.shape[3])
        return blocks[batch, heads, indices].flatten(3, 4)

    return rows(tensors["keys"]), rows(tensors["values"])


def dense_attention(tensors: Tensors) -> dict[str, Any]:
    """Attention of grouped heads over the whole cache."""
    import torch

    keys, values = tensors["keys"].unsqueeze(2), tensors["values"].unsqueeze(2)
    batch, heads, queries, size = tensors["query"].shape
    query = tensors["query"].reshape(batch, keys.shape[1], -1, queries, size)
    weights = torch.softmax(torch.matmul(query, keys.transpose(-1, -2)).float() * size**-0.5, -1).to(query.dtype)
    return {"output": torch.matmul(weights, values).reshape(batch, heads, queries, -1)}


def dense_attention_fused(tensors: Tensors) -> dict[str, Any]:
    """The same with PyTorch's fused attention."""
    import torch

    return {"output": torch.nn.functional.scaled_dot_product_attention(
        tensors["query"], tensors["keys"], tensors["values"], enable_gqa=True)}


def selected_latent_attention(tensors: Tensors, k: int) -> dict[str, Any]:
    """Scoring, top-k and latent attention over what it selects."""
    index = {"query": tensors["index_query"], "key": tensors["key"], "weight": tensors["weight"]}
    return latent_attention({**tensors, "indices": score_topk(index, k)["chosen_indices"]})
