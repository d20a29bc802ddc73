"""What kernels that share no xclbin cost a plan, and what the placer does about it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hetcc import planning, sharing
from hetcc.backends.fpga.vendor import packing
from hetcc.capture import CapturedModel, capture
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.cli.predict_command import prediction_text, table_text
from hetcc.cost_model.device import load_device
from hetcc.cost_model.price import reconfiguration
from hetcc.emission import emit
from hetcc.ir.subgraph import digest_of
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.pipeline import Compiled, compile_captured, device_set
from hetcc.plan.placement import Cost, Objective, Placement
from hetcc.predict import loads
from hetcc.predict.figures import Prediction, predict_sizes
from hetcc.sharing import alone_on_chip, kernels_of, shared, with_loads
from hetcc.stopwatch import Stopwatch, silent

from corpus import doors
from corpus.tiny import tiny

CARD = load_device("u55c")
LOAD_S = reconfiguration(CARD).time_s
FORCED = (("relevancy", "fpga"),)


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    return capture(CaptureRequest(f"{doors.__file__}:two_sparse_blocks"))


def compiled(captured: CapturedModel, told: list[str] | None = None, **choice: object) -> Compiled:
    options = CompileOptions(captured.request, emit="never", robustness_samples=0,
                             choice=PlacementChoice(**choice))
    watch = Stopwatch(told.append) if told is not None else Stopwatch()
    return compile_captured(captured, options, None, force=False, watch=watch)


@pytest.fixture
def one_kernel_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "fits", lambda group: len(group) == 1)


def test_kernels_that_fit_share_a_file_and_cost_nothing(captured: CapturedModel) -> None:
    made = compiled(captured, forced=FORCED)
    phase, = made.phases
    found = shared(made.phases, CompileOptions(captured.request).emission, {})
    assert found is not None and kernels_of(made.phases) == 2
    assert len(found.packing.packs) == 1 and len(set(found.kernel_of.values())) == 2
    assert phase.placement.reconfiguration.time_s == 0
    assert made.plan.phase("decode").prediction.reconfiguration_s == 0


def test_a_table_stays_on_chip_where_nobody_else_works_on_it(captured: CapturedModel) -> None:
    phases = compiled(captured, forced=FORCED).phases
    alone = alone_on_chip(phases)
    assert alone == {digest_of(program.program) for program in phases[0].programs if program.device == "fpga"}
    assert len(alone) == 2 and not alone_on_chip((*phases, *phases)) and not alone_on_chip(())
    options = CompileOptions(captured.request).emission
    only = [replace(phase, programs=tuple(one for one in phase.programs if one.device == "fpga")) for phase in phases]
    found, made = shared(phases, options, {}), emit(only, options, {}, Stopwatch())
    assert found is not None
    reports = [json.loads(content) for path, content in made.files.items() if path.endswith("report.json")]
    assert {report["kernel"] for report in reports} == set(found.kernel_of.values())


@pytest.mark.usefixtures("one_kernel_per_file")
def test_a_forced_plan_pays_and_says_so(captured: CapturedModel) -> None:
    told: list[str] = []
    made = compiled(captured, told, forced=FORCED)
    plan, summary = made.plan.phase("decode"), made.summary["predicted"]
    assert plan.prediction.reconfiguration_s == 2 * LOAD_S == summary["reconfiguration_s"]
    assert 2 * LOAD_S < plan.prediction.latency_s < 2 * LOAD_S + 1e-2
    assert plan.partition.objective == pytest.approx(plan.prediction.latency_s) == summary["latency_s"]
    assert plan.partition.gap > 100
    warning, = [text for text in told if text.startswith("warning")]
    assert "4 s of every step" in warning
    placement = made.phases[0].placement
    assert Placement.from_json(placement.to_json()) == replace(placement, device_of=dict(placement.device_of))


@pytest.mark.usefixtures("one_kernel_per_file")
def test_a_placer_that_may_choose_keeps_one_file(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    phase, = compiled(captured, partitioner="fpga-only").phases
    assert "fpga" in phase.placement.device_of.values()
    assert phase.placement.reconfiguration.time_s == 0
    refused = [reason for _, device, reason in phase.demotions if device == "fpga" and "shares no xclbin" in reason]
    assert refused and all("2 s (assumed)" in reason for reason in refused)
    monkeypatch.setattr(sharing, "_ROUNDS", 0)
    assert compiled(captured, partitioner="fpga-only").phases[0].placement.objective > phase.placement.objective


@pytest.mark.usefixtures("one_kernel_per_file")
def test_loads_are_kept_and_paid_where_every_other_plan_is_dearer(captured: CapturedModel,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    forced = compiled(captured, forced=FORCED).phases[0].placement

    def dearer(phase: PlannedPhase, *_: object) -> PlannedPhase:
        worse = replace(phase.placement, objective=phase.placement.objective + 10 * LOAD_S)
        return replace(phase, placement=worse)

    monkeypatch.setattr(planning, "replan", dearer)
    monkeypatch.setattr(planning, "choose_placement", lambda table, choice: replace(forced, cost=_less(forced),
                        objective=_less(forced).time_s, reconfiguration=Cost()))
    phase, = compiled(captured).phases
    assert phase.placement.reconfiguration.time_s == 2 * LOAD_S
    assert phase.placement.objective == pytest.approx(forced.objective)


def predicted(captured: CapturedModel, **choice: object) -> Prediction:
    options = CompileOptions(captured.request, choice=PlacementChoice(**choice))
    request = captured.request
    found, = predict_sizes(options, device_set(options), [request.batch], [request.context], samples=0,
                           progress=silent)
    return found


def equal_plans(found: Prediction, made: Compiled) -> None:
    """The same devices, and the same time with its loads."""
    phase, = made.phases
    assert dict(found.placement.device_of) == dict(phase.placement.device_of)
    assert found.placement.reconfiguration == phase.placement.reconfiguration
    assert found.placement.cost.time_s == pytest.approx(phase.placement.cost.time_s)
    assert found.placement.objective == pytest.approx(phase.placement.objective)
    assert found.to_json()["reconfiguration_s"] == phase.placement.reconfiguration.time_s
    assert found.latency_s.likely == pytest.approx(found.placement.cost.time_s)
    assert found.energy_j.likely == pytest.approx(found.placement.cost.energy_j)


def test_a_prediction_counts_no_loads_where_a_plan_has_none(captured: CapturedModel) -> None:
    equal_plans(predicted(captured, forced=FORCED), compiled(captured, forced=FORCED))


@pytest.mark.usefixtures("one_kernel_per_file")
def test_a_prediction_counts_the_loads_of_a_plan(captured: CapturedModel) -> None:
    found = predicted(captured, forced=FORCED)
    equal_plans(found, compiled(captured, forced=FORCED))
    assert found.placement.reconfiguration.time_s == 2 * LOAD_S
    load = CARD.streaming.reconfiguration_s
    assert found.latency_s.high - found.latency_s.low > 2 * (load.high - load.low)
    assert "loading xclbins" in prediction_text(found, CompileOptions(captured.request))
    assert "; loading 4 s" in table_text([found, found], CompileOptions(captured.request))


@pytest.mark.usefixtures("one_kernel_per_file")
def test_a_prediction_that_may_choose_keeps_one_file(captured: CapturedModel) -> None:
    found = predicted(captured, partitioner="fpga-only")
    assert "fpga" in found.placement.device_of.values() and found.placement.reconfiguration == Cost()
    equal_plans(found, compiled(captured, partitioner="fpga-only"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_kernel_per_file")
def test_the_loads_of_a_model_follow_from_its_few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers of one kind are one kernel, and nothing is composed to see that they load nothing. Where every layer
    is taken to have a kernel of its own, all caches have names of their own."""
    request = tiny("deepseek_v32", Phase.DECODE, num_hidden_layers=6)
    options = CompileOptions(request, choice=PlacementChoice(forced=(*FORCED, ("retrieval", "fpga"))))
    seen: list[list[sharing.KernelUse]] = []

    def packed(uses: list[sharing.KernelUse], *_: object) -> None:
        seen.append(uses)

    monkeypatch.setattr(loads, "packed", packed)
    devices = device_set(options)
    found, = predict_sizes(options, devices, [1], [request.context], samples=0, progress=silent)
    assert not seen and found.placement.reconfiguration == Cost()
    count = sum(region.device == "fpga" for region in found.placement.regions)
    assert count >= 6
    calls = iter(range(1000))
    monkeypatch.setattr(loads, "digest_of", lambda _: str(next(calls)))
    predict_sizes(options, devices, [1], [request.context], samples=0, progress=silent)
    if not seen:
        pytest.fail("the model has one kind of streaming region only")
    uses, = seen
    assert len(uses) == count and len({use.region for use in uses}) == count
    caches = [name for use in uses for name in use.caches]
    assert len(caches) == len(set(caches)) == 6
    assert all(set(use.caches) <= set(use.values) for use in uses)


def _less(placement: Placement) -> Cost:
    return placement.cost - placement.reconfiguration


def test_the_price_of_loads_is_added_once_and_weighed(captured: CapturedModel) -> None:
    phase, = compiled(captured, objective=Objective(1.0, 0.5)).phases
    loading = with_loads(with_loads(phase, 3, CARD), 2, CARD).placement
    load = reconfiguration(CARD)
    assert loading.cost.time_s == pytest.approx(phase.placement.cost.time_s + 2 * load.time_s)
    assert loading.cost.energy_j == pytest.approx(phase.placement.cost.energy_j + 2 * load.energy_j)
    assert loading.objective == pytest.approx(phase.placement.objective + 2 * (load.time_s + 0.5 * load.energy_j))
    assert with_loads(phase, 0, CARD) is phase
    assert loading.lower_bound == phase.placement.lower_bound
