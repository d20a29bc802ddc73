"""The same module through ``torch.export`` and as an .onnx file: same tags, same placement, and it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import hetcc
from hetcc import api
from hetcc.capture import CapturedModel, CaptureRequest, capture
from hetcc.capture.reference import ReferenceRun
from hetcc.ir import OperatorClass, Stage
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.pipeline import device_set
from hetcc.planning import plan_phase
from hetcc.stopwatch import Stopwatch, silent
from tests.unit.onnx_models import export_ids, tiny_bert

from corpus import doors

Forced = tuple[tuple[str, str], ...]
OPTIMAL: Forced = ()
STREAMED: dict[str, Forced] = {"sparse_block": (("relevancy", "fpga"), ("retrieval", "fpga")),
                               "llama_decoder": (("relevancy", "fpga"),)}
LAYERS = {"sparse_block": 1, "llama_decoder": 2}
CASES = [
    pytest.param(("sparse_block", True), id="sparse-dynamo"),
    pytest.param(("sparse_block", False), id="sparse-classic", marks=pytest.mark.slow),
    pytest.param(("llama_decoder", True), id="llama-dynamo", marks=pytest.mark.slow),
    pytest.param(("llama_decoder", False), id="llama-classic"),
]


@dataclass(frozen=True)
class TwoDoors:
    """One module, as a factory and as a file."""

    name: str
    factory: str
    file: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, folder: Path) -> TwoDoors:
    name, dynamo = request.param
    file = doors.export_made(getattr(doors, name)(), folder / f"{name}-{dynamo}.onnx", dynamo=dynamo)
    return TwoDoors(name, f"{doors.__file__}:{name}", str(file))


@cache
def captured_from(source: str) -> CapturedModel:
    return capture(CaptureRequest(source))


@cache
def planned(source: str, forced: Forced) -> PlannedPhase:
    captured = captured_from(source)
    options = CompileOptions(captured.request)
    assert list(captured.graphs) == ["decode"]
    return plan_phase("decode", captured.graphs["decode"], captured.request, device_set(options),
                      PlacementChoice(forced=forced), Stopwatch(silent))


def work_by_stage(phase: PlannedPhase) -> Counter[tuple[int, Stage, OperatorClass]]:
    """How many nodes of each class each stage of each pipeline has.

    Views are left out, and what fills tensors: the doors spell both differently. So is, while the memory is prepared,
    what works on elements: a square root and a reciprocal here are one operator there.
    """
    nodes = phase.graph.node_by_name
    pipelines = {name: place for place, name in enumerate(dict.fromkeys(
        phase.tagged.tags[node.name].pipeline for node in phase.graph.nodes if node.name in phase.tagged.tags))}
    found = Counter((pipelines[tag.pipeline], tag.stage, nodes[name].operator_class)
                    for name, tag in phase.tagged.tags.items())
    left_out = (OperatorClass.VIEW, OperatorClass.CREATE)
    return Counter({key: count for key, count in found.items() if key[2] not in left_out
                    and key[1:] != (Stage.PREPARE, OperatorClass.ELEMENTWISE)})


def devices_by_stage(phase: PlannedPhase) -> set[tuple[Stage | None, str]]:
    return {(phase.tagged.stage_of(node), program.device) for program in phase.programs for node in program.nodes}


def test_both_doors_find_the_same_memory_pipeline(model: TwoDoors) -> None:
    torch_door, onnx_door = planned(model.factory, OPTIMAL), planned(model.file, OPTIMAL)
    found = work_by_stage(onnx_door)
    assert found == work_by_stage(torch_door)
    assert {pipeline for pipeline, _, _ in found} == set(range(LAYERS[model.name]))
    sparse = model.name == "sparse_block"
    assert [rewrite.applied for rewrite in onnx_door.rewrites] == [True] * sparse
    selections = [key for key in found if key[1:] == (Stage.RETRIEVAL, OperatorClass.TOPK)]
    assert len(selections) == sparse
    assert sum(found[key] for key in found if key[1:] == (Stage.APPLY, OperatorClass.GATHER)) >= 2 * sparse


@pytest.mark.parametrize("is_forced", [False, True], ids=["optimal", "forced"])
def test_both_doors_place_the_stages_on_the_same_devices(model: TwoDoors, is_forced: bool) -> None:
    forced = STREAMED[model.name] if is_forced else OPTIMAL
    torch_door, onnx_door = planned(model.factory, forced), planned(model.file, forced)
    assert devices_by_stage(onnx_door) == devices_by_stage(torch_door)
    assert onnx_door.demotions == torch_door.demotions == ()
    assert ((Stage.RELEVANCY, "fpga") in devices_by_stage(onnx_door)) == is_forced
    costs = onnx_door.placement.cost.time_s, torch_door.placement.cost.time_s
    assert costs[0] == pytest.approx(costs[1], rel=0.05)


def compiled(source: str, forced: Forced, **sizes: int) -> hetcc.Bundle:
    """A bundle beside the model file, made once."""
    output = Path(source).with_suffix(".streamed" if forced else ".optimal")
    if output.exists():
        return api.load(output)
    emission = EmissionOptions(targets=("llvm-cpu",), verilog=False)
    options = CompileOptions(CaptureRequest(source, **sizes), choice=PlacementChoice(forced=forced), emission=emission)
    return api.compile(options, output)


@pytest.mark.parametrize("is_forced", [False, True], ids=["optimal", "forced"])
def test_bundles_give_the_numbers_of_onnxruntime(model: TwoDoors, is_forced: bool) -> None:
    bundle = compiled(model.file, STREAMED[model.name] if is_forced else OPTIMAL)
    result = bundle.verify("decode", history=30, steps=3)
    assert result.passed, result
    assert result.steps == 3
    assert result.relative_error < 1e-5
    assert result.selections.compared == 3 * (model.name == "sparse_block")
    assert result.selections.wrong == 0
    assert ("fpga" in result.coverage.flops) == is_forced
    assert result.coverage.flops.get("host", 0.0) <= 0.05
    assert result.coverage.bytes_moved.get("host", 0.0) <= 0.10


def test_an_encoder_with_open_sizes_is_verified(folder: Path) -> None:
    exported = export_ids(tiny_bert(), folder / "bert.onnx", dynamo=False, symbolic=True)
    bundle = compiled(str(exported.path), OPTIMAL, context=12, batch=2)
    assert [(spec.name, spec.shape) for spec in bundle.plan.phase("encode").inputs] == [("ids", (2, 12)),
                                                                                        ("mask", (2, 12))]
    result = bundle.verify("encode")
    assert result.passed, result
    assert result.relative_error < 1e-5


def test_a_wrong_number_is_noticed(model: TwoDoors) -> None:
    bundle = compiled(model.file, OPTIMAL)
    right = bundle.reference.run

    def wrong(*arguments: Any) -> ReferenceRun:
        run: ReferenceRun = right(*arguments)
        changed = {name: array + array.dtype.type(array.dtype.kind == "f") for name, array in run.caches.items()}
        return ReferenceRun(changed, run.steps)

    bundle.reference.run = wrong
    assert not bundle.verify("decode", history=30, steps=1).passed
