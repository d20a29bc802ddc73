"""Whole plans on devices that are nothing but host memory: splitting, scheduling and commits without any compiler.

Each of the three devices has its own memory, so a transfer that is missing, a launch that comes too early or a cache
that is written too soon shows as a missing or wrong number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest

from hetcc import planning
from hetcc.api import Bundle
from hetcc.capture import CapturedModel, capture
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.reference import HuggingFaceReference, ReferenceRun
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.estimate import CostTable
from hetcc.passes.place import finish
from hetcc.pipeline import compile_captured
from hetcc.plan.placement import Cluster, Placement
from hetcc.plan.plan import CommitStep, LaunchStep, TransferStep
from hetcc.runtime.devices import HostDevice
from hetcc.runtime.session import Session
from hetcc.runtime.verify import verify_phase
from hetcc.stopwatch import Stopwatch

from corpus.graphs import GraphBuilder
from corpus.tiny import CONTEXT, tiny

HISTORY, STEPS = 20, 2
RULES = ("optimal", "mincut", "gpu-only", "stage-rule", "fpga-only", "intensity-threshold")
SEEDS = range(5)


@dataclass(frozen=True)
class Subject:
    """A captured model, and what Hugging Face makes of the same tokens."""

    captured: CapturedModel
    references: Mapping[str, ReferenceRun]
    """By phase."""


@pytest.fixture(scope="module", params=["llama", "deepseek_v32"])
def subject(request: pytest.FixtureRequest) -> Subject:
    phases = (Phase.PREFILL, Phase.DECODE) if request.param == "llama" else (Phase.DECODE,)
    asked = tiny(request.param, *phases)
    reference = HuggingFaceReference(asked)
    return Subject(capture(asked), {phase.value: reference.run(phase, 3, HISTORY, STEPS) for phase in phases})


def bundle_of(captured: CapturedModel, choice: PlacementChoice, folder: Path) -> Bundle:
    compile_captured(captured, CompileOptions(captured.request, choice=choice, emit="never"), folder, force=False,
                     watch=Stopwatch())
    return Bundle(folder)


def host_session(bundle: Bundle) -> Session:
    return Session(bundle.files, bundle.plan, devices={name: HostDevice() for name in ("gpu", "fpga", "host")})


def compare(subject: Subject, bundle: Bundle) -> None:
    session = host_session(bundle)
    for phase, reference in subject.references.items():
        session.reset()
        found = verify_phase(session, phase, reference)
        assert found.relative_error <= 1e-4, phase
        assert found.selections.wrong == 0 and not found.missing_outputs
        assert found.steps == len(reference.steps)
        assert set(found.engines) <= {"gpu", "fpga", "host"}
    selecting = bool(bundle.plan.phase("decode").observed)
    assert (found.selections.compared > 0) is selecting


@pytest.mark.parametrize("rule", RULES)
def test_rules(subject: Subject, rule: str, tmp_path: Path) -> None:
    bundle = bundle_of(subject.captured, PlacementChoice(rule), tmp_path / "bundle")
    launches = [step.stream for step in bundle.plan.phase("decode").steps if isinstance(step, LaunchStep)]
    if rule == "gpu-only":
        assert set(launches) <= {"gpu", "host"}
    if rule in ("fpga-only", "stage-rule"):
        assert "fpga" in launches
    compare(subject, bundle)


def place_with(monkeypatch: pytest.MonkeyPatch, device_of: Callable[[Cluster], str]) -> None:
    """Place every cluster where ``device_of`` says, whether or not its kernel can be composed."""
    def choose(table: CostTable, choice: PlacementChoice) -> Placement:
        del choice
        assignment = {cluster.name: device_of(cluster) for cluster in table.problem.clusters}
        return finish(table.problem, assignment, "test", 0.0)

    monkeypatch.setattr(planning, "choose_placement", choose)
    monkeypatch.setattr(planning, "_refused_clusters", lambda programs, placement: [])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_placements(subject: Subject, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(seed)
    place_with(monkeypatch, lambda cluster: generator.choice(sorted(cluster.costs)))
    bundle = bundle_of(subject.captured, PlacementChoice(), tmp_path / "bundle")
    kinds = [step.kind for step in bundle.plan.phase("decode").steps]
    assert kinds.count("transfer") > 10 and "commit" in kinds, "a random placement moves values and defers updates"
    compare(subject, bundle)


def test_two_sequences_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sequence gathers its own selection: indices differ from one to the other."""
    asked = replace(tiny("deepseek_v32", Phase.DECODE, num_hidden_layers=2), batch=2)
    reference = HuggingFaceReference(asked).run(Phase.DECODE, 5, HISTORY, STEPS)
    subject = Subject(capture(asked), {"decode": reference})
    generator = random.Random(0)
    place_with(monkeypatch, lambda cluster: generator.choice(sorted(cluster.costs)))
    bundle = bundle_of(subject.captured, PlacementChoice(), tmp_path / "bundle")
    graph = bundle.tagged("decode").graph
    along = [node for node in graph.nodes if node.attribute("mode") == "along" and ".selected" in node.name]
    assert len(along) >= 2 and all(graph.type_of(node.outputs[0]).shape[0] == 2 for node in along)
    selections = reference.steps[0].selections.values()
    assert any(set(found.indices[0].flat) != set(found.indices[1].flat) for found in selections)
    compare(subject, bundle)


