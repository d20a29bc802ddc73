"""``make demo``: the whole story, and that it fails when a plan is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetcc import api
from hetcc.cli.demo_command import FORCED

from corpus.command_line import hetcc


@pytest.mark.slow
def test_the_demo_tells_its_story_and_keeps_both_bundles(tmp_path: Path) -> None:
    done = hetcc("demo", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    for text in ("Plan (a): the optimum", "--place relevancy=fpga --place retrieval=fpga", "8 of 8 tokens equal",
                 "stream-interpreter (emulated fpga)", "iree llvm-cpu (emulated gpu)", "Emulated:", "Predicted:"):
        assert text in done.out
    assert done.out.count("passed") == 4 and "FAILED" not in done.out
    forced = api.load(tmp_path / "out" / "plan-b")
    stages = {stage for phase in forced.plan.phases for region in phase.regions if region.device == "fpga"
              for stage in region.stages}
    assert {stage for stage, _ in FORCED} <= stages
    assert api.load(tmp_path / "out" / "plan-a").plan.targets == ("llvm-cpu",)
    again = hetcc("demo", "--output", tmp_path / "out")
    assert again.code == 2 and "HET-B001" in again.err and "--force" in again.err
