"""How long predicting and simulating take for DeepSeek-V3.2 (61 layers).

Each command is a process of its own: `hetcc predict` over 6 batches and 9 contexts with an empty cache and again with
what that left there, at one size with that cache, and `hetcc simulate` of a plan whose scoring and selection were
forced onto the FPGA, so that every layer has transfers. Seconds of the processor include child processes. The process
that sweeps again must print the same JSON as the first one. Prints a Markdown table.

Run: python benchmarks/prediction.py
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

RUNS = 3
MODEL = ("deepseek_v32", "--dtype", "bfloat16")
BATCHES = "1,2,4,8,16,32"
CONTEXTS = ",".join(str(4096 << step) for step in range(9))
PLAN = ("--phase", "decode", "--context", "131072", "--place", "relevancy=fpga", "--place", "retrieval=fpga", "--emit",
        "never", "--ignore-capacity", "--json")


@dataclass(frozen=True)
class Timing:
    """One command."""

    clock_s: float
    processor_s: float
    stdout: str


def timed(cache: Path, *words: object) -> Timing:
    """Run `hetcc` with a cache folder."""
    command = [sys.executable, "-m", "hetcc.cli", *map(str, words)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "HETCC_CACHE": str(cache)}, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
    clock_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(clock_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


def row(what: str, cache: str, timings: list[Timing]) -> str:
    """A line of the table: medians."""
    clock_s, processor_s = (sorted(getattr(timing, name) for timing in timings)[len(timings) // 2]
                            for name in ("clock_s", "processor_s"))
    return f"| {what} | {cache} | {len(timings)} | {processor_s:.1f} | {clock_s:.1f} |"


def main() -> None:
    """Measure."""
    sweep = ("predict", *MODEL, "--batch", BATCHES, "--context", CONTEXTS, "--json")
    print(f"one-minute load {os.getloadavg()[0]:.1f} before\n")
    print("| command | cache | runs | processor s | clock s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="hetcc-prediction-") as folder:
        cold = [timed(Path(folder) / f"cache{run}", *sweep) for run in range(RUNS)]
        print(row("predict, 6 batches x 9 contexts", "empty", cold), flush=True)
        cache = Path(folder) / "cache0"
        warm = [timed(cache, *sweep) for _ in range(RUNS)]
        print(row("", "full", warm), flush=True)
        if len({json.dumps(json.loads(timing.stdout)) for timing in (*cold, *warm)}) != 1:
            raise SystemExit("the sweeps differ")
        one = ("predict", *MODEL, "--batch", 1, "--context", CONTEXTS.split(",")[-1], "--json")
        print(row("predict, one size", "full", [timed(cache, *one) for _ in range(RUNS)]), flush=True)
        bundle = Path(folder) / "bundle"
        timed(cache, "compile", *MODEL, *PLAN, "-o", bundle)
        runs = [timed(cache, "simulate", bundle, "--json") for _ in range(RUNS)]
        print(row("simulate, a step with transfers", "", runs), flush=True)


if __name__ == "__main__":
    main()
