"""``--policy`` end to end: tiny models whose FPGA kernels compute in short formats, emulated and verified.

Some are started for every region, some listen and are rung.
"""

from __future__ import annotations

import pytest

import hetcc
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.runtime.verify import POLICY_LIMITS

from corpus.captures import captures_shared
from corpus.checks import FORCED, HISTORIES, STEPS
from corpus.tiny import tiny

LAYERS = 2


def compiled(policy: str, launch: str, folder: pytest.TempPathFactory, told: list[str]) -> hetcc.Bundle:
    options = CompileOptions(
        tiny("deepseek_v32", Phase.DECODE, num_hidden_layers=LAYERS), robustness_samples=0, fpga_launch=launch,
        choice=PlacementChoice(forced=FORCED), emission=EmissionOptions(("llvm-cpu",), verilog=False, policy=policy))
    with captures_shared():
        return hetcc.compile(options, folder.mktemp("policy") / "bundle", progress=told.append)


@pytest.mark.parametrize(("policy", "launch"), [
    ("quantised:int16", "doorbell"), ("quantised:bf16", "start"), ("quantised:int8", "doorbell")])
def test_quantised_kernels_agree_within_the_limits_of_their_policy(
    tmp_path_factory: pytest.TempPathFactory, policy: str, launch: str,
) -> None:
    told: list[str] = []
    bundle = compiled(policy, launch, tmp_path_factory, told)
    plan = bundle.plan.phase("decode")
    assert [region.policy for region in plan.regions if region.device == "fpga"] == [policy] * LAYERS
    assert {region.policy for region in plan.regions if region.device != "fpga"} == {"exact"}
    assert not [text for text in told if "stay exact" in text]
    assert {region.launch for region in plan.regions if region.device == "fpga"} == {launch}
    worst = 0.0
    for seed, history in HISTORIES.items():
        result = bundle.verify("decode", seed=seed, history=history, steps=STEPS)
        assert result.passed, result
        assert result.tolerance == POLICY_LIMITS[policy].relative
        assert result.coverage.flops["fpga"] > 0
        assert result.selections.compared == LAYERS * STEPS and not result.selections.wrong
        worst = max(worst, result.relative_error)
    assert worst <= POLICY_LIMITS[policy].relative
