"""Dense, mixture-of-experts and state-space models compiled, run emulated and compared with eager Hugging Face."""

from __future__ import annotations

import pytest

from corpus.checks import HISTORIES, TinyBundles, check_decode, check_greedy, check_prefill, check_routing_is_not_memory

MODELS = ("llama", pytest.param("qwen3", marks=pytest.mark.slow), "gpt_oss",
          pytest.param("mixtral", marks=pytest.mark.slow), pytest.param("mamba2", marks=pytest.mark.slow))


@pytest.mark.parametrize("seed", HISTORIES)
@pytest.mark.parametrize("model", MODELS)
def test_decode_agrees_with_eager(tiny_bundles: TinyBundles, model: str, seed: int) -> None:
    """Three steps from a part-filled, a short and a nearly full cache."""
    check_decode(tiny_bundles.get(model), seed, 0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_prefill_agrees_with_eager(tiny_bundles: TinyBundles, model: str, seed: int) -> None:
    """A whole prompt."""
    check_prefill(tiny_bundles.get(model), seed, 0)


@pytest.mark.parametrize("model", MODELS[:-1])
def test_greedy_tokens_equal_hugging_face(tiny_bundles: TinyBundles, model: str) -> None:
    """Prefill and decode share their caches.

    Not for mamba2: in transformers itself a whole prompt and the same tokens one by one give different logits.
    """
    check_greedy(tiny_bundles.get(model))


@pytest.mark.parametrize("model", ["gpt_oss", pytest.param("mixtral", marks=pytest.mark.slow)])
def test_experts_are_not_memory(tiny_bundles: TinyBundles, model: str) -> None:
    """Routing stays untagged, attention does not."""
    check_routing_is_not_memory(tiny_bundles.get(model))
    assert len(tiny_bundles.get(model).tagged("decode").pipelines()) == 3
