"""The full DeepSeek-V3.2 configuration, planned on a laptop's memory in a laptop's time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hetcc.capture import capture
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions
from hetcc.passes.place import place_optimal
from hetcc.pipeline import device_set
from hetcc.plan.placement import PlacementProblem
from hetcc.planning import plan_phase
from hetcc.stopwatch import Stopwatch

from corpus.tiny import tiny

PLANNING_STAGES = ("tag", "form regions", "estimate", "place", "schedule")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, so that its memory is its own."""
    return subprocess.run([sys.executable, "-m", "hetcc.cli", *arguments], cwd=cwd, text=True, capture_output=True,
                          check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=300)


def processor_time_s() -> float:
    """Seconds of processor time that finished child processes took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], float]:
    """The bundle, its summary, and the processor time its compile took."""
    folder = tmp_path_factory.mktemp("full")
    before_s = processor_time_s()
    done = run("compile", "deepseek_v32", "--phase", "decode", "--context", "131072", "--ignore-capacity", "--json",
               "--output", "plan", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "plan", json.loads(done.stdout), processor_time_s() - before_s


def test_61_layers_are_planned_in_a_minute(planned: tuple[Path, dict[str, Any], float]) -> None:
    """671 billion parameters, 131,072 tokens: under 60 s and 4 GB, 61 retrievals, none of them expert routing.

    Time is processor time, which is more than an idle machine takes and does not count what else this one is doing.
    """
    bundle, summary, time_s = planned
    assert time_s < 60
    assert summary["peak_rss_bytes"] < 4 << 30
    assert sum(summary["timings_s"][stage] for stage in PLANNING_STAGES) < 15
    assert summary["retrieval_pipelines"] == 61
    assert summary["fits"] is False
    assert summary["memory_bytes"]["gpu"] > 600e9 * 4
    explained = json.loads((bundle / "reports/decode.explain.json").read_bytes())["clusters"]
    retrievals = [name for name, record in explained.items() if record["stage"] == "retrieval"]
    assert len(retrievals) == 61
    assert not any(".mlp" in name for name in retrievals)
    assert summary["partition"]["gap"] < 1e-6


def check_refused(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    """The numbers are printed, nothing is written, and the exit code says infeasible."""
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)
    assert summary["fits"] is False
    assert summary["memory_bytes"]["gpu"] > summary["capacity_bytes"]["gpu"]
    assert summary["bundle"] is None
    assert list(folder.iterdir()) == []


def test_without_the_flag_it_does_not_fit(planned: tuple[Path, dict[str, Any], float], tmp_path: Path) -> None:
    """Planned again from the bundle, which skips the capture."""
    check_refused(run("compile", str(planned[0]), "--json", "--output", "plan", cwd=tmp_path), tmp_path)


@pytest.mark.slow
def test_without_the_flag_the_model_itself_does_not_fit(tmp_path: Path) -> None:
    """The same from the model's name."""
    check_refused(run("compile", "deepseek_v32", "--phase", "decode", "--context", "131072", "--json", "--output",
                      "plan", cwd=tmp_path), tmp_path)


@pytest.mark.slow
def test_a_graph_of_40000_nodes_is_placed_in_half_a_second() -> None:
    """182 layers of a small model: every node captured, tagged and priced; the time is that of the exact placer alone.

    Processor time, for the reason given above.
    """
    request = tiny("deepseek_v32", Phase.DECODE, weights="", num_hidden_layers=182)
    graph = capture(request).graphs["decode"]
    options = CompileOptions(request)
    phase = plan_phase("decode", graph, request, device_set(options), options.choice, Stopwatch())
    problem = PlacementProblem.from_json(phase.table.problem.to_json())
    assert len(phase.graph.nodes) > 40_000
    start_s = time.process_time()
    placement = place_optimal(problem)
    assert time.process_time() - start_s < 0.5
    assert placement.objective == pytest.approx(phase.placement.objective)
    assert placement.gap < 1e-6
