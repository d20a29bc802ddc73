"""What happened in a run: measured on this machine, never mixed with predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from hetcc.errors import UserError
from hetcc.plan.plan import PhasePlan
from hetcc.runtime.survival import Recovery

REQUIRED_FLOPS = 0.95
REQUIRED_BYTES = 0.90
NOT_COUNTED = -1


class StepRecord(NamedTuple):
    """One executed step; a tuple, because one is made for every launch and frozen dataclasses take much longer."""

    position: int
    kind: str
    what: str
    device: str
    measured_time_s: float
    engine: str = ""
    flops: int = 0
    bytes_moved: int = 0
    stages_executed: int = 0
    torch_operators: int = 0
    """Torch operators that ran during the step; on the GPU and FPGA there must be none. Or ``NOT_COUNTED``."""
    simulated_cycles: int = 0
    """Cycles of simulated hardware; 0 where nothing was simulated."""
    by_doorbell: bool = False
    """Whether a kernel that listens was rung: its cycles are those from the doorbell to the answer, and from ap_start
    to the interrupt otherwise."""


@dataclass(frozen=True)
class Coverage:
    """Which share of the counted work ran on which device."""

    flops: Mapping[str, float]
    bytes_moved: Mapping[str, float]
    problems: tuple[str, ...]
    """What contradicts the plan; empty when everything ran where it was planned."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"flops": dict(self.flops), "bytes": dict(self.bytes_moved), "problems": list(self.problems),
                "required": {"flops": REQUIRED_FLOPS, "bytes": REQUIRED_BYTES}}

    def require(self, where: str) -> None:
        """Refuse a run that did too little on the accelerators.

        Raises:
            UserError: HET-R003.
        """
        if self.problems:
            raise UserError("HET-R003", "; ".join(self.problems), where=where,
                            fix="`hetcc explain BUNDLE NODE` says why nodes were kept from the accelerators")


@dataclass(frozen=True)
class RunTrace:
    """Results and records of one step of a phase."""

    plan: PhasePlan
    outputs: Mapping[str, numpy.ndarray]
    observed: Mapping[str, numpy.ndarray]
    """Selected indices by value name."""
    records: tuple[StepRecord, ...]
    recovery: Recovery | None = None
    """Present if a device was lost in this step and another plan went on."""

    @property
    def measured_time_s(self) -> float:
        """Wall time of all steps, on emulated devices: says nothing about real ones."""
        return sum(record.measured_time_s for record in self.records)

    @property
    def simulated_cycles(self) -> int:
        """Cycles of all simulated kernels, those that were started and those that were rung."""
        return sum(record.simulated_cycles for record in self.records)

    @property
    def doorbell_cycles(self) -> int:
        """What of ``simulated_cycles`` is from doorbells to their answers."""
        return sum(record.simulated_cycles for record in self.records if record.by_doorbell)

    def coverage(self) -> Coverage:
        """Count where the work ran, from what the devices reported."""
        launches = [record for record in self.records if record.kind == "launch"]
        total_flops = sum(record.flops for record in launches) or 1
        total_bytes = sum(record.bytes_moved for record in launches) or 1
        flops: dict[str, float] = {}
        moved: dict[str, float] = {}
        for record in launches:
            flops[record.device] = flops.get(record.device, 0.0) + record.flops / total_flops
            moved[record.device] = moved.get(record.device, 0.0) + record.bytes_moved / total_bytes
        problems = [f"{share:.1%} of {what} ran on the emulated accelerators, less than {required:.0%}"
                    for what, shares, required in (("flops", flops, REQUIRED_FLOPS), ("bytes", moved, REQUIRED_BYTES))
                    if (share := 1.0 - shares.get("host", 0.0)) < required]
        for record in launches:
            if record.torch_operators == NOT_COUNTED:
                problems.append(f"torch operators were not counted inside {record.what}")
            elif record.device != "host" and record.torch_operators:
                problems.append(f"torch ran {record.torch_operators} operators inside {record.what} ({record.device})")
            if record.device == "fpga" and not record.stages_executed:
                problems.append(f"{record.what} was not executed by the stage interpreter")
        return Coverage(flops, moved, tuple(problems))
