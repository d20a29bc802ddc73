"""Which causal language models of transformers can be planned, and what of them the host would have to run.

Every model type that transformers has a configuration for, decode at its default sizes but for two layers, planning
only: what does not capture is listed with its code, what does with the share of flops and bytes the GPU does not take.

Run: python benchmarks/coverage.py [TYPE ...] [--context N] [--layers N] [--timeout S] [--output docs/coverage.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

COMMAND = "python benchmarks/coverage.py"


def types() -> list[str]:
    """Model types with a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def plan(model: str, context: int, layers: int, timeout_s: float) -> dict[str, Any]:
    """What ``hetcc compile --json`` says of a model, or how it failed. A process of its own: models may crash it."""
    arguments = [sys.executable, "-m", "hetcc", "compile", model, "--phase", "decode", "--context", str(context),
                 "--dtype", "bfloat16", "--ignore-capacity", "--emit", "never", "--json", "--place", "*=gpu"]
    if layers:
        arguments += ["--set", f"num_hidden_layers={layers}"]
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
        return {"code": document["error"]["code"], "message": document["error"]["what"]}
    return document


def row(model: str, answer: dict[str, Any]) -> str:
    """A line of the table."""
    if "coverage" not in answer:
        return f"| {model} | | | | | {answer['code']}: {answer['message'].replace('|', '/')[:110]} |"
    coverage = answer["coverage"]
    hosted = Counter(name.rpartition("/")[2].split(".")[0] for name in coverage["host_nodes"])
    named = ", ".join(f"{name} x{count}" for name, count in hosted.most_common(4))
    return (f"| {model} | {answer['nodes']} | {answer['pipelines']} | {coverage['flops'].get('host', 0.0):.2%} | "
            f"{coverage['bytes'].get('host', 0.0):.2%} | {named} |")


def main() -> int:
    """Plan them all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    rows, planned, clean = [], 0, 0
    asked = chosen.types or types()
    for position, model in enumerate(asked, start=1):
        answer = plan(model, chosen.context, chosen.layers, chosen.timeout)
        if answer.get("code") == "HET-C002" and chosen.layers:
            answer = plan(model, chosen.context, 0, chosen.timeout)
        planned += "coverage" in answer
        clean += "coverage" in answer and not answer["coverage"]["host_nodes"]
        rows.append(row(model, answer))
        print(f"[{position}/{len(asked)}] {rows[-1]}", file=sys.stderr, flush=True)
    text = "\n".join((
        "# Models that can be planned", "",
        (f"`{COMMAND}` on {date.today().isoformat()} ({platform.machine()}, transformers' own configurations, decode, "
        f"{chosen.layers} layers where a configuration lets that be said, {chosen.context} entries of cache, bfloat16, "
        "no code emitted). *host* is what no GPU operator takes; everything else runs on the GPU."), "",
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
