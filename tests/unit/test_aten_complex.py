"""Programs that compute with complex numbers give graphs of real ones that compute the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch

from hetcc.backends.host.program import load_host_program
from hetcc.capture import CaptureRequest, Phase, capture
from hetcc.capture.reference import reference_of
from hetcc.errors import UserError
from hetcc.ir.subgraph import interface_of
from tests.unit.aten_programs import arrays_for
from tests.unit.aten_programs import capture as capture_function

Tensors = torch.Tensor


def rotary(x: Tensors, angle: Tensors) -> Tensors:
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(-2)


def shapes(x: Tensors, angle: Tensors) -> Tensors:
    z = torch.complex(x, angle.sum(-1, keepdim=True).expand(3, 8))
    z = z.view(3, 2, 4).transpose(1, -1).unsqueeze(-1)[:, 1:].permute(2, 0, -1, 1)
    z = torch.cat([z, z.expand(-1, -1, 1, -1) * 2.5], dim=-1).select(-2, 0).squeeze(0)
    return torch.view_as_real(z.clone())


def sums(x: Tensors, angle: Tensors) -> Tensors:
    z = torch.complex(x, x + 1) + torch.complex(x - 1, x)
    return (z / 3.0 - x.exp() * torch.complex(x, x)).real + (z * z).imag


@pytest.mark.parametrize("function", [rotary, shapes, sums])
@pytest.mark.parametrize("seed", range(2))
def test_same_numbers(function: Callable[[Tensors, Tensors], Tensors], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    examples = [torch.randn(3, 8, generator=generator), torch.randn(3, 4, generator=generator) * 7]
    graph = capture_function(function, examples)
    assert "view_as_complex" not in {node.operator.name for node in graph.nodes}
    found = load_host_program(graph).run(arrays_for(graph, examples))
    numpy.testing.assert_allclose(found[graph.outputs[0]], function(*examples).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [
    lambda x: torch.complex(x, x), lambda x: torch.complex(x, x).exp().real, lambda x: x.to(torch.complex64).real + 1,
    lambda x: (1 / torch.complex(x, x)).imag, lambda x: (torch.complex(x, x) * 1j).real])
def test_what_has_no_rule_is_refused(function: Callable[[Tensors], Tensors]) -> None:
    with pytest.raises(UserError, match="complex64") as caught:
        capture_function(function, [torch.ones(2, 3)])
    assert caught.value.code == "HET-C009"


def test_a_model_with_complex_rotary_embeddings() -> None:
    settings = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
                "num_key_value_heads": 2, "vocab_size": 64, "q_lora_rank": 16, "kv_lora_rank": 16, "head_dim": 8,
                "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 16,
                "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    request = CaptureRequest("deepseek_v2", (Phase.DECODE,), context=16, weights="random:0",
                             overrides=tuple((key, str(value)) for key, value in settings.items()))
    captured = capture(request)
    graph = captured.graphs["decode"]
    done = reference_of(request).run(Phase.DECODE, 0, 9, 2)
    arrays = {**captured.generated, **captured.constants, **done.caches, **done.steps[0].inputs}
    results = load_host_program(graph).run({name: arrays[name] for name in interface_of(graph)})
    numpy.testing.assert_allclose(results["logits"], done.steps[0].outputs["logits"], rtol=1e-4, atol=1e-5)
