"""Steps of models that transformers does not write for tracing: what is given to them, and what is said of the rest."""

from __future__ import annotations

import numpy
import pytest
import torch

from hetcc.backends.host.program import load_host_program
from hetcc.capture import CaptureRequest, Phase, capture
from hetcc.capture.export import _first_that_works
from hetcc.capture.reference import reference_of
from hetcc.errors import HetccError, UserError
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of
from tests.unit.aten_programs import arrays_for
from tests.unit.aten_programs import capture as capture_function

from corpus.graphs import GraphBuilder

BERT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 64}
TINY = {
    "bert-generation": BERT,
    "bert": BERT,
    "biogpt": BERT,
    "ctrl": {"n_layer": 2, "n_embd": 32, "n_head": 2, "dff": 48, "vocab_size": 64,
             "n_positions": 16},
    "roformer": {**BERT, "embedding_size": 32, "max_position_embeddings": 32},
    "trocr": {"decoder_layers": 2, "d_model": 32, "decoder_attention_heads": 2, "decoder_ffn_dim": 48,
              "vocab_size": 64, "max_position_embeddings": 32},
    "mpt": {"n_layers": 2, "d_model": 32, "n_heads": 2, "vocab_size": 64, "max_seq_len": 32},
    "blenderbot": {"encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 48,
                   "decoder_ffn_dim": 48, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                   "vocab_size": 64},
}


def request(model: str, weights: str = "", phase: Phase = Phase.DECODE, **settings: object) -> CaptureRequest:
    overrides = {**TINY.get(model, {}), **settings}
    return CaptureRequest(model, (phase,), context=16, prompt=6, weights=weights,
                          overrides=tuple((key, str(value)) for key, value in overrides.items()))


@pytest.mark.parametrize(("model", "phase"), [
    ("bert-generation", Phase.DECODE), ("biogpt", Phase.DECODE), ("biogpt", Phase.PREFILL), ("roformer", Phase.DECODE),
    *(pytest.param(name, Phase.DECODE, marks=pytest.mark.slow) for name in ("bert", "ctrl", "trocr", "mpt"))])
def test_models_that_count_their_cache_in_python_numbers(model: str, phase: Phase) -> None:
    """They are given positions and masks, and then answer what eager transformers does, to the end of the cache."""
    asked = request(model, "random:0", phase)
    captured = capture(asked)
    graph = captured.graphs[phase.value]
    known = {**captured.generated, **captured.constants}
    done = reference_of(asked).run(phase, 1, 13, 3)
    caches = dict(done.caches)
    for step in done.steps:
        arrays = {**known, **caches, **step.inputs}
        results = load_host_program(graph).run({name: arrays[name] for name in interface_of(graph)})
        numpy.testing.assert_allclose(results["logits"], step.outputs["logits"], rtol=1e-4, atol=1e-5)
        caches = {cache: results[graph.update_of[cache]] for cache in graph.caches}


def test_only_what_is_needed_is_given() -> None:
    """Nothing to a model that counts in tensors; the first complaint if nothing helps; other errors at once."""
    asked: list[tuple[str, ...]] = []
    graph = _builder()

    def needing(least: int, code: str = "HET-C004"):
        def prepare(spelled: tuple[str, ...]):
            def run() -> Graph:
                asked.append(spelled)
                if len(spelled) < least:
                    raise UserError(code, f"without {len(spelled)}")
                return graph
            return run
        return prepare

    ways = ((), ("position_ids",), ("position_ids", "attention_mask"))
    for least in range(3):
        asked.clear()
        assert _first_that_works(needing(least), ways) is graph
        assert asked == list(ways[:least + 1])
    with pytest.raises(UserError, match="without 0"):
        _first_that_works(needing(3), ways)
    asked.clear()
    with pytest.raises(UserError, match="without 0"):
        _first_that_works(needing(1, "HET-C009"), ways)
    assert asked == [()]


def _builder() -> Graph:
    build = GraphBuilder("one")
    return build.done(build.call("relu", build.input("x", 2)))


