"""Which causal language models of transformers can be planned, and what of them the host would have to run.

Every model type that transformers has a configuration for, decode at its default sizes but for two layers, planning
only: what does not capture is listed with its code, what does with the share of flops and bytes the GPU does not take.
A type that cannot be cut to two layers (no attention among them, layers that share a cache) is planned whole.

Run: python benchmarks/coverage.py [TYPE ...] [--context N] [--layers N] [--timeout S] [--jobs N] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

COMMAND = "python benchmarks/coverage.py"


def types() -> list[str]:
    """Model types with a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "zamba": {"num_hidden_layers": 9},
}
"""What transformers' defaults leave out, without which it cannot build or run the type: plausible, not a checkpoint's.

Lists are for two layers. ``gemma3n_text`` shares the caches of fifteen layers by default, more than two layers have;
the second layer of ``zamba`` that attends, which takes the weights of the first, is the ninth.
"""


def plan(model: str, context: int, layers: int, timeout_s: float) -> dict[str, Any]:
    """What ``hetcc compile --json`` says of a model, or how it failed."""
    given = {key: json.dumps(value) for key, value in (SETTINGS.get(model) or {}).items()} if layers == 2 else {}
    cut = {"num_hidden_layers": str(layers), **given} if layers else {}
    answer = compiled(model, context, "decode", cut, timeout_s)
    inside = re.search(r"[\w.]+\.num_hidden_layers", answer.get("fix", ""))
    if inside:
        answer = compiled(model, context, "decode", {inside[0]: str(layers), **given}, timeout_s)
    if answer.get("code") in ("HET-C002", "HET-C004") and layers:
        whole = compiled(model, context, "decode", {}, timeout_s)
        answer = whole if "coverage" in whole or not (inside or given) else answer
    return {**answer, "settings": " ".join(f"{key}={value}" for key, value in given.items())}


def compiled(model: str, context: int, phase: str, settings: dict[str, str], timeout_s: float) -> dict[str, Any]:
    """One plan, in a process of its own: models may crash it."""
    arguments = [sys.executable, "-m", "hetcc", "compile", model, "--phase", phase, "--context", str(context),
                 "--dtype", "bfloat16", "--ignore-capacity", "--emit", "never", "--json", "--place", "*=gpu",
                 *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*arguments, "--output", f"{folder}/plan"], capture_output=True, text=True,
                                  timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"code": "time", "message": f"not planned after {timeout_s:g} s"}
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        lines = done.stderr.strip().splitlines()
        return {"code": f"exit {done.returncode}", "message": lines[-1] if lines else "said nothing"}
    if done.returncode:
        error = document["error"]
        return {"code": error["code"], "message": " at ".join(filter(None, (error["what"], error["where"]))),
                "fix": error["fix"]}
    return document


def row(model: str, answer: dict[str, Any]) -> str:
    """A line of the table."""
    if "coverage" not in answer:
        return f"| {model} | | | | | {answer['code']}: {_plain(answer['message'])[:200]} |"
    coverage = answer["coverage"]
    hosted = Counter(name.rpartition("/")[2].split(".")[0] for name in coverage["host_nodes"])
    named = ", ".join(f"{name} x{count}" for name, count in hosted.most_common(4))
    named = "; ".join(filter(None, (named, answer["settings"] and f"with {_plain(answer['settings'])}")))
    return (f"| {model} | {answer['nodes']} | {answer['pipelines']} | {coverage['flops'].get('host', 0.0):.2%} | "
            f"{coverage['bytes'].get('host', 0.0):.2%} | {named} |")


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def main() -> int:
    """Plan them all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    rows, planned, clean = [], 0, 0
    asked = chosen.types or types()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        answers = pool.map(lambda model: plan(model, chosen.context, chosen.layers, chosen.timeout), asked)
        for position, (model, answer) in enumerate(zip(asked, answers, strict=True), start=1):
            planned += "coverage" in answer
            clean += "coverage" in answer and not answer["coverage"]["host_nodes"]
            rows.append(row(model, answer))
            print(f"[{position}/{len(asked)}] {rows[-1]}", file=sys.stderr, flush=True)
    text = "\n".join((
        "# Models that can be planned", "",
        (f"`{COMMAND}` on {date.today().isoformat()} ({platform.machine()}, transformers' own configurations, decode, "
        f"{chosen.layers} layers where a configuration lets that be said, {chosen.context} entries of cache, bfloat16, "
        "no code emitted). *host* is what no GPU operator takes; everything else runs on the GPU. Where transformers' "
        "configuration lacks what a checkpoint would say, plausible settings were added, and are given."), "",
        f"{planned} of {len(asked)} are planned, {clean} of them without the host.", "",
        "| model type | nodes | memory pipelines | host, flops | host, bytes | on the host, or why not |",
        "|---|---|---|---|---|---|", *rows, ""))
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