def test_a_step_that_would_write_past_the_caches_is_refused(subject: Subject, tmp_path: Path) -> None:
    bundle = bundle_of(subject.captured, PlacementChoice("gpu-only"), tmp_path / "bundle")
    session = host_session(bundle)
    token = {"input_ids": numpy.zeros((1, 1), numpy.int64)}
    counters = [name for name in session.cache_device if name.endswith("cumulative_length")]
    assert counters
    for name in counters:
        session.write_cache(name, numpy.array(CONTEXT - 1))
    session.run("decode", token)  # the last row
    before = {name: session.read_cache(name) for name in session.cache_device}
    with pytest.raises(UserError, match=f"hold {CONTEXT} entries") as caught:
        session.run("decode", token)
    assert caught.value.code == "HET-R002"
    assert all(numpy.array_equal(session.read_cache(name), array) for name, array in before.items())
    session.reset()
    session.run("decode", token)


def test_a_bundle_without_code_runs_only_on_devices_that_need_none(subject: Subject, tmp_path: Path) -> None:
    bundle = bundle_of(subject.captured, PlacementChoice("gpu-only"), tmp_path / "bundle")
    with pytest.raises(UserError) as caught:
        Session(bundle.files, bundle.plan)
    assert caught.value.code == "HET-B005"


def test_a_missing_transfer_or_commit_is_noticed(subject: Subject, tmp_path: Path) -> None:
    """The tests above can fail: a plan without one of its steps does not give the numbers."""
    bundle = bundle_of(subject.captured, PlacementChoice("stage-rule"), tmp_path / "bundle")
    decode = bundle.plan.phase("decode")
    position = next(place for place, step in enumerate(decode.steps)
                    if isinstance(step, TransferStep) and step.source != "host")
    spoiled = decode.model_copy(update={"steps": decode.steps[:position] + decode.steps[position + 1:]})
    session = Session(bundle.files, bundle.plan.model_copy(update={"phases": (spoiled,)}),
                      devices={name: HostDevice() for name in ("gpu", "fpga", "host")})
    with pytest.raises(UserError, match="has no value") as caught:
        verify_phase(session, "decode", subject.references["decode"])
    assert caught.value.code == "HET-R002"


