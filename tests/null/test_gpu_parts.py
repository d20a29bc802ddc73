"""Whole models as a GPU target gets them: modules and Triton kernels in parts, interpreted; and at full size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import hetcc
from hetcc import api
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.options import CompileOptions, EmissionOptions
from hetcc.report.code import code_of_regions, code_totals

from corpus.tiny import tiny

pytest.importorskip("triton")

LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}


def compiled(folder: Path, request: CaptureRequest, *targets: str, emit: str = "auto") -> hetcc.Bundle:
    options = CompileOptions(request, ignore_capacity=True, emit=emit, emission=EmissionOptions(targets))
    return api.compile(options, folder)


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sparse_model_runs_in_the_parts_of_a_gpu(tmp_path: Path, batch: int) -> None:
    """Selection and attention over 320 of 512 entries go through the kernels, and agree with eager Hugging Face."""
    request = tiny("deepseek_v32", Phase.DECODE, context=512, num_hidden_layers=2, index_topk=320)
    bundle = compiled(tmp_path / "bundle", replace(request, batch=batch), "interpreter")
    totals, = code_totals(code_of_regions(bundle.plan, bundle.plan.phase("decode"), bundle.files.read))
    assert totals["kernels"].pop("ScoreTopK") == 2
    assert totals["kernels"] == {"GatherAttention": 2}
    result = bundle.verify("decode", seed=1, history=400, steps=2)
    assert result.passed, result
    assert result.selections.compared == 4 * batch
    assert "triton interpreter" in bundle.session.devices["gpu"].programs[
        f"decode/{bundle.plan.phase('decode').regions[0].name}"].engine


def _manifest(bundle: hetcc.Bundle) -> list[dict[str, object]]:
    files = json.loads(bundle.files.read("gpu/manifest.json"))["files"]
    return [kernel for kernels in files.values() for kernel in kernels]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "overrides", "kernels"), [
    ("llama", LLAMA_8B, {"DecodeAttention": 32}),
    ("deepseek_v32", {"num_hidden_layers": 5}, {"GatherAttention": 5, "ScoreTopK": 5}),
])
def test_full_size_regions_become_code_for_gfx90a(tmp_path: Path, model: str, overrides: dict[str, int],
                                                  kernels: dict[str, int]) -> None:
    """Every region, nothing left to the host, nothing spilled; the second time, in a new process, from the cache."""
    settings = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    times_s = []
    for attempt in ("cold", "warm"):
        started = sum(_children_s())
        subprocess.run([sys.executable, "-m", "hetcc.cli", "compile", model, *settings, "--phase", "decode",
                        "--context", "131072", "--dtype", "bfloat16", "--emit", "always", "--target", "gfx90a",
                        "--ignore-capacity", "--output", str(tmp_path / attempt)], check=True,
                       stdout=subprocess.DEVNULL,
                       env={**os.environ, "HETCC_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"})
        times_s.append(sum(_children_s()) - started)
    bundle = hetcc.load(tmp_path / "warm")
    phase = bundle.plan.phase("decode")
    assert {region.device for region in phase.regions} == {"gpu"}
    totals, = code_totals(code_of_regions(bundle.plan, phase, bundle.files.read))
    assert totals["kernels"] == kernels
    found = _manifest(bundle)
    assert found
    assert not [kernel for kernel in found if kernel["spills"]]
    assert times_s[0] < 600, "processor seconds: five minutes on two cores"
    assert times_s[1] < 12, "processor seconds: capture, proofs and code are all in the cache"


def _children_s() -> tuple[float, float]:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime
