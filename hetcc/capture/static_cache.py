"""Static caches as plain tensors: what a decoder keeps between steps, found by looking and not by class name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CacheLayout:
    """A transformers static cache and the tensors in it."""

    cache: Any
    slots: tuple[tuple[int, str], ...]
    """(layer position, attribute name) of each tensor, in a stable order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Graph names of the caches, one per slot."""
        return tuple(f"cache.layers.{layer}.{attribute}" for layer, attribute in self.slots)

    def tensors(self) -> list[Any]:
        """The tensors now in the slots."""
        return [getattr(self.cache.layers[layer], attribute) for layer, attribute in self.slots]

    def bind(self, tensors: Sequence[Any]) -> Any:
        """Put ``tensors`` into the slots and return the cache object."""
        for (layer, attribute), tensor in zip(self.slots, tensors, strict=True):
            setattr(self.cache.layers[layer], attribute, tensor)
        return self.cache


def make_layout(model: Any, batch: int, context: int) -> CacheLayout:
    """A static cache for ``context`` tokens, allocated by one throw-away step of ``model``.

    Sliding-window layers keep their write position in a Python integer, which would bake one position into the
    program; they are held at full length instead, the window being enforced by the attention mask alone (same
    numbers, more memory; see docs/decisions/0001-skeleton.md).
    """
    import torch
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    cache = StaticCache(config=model.config, max_cache_len=context)
    cache.layers = [StaticLayer(context) if layer.is_sliding else layer for layer in cache.layers]
    with torch.no_grad():
        model(input_ids=torch.zeros((batch, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    slots = tuple((position, name) for position, layer in enumerate(cache.layers)
                  for name, value in vars(layer).items() if isinstance(value, torch.Tensor))
    layout = CacheLayout(cache, slots)
    layout.bind([torch.zeros_like(tensor) for tensor in layout.tensors()])
    return layout
