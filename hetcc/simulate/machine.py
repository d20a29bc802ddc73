"""From the steps of a plan to tasks on the resources of a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hetcc.errors import UserError
from hetcc.plan.plan import LaunchStep, PhasePlan, Step, TransferStep
from hetcc.simulate.task import Schedule, Task

HOST_THREAD = "host thread"
_HOST = "host"


@dataclass(frozen=True)
class SimulationOptions:
    """How the machine is driven.

    Raises:
        UserError: HET-U001, a count below one.
    """

    requests: int = 1
    """Independent requests in flight, each with its own caches, all there from the start."""
    launch: Literal["blocking", "queued"] = "blocking"
    """``blocking``: the host starts a region when its operands are there. ``queued``: it runs ahead, so that the call
    hides behind earlier work."""
    gpu_streams: int = 1
    """Regions the GPU runs at the same time, each as fast as alone: more than one is optimistic."""
    fpga_kernels: int = 1
    """Different kernels the FPGA runs at the same time; equal regions share one."""
    host_threads: int = 1
    """Calls the host makes at the same time."""

    def __post_init__(self) -> None:
        for name in ("requests", "gpu_streams", "fpga_kernels", "host_threads"):
            if getattr(self, name) < 1:
                raise UserError("HET-U001", f"--{name.replace('_', '-')} is {getattr(self, name)}",
                                fix="give it a number of at least 1")


def schedule_of(plan: PhasePlan, options: SimulationOptions) -> Schedule:
    """The tasks of ``options.requests`` runs of a phase.

    A launch is two tasks: the call on the host thread, then the work on the device. Launches of one stream follow each
    other in the order of the plan; so do transfers of one direction. A transfer holds the outgoing port of its source
    and the incoming port of its destination, so transfers that share a port queue. Ports of the host do not queue: its
    memory serves both cards at once. Values that ride as arguments and commits take no time.

    Raises:
        UserError: HET-B003, a step waits for a later one or takes a time that is no time.
    """
    _check(plan)
    places = _places(plan, options)
    kernel_of: dict[str, str] = {}
    for region in plan.regions:
        if region.device == "fpga" and options.fpga_kernels > 1:
            kernel_of[region.name] = f"fpga kernel {region.digest[:8]}"
    builder = _Builder(plan, options, kernel_of)
    for request in range(options.requests):
        builder.add_request(request)
    return Schedule(tuple(builder.tasks), {**places, **dict.fromkeys(kernel_of.values(), 1)})


def _check(plan: PhasePlan) -> None:
    for position, step in enumerate(plan.steps):
        spent = () if step.kind == "commit" else (step.predicted_time_s, step.predicted_energy_j)
        if not all(0 <= wait < position for wait in step.waits) or not all(math.isfinite(one) for one in spent) \
                or (spent and spent[0] < 0):
            raise UserError("HET-B003", f"step {position} waits for {list(step.waits)} and takes {spent}",
                            where=f"plan.json, {plan.phase}", fix="compile the model again")


def _places(plan: PhasePlan, options: SimulationOptions) -> dict[str, int]:
    devices = sorted({region.device for region in plan.regions})
    width = {"gpu": options.gpu_streams, "fpga": options.fpga_kernels}
    ports = sorted({port for step in plan.steps if isinstance(step, TransferStep) for port in _ports(step)})
    return {HOST_THREAD: options.host_threads, **{device: width.get(device, 1) for device in devices},
            **dict.fromkeys(ports, 1)}


def _ports(step: TransferStep) -> tuple[str, ...]:
    ends = ((step.source, f"{step.source} out"), (step.destination, f"{step.destination} in"))
    return tuple(port for device, port in ends if device != _HOST)


class _Builder:
    def __init__(self, plan: PhasePlan, options: SimulationOptions, kernel_of: Mapping[str, str]) -> None:
        self.plan = plan
        self.options = options
        self.kernel_of = kernel_of
        self.tasks: list[Task] = []

    def add_request(self, request: int) -> None:
        """One run of all steps."""
        task_of: list[int] = []
        last: dict[str, int] = {}
        for position, step in enumerate(self.plan.steps):
            waits = {task_of[wait] for wait in step.waits}
            if step.kind != "commit" and step.stream in last:
                waits.add(last[step.stream])
            if isinstance(step, LaunchStep):
                self._add_launch(step, position, request, waits, last)
            else:
                self._add(_other_task(step, position, request, waits))
            task_of.append(len(self.tasks) - 1)
            if step.kind != "commit":
                last[step.stream] = task_of[-1]

    def _add(self, task: Task) -> int:
        self.tasks.append(task)
        return len(self.tasks) - 1

    def _add_launch(self, step: LaunchStep, position: int, request: int, waits: set[int],
                    last: dict[str, int]) -> None:
        queued = self.options.launch == "queued"
        call_s = min(step.launch_time_s, step.predicted_time_s)
        before = {last[HOST_THREAD]} if queued and HOST_THREAD in last else set()
        call = self._add(Task(f"call {step.region}", "call", call_s, (HOST_THREAD,) if call_s else (),
                              tuple(sorted(before if queued else waits)), request, position))
        last[HOST_THREAD] = call
        kernel = self.kernel_of.get(step.region)
        self._add(Task(step.region, "work", step.predicted_time_s - call_s,
                       (step.stream,) if kernel is None else (step.stream, kernel),
                       tuple(sorted({*waits, call})), request, position, step.predicted_energy_j))


def _other_task(step: Step, position: int, request: int, waits: set[int]) -> Task:
    if isinstance(step, TransferStep):
        holds = _ports(step) if step.predicted_time_s else ()
        return Task(f"{step.value} to {step.destination}", "transfer", step.predicted_time_s, holds,
                    tuple(sorted(waits)), request, position, step.predicted_energy_j)
    assert step.kind == "commit"
    return Task(f"commit {step.cache}", "commit", 0.0, (), tuple(sorted(waits)), request, position)
