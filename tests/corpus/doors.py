"""Models that go through both doors: factories for the torch one, exported from there for the ONNX one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from corpus.sparse_block import INPUT_NAMES, OUTPUT_NAMES, SparseBlockSize, example

Made = tuple[torch.nn.Module, dict[str, torch.Tensor], dict[str, int]]
"""What ``hetcc compile path.py:factory`` wants: module, example inputs by name, output position of each cache."""


class LlamaDecoder(torch.nn.Module):
    """A step of a two-layer Llama over static caches that are passed in and returned."""

    def __init__(self, context: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        from hetcc.capture.static_cache import make_layout

        super().__init__()
        self.program = LlamaForCausalLM(LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, attn_implementation="eager"))
        self.layout = make_layout(self.program, 1, context)

    def forward(self, input_ids: torch.Tensor, keys_cache_0: torch.Tensor, values_cache_0: torch.Tensor,
                length_cache_0: torch.Tensor, keys_cache_1: torch.Tensor, values_cache_1: torch.Tensor,
                length_cache_1: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = (keys_cache_0, values_cache_0, length_cache_0, keys_cache_1, values_cache_1, length_cache_1)
        # The model writes its caches in place; the exporters want new tensors.
        bound = self.layout.bind([cache.clone() for cache in given])
        logits = self.program(input_ids=input_ids, past_key_values=bound, use_cache=True).logits
        return (logits, *self.layout.tensors())


def llama_decoder(context: int = 64) -> Made:
    """One decode step of a small Llama."""
    torch.manual_seed(0)
    module = LlamaDecoder(context).eval().requires_grad_(False)
    names = [f"{kind}_cache_{layer}" for layer in range(2) for kind in ("keys", "values", "length")]
    inputs = {"input_ids": torch.zeros((1, 1), dtype=torch.long),
              **dict(zip(names, module.layout.tensors(), strict=True))}
    return module, inputs, {name: position for position, name in enumerate(names, start=1)}


def sparse_block() -> Made:
    """One decode step of the sparse attention block."""
    block, arguments = example()
    return block, dict(zip(INPUT_NAMES, arguments, strict=True)), {
        name.removesuffix("_out"): position for position, name in enumerate(OUTPUT_NAMES) if name.endswith("_out")}


class _TwoBlocks(torch.nn.Module):
    """Two sparse attention blocks whose indexers differ in size, so that they need two kernels."""

    def __init__(self, first: torch.nn.Module, second: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(  # the names of the arguments are those of the caches
        self, hidden: torch.Tensor, position: torch.Tensor, keys_1: torch.Tensor, values_1: torch.Tensor,
        index_1: torch.Tensor, keys_2: torch.Tensor, values_2: torch.Tensor, index_2: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        between, *kept = self.first(hidden, position, keys_1, values_1, index_1)
        result, *others = self.second(between, position, keys_2, values_2, index_2)
        return result, *kept, *others


def two_sparse_blocks() -> Made:
    """One decode step of two different blocks."""
    first, arguments = example()
    second, others = example(SparseBlockSize(index_dim=32, top_k=4), seed=1)
    caches = [f"{name}_{block}" for block in (1, 2) for name in ("keys", "values", "index")]
    inputs = dict(zip([*INPUT_NAMES[:2], *caches], (*arguments, *others[2:]), strict=True))
    return _TwoBlocks(first, second), inputs, {name: place for place, name in enumerate(caches, start=1)}


def export_made(made: Made, path: Path, *, dynamo: bool) -> Path:
    """Export what a factory made; the new contents of a cache are called like the cache with ``_out`` behind it."""
    module, inputs, caches = made
    cache_at: Mapping[int, str] = {position: name for name, position in caches.items()}
    outputs = [f"{cache_at[position]}_out" if position in cache_at else f"result_{position}"
               for position in range(len(caches) + 1)]
    options = {"external_data": False} if dynamo else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs.values()), str(path), dynamo=dynamo, input_names=list(inputs),
                          output_names=outputs, verbose=False, **options)
    return path
