"""The full DeepSeek-V3.2 configuration, planned on a laptop's memory in a laptop's time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PLANNING_STAGES = ("tag", "form regions", "estimate", "place", "schedule")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, so that its memory is its own."""
    return subprocess.run([sys.executable, "-m", "hetcc.cli", *arguments], cwd=cwd, text=True, capture_output=True,
                          check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=300)


def test_61_layers_are_planned_in_a_minute(tmp_path: Path) -> None:
    """671 billion parameters, 131,072 tokens: under 60 s and 4 GB, 61 retrievals, none of them expert routing."""
    start = time.monotonic()
    done = run("compile", "deepseek_v32", "--phase", "decode", "--context", "131072", "--ignore-capacity", "--json",
               "--output", "plan", cwd=tmp_path)
    elapsed_s = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert elapsed_s < 60
    assert summary["peak_rss_bytes"] < 4 << 30
    assert sum(summary["timings_s"][stage] for stage in PLANNING_STAGES) < 15
    assert summary["retrieval_pipelines"] == 61
    assert summary["fits"] is False
    assert summary["memory_bytes"]["gpu"] > 600e9 * 4
    explained = json.loads((tmp_path / "plan/reports/decode.explain.json").read_bytes())["clusters"]
    retrievals = [name for name, record in explained.items() if record["stage"] == "retrieval"]
    assert len(retrievals) == 61
    assert not any(".mlp" in name for name in retrievals)
    assert summary["partition"]["gap"] < 1e-6


def test_without_the_flag_it_does_not_fit(tmp_path: Path) -> None:
    """The numbers are printed, nothing is written, and the exit code says infeasible."""
    done = run("compile", "deepseek_v32", "--phase", "decode", "--context", "131072", "--json", "--output", "plan",
               cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)
    assert summary["fits"] is False
    assert summary["memory_bytes"]["gpu"] > summary["capacity_bytes"]["gpu"]
    assert summary["bundle"] is None
    assert list(tmp_path.iterdir()) == []