def test_a_cache_has_as_many_layers_as_the_decoder() -> None:
    """A configuration with an encoder counts the encoder's layers, one here; the decoder has two."""
    graph = capture(request("blenderbot")).graphs["decode"]
    assert sorted(graph.caches) == sorted(f"cache.layers.{layer}.{part}" for layer in range(2)
                                          for part in ("keys", "values", "cumulative_length"))


@pytest.mark.parametrize(("model", "settings", "code", "said"), [
    ("bamba", {"num_hidden_layers": 2}, "HET-C004", ("none of the 2 layers is an attention layer",)),
    ("jetmoe", {"num_hidden_layers": 1}, "HET-C004", ("takes a Python number from a tensor", "modeling_jetmoe.py:",
                                                      "expert_size.tolist()")),
    ("deepseek_v2", {"num_hidden_layers": 2}, "HET-C004", ("argument 'k' must be int", "modeling_deepseek_v2.py:",
                                                           "self.top_k", "config.json")),
    ("deepseek_v4", {"num_hidden_layers": 2}, "HET-C004", ("no static cache for layers of type",)),
    ("gemma4_assistant", {}, "HET-C002", ("refuses its own default configuration", "config.json")),
    ("hunyuan_v1_dense", {"num_hidden_layers": 1}, "HET-C002", ("cannot be built", "self.head_dim**-0.5",
                                                                "--set num_hidden_layers=1", "config.json")),
])
def test_what_is_said_of_models_that_cannot_be_captured(model: str, settings: dict[str, object], code: str,
                                                        said: tuple[str, ...]) -> None:
    with pytest.raises(HetccError) as caught:
        capture(request(model, **settings))
    assert caught.value.code == code
    assert all(part in caught.value.render() for part in said), caught.value.render()


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    def needing(*_: object, **__: object) -> None:
        raise ImportError("\nNeeds the oil library.\n\nNeeds the salt library.\n")

    monkeypatch.setattr(LlamaForCausalLM, "__init__", needing)
    with pytest.raises(HetccError, match="HET-T001") as caught:
        capture(CaptureRequest("llama"))
    assert "LlamaForCausalLM needs a package" in caught.value.what
    assert caught.value.what.endswith("Needs the oil library. Needs the salt library.")


def test_numbers_taken_from_tensors() -> None:
    """One that a result needs is an error with its place; one that nothing needs is none."""
    table = torch.arange(12.0).reshape(4, 3)

    def unused(position: torch.Tensor) -> torch.Tensor:
        number = position.item()
        torch._check(number >= 0)
        table[: number].sum()
        return table * position

    def used(position: torch.Tensor) -> torch.Tensor:
        number = position.item()
        torch._check(number >= 0)
        torch._check(number < 4)
        return table[:number].sum(0)

    assert "mul" in {node.operator.name for node in capture_function(unused, [torch.tensor(2)]).nodes}
    with pytest.raises(UserError) as caught:
        capture_function(used, [torch.tensor(2)])
    assert caught.value.code == "HET-C004" and caught.value.where.startswith("_local_scalar_dense at ")


def _lookups(table: torch.Tensor, length: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    number = length.item()
    torch._check(number >= 0)
    torch._check(number <= 5)
    positions = torch.arange(number + 1, number + 4)
    near = table[number:number + 3] + table[positions] + table.narrow(0, 2 * number, 3) * table[number]
    far = max(0, 1 - (number + 1))
    return near * number + (x + number).float() + torch.arange(number, number + 3, dtype=torch.float32)[:, None] - far


@pytest.mark.parametrize("length", range(6))
def test_numbers_with_bounds_become_tensors(length: int) -> None:
    """Looked-up positions, sums and comparisons that begin at an unknown number."""
    examples = [torch.randn(16, 4, generator=torch.Generator().manual_seed(length)), torch.tensor(2),
                torch.arange(12, dtype=torch.int32).reshape(3, 4)]
    graph = capture_function(_lookups, examples)
    assert not {"_local_scalar_dense", "sym_size"} & {node.operator.name for node in graph.nodes}
    given = [examples[0], torch.tensor(length), examples[2]]
    found = load_host_program(graph).run(arrays_for(graph, given))
    numpy.testing.assert_allclose(found[graph.outputs[0]], _lookups(*given).numpy(), rtol=1e-6)
