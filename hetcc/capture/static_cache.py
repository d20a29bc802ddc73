"""Static caches as plain tensors: what a decoder keeps between steps, found by looking and not by class name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hetcc.aten.convert import DATA_DEPENDENT_FIX
from hetcc.capture.blame import is_data_dependent, line_of, place_of
from hetcc.errors import UserError


@dataclass(frozen=True, slots=True)
class CacheSlot:
    """Where a tensor is in a layer's cache: an attribute, or an entry of an attribute that is a dictionary."""

    layer: int
    attribute: str
    key: int | None = None

    @property
    def name(self) -> str:
        """Name of the tensor in the graph."""
        return f"cache.layers.{self.layer}.{self.attribute}" + ("" if self.key is None else f".{self.key}")

    def get(self, cache: Any) -> Any:
        """The tensor in the slot, or None where a cache has no such layer, attribute or tensor."""
        if self.layer >= len(cache.layers):
            return None
        held = getattr(cache.layers[self.layer], self.attribute, None)
        return held.get(self.key) if self.key is not None and held is not None else held

    def put(self, cache: Any, tensor: Any) -> None:
        """Fill the slot."""
        if self.key is None:
            setattr(cache.layers[self.layer], self.attribute, tensor)
        else:
            getattr(cache.layers[self.layer], self.attribute)[self.key] = tensor


@dataclass(frozen=True)
class CacheLayout:
    """A transformers static cache and the tensors in it."""

    cache: Any
    slots: tuple[CacheSlot, ...]
    """In a stable order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Graph names of the caches, one per slot."""
        return tuple(slot.name for slot in self.slots)

    def tensors(self) -> list[Any]:
        """The tensors now in the slots."""
        return [slot.get(self.cache) for slot in self.slots]

    def bind(self, tensors: Sequence[Any]) -> Any:
        """Put ``tensors`` into the slots and return the cache object."""
        for slot, tensor in zip(self.slots, tensors, strict=True):
            slot.put(self.cache, tensor)
        return self.cache


def make_layout(model: Any, batch: int, context: int, *, empty: bool = False) -> CacheLayout:
    """A static cache for ``context`` tokens, allocated by one throw-away step of ``model``.

    Sliding-window layers keep their write position in a Python integer, which would bake one position into the
    program; they are held at full length instead, the window being enforced by the attention mask alone (same
    numbers, more memory; see docs/decisions/0001-skeleton.md).

    Args:
        model: a causal language model of transformers.
        batch: sequences.
        context: entries of the cache.
        empty: layers that remember in Python whether they hold anything say no, as at the start of a prompt.

    Raises:
        UserError: HET-C004, the model cannot take one step that way.
    """
    import torch

    cache, counted = _allocatable(model, context)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros((batch, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError,
            ImportError) as error:
        raise _refusal(model, cache, error) from error
    while len(cache.layers) > counted and not cache.layers[-1].is_initialized:
        cache.layers.pop()
    layout = CacheLayout(cache, tuple(slot for position, layer in enumerate(cache.layers)
                                      for slot in _slots(position, layer)))
    layout.bind([torch.zeros_like(tensor) for tensor in layout.tensors()])
    if empty:
        for layer in cache.layers:
            if isinstance(state := getattr(layer, "has_previous_state", None), dict):
                state.update(dict.fromkeys(state, False))
    return layout


def _allocatable(model: Any, context: int) -> tuple[Any, int]:
    """A static cache with a layer for each that the model may have, and how many its configuration counts."""
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    try:
        cache = StaticCache(config=model.config, max_cache_len=context)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        what = f"for layers of type {error}" if isinstance(error, KeyError) else f"for it: {line_of(error)}"
        raise UserError("HET-C004", f"transformers has no static cache {what}", where=type(model).__name__,
                        fix="choose other layer types with --set, or name a step of the model over caches of fixed "
                            "size as path.py:factory") from error
    cache.layers = [_at_full_length(layer, context) for layer in cache.layers]
    counted = len(cache.layers)
    if all(type(layer) is StaticLayer for layer in cache.layers):
        # The configuration of a model with an encoder may count the encoder's layers.
        numbers = [getattr(module, "layer_idx", None) for module in model.modules()]
        last = max((number for number in numbers if isinstance(number, int)), default=-1)
        cache.layers += [StaticLayer(context) for _ in range(counted, last + 1)]
    return cache, counted


def _refusal(model: Any, cache: Any, error: Exception) -> UserError:
    """What to tell who gave a model that cannot take a step."""
    from transformers import cache_utils

    fix = "--set may choose another configuration; if the model was named by its type, name a folder with a config.json"
    if is_data_dependent(error):
        fix = DATA_DEPENDENT_FIX
    elif not any(isinstance(layer, cache_utils.CacheLayerMixin) for layer in cache.layers) and isinstance(
            error, ValueError):
        fix = (f"none of the {len(cache.layers)} layers is an attention layer, but the model asks for the length of "
               "one: raise --set num_hidden_layers, or --set which layers attend")
    return UserError("HET-C004", f"the model does not run a step with a static cache: {line_of(error)}",
                     where=": ".join(filter(None, (type(model).__name__, place_of(error)))), fix=fix)


def _at_full_length(layer: Any, context: int) -> Any:
    from transformers import cache_utils

    if not getattr(layer, "is_sliding", False):
        return layer
    if isinstance(layer, cache_utils.LinearAttentionCacheLayerMixin):
        return cache_utils.LinearAttentionAndStaticFullAttentionLayer(context, layer.number_of_states)
    return cache_utils.StaticLayer(context)


def _slots(position: int, layer: Any) -> Iterator[CacheSlot]:
    import torch

    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor):
            yield CacheSlot(position, name)
        elif isinstance(value, dict):
            yield from (CacheSlot(position, name, key) for key, part in value.items() if isinstance(part, torch.Tensor))
