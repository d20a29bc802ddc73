"""``hetcc compile``: options, summary, output folder, repro command, and the bundle that comes out."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetcc import api
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.cli.compile_command import default_output
from hetcc.ir import DType
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.plan.problem import Objective
from hetcc.report.repro import compile_command

from corpus.command_line import TINY_LLAMA, TINY_SPARSE, CommandResult, hetcc, settings

pytestmark = pytest.mark.usefixtures("captured_once")
EVERY_OPTION = CompileOptions(
    CaptureRequest("deepseek_v32", (Phase.PREFILL, Phase.DECODE), 2, 4096, 64, DType.BFLOAT16,
                   (("index_topk", "8"), ("rope_scaling", '{"a": 1, "b": "x=y"}')), "random:3"),
    gpu="a100", fpga="card.toml", baseline="as-published", ignore_capacity=True, emit="never",
    choice=PlacementChoice("mine.py:Mine", (("relevancy", "fpga"), ("a=b/*", "gpu")), Path("there.json"),
                           Objective(0.5, 2.0), "shadowed"), fpga_launch="doorbell",
    emission=EmissionOptions(("gfx942", "llvm-cpu"), False, "error"), without_rewrites=("reassociate",))




def parsed(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> tuple[CompileOptions, Path, bool]:
    """What the command line makes of ``words``: options, output folder, force."""
    seen: list[Any] = []

    def compile_nothing(options: CompileOptions, output: Path, *, force: bool, progress: object) -> None:
        seen.append((options, output, force))
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "compile", compile_nothing)
    done = hetcc(*words)
    assert done.code == 130, done.err
    result: tuple[CompileOptions, Path, bool] = seen[0]
    return result


@pytest.mark.parametrize("options", [
    CompileOptions(CaptureRequest("llama")), EVERY_OPTION, replace(EVERY_OPTION, emit="always")])
def test_the_repro_command_means_the_same_options(options: CompileOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    words = compile_command(options)
    assert words[:2] == ["hetcc", "compile"]
    assert parsed(monkeypatch, [*words[1:], "--output", "out"]) == (options, Path("out"), False)


def test_the_repro_script_of_a_bundle_makes_it_again(plan_bundle: tuple[Path, CommandResult], tmp_path: Path) -> None:
    script = (plan_bundle[0] / "repro.sh").read_text(encoding="utf-8")
    words = shlex.split(script.split("exec ", 1)[1].replace('"$1"', shlex.quote(str(tmp_path / "again"))))
    assert words[0] == "hetcc"
    done = hetcc(*words[1:])
    assert done.code == 0, done.err
    for name in ("plan.json", "graphs/decode.json", "placement/decode.problem.json", "reports/decode.explain.json",
                 "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (plan_bundle[0] / name).read_bytes(), name


def test_the_summary_holds_what_people_ask_for(plan_bundle: tuple[Path, CommandResult]) -> None:
    folder, done = plan_bundle
    summary = done.document
    assert summary["stages"].keys() == {"prepare", "relevancy", "retrieval", "apply"}
    assert summary["nodes"] > 100 and summary["stages"]["retrieval"] > 0
    assert summary["regions"]["total"] == summary["regions"]["gpu"] + summary["regions"]["fpga"]
    assert summary["fits"] is True and summary["bundle"] == str(folder)
    assert summary["memory_bytes"]["fpga"] > 0
    assert summary["predicted"].keys() == {"latency_s", "gpu_only_latency_s", "energy_j", "gpu_only_energy_j",
                                           "reconfiguration_s"}
    partition = summary["partition"]
    assert partition["lower_bound"] <= partition["objective"] and partition["gap"] >= 0
    assert sum(summary["coverage"]["flops"].values()) == pytest.approx(1.0)
    assert {"capture", "normalize", "tag", "estimate", "place", "bundle"} <= summary["timings_s"].keys()
    assert summary["peak_rss_bytes"] > 1 << 20
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert plan["phases"][0]["prediction"]["latency_s"] == summary["predicted"]["latency_s"]


def test_progress_is_one_line_per_stage_and_never_on_stdout(plan_bundle: tuple[Path, CommandResult]) -> None:
    lines = plan_bundle[1].err.splitlines()
    assert {"capture", "place", "bundle"} <= set(lines)
    assert len(lines) == len(set(lines)) < 20
    assert "\x1b" not in plan_bundle[1].err


def test_what_a_person_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = hetcc("compile", "llama", *settings(TINY_LLAMA), "--context", 16, "--phase", "decode")
    assert done.code == 0, done.err
    assert (tmp_path / "llama-decode.hetcc" / "plan.json").is_file()
    assert "the GPU alone, 'tuned' baseline" in done.out
    assert "hetcc explain llama-decode.hetcc" in done.out and "--verify" not in done.out
    again = hetcc("compile", "llama", *settings(TINY_LLAMA), "--context", 16, "--phase", "decode", "--force", "--json")
    assert again.code == 0 and again.document["bundle"] == str(tmp_path / "llama-decode.hetcc")


@pytest.mark.parametrize(("model", "phases", "name"), [
    ("llama", (), "llama.hetcc"),
    ("deepseek-ai/DeepSeek-V3.2", (Phase.DECODE,), "DeepSeek-V3.2-decode.hetcc"),
    ("./some where/", (Phase.PREFILL, Phase.DECODE), "some-where-prefill-decode.hetcc"),
    ("models/net.onnx", (), "net.hetcc"),
    ("models/net.py:make", (), "net-make.hetcc"),
    ("..", (), "model.hetcc"),
])
def test_the_default_folder_is_named_after_model_and_phases(model: str, phases: tuple[Phase, ...], name: str) -> None:
    assert default_output(CaptureRequest(model, phases)) == Path(name)


def test_a_model_that_does_not_fit_gives_its_summary(tmp_path: Path) -> None:
    command = ["compile", "llama", *settings(TINY_LLAMA), "--context", 1 << 30, "--emit", "never", "--json", "-o"]
    done = hetcc(*command, tmp_path / "plan")
    assert done.code == 4
    document = done.document
    assert document["error"]["code"] == "HET-P003" and document["bundle"] is None and document["fits"] is False
    assert document["memory_bytes"]["gpu"] > document["capacity_bytes"]["gpu"]
    assert "GiB on the gpu, which has 64 GiB" in done.err
    assert list(tmp_path.iterdir()) == []
    planned = hetcc(*command, tmp_path / "plan", "--ignore-capacity")
    assert planned.code == 0 and planned.document["fits"] is False
    assert api.load(tmp_path / "plan").plan.ignore_capacity


def test_an_edited_placement_can_be_fed_back(plan_bundle: tuple[Path, CommandResult], tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    assert hetcc("export", plan_bundle[0], "-o", file).code == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    moved = [name for name, device in document["placement"].items() if device == "fpga"]
    document["placement"].update(dict.fromkeys(moved, "gpu"))
    file.write_text(json.dumps(document), encoding="utf-8")
    done = hetcc("compile", "deepseek_v32", *settings(TINY_SPARSE), "--context", 64, "--placement", file, "--json",
                 "-o", tmp_path / "plan")
    assert done.code == 0, done.err
    assert moved and "fpga" not in done.document["regions"]


def test_a_partitioner_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    name = 'mine'\n    def place(self, problem, facts):\n"
                    "        return {cluster.name: next(iter(cluster.costs)) for cluster in problem.clusters}\n",
                    encoding="utf-8")
    done = hetcc("compile", "llama", *settings(TINY_LLAMA), "--context", 16, "--partitioner", f"{file}:Mine", "--json",
                 "-o", tmp_path / "plan")
    assert done.code == 0, done.err
    assert done.document["partition"]["partitioner"] == "mine"


def test_a_pipe_that_closes_early_is_quiet(plan_bundle: tuple[Path, CommandResult]) -> None:
    command = [sys.executable, "-m", "hetcc", "export", str(plan_bundle[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
