"""Devices that fail in the middle of a request: it goes on with the same answers, or stops and says why.

Most cases run whole plans on devices that are nothing but host memory, so that hundreds of failing steps are cheap. The
last ones run emitted kernels on the emulator, whose compute units fail by a script.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest

import hetcc
from hetcc.api import Bundle
from hetcc.backends.fpga.xrt.faults import FAULTS, Fault
from hetcc.capture import CapturedModel, capture
from hetcc.capture.model import Phase
from hetcc.errors import ToolError
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.passes.estimate import DeviceSet
from hetcc.pipeline import compile_captured, device_set
from hetcc.plan.plan import CacheSpec, LaunchStep, PhasePlan, Plan, TransferStep
from hetcc.runtime.devices import HostDevice, LaunchEvidence, RuntimeDevice
from hetcc.runtime.engines import Engines
from hetcc.runtime.generate import generate_greedy
from hetcc.runtime.session import Session
from hetcc.stopwatch import Stopwatch

from corpus.checks import FORCED
from corpus.command_line import hetcc as command_line
from corpus.tiny import tiny

PROMPT = [(7 * position + 3) % 128 for position in range(15)]
TOKENS = 8
RUNS_PER_STEP = 2
"""Kernels of one step: one per layer."""


class FailingDevice(HostDevice):
    """Fails in chosen launches, before or after its work, or when a cache is read; and answers nothing from then on."""

    def __init__(self, *launches: int, late: bool = False, code: str = "HET-F002", reads: int = 0) -> None:
        super().__init__()
        self.left, self.late, self.code, self.count, self.gone = launches, late, code, 0, False
        self.reads = reads
        """Which read of a cache fails; 0: none."""

    def launch(self, region: str) -> LaunchEvidence:
        self.count += 1
        self.gone = self.gone or (self.count in self.left and not self.late)
        self.check()
        evidence = super().launch(region)
        self.gone = self.count in self.left
        self.check()
        return evidence

    def get(self, name: str) -> numpy.ndarray:
        if name.startswith("cache."):
            self.reads -= 1
            self.gone = self.gone or self.reads == 0
        self.check()
        return super().get(name)

    def check(self) -> None:
        if self.gone:
            raise ToolError(self.code, "the run ended in state ABORT", where="kernel", fix="look at the card")


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    return capture(tiny("deepseek_v32", Phase.PREFILL, Phase.DECODE, num_hidden_layers=2))


@pytest.fixture(scope="module")
def planned(captured: CapturedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Plans without code, by what they do with caches."""
    folder = tmp_path_factory.mktemp("planned")
    for caches in ("single", "shadowed", "recomputable"):
        options = CompileOptions(captured.request, choice=PlacementChoice(forced=FORCED, caches=caches), emit="never",
                                 robustness_samples=0)
        compile_captured(captured, options, folder / caches, force=False, watch=Stopwatch())
    return {caches: Bundle(folder / caches) for caches in ("single", "shadowed", "recomputable")}


def session_of(bundle: Bundle, plan: Plan | None = None, **devices: RuntimeDevice) -> tuple[Session, list[str]]:
    told: list[str] = []
    own = {name: devices.get(name) or HostDevice() for name in ("gpu", "fpga", "host")}
    return Session(bundle.files, plan or bundle.plan, devices=own, warn=told.append), told


@pytest.fixture(scope="module")
def undisturbed(planned: dict[str, Bundle]) -> list[int]:
    return generate_greedy(session_of(planned["single"])[0], PROMPT, TOKENS)


def launches_of(plan: PhasePlan, device: str = "fpga") -> int:
    where = {region.name: region.device for region in plan.regions}
    return sum(isinstance(step, LaunchStep) and where[step.region] == device for step in plan.steps)


# ---- what the plan says


