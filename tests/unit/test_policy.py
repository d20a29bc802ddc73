"""``--policy``: from the option to the kernel, the plan and the limits of a verified run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import EmittedRegion
from hetcc.backends.fpga import formats
from hetcc.backends.fpga.samples import scans as sample
from hetcc.capture.model import CaptureRequest
from hetcc.emission import Emission, _emit_fpga, check_policies
from hetcc.errors import UserError
from hetcc.options import POLICIES, CompileOptions, EmissionOptions
from hetcc.passes.schedule import RegionProgram
from hetcc.plan.plan import RegionSpec
from hetcc.report.repro import repro_script
from hetcc.runtime.verify import POLICY_LIMITS, compare_selection, limits_of
from hetcc.stopwatch import Stopwatch

REGION = RegionSpec(name="r", device="fpga", engine="e", entry="", digest="d", nodes=(), flops=0, bytes_read=0,
                    bytes_written=0)


def test_everybody_knows_the_same_policies() -> None:
    assert set(POLICIES) == set(formats.POLICIES) == set(POLICY_LIMITS)
    for policy in POLICIES:
        assert RegionSpec.model_validate({**REGION.model_dump(), "policy": policy}).policy == policy


def test_an_unknown_policy_is_refused_before_anything_is_done() -> None:
    with pytest.raises(UserError, match="HET-U001"):
        CompileOptions(CaptureRequest("m", ()), emission=EmissionOptions(policy="quantised:int3"))


def test_the_command_that_repeats_a_compile_names_the_policy() -> None:
    options = CompileOptions(CaptureRequest("m", ()), emission=EmissionOptions(policy="quantised:int8"))
    assert "--policy quantised:int8" in repro_script(options)


def test_kernels_with_products_take_the_policy_and_others_stay_exact() -> None:
    regions = {"a": sample.single_scan(16, 64, 4), "b": sample.bound_scan(16, 64, 4)}
    options = EmissionOptions(verilog=False, policy="quantised:int8")
    made = _emit_fpga(regions, options, {}, 1, frozenset())
    found = {name: one.policy for name, one in made.items() if isinstance(one, EmittedRegion)}
    assert found == {"a": "quantised:int8", "b": "exact"}


def test_regions_that_stay_exact_are_told_with_the_reason() -> None:
    regions = {"decode/a": sample.single_scan(16, 64, 4), "decode/b": sample.bound_scan(16, 64, 4)}
    options = EmissionOptions(verilog=False, policy="quantised:int8")
    made = {key: one for key, one in _emit_fpga(regions, options, {}, 1, frozenset()).items()
            if isinstance(one, EmittedRegion)}
    assert {key: bool(one.exact_because) for key, one in made.items()} == {"decode/a": False, "decode/b": True}
    programs = [RegionProgram(key[-1], "fpga", region, ()) for key, region in regions.items()]
    phase: Any = SimpleNamespace(name="decode", programs=programs)
    told: list[str] = []
    check_policies([phase], Emission(regions=made), options, Stopwatch(told.append))
    text, = told
    assert text.startswith("warning: decode/b of 2 FPGA regions stay exact, not quantised:int8: the policy asks for")
    assert text.endswith("no inner product reads a table")
    told.clear()
    check_policies([phase], Emission(regions=made), EmissionOptions(), Stopwatch(told.append))
    assert told == []
    check_policies([], Emission(), options, Stopwatch(told.append))
    assert told == ["warning: nothing runs on the FPGA, so --policy quantised:int8 changes nothing"]


def test_limits_are_those_of_the_widest_policy_of_a_phase() -> None:
    regions = [REGION, replace_policy("quantised:int16"), replace_policy("quantised:int8")]
    assert limits_of(regions[:1]) == POLICY_LIMITS["exact"]
    assert limits_of(regions[:2]) == POLICY_LIMITS["quantised:int16"]
    assert limits_of(regions) == POLICY_LIMITS["quantised:int8"]


def replace_policy(policy: str) -> RegionSpec:
    return REGION.model_copy(update={"policy": policy})


def test_entries_near_the_last_one_may_change_places_only_within_the_policy() -> None:
    scores = numpy.array([[10.0, 5.0, 4.99, 1.0]])
    reference = SimpleNamespace(scores=scores, indices=numpy.array([[0, 1]]))
    swapped, far = numpy.array([[0, 2]]), numpy.array([[0, 3]])
    assert compare_selection(swapped, reference).wrong == 2 - 1
    near = compare_selection(swapped, reference, POLICY_LIMITS["quantised:int16"].score)
    assert (near.wrong, near.ties) == (0, 2)
    assert compare_selection(far, reference, POLICY_LIMITS["quantised:int8"].score).wrong == 1
    assert POLICY_LIMITS["exact"].relative == 0
