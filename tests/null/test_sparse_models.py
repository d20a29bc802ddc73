"""Sparse-attention models compiled for both plans, run on emulated devices and compared with eager Hugging Face."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc import compile as compile_bundle
from hetcc.backends.fpga.xrt.xclbin import unpack
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions, EmissionOptions

from corpus.checks import (
    FORCED,
    HISTORIES,
    TinyBundles,
    check_decode,
    check_greedy,
    check_prefill,
    check_routing_is_not_memory,
)
from corpus.tiny import tiny

LAYERS = {"deepseek_v32": 4, "glm_moe_dsa": 2}
MODELS = ("deepseek_v32", pytest.param("glm_moe_dsa", marks=pytest.mark.slow))


@pytest.mark.parametrize("seed", HISTORIES)
@pytest.mark.parametrize("model", MODELS)
def test_decode_agrees_with_eager(tiny_bundles: TinyBundles, model: str, seed: int) -> None:
    """Three steps from a part-filled, a short and a nearly full cache."""
    check_decode(tiny_bundles.get(model), seed, LAYERS[model])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_prefill_agrees_with_eager(tiny_bundles: TinyBundles, model: str, seed: int) -> None:
    """A whole prompt."""
    check_prefill(tiny_bundles.get(model), seed, LAYERS[model])


@pytest.mark.parametrize("model", MODELS)
def test_greedy_tokens_equal_hugging_face(tiny_bundles: TinyBundles, model: str) -> None:
    """Prefill and decode share their caches, that of the index keys included."""
    check_greedy(tiny_bundles.get(model))
    check_routing_is_not_memory(tiny_bundles.get(model))


@pytest.mark.slow
def test_sequences_of_a_batch_select_for_themselves(tmp_path: Path) -> None:
    """Every sequence gathers its own entries, before they are projected."""
    request = replace(tiny("deepseek_v32", Phase.PREFILL, Phase.DECODE, num_hidden_layers=2), batch=3)
    options = CompileOptions(request, emission=EmissionOptions(("llvm-cpu",), verilog=False))
    bundle = compile_bundle(options, tmp_path / "bundle")
    for seed in HISTORIES:
        check_decode(bundle, seed, 2 * request.batch)
    assert bundle.verify("prefill", seed=0).passed
    graph = bundle.tagged("decode").graph
    gathers = [node for node in graph.nodes if node.attribute("mode") == "along"]
    memories = {f"model.layers.{layer}.self_attn/index_put" for layer in (0, 1)}
    assert {node.operand("data") for node in gathers} >= memories
    assert not [name for name in graph.node_by_name if "kv_b_proj/mm" in name], "the projections moved to the query"


def test_forced_fpga_plan_agrees_too(tiny_bundles: TinyBundles) -> None:
    """The published mapping runs on the stage interpreter and gives the same answers."""
    bundle = tiny_bundles.get("deepseek_v32", FORCED)
    for seed, history in HISTORIES.items():
        result = bundle.verify("decode", seed=seed, history=history, steps=3)
        assert result.passed, result
        assert result.engines["fpga"] == "stream-interpreter (emulated fpga)"
        assert result.coverage.flops["fpga"] > 0
    check_greedy(bundle)


def test_the_kernels_of_both_phases_share_an_xclbin_and_their_tables(tiny_bundles: TinyBundles) -> None:
    bundle = tiny_bundles.get("deepseek_v32", FORCED)
    packing = json.loads(bundle.files.read("fpga/packing.json"))
    packed, = packing["xclbins"]
    kernels = {json.loads(bundle.files.read(path))["kernel"] for path in bundle.files.paths
               if path.startswith("fpga/") and path.endswith("/report.json")}
    assert {kernel["kernel"] for kernel in packed["kernels"]} == kernels
    assert len(kernels) == 2, "one per phase, for all layers"
    assert packing["loads"].keys() == {"prefill", "decode"}
    assert not any(phase.prediction.reconfiguration_s for phase in bundle.plan.phases)
    container = unpack(bundle.files.read(f"fpga/{packed['name']}/emulation.xclbin"))
    assert {unit.name for unit in container.units} == kernels
    tables = [{channels[0] for name, channels in kernel["channels"].items() if channels[0] > 20}
              for kernel in packed["kernels"]]
    assert tables[0] == tables[1] != set()
