"""Six model types compiled and run on emulated devices, compared step by step with eager Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import hetcc
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice

from corpus.tiny import CONTEXT, OVERRIDES, PROMPT, tiny

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))
SPARSE = {"deepseek_v32": 4, "glm_moe_dsa": 2}
"""Layers that select, by model."""
HISTORIES = {0: CONTEXT // 2 + 1, 1: 5, 2: CONTEXT - 3}
"""Tokens in the cache before the compared steps, by seed: beyond top-k, below it, and up to the last entry."""
Compile = Callable[..., hetcc.Bundle]
each_model = pytest.mark.parametrize(
    "model", [pytest.param(model, marks=pytest.mark.xdist_group(model)) for model in OVERRIDES])
"""One worker compiles a model once and runs all its tests."""


@pytest.fixture(scope="session")
def compile_tiny(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles tiny models for this machine alone; each distinct request once."""
    made: dict[object, hetcc.Bundle] = {}

    def compiled(model: str, forced: tuple[tuple[str, str], ...] = ()) -> hetcc.Bundle:
        key = (model, forced)
        if key not in made:
            options = CompileOptions(tiny(model, Phase.PREFILL, Phase.DECODE),
                                     choice=PlacementChoice(forced=forced),
                                     emission=EmissionOptions(("llvm-cpu",), verilog=False))
            folder: Path = tmp_path_factory.mktemp(model) / "bundle"
            made[key] = hetcc.compile(options, folder)
        return made[key]

    return compiled


@pytest.mark.parametrize("seed", HISTORIES)
@each_model
def test_decode_agrees_with_eager(compile_tiny: Compile, model: str, seed: int) -> None:
    """Logits to 1e-4, selections identical, nothing on the host, over three steps."""
    result = compile_tiny(model).verify("decode", seed=seed, history=HISTORIES[seed], steps=3)
    assert result.passed, result
    assert result.relative_error < 1e-4
    assert result.coverage.flops == pytest.approx({"gpu": 1.0})
    if model in SPARSE:
        assert result.selections.compared == SPARSE[model] * 3
        assert result.selections.equal == result.selections.compared - result.selections.ties


@pytest.mark.parametrize("seed", [0, 1])
@each_model
def test_prefill_agrees_with_eager(compile_tiny: Compile, model: str, seed: int) -> None:
    """Logits of every prompt position to 1e-4."""
    result = compile_tiny(model).verify("prefill", seed=seed)
    assert result.passed, result
    if model in SPARSE:
        assert result.selections.compared == SPARSE[model] * PROMPT


@each_model
def test_greedy_tokens_equal_hugging_face(compile_tiny: Compile, model: str) -> None:
    """32 tokens, from a prompt longer than one prefill step and from one shorter."""
    bundle = compile_tiny(model)
    for length in (PROMPT + 4, PROMPT - 5):
        prompt = [(7 * position + 3) % 128 for position in range(length)]
        assert bundle.generate(prompt, 32) == bundle.reference.generate(prompt, 32)


@pytest.mark.xdist_group("deepseek_v32")
def test_forced_fpga_plan_agrees_too(compile_tiny: Compile) -> None:
    """The published mapping runs on the stage interpreter and gives the same answers."""
    bundle = compile_tiny("deepseek_v32", FORCED)
    for seed, history in HISTORIES.items():
        result = bundle.verify("decode", seed=seed, history=history, steps=3)
        assert result.passed, result
        assert result.engines["fpga"] == "stream-interpreter (emulated fpga)"
        assert result.coverage.flops["fpga"] > 0
    prompt = list(range(1, PROMPT + 3))
    assert bundle.generate(prompt, 32) == bundle.reference.generate(prompt, 32)


@each_model
def test_experts_are_not_memory(compile_tiny: Compile, model: str) -> None:
    """Choosing experts is a top-k too, and no stage of a memory pipeline."""
    if model in ("mixtral", "gpt_oss", "deepseek_v32", "glm_moe_dsa"):
        tagged = compile_tiny(model).tagged("decode")
        routing = [node.name for node in tagged.graph.nodes if node.operator.name == "topk"
                   and "mlp" in node.provenance.module_path]
        assert routing
        assert all(tagged.stage_of(name) is None for name in routing)
