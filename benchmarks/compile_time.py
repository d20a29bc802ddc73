"""How long `hetcc compile` takes: without a cache, and again in new processes with what the first one left there.

Each compile is a process of its own with an otherwise empty cache folder. Seconds of the processor include child
processes and hardly depend on what else runs; seconds on the clock do. Prints a Markdown table.

Run: python benchmarks/compile_time.py [model ...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WARM_RUNS = 3
MODELS = {
    "Llama-3.1-8B": ("llama", "hidden_size=4096", "intermediate_size=14336", "num_hidden_layers=32",
                     "num_attention_heads=32", "num_key_value_heads=8", "vocab_size=128256",
                     "max_position_embeddings=131072"),
    "DeepSeek-V3.2, 5 layers": ("deepseek_v32", "num_hidden_layers=5"),
    "DeepSeek-V3.2, 61 layers": ("deepseek_v32",),
}
"""Model type and settings. Weights are not needed to generate code."""
OPTIONS = ("--phase", "decode", "--context", "131072", "--dtype", "bfloat16", "--emit", "always", "--target", "gfx90a",
           "--ignore-capacity", "--json")
STAGES = {"capture": ("capture",), "normalize": ("normalize",),
          "plan": ("tag", "form regions", "estimate", "place", "schedule"), "code": ("emit gpu", "emit fpga"),
          "bundle": ("bundle",)}
"""Columns, and the stages of the flow in each."""


@dataclass(frozen=True)
class Timing:
    """One compile."""

    clock_s: float
    processor_s: float
    stages_s: dict[str, float]


def compile_once(model: tuple[str, ...], cache: Path, folder: Path) -> Timing:
    """Compile in a new process."""
    settings = [word for setting in model[1:] for word in ("--set", setting)]
    command = [sys.executable, "-m", "hetcc.cli", "compile", model[0], *settings, *OPTIONS, "-o", str(folder)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "HETCC_CACHE": str(cache)}, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    clock_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(clock_s, processor_s, json.loads(done.stdout)["timings_s"])


def row(name: str, attempt: str, timing: Timing) -> str:
    """A line of the table."""
    stages = [sum(timing.stages_s.get(stage, 0.0) for stage in inside) for inside in STAGES.values()]
    numbers = " | ".join(f"{number:.1f}" for number in (timing.processor_s, timing.clock_s, *stages))
    return f"| {name} | {attempt} | {numbers} |"


def main(names: list[str]) -> None:
    """Measure the named models, or all."""
    columns = " | ".join(f"{stage} s" for stage in STAGES)
    print(f"| model | cache | processor s | clock s | {columns} |")
    print("|---|---|" + "---|" * (len(STAGES) + 2))
    for name in names or list(MODELS):
        with tempfile.TemporaryDirectory(prefix="hetcc-compile-time-") as folder:
            cache = Path(folder) / "cache"
            print(row(name, "empty", compile_once(MODELS[name], cache, Path(folder) / "cold")), flush=True)
            warm = [compile_once(MODELS[name], cache, Path(folder) / f"warm{run}") for run in range(WARM_RUNS)]
            least = min(warm, key=lambda timing: timing.processor_s)
            print(row(name, f"full, best of {WARM_RUNS}", least), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
