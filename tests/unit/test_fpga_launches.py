"""Kernels that are started, and kernels that run all the time and are told by a doorbell: prices and runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.rtl.simulation.kernel_simulation import KernelRun
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.xrt.emulator import EmulatedXrt
from hetcc.backends.fpga.xrt.faults import Fault, FaultyXrt
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest
from hetcc.cost_model.device import load_device
from hetcc.cost_model.price import region_launch
from hetcc.errors import ToolError, UserError
from hetcc.options import FPGA_LAUNCHES, CompileOptions, PlacementChoice
from hetcc.passes.estimate import DeviceSet
from hetcc.passes.robustness import robustness
from hetcc.pipeline import compile_captured, device_set
from hetcc.plan.plan import LaunchStep
from hetcc.report.repro import repro_script
from hetcc.report.verification import verification_table
from hetcc.runtime.devices import EmulatedFpga, SimulatedFpga
from hetcc.runtime.trace import Coverage, RunTrace, StepRecord
from hetcc.runtime.verify import SelectionComparison, Verification, simulated_in
from hetcc.stopwatch import Stopwatch

from corpus import doors

CARDS = ("u55c", "u280", "v80", "vu47p")


@pytest.mark.parametrize("name", CARDS)
def test_a_doorbell_costs_less_than_a_start_and_is_less_certain(name: str) -> None:
    card = load_device(name)
    for baseline in card.baselines:
        started, rung = region_launch(card, baseline), region_launch(card, baseline, by_doorbell=True)
        assert 0 < rung.low_s < rung.time_s < rung.high_s
        assert rung.time_s < started.time_s and rung.energy_j < started.energy_j
        assert rung.high_s / rung.low_s > started.high_s / started.low_s


def test_devices_without_doorbells_are_launched_as_ever() -> None:
    gpu = load_device("mi210")
    assert region_launch(gpu, by_doorbell=True) == region_launch(gpu)


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    captured = capture(CaptureRequest(f"{doors.__file__}:sparse_block"))
    return {launch: compile_captured(captured, options(captured.request, launch), None, force=False, watch=Stopwatch())
            for launch in FPGA_LAUNCHES}


def options(request: CaptureRequest, launch: str) -> CompileOptions:
    return CompileOptions(request, choice=PlacementChoice(forced=(("relevancy", "fpga"),)), emit="never",
                          robustness_samples=0, fpga_launch=launch)


def test_the_plan_pays_for_the_launch_that_was_chosen(compiled: dict[str, Any]) -> None:
    card = load_device("u55c")
    started, rung = (compiled[launch].plan.phase("decode") for launch in FPGA_LAUNCHES)
    saved_s = region_launch(card).time_s - region_launch(card, by_doorbell=True).time_s
    count = sum(region.device == "fpga" for region in started.regions)
    assert count > 0 and saved_s > 0
    assert rung.prediction.latency_s == pytest.approx(started.prediction.latency_s - count * saved_s)
    assert {region.launch for region in rung.regions if region.device == "fpga"} == {"doorbell"}
    assert {region.launch for region in rung.regions if region.device != "fpga"} == {"start"}
    assert {region.launch for region in started.regions} == {"start"}
    where = {region.name: region.device for region in rung.regions}
    spent = {step.launch_time_s for step in rung.steps if isinstance(step, LaunchStep) and where[step.region] == "fpga"}
    assert spent == {region_launch(card, by_doorbell=True).time_s}


def test_robustness_draws_the_launch_in_use(compiled: dict[str, Any]) -> None:
    phase = compiled["doorbell"].phases[0]
    rung = device_set(options(phase.request, "doorbell"))
    found = robustness(phase.table, phase.placement, rung, samples=2)
    assert found.parameters == robustness(compiled["start"].phases[0].table, phase.placement,
                                          replace(rung, by_doorbell=False), samples=2).parameters


def test_a_profile_without_the_price_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_device("u55c")
    bare = card.model_copy(update={"baselines": {
        name: one.model_copy(update={"doorbell_launch_s": None}) for name, one in card.baselines.items()}})
    monkeypatch.setattr("hetcc.pipeline.load_device", lambda name: bare if name == "u55c" else load_device(name))
    with pytest.raises(UserError, match="HET-M001"):
        device_set(options(CaptureRequest("m", ()), "doorbell"))
    assert isinstance(device_set(options(CaptureRequest("m", ()), "start")), DeviceSet)


def test_the_choice_is_checked_and_repeated() -> None:
    assert "--fpga-launch doorbell" in repro_script(options(CaptureRequest("m", ()), "doorbell"))
    assert "--fpga-launch" not in repro_script(options(CaptureRequest("m", ()), "start"))
    with pytest.raises(UserError, match="HET-U001"):
        options(CaptureRequest("m", ()), "bell")


REGION = sample.weighted_scan(1, 1, 2, 4, 16, 4)


def arguments(position: int) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(position)
    found = {name: random.standard_normal(REGION.type_of(name).shape).astype(numpy.float32)
             for name in (*REGION.inputs, *REGION.caches)}
    return {**found, "positions": numpy.array([position], numpy.int64)}


def test_rung_kernels_give_what_started_ones_give() -> None:
    files = emit(REGION, "region").files
    started, rung = (load_program(files, REGION, EmulatedXrt) for _ in range(2))
    rung.by_doorbell = True
    for position in (3, 4, 3):
        expected, found = started.run(arguments(position)), rung.run(arguments(position))
        assert all(numpy.array_equal(found[name], value) for name, value in expected.items())
    assert rung.executed_stages == started.executed_stages
    with pytest.raises(UserError, match="outside its table"):
        rung.run(arguments(16))
    assert rung.run(arguments(5)).keys() == expected.keys()


@pytest.mark.parametrize(("kind", "text"), [("error", "ERT_CMD_STATE_ERROR"), ("abort", "ERT_CMD_STATE_ABORT"),
                                            ("lost", "device is lost")])
def test_a_kernel_that_fails_while_it_listens_is_a_coded_error(kind: str, text: str) -> None:
    rung = load_program(emit(REGION, "region").files, REGION, FaultyXrt([Fault(2, kind)]))
    rung.by_doorbell = True
    rung.run(arguments(1))
    with pytest.raises(ToolError, match="HET-F002") as caught:
        rung.run(arguments(2))
    assert text in str(caught.value)


def test_the_runtime_rings_where_the_plan_says_so() -> None:
    device = EmulatedFpga()
    made = emit(REGION, "decode/r0")
    region = replace(REGION, name="decode/r0")
    device.load(region, {f"fpga/{path}": content for path, content in made.files.items()}, f"fpga/{made.entry}")
    spec = type("Spec", (), {"device": "fpga", "launch": "doorbell", "name": "r0"})
    phase: Any = type("Phase", (), {"phase": "decode", "regions": [spec]})
    device.schedule(phase)
    for name, content in arguments(3).items():
        device.put(name, content)
    device.launch("decode/r0")
    program, _ = device.programs["decode/r0"]
    assert program._driver.is_listening and program.runs == 1


def simulated_device(monkeypatch: pytest.MonkeyPatch, launch: str) -> SimulatedFpga:
    """A loaded kernel whose simulator is the functional model: 1,000 cycles when started, 100 when rung."""
    def run(graph: StageGraph, views: Any, _: Any, *, persistent: bool = False) -> KernelRun:
        assert execute(graph, views)
        return KernelRun((100 if persistent else 1000,), 7, 0, (), ())

    monkeypatch.setattr("hetcc.backends.fpga.xrt.simulated.run_kernel", run)
    monkeypatch.setattr("hetcc.backends.fpga.xrt.simulated.tools.require", lambda _: None)
    monkeypatch.setattr("hetcc.backends.fpga.xrt.simulated.build_kernel", lambda *_, **__: None)
    device, made = SimulatedFpga(), emit(REGION, "decode/r0")
    files = {f"fpga/{path}": content for path, content in made.files.items()}
    files[f"fpga/{made.entry.rpartition('/')[0]}/kernel.v"] = b""
    device.load(replace(REGION, name="decode/r0"), files, f"fpga/{made.entry}")
    device.programs["decode/r0"][0].by_doorbell = launch == "doorbell"
    for name, content in arguments(3).items():
        device.put(name, content)
    return device


def test_simulated_cycles_are_those_of_the_launch_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for launch, cycles in (("start", 1000), ("doorbell", 100), ("start", 1000)):
        device = simulated_device(monkeypatch, launch)
        for _ in range(2):
            evidence = device.launch("decode/r0")
            assert (evidence.simulated_cycles, evidence.by_doorbell) == (cycles, launch == "doorbell")
        device.close()


def record(cycles: int, *, rung: bool) -> StepRecord:
    return StepRecord(0, "launch", "r0", "fpga", 0.0, "engine", simulated_cycles=cycles, by_doorbell=rung)


@pytest.mark.parametrize(("rung", "text"), [
    ((False, False), "2 runs of kernels, 12,000 cycles"),
    ((True, True), "2 runs by doorbell, 12,000 cycles from doorbell to answer"),
    ((False, True), "1 runs of kernels, 5,000 cycles; 1 runs by doorbell, 7,000 cycles from doorbell to answer"),
])
def test_both_kinds_of_cycles_are_reported_apart(rung: tuple[bool, bool], text: str) -> None:
    plan: Any = None
    trace = RunTrace(plan, {}, {}, (record(5000, rung=rung[0]), record(7000, rung=rung[1]), record(0, rung=True)))
    counted = simulated_in([trace])
    assert counted == (2, 12000, sum(rung), 5000 * rung[0] + 7000 * rung[1])
    assert (trace.simulated_cycles, trace.doorbell_cycles) == (counted[1], counted[3])
    found = Verification("decode", 1, 0.0, 1e-4, SelectionComparison(), Coverage({}, {}, ()), {}, 0.0, (), *counted)
    assert text in verification_table([found])
    assert found.to_json()["simulated"] == {"kernel_runs": 2, "cycles": 12000, "doorbell_runs": counted[2],
                                            "doorbell_cycles": counted[3]}
