"""The plan as a document: its schema, and what is no plan."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hetcc.capture import CapturedModel, CaptureRequest
from hetcc.capture.model import Phase
from hetcc.errors import UserError
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.pipeline import Compiled, compile_captured
from hetcc.plan.plan import Plan, plan_from_bytes, plan_schema, plan_to_bytes
from hetcc.stopwatch import Stopwatch

from corpus.graphs import sparse_selection

ROOT = Path(__file__).resolve().parents[2]


@cache
def compiled() -> Compiled:
    request = CaptureRequest("sparse_selection", (Phase.DECODE,), context=64)
    captured = CapturedModel(request, {"decode": sparse_selection(context=64, width=16)})
    choice = PlacementChoice(forced=(("relevancy", "fpga"), ("retrieval", "fpga"), ("apply", "gpu")))
    options = CompileOptions(request, choice=choice, emit="never")
    return compile_captured(captured, options, None, force=False, watch=Stopwatch())


def document() -> dict[str, Any]:
    return json.loads(plan_to_bytes(compiled().plan))


def test_a_plan_comes_back_and_obeys_its_schema() -> None:
    plan = compiled().plan
    data = plan_to_bytes(plan)
    assert plan_from_bytes(data, "here") == plan
    assert plan_to_bytes(plan_from_bytes(data, "here")) == data
    jsonschema.Draft202012Validator.check_schema(plan_schema())
    jsonschema.validate(document(), plan_schema())
    kinds = {step.kind for step in plan.phase("decode").steps}
    assert kinds == {"launch", "transfer"}
    assert {region.device for region in plan.phase("decode").regions} >= {"gpu", "fpga"}


def test_the_published_schema_is_this_one() -> None:
    assert json.loads((ROOT / "docs/plan.schema.json").read_bytes()) == json.loads(json.dumps(plan_schema()))


def test_a_planning_only_plan() -> None:
    plan = compiled().plan
    assert not plan.is_executable and plan.fits
    assert {region.engine for region in plan.phase("decode").regions} == {"planned, not emitted"}
    with pytest.raises(UserError, match="no phase 'prefill'") as caught:
        plan.phase("prefill")
    assert caught.value.code == "HET-B005" and "decode" in caught.value.fix


def spoiled(*path: Any, value: Any) -> bytes:
    made = document()
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(made).encode()


@pytest.mark.parametrize(("path", "value", "said"), [
    (("schema_version",), 2, "schema_version"), (("phases", 0, "steps", 0, "kind"), "jump", "steps.0"),
    (("phases", 0, "regions", 0, "flops"), "many", "regions.0.flops"), (("devices",), None, "devices"),
    (("surprise",), 1, "surprise"), (("phases", 0, "buffers", 0, "residency"), "floating", "buffers.0.residency"),
    (("phases", 0, "regions", 0, "policy"), "sloppy", "regions.0.policy"),
])
def test_wrong_fields_are_named(path: tuple[Any, ...], value: Any, said: str) -> None:
    data = spoiled(*path, value=value)
    with pytest.raises(UserError) as caught:
        plan_from_bytes(data, "bundle/plan.json")
    assert caught.value.code == "HET-B003" and said in caught.value.what
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(data), plan_schema())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_plan(share: float) -> None:
    data = plan_to_bytes(compiled().plan)
    with pytest.raises(UserError) as caught:
        plan_from_bytes(data[:int(len(data) * share)], "bundle/plan.json")
    assert caught.value.code == "HET-B003" and "plan.json" in caught.value.render()


def test_equal_inputs_give_equal_bundles() -> None:
    again = compiled.__wrapped__()
    assert again.files == compiled().files
    assert isinstance(again.plan, Plan)