def running_sum() -> Graph:
    """A cache read twice, once before and once after its update is computed, and shifted into a second cache."""
    build = GraphBuilder("running_sum")
    x = build.input("x", 4, 4)
    total, before = build.cache("total", 4, 4), build.cache("before", 4, 4)
    build.module = "layers.0"
    first = build.call("mm", x, total, to="first")
    updated = build.call("mm", build.call("add.Tensor", total, x, to="sum"), x, to="updated")
    build.module = "layers.1"
    second = build.call("mm", build.call("mm", updated, total, to="late"), before, to="second")
    build.update("total", updated)
    build.update("before", build.call("clone", total, to="shifted"))
    return build.done(first, second)


def eager_steps(inputs: list[numpy.ndarray]) -> tuple[list[tuple[numpy.ndarray, numpy.ndarray]], numpy.ndarray]:
    total = numpy.eye(4, dtype=numpy.float32)
    before = numpy.full((4, 4), 0.5, numpy.float32)
    results = []
    for x in inputs:
        updated = (total + x) @ x
        results.append((x @ total, updated @ total @ before))
        total, before = updated, total
    return results, total


@pytest.mark.parametrize("assignment", [
    {}, {"first": "fpga"}, {"updated": "fpga"}, {"sum": "fpga", "shifted": "fpga"}, {"shifted": "fpga"},
    {"updated": "fpga", "second": "fpga", "shifted": "fpga"},
])
def test_every_region_sees_the_old_contents_of_a_cache(assignment: dict[str, str], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    graph = running_sum()
    captured = CapturedModel(CaptureRequest("running_sum", (Phase.DECODE,), context=4), {"decode": graph})
    place_with(monkeypatch, lambda cluster: assignment.get(cluster.name.rpartition("/")[2], "gpu"))
    bundle = bundle_of(captured, PlacementChoice(), tmp_path / "bundle")
    assert set(assignment) <= {name.rpartition("/")[2] for name in bundle.placement("decode").device_of}
    plan = bundle.plan.phase("decode")
    session = host_session(bundle)
    session.write_cache("total", numpy.eye(4, dtype=numpy.float32))
    session.write_cache("before", numpy.full((4, 4), 0.5, numpy.float32))
    generator = numpy.random.default_rng(0)
    inputs = [generator.standard_normal((4, 4)).astype(numpy.float32) for _ in range(3)]
    expected, total = eager_steps(inputs)
    for x, (first, second) in zip(inputs, expected, strict=True):
        trace = session.run("decode", {"x": x})
        numpy.testing.assert_allclose(trace.outputs["layers.0/first"], first, rtol=1e-4)
        numpy.testing.assert_allclose(trace.outputs["layers.1/second"], second, rtol=1e-4)
    numpy.testing.assert_allclose(session.read_cache("total"), total, rtol=1e-4)
    commits = [step.cache for step in plan.steps if isinstance(step, CommitStep)]
    assert "total" in commits, "two layers read it, so its update has to wait"
    with pytest.raises(UserError) as caught:
        session.read_cache("nothing")
    assert caught.value.code == "HET-B004"


def test_caches_are_reset_and_inputs_checked(subject: Subject, tmp_path: Path) -> None:
    bundle = bundle_of(subject.captured, PlacementChoice("gpu-only"), tmp_path / "bundle")
    session = host_session(bundle)
    name = bundle.plan.phase("decode").caches[0].name
    assert bundle.plan.phase("decode").context == CONTEXT
    session.run("decode", subject.references["decode"].steps[0].inputs)
    assert session.read_cache(name).any()
    session.reset()
    assert not session.read_cache(name).any()
    wrong: list[dict[str, numpy.ndarray]] = [{}, {"input_ids": numpy.zeros((1, 2), numpy.int64)},
                                             {"input_ids": numpy.zeros((1, 1), numpy.float32)}]
    for inputs in wrong:
        with pytest.raises(UserError) as caught:
            session.run("decode", inputs)
        assert caught.value.code == "HET-R002"
    with pytest.raises(UserError) as caught:
        session.run("encode", {})
    assert caught.value.code == "HET-B005"