def test_only_what_was_asked_for_is_in_the_plan_and_priced(planned: dict[str, Bundle]) -> None:
    for caches, bundle in planned.items():
        for phase in bundle.plan.phases:
            held = {cache.policy for cache in phase.caches if cache.device == "fpga"}
            assert held == {caches}
            assert {cache.policy for cache in phase.caches if cache.device != "fpga"} == {"single"}
            shadows = [step for step in phase.steps if isinstance(step, TransferStep) and step.shadow]
            assert len(shadows) == (2 if caches == "shadowed" else 0)
            stand_ins = bundle.plan.stand_ins_of(phase)
            if caches == "single":
                assert not stand_ins and not phase.survival and not bundle.plan.stand_ins
                continue
            assert set(stand_ins) == {"fpga"}
            stand_in, (survival,) = stand_ins["fpga"], phase.survival
            assert not launches_of(stand_in) and launches_of(phase) == RUNS_PER_STEP
            assert survival.shadow_time_s == pytest.approx(sum(step.predicted_time_s for step in shadows))
            step_s = stand_in.prediction.latency_s
            assert survival.recovery_time_s >= step_s
            if caches == "recomputable":
                assert survival.recovery_time_s == pytest.approx(step_s * (phase.context // phase.tokens))


def test_second_copies_are_paid_for_by_the_rows_and_are_in_the_objective(planned: dict[str, Bundle]) -> None:
    single, shadowed = (planned[name].plan.phase("decode") for name in ("single", "shadowed"))
    shadows = [step for step in shadowed.steps if isinstance(step, TransferStep) and step.shadow]
    width = next(cache.shape[-1] for cache in shadowed.caches if cache.shadow)
    assert [step.size_bytes for step in shadows] == [width * 4] * 2, "one row of float32 per layer"
    extra_s = sum(step.predicted_time_s for step in shadows)
    assert extra_s > 0
    assert shadowed.prediction.latency_s == pytest.approx(single.prediction.latency_s + extra_s)
    assert shadowed.partition.objective == pytest.approx(shadowed.prediction.latency_s)
    launches = [[step.predicted_time_s for step in plan.steps if isinstance(step, LaunchStep)]
                for plan in (single, shadowed)]
    assert launches[0] == pytest.approx(launches[1]), "what the kernels take has not changed"
    held = {(buffer.value, buffer.size_bytes) for buffer in shadowed.buffers
            if buffer.device == "host" and buffer.residency == "cache"}
    assert {cache.name for cache in shadowed.caches if cache.shadow} == {value for value, _ in held}


# ---- a request goes on


@pytest.mark.parametrize("caches", ["shadowed", "recomputable"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("launch", [1, 4, 9])
def test_tokens_are_those_of_an_undisturbed_run(
    planned: dict[str, Bundle], undisturbed: list[int], caches: str, launch: int, late: bool,
) -> None:
    """In the first step, in its second layer, and anywhere later; before and after the rows were appended."""
    session, told = session_of(planned[caches], fpga=FailingDevice(launch, late=late))
    assert generate_greedy(session, PROMPT, TOKENS) == undisturbed
    recovery, = session.recoveries
    done = (launch - 1) // RUNS_PER_STEP
    assert (recovery.step, recovery.device, recovery.caches) == (done, "fpga", caches)
    assert recovery.phase == ("prefill" if done == 0 else "decode")
    assert recovery.steps_repeated == (1 if caches == "shadowed" else 1 + done)
    assert recovery.error == "the run ended in state ABORT"
    assert session.lost == {"fpga"}
    assert session.steps_done == len(PROMPT) - 11 + TOKENS - 1, "12 tokens at once, then one by one"
    assert told == [recovery.text()] and told[0].startswith("warning: the fpga failed")


@pytest.mark.parametrize("read", [3, 4, 8, 11])
def test_a_card_that_is_lost_while_second_copies_are_made(
    planned: dict[str, Bundle], undisturbed: list[int], read: int,
) -> None:
    """Each kernel reads its cache, then each copy is read: counters have moved on, and one copy may be newer."""
    session, told = session_of(planned["shadowed"], fpga=FailingDevice(reads=read))
    assert generate_greedy(session, PROMPT, TOKENS) == undisturbed
    assert len(told) == 1 and session.recoveries[0].step == (read - 1) // (2 * RUNS_PER_STEP)


def test_the_trace_says_so_and_numbers_are_equal(planned: dict[str, Bundle]) -> None:
    inputs = [{"input_ids": numpy.array([[token]])} for token in PROMPT[:5]]
    calm, _ = session_of(planned["shadowed"])
    shaken, _ = session_of(planned["shadowed"], fpga=FailingDevice(6))
    for position, given in enumerate(inputs):
        expected, found = calm.run("decode", given), shaken.run("decode", given)
        assert (found.recovery is not None) == (position == 2)
        assert (found.plan.phase == "decode-without-fpga") == (position >= 2)
        assert numpy.array_equal(expected.outputs["logits"], found.outputs["logits"])
        assert {name: array.tobytes() for name, array in expected.observed.items()} == {
            name: array.tobytes() for name, array in found.observed.items()}
    for cache in calm.cache_device:
        assert numpy.array_equal(calm.read_cache(cache), shaken.read_cache(cache)), cache


def test_a_device_that_is_lost_stays_out_of_use(planned: dict[str, Bundle], undisturbed: list[int]) -> None:
    card = FailingDevice(5)
    session, told = session_of(planned["shadowed"], fpga=card)
    for _ in range(2):
        assert generate_greedy(session, PROMPT, TOKENS) == undisturbed
    assert card.count == 5 and len(told) == 1


@pytest.mark.parametrize("caches", ["shadowed", "recomputable"])
def test_caches_that_somebody_wrote_survive_too(planned: dict[str, Bundle], caches: str) -> None:
    """A request that starts from caches made elsewhere, as a verified run does."""
    random = numpy.random.default_rng(3)
    sessions = [session_of(planned[caches])[0], session_of(planned[caches], fpga=FailingDevice(4))[0]]
    written = {}
    for cache in planned[caches].plan.phase("decode").caches:
        written[cache.name] = (numpy.full(cache.shape, 17, cache.dtype) if not cache.shape else
                               random.standard_normal(cache.shape).astype(cache.dtype))
    found = []
    for session in sessions:
        for name, content in written.items():
            session.write_cache(name, content)
        found.append([session.run("decode", {"input_ids": numpy.array([[token]])}).outputs["logits"]
                      for token in (3, 5, 8)])
    assert len(sessions[1].recoveries) == 1
    assert all(numpy.array_equal(first, second) for first, second in zip(*found, strict=True))


@pytest.mark.parametrize("launch", [2, 8, 9])
@pytest.mark.parametrize("late", [False, True])
def test_caches_that_change_in_any_way_are_put_back(
    planned: dict[str, Bundle], undisturbed: list[int], monkeypatch: pytest.MonkeyPatch, launch: int, late: bool,
) -> None:
    """As if nothing was known of appends: every cache is copied before a step, and second copies are sent whole."""
    for module in ("hetcc.runtime.session", "hetcc.runtime.survival"):
        monkeypatch.setattr(f"{module}.appends_of", lambda _: {})
    session, told = session_of(planned["shadowed"], fpga=FailingDevice(launch, late=late))
    assert generate_greedy(session, PROMPT, TOKENS) == undisturbed
    assert len(told) == 1


# ---- a request cannot go on


def test_without_a_second_copy_the_error_names_the_cache(planned: dict[str, Bundle]) -> None:
    session, told = session_of(planned["single"], fpga=FailingDevice(3))
    with pytest.raises(ToolError, match="HET-R004") as caught:
        generate_greedy(session, PROMPT, TOKENS)
    text = str(caught.value)
    assert "the run ended in state ABORT" in text and "failed on the fpga" in text
    assert "cache 'cache.layers.0.indexer_keys' is single, and 1 more" in text
    assert "--caches shadowed" in text
    assert not told and not session.recoveries


def test_one_single_cache_is_enough(planned: dict[str, Bundle]) -> None:
    plan = planned["shadowed"].plan
    phases = tuple(phase.model_copy(update={"caches": tuple(map(_single_in_layer_1, phase.caches))})
                   for phase in plan.phases)
    session, _ = session_of(planned["shadowed"], plan.model_copy(update={"phases": phases}), fpga=FailingDevice(3))
    with pytest.raises(ToolError, match=r"cache 'cache\.layers\.1\.indexer_keys' is single"):
        generate_greedy(session, PROMPT, TOKENS)


def _single_in_layer_1(cache: CacheSpec) -> CacheSpec:
    return cache.model_copy(update={"policy": "single"}) if "layers.1" in cache.name else cache


def test_the_second_device_may_fail_as_well_and_that_is_the_end(planned: dict[str, Bundle]) -> None:
    for gpu in (FailingDevice(4, code="HET-G002"), FailingDevice(60, code="HET-G002")):
        session, told = session_of(planned["shadowed"], fpga=FailingDevice(3), gpu=gpu)
        with pytest.raises(ToolError, match="failed on the gpu"):
            generate_greedy(session, PROMPT, TOKENS)
        assert len(told) <= 1


# ---- which devices may be lost


def test_what_may_be_lost_is_said_by_the_back_ends_and_is_in_the_plan(planned: dict[str, Bundle]) -> None:
    devices = device_set(CompileOptions(tiny("deepseek_v32", Phase.DECODE)))
    assert devices.losable == ("fpga",), "its driver says when it fails, and it is not the first device"
    mute: Any = {name: _Mute(name) for name in devices.supports}
    assert replace(devices, supports=mute).losable == ()
    named = {spec.name: (spec.fault_code, spec.may_be_lost) for spec in planned["single"].plan.devices}
    assert named == {"gpu": ("HET-G002", False), "fpga": ("HET-F002", True), "host": ("", False)}


@dataclass(frozen=True)
class _Mute:
    """A back end whose driver does not say when its device fails."""

    name: str
    fault_code: str = ""


@pytest.fixture
def either(captured: CapturedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A plan that either accelerator may be lost from."""
    monkeypatch.setattr(DeviceSet, "losable", ("gpu", "fpga"))
    options = CompileOptions(captured.request, choice=PlacementChoice(forced=FORCED, caches="shadowed"), emit="never",
                             robustness_samples=0)
    compile_captured(captured, options, tmp_path / "either", force=False, watch=Stopwatch())
    return Bundle(tmp_path / "either")


def test_any_device_of_the_list_may_be_lost_but_not_all_of_them(either: Bundle, undisturbed: list[int]) -> None:
    for phase in either.plan.phases:
        assert set(either.plan.stand_ins_of(phase)) == {"gpu", "fpga"}
        for device, stand_in in either.plan.stand_ins_of(phase).items():
            assert device not in {region.device for region in stand_in.regions}
        sent = {spec.device: spec.shadow_time_s for spec in phase.survival}
        shadows = [step for step in phase.steps if isinstance(step, TransferStep) and step.shadow]
        for device, sent_s in sent.items():
            assert sent_s == pytest.approx(sum(one.predicted_time_s for one in shadows if one.source == device))
        assert min(sent.values()) > 0
        priced = [step.predicted_time_s for step in phase.steps if isinstance(step, LaunchStep | TransferStep)]
        assert phase.prediction.latency_s == pytest.approx(sum(priced))
    for lost, code in (("gpu", "HET-G002"), ("fpga", "HET-F002")):
        session, told = session_of(either, **{lost: FailingDevice(13, code=code)})
        assert generate_greedy(session, PROMPT, TOKENS) == undisturbed
        assert len(told) == 1 and session.lost == {lost}
    session, told = session_of(either, gpu=FailingDevice(13, code="HET-G002"), fpga=FailingDevice(9))
    with pytest.raises(ToolError, match="the request cannot go on"):
        generate_greedy(session, PROMPT, TOKENS)
    assert len(told) == 1


# ---- emitted kernels on the emulator


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles with code, decode alone."""
    made = {}
    for caches in ("shadowed", "recomputable", "single"):
        options = CompileOptions(
            tiny("deepseek_v32", Phase.DECODE, num_hidden_layers=2), robustness_samples=0,
            choice=PlacementChoice(forced=FORCED, caches=caches),
            emission=EmissionOptions(("llvm-cpu",), verilog=False))
        made[caches] = hetcc.compile(options, tmp_path_factory.mktemp(caches) / "bundle")
    return made


def generated(bundle: Bundle, *faults: Fault) -> tuple[list[int], Session]:
    session = Session(bundle.files, bundle.plan, engines=Engines(faults=faults))
    return generate_greedy(session, PROMPT[:4], TOKENS), session


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_of_a_card_is_survived(
    emitted: dict[str, Bundle], capsys: pytest.CaptureFixture[str], kind: str,
) -> None:
    calm, _ = generated(emitted["single"])
    for caches, fault in zip(("shadowed", "recomputable"), faults_of(kind), strict=True):
        found, session = generated(emitted[caches], fault)
        assert found == calm
        recovery, = session.recoveries
        assert recovery.step == (fault.run - 1) // RUNS_PER_STEP
        assert {"hang": "did not end within", "timeout": "did not end within", "lost": "device is lost"}.get(
            kind, kind.upper()) in recovery.error
        assert recovery.error in capsys.readouterr().err


def faults_of(kind: str) -> Iterable[Fault]:
    return Fault(5, kind, late=True), Fault(2, kind)


@pytest.mark.parametrize("command", [("generate", "--ids", "3,10,17,24", "--tokens", "4"),
                                     ("run", "--steps", "3"), ("run", "--verify", "--steps", "3")])
def test_the_command_line_warns_and_reports_a_fault_of_the_card(
    emitted: dict[str, Bundle], command: tuple[str, ...],
) -> None:
    name, *words = command
    done = command_line(name, str(emitted["shadowed"].folder), *words, "--fault", "3:abort", "--json")
    assert done.code == 0, done.err
    recovery, = done.document["recoveries"]
    assert (recovery["device"], recovery["step"], recovery["variant"]) == ("fpga", 1, "decode-without-fpga")
    assert "warning: the fpga failed in step 1" in done.err
    if "--verify" in words:
        assert done.document["verified"]
    lost = command_line(name, str(emitted["single"].folder), *words, "--fault", "3:abort", "--json")
    assert lost.code == 6 and "HET-R004" in lost.out + lost.err


def test_the_error_of_a_card_reaches_the_caller(emitted: dict[str, Bundle]) -> None:
    with pytest.raises(ToolError, match="HET-R004") as caught:
        generated(emitted["single"], Fault(3, "abort"))
    assert "ERT_CMD_STATE_ABORT" in str(caught.value) and "is single" in str(caught.value)


def test_a_second_fault_of_a_card_that_is_out_of_use_is_never_met(emitted: dict[str, Bundle]) -> None:
    calm, _ = generated(emitted["single"])
    found, session = generated(emitted["shadowed"], Fault(3, "error"), Fault(4, "lost"))
    assert found == calm and len(session.recoveries) == 1


def test_the_bundle_and_the_summary_say_what_goes_on(emitted: dict[str, Bundle]) -> None:
    summary = emitted["shadowed"].summary["phases"]["decode"]["survival"][0]
    assert summary["device"] == "fpga" and summary["variant"] == "decode-without-fpga"
    assert emitted["single"].summary["phases"]["decode"]["survival"] == []
    assert "--caches shadowed" in emitted["shadowed"].files.read("repro.sh").decode()
