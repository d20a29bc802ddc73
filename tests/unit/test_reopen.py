"""A bundle is planned again from its own graphs: same bytes for the same options, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corpus.command_line import TINY_LLAMA, CommandResult, hetcc, settings

SCRIPT = """
import json, sys
from hetcc.cli import main
status = main(sys.argv[1:])
print(json.dumps({"status": status, "torch": "torch" in sys.modules}), file=sys.stderr)
"""


FORCED = ("--place", "relevancy=fpga", "--place", "retrieval=fpga")


@pytest.fixture
def plan(plan_bundle: tuple[Path, CommandResult]) -> Path:
    """The folder of the shared planning-only bundle."""
    return plan_bundle[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle but the plain records of how it was made."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in ("repro.sh", "manifest.json")}


def test_same_options_give_the_same_bundle(plan: Path, tmp_path: Path) -> None:
    """Nothing is lost by not capturing again."""
    done = hetcc("compile", str(plan), *FORCED, "--output", str(tmp_path / "again"))
    assert done.code == 0, done.err
    assert contents(tmp_path / "again") == contents(plan)


@pytest.mark.parametrize("partitioner", ["fpga-only", "stage-rule", "mincut"])
def test_other_partitioners_need_no_torch(plan: Path, tmp_path: Path, partitioner: str) -> None:
    """A process of its own plans, scores and writes without importing torch."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "compile", str(plan), "--partitioner", partitioner, "--json",
         "--output", str(tmp_path / "again")], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert json.loads(done.stderr.splitlines()[-1]) == {"status": 0, "torch": False}, done.stderr
    assert json.loads(done.stdout)["partition"]["partitioner"] == partitioner


def test_placement_goes_out_and_comes_back(plan: Path, tmp_path: Path) -> None:
    """An exported placement is accepted, and scores what it scored before."""
    exported = hetcc("export", str(plan), "--format", "json")
    file = tmp_path / "placement.json"
    file.write_text(exported.out, encoding="utf-8")
    result = hetcc("compile", str(plan), "--placement", str(file), "--json", "--output", str(tmp_path / "again"))
    assert result.code == 0, result.err
    before = json.loads((plan / "plan.json").read_bytes())["phases"][0]["partition"]["objective"]
    assert result.document["partition"]["objective"] == pytest.approx(before, rel=1e-12)


def test_sizes_are_fixed(plan: Path, tmp_path: Path) -> None:
    """Asking a bundle for another context is refused, not ignored."""
    result = hetcc("compile", str(plan), "--context", "99", "--output", str(tmp_path / "again"))
    assert result.code == 2
    assert "HET-U001" in result.err
    assert list(tmp_path.iterdir()) == []


def test_rewrites_are_fixed_and_remembered(tmp_path: Path) -> None:
    """What was left out stays left out, and cannot be left out afterwards."""
    made = hetcc("compile", "llama", *settings(TINY_LLAMA), "--context", "16", "--no-rewrite", "reassociate",
                 "--output", str(tmp_path / "made"))
    assert made.code == 0, made.err
    again = hetcc("compile", str(tmp_path / "made"), "--output", str(tmp_path / "again"))
    assert again.code == 0, again.err
    assert contents(tmp_path / "again") == contents(tmp_path / "made")
    assert "--no-rewrite reassociate" in (tmp_path / "again" / "repro.sh").read_text(encoding="utf-8")
    refused = hetcc("compile", str(tmp_path / "made"), "--no-rewrite", "reassociate", "--output", str(tmp_path / "x"))
    assert refused.code == 2 and "HET-U001" in refused.err


def test_file_of_one_phase_leaves_the_other_alone(tmp_path: Path) -> None:
    """A bundle with two phases takes a placement exported from one of them."""
    both = hetcc("compile", "llama", *settings(TINY_LLAMA), "--phase", "prefill", "--phase", "decode", "--context",
                 "16", "--output", str(tmp_path / "both"))
    assert both.code == 0, both.err
    exported = hetcc("export", str(tmp_path / "both"), "--phase", "prefill")
    file = tmp_path / "prefill.json"
    file.write_text(exported.out, encoding="utf-8")
    again = hetcc("compile", str(tmp_path / "both"), "--placement", str(file), "--json", "--output",
                  str(tmp_path / "again"))
    assert again.code == 0, again.err
    partitioners = {name: phase["partition"]["partitioner"] for name, phase in again.document["phases"].items()}
    assert partitioners == {"prefill": "file prefill.json", "decode": "optimal"}


def test_the_graph_is_exported_as_text(plan: Path) -> None:
    """One line a node, with its stage and its device in the margin."""
    exported = hetcc("export", str(plan), "--format", "text")
    assert exported.code == 0, exported.err
    selections = [line for line in exported.out.splitlines() if "retrieval" in line and "topk" in line]
    assert selections
    assert all("fpga" in line for line in selections)
