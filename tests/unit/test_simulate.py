"""Simulating plans: what overlaps, what queues, what the trace and the timeline hold."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc.errors import InternalError, UserError
from hetcc.plan.plan import (
    CommitStep,
    DeviceSpec,
    LaunchStep,
    PartitionSpec,
    PhasePlan,
    Plan,
    Prediction,
    RegionSpec,
    Step,
    TransferStep,
)
from hetcc.simulate import Schedule, SimulationOptions, Task, simulate_phase
from hetcc.simulate.timeline import timeline_text
from hetcc.simulate.trace_events import trace_document, trace_text

from corpus.command_line import CommandResult, hetcc

CALL_S, GPU_S, FPGA_S, COPY_S = 1e-6, 10e-6, 20e-6, 3e-6


def plan_of(layers: int, *, with_fpga: bool = True) -> Plan:
    """A step of ``layers`` layers: GPU, copy, FPGA, copy back, GPU; every layer needs the one before."""
    steps: list[Step] = []
    regions: list[RegionSpec] = []

    def launch(device: str, time_s: float, waits: tuple[int, ...]) -> None:
        name = f"r{len(regions):05d}_{device}"
        regions.append(RegionSpec(name=name, device=device, engine="planned", entry="", digest=f"{device:0<64}",
                                  nodes=(), flops=0, bytes_read=0, bytes_written=0))
        steps.append(LaunchStep(region=name, stream=device, waits=waits, inputs=(), outputs=(),
                                predicted_time_s=time_s + CALL_S, launch_time_s=CALL_S, predicted_energy_j=1.0))

    def copy(source: str, destination: str, waits: tuple[int, ...]) -> None:
        steps.append(TransferStep(value="x", source=source, destination=destination, size_bytes=64, waits=waits,
                                  stream=f"{source}-to-{destination}", variants=("peer-to-peer",),
                                  predicted_time_s=COPY_S, predicted_energy_j=0.5))

    for _ in range(layers):
        launch("gpu", GPU_S, (len(steps) - 1,) if steps else ())
        if with_fpga:
            copy("gpu", "fpga", (len(steps) - 1,))
            launch("fpga", FPGA_S, (len(steps) - 1,))
            copy("fpga", "gpu", (len(steps) - 1,))
    steps.append(CommitStep(cache="c", value="x", device="gpu", waits=(len(steps) - 1,) if steps else ()))
    phase = PhasePlan(
        phase="decode", batch=2, tokens=1, context=8, inputs=(), outputs=(), regions=tuple(regions),
        steps=tuple(steps), buffers=(), caches=(), memory_bytes={},
        prediction=Prediction(baseline="tuned", latency_s=1.0, energy_j=1.0, gpu_only_latency_s=1.0,
                              gpu_only_energy_j=1.0),
        partition=PartitionSpec(partitioner="p", objective=1.0, lower_bound=1.0, gap=0.0))
    return Plan(model="m", dtype="float32", targets=(), fits=True, ignore_capacity=False, phases=(phase,), devices=(
        DeviceSpec(name="gpu", profile="g", capacity_bytes=1, idle_w=40.0),
        DeviceSpec(name="fpga", profile="f", capacity_bytes=1, idle_w=20.0)))


def test_a_chain_takes_the_sum_of_its_steps() -> None:
    simulation = simulate_phase(plan_of(3), "decode")
    whole_s = 3 * (GPU_S + FPGA_S + 2 * CALL_S + 2 * COPY_S)
    assert simulation.makespan_s == pytest.approx(whole_s)
    assert simulation.schedule.serial_s == pytest.approx(whole_s)
    assert simulation.dynamic_j == pytest.approx(3 * 2 + 3 * 2 * 0.5)
    assert simulation.idle_j == {"gpu": pytest.approx(40 * whole_s), "fpga": pytest.approx(20 * whole_s)}
    assert simulation.utilisation["fpga"] == pytest.approx(3 * FPGA_S / whole_s)


def test_requests_overlap_on_different_devices() -> None:
    one = simulate_phase(plan_of(8), "decode").makespan_s
    many = simulate_phase(plan_of(8), "decode", SimulationOptions(requests=4))
    assert many.makespan_s < 0.75 * 4 * one
    assert many.makespan_s >= 4 * 8 * FPGA_S  # the FPGA is the bottleneck and runs one thing at a time
    assert len(many.latencies_s) == 4 and max(many.latencies_s) == pytest.approx(many.makespan_s)
    document = many.to_json()
    assert document["kind"] == "simulated"
    assert document["throughput_sequences_per_s"] == pytest.approx(4 * 2 / many.makespan_s)
    assert next(iter(document["bottleneck"]["shares"])) == "work on fpga"


def test_queued_calls_hide_behind_work() -> None:
    blocking = simulate_phase(plan_of(6), "decode").makespan_s
    queued = simulate_phase(plan_of(6), "decode", SimulationOptions(launch="queued")).makespan_s
    assert queued == pytest.approx(blocking - (2 * 6 - 1) * CALL_S)


def test_one_stream_is_the_serial_sum() -> None:
    simulation = simulate_phase(plan_of(10, with_fpga=False), "decode", SimulationOptions(requests=1))
    assert simulation.makespan_s == pytest.approx(simulation.schedule.serial_s, rel=1e-12)


def test_equal_fpga_regions_share_one_kernel() -> None:
    options = SimulationOptions(requests=3, fpga_kernels=2)
    simulation = simulate_phase(plan_of(4), "decode", options)
    assert simulation.makespan_s >= 3 * 4 * FPGA_S
    assert [name for name in simulation.schedule.places if name.startswith("fpga kernel")] == ["fpga kernel fpga0000"]


def test_trace_is_a_trace_event_document() -> None:
    simulation = simulate_phase(plan_of(5), "decode", SimulationOptions(requests=3, gpu_streams=2))
    document = json.loads(trace_text(simulation))
    assert document == json.loads(json.dumps(trace_document(simulation)))
    assert document["otherData"]["kind"] == "simulated"
    names = {event["tid"]: event["args"]["name"] for event in document["traceEvents"] if event["name"] == "thread_name"}
    spans = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert spans and {"gpu 0", "gpu 1", "fpga", "gpu out"} <= set(names.values())
    for event in spans:
        assert event["tid"] in names and event["dur"] > 0 and event["ts"] >= 0 and event["pid"] == 1
    for tid in names:
        own = sorted((event["ts"], event["ts"] + event["dur"]) for event in spans if event["tid"] == tid)
        assert all(first[1] <= second[0] + 1e-6 for first, second in itertools.pairwise(own))
    assert trace_text(simulation) == trace_text(simulate_phase(plan_of(5), "decode", SimulationOptions(
        requests=3, gpu_streams=2)))


@pytest.mark.parametrize("width", [20, 60, 120])
def test_timeline_keeps_to_its_width(width: int) -> None:
    simulation = simulate_phase(plan_of(5), "decode", SimulationOptions(requests=2))
    lines = timeline_text(simulation, width).splitlines()
    rows = [line for line in lines if "|" in line]
    assert len(rows) == 7 and all("%" in line for line in rows)
    assert max(len(line) for line in rows) <= max(width, 36)


def test_nothing_to_do() -> None:
    simulation = simulate_phase(plan_of(0), "decode")
    assert simulation.makespan_s == 0.0
    assert simulation.to_json()["throughput_steps_per_s"] is None
    assert timeline_text(simulation, 80) == "nothing takes any time"


def test_a_damaged_plan_is_refused() -> None:
    plan = plan_of(2)
    phase = plan.phases[0]
    for change in ({"waits": (3,)}, {"predicted_time_s": -1.0}, {"predicted_time_s": float("nan")}):
        steps = (phase.steps[0], phase.steps[1].model_copy(update=change), *phase.steps[2:])
        damaged = plan.model_copy(update={"phases": (phase.model_copy(update={"steps": steps}),)})
        with pytest.raises(UserError, match="HET-B003"):
            simulate_phase(damaged, "decode")


@pytest.mark.parametrize("task", [
    Task("t", "work", 1.0, ("gpu",), (0,)), Task("t", "work", -1.0), Task("t", "work", 1.0, ("other",)),
    Task("t", "work", 1.0, ("gpu", "gpu")), Task("t", "work", float("inf"))])
def test_schedules_check_themselves(task: Task) -> None:
    with pytest.raises(InternalError):
        Schedule((task,), {"gpu": 1})


def test_options_check_themselves() -> None:
    with pytest.raises(UserError, match="HET-U001"):
        replace(SimulationOptions(), requests=0)


def test_sixty_one_layers_are_quick() -> None:
    start = time.process_time()
    simulate_phase(plan_of(61), "decode", SimulationOptions(requests=4, launch="queued")).to_json()
    assert time.process_time() - start < 2.0


def test_command(plan_bundle: tuple[Path, CommandResult], tmp_path: Path) -> None:
    """A bundle without code is simulated; the trace is written where it is wanted."""
    folder = plan_bundle[0]
    trace = tmp_path / "trace.json"
    done = hetcc("simulate", str(folder), "--requests", "2", "--trace", str(trace), "--json")
    assert done.code == 0, done.err
    document = done.document
    assert document["kind"] == "simulated"
    assert document["critical_path_s"] <= document["makespan_s"] <= document["serial_s"] * (1 + 1e-9)
    assert document["predicted"]["latency_s"] > 0
    assert json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    shown = hetcc("simulate", str(folder), "--launch", "queued")
    assert shown.code == 0 and "simulated" in shown.out and "time goes to" in shown.out
    refused = hetcc("simulate", str(folder), "--trace", str(tmp_path / "none" / "t.json"))
    assert refused.code == 2 and "HET-B001" in refused.err
