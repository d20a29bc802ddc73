"""``make demo``: the whole story, and that it fails when a plan is wrong."""

from __future__ import annotations

import re
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


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
def test_the_forced_plan_is_verified_on_simulated_hardware(tmp_path: Path) -> None:
    done = hetcc("demo", "--fpga", "rtl", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    for text in ("an emulated GPU and a simulated FPGA", "verilator (simulated fpga)", "8 of 8 tokens equal",
                 "Simulated: the FPGA, as the Verilog of its kernels"):
        assert text in done.out
    assert done.out.count("passed") == 4 and "FAILED" not in done.out and "stream-interpreter" not in done.out
    # Both phases ran in the simulator, a kernel per layer and step.
    assert re.search(r"simulated in prefill +4 runs of kernels, [\d,]+ cycles", done.out)
    assert re.search(r"simulated in decode +12 runs of kernels, [\d,]+ cycles", done.out)
    assert "Verilog of the kernels." not in done.out, "it was not left out"


def test_an_engine_that_is_none_is_refused_before_anything_is_compiled() -> None:
    refused = hetcc("demo", "--fpga", "abacus")
    assert refused.code == 2 and "HET-U001" in refused.err and "Model:" not in refused.out
