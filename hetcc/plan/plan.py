"""The runtime plan: what ``plan.json`` holds. Frozen, versioned, with a published JSON Schema (plan.schema.json)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetcc.errors import UserError

PLAN_VERSION = 1
Residency = Literal["weight", "cache", "transient"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Record):
    """A value with its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class DeviceSpec(_Record):
    """A device of the plan."""

    name: str = Field(description="gpu, fpga or host")
    profile: str = Field(description="name of the device profile, such as mi210")
    capacity_bytes: int = Field(description="memory of the device; 0 for the host, which is not limited")
    idle_w: float = Field(default=0.0, ge=0.0, description="power at rest, paid for as long as a step takes")
    fault_code: str = Field(default="", description="error code by which its driver says that it failed; empty: none")
    may_be_lost: bool = Field(
        default=False, description="a request can outlive it where the plan keeps caches shadowed or recomputable")


Policy = Literal["exact", "quantised:int8", "quantised:int16", "quantised:bf16"]


class RegionSpec(_Record):
    """A program that is launched as one, and what it does."""

    name: str
    device: str
    engine: str = Field(description="what executes it on this machine; says so when that is an emulation")
    entry: str = Field(description="path in the bundle of the file that is loaded; empty for the host")
    digest: str = Field(description="equal digests are interchangeable programs")
    nodes: tuple[str, ...] = Field(description="nodes of graph.json, rematerialised constants and views included")
    stages: dict[str, int] = Field(default_factory=dict, description="nodes per memory-pipeline stage")
    updates: tuple[tuple[str, str], ...] = Field(default=(), description="(cache, value) pairs updated in place")
    flops: int
    bytes_read: int
    bytes_written: int
    launch: Literal["start", "doorbell"] = Field(
        default="start", description="doorbell: the kernel runs all the time and is told when to look")
    policy: Policy = Field(
        default="exact", description="numeric policy: exact is fp32 compared with eager; another one was asked for")


class LaunchStep(_Record):
    """Run a region."""

    kind: Literal["launch"] = "launch"
    region: str
    stream: str
    waits: tuple[int, ...] = Field(default=(), description="steps that must have finished")
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    predicted_time_s: float
    launch_time_s: float = Field(default=0.0, description="the part of predicted_time_s the host spends on the call")
    predicted_energy_j: float = Field(default=0.0, description="above idle power")


class TransferStep(_Record):
    """Move a value to another device; the runtime picks the variant when it loads the plan."""

    kind: Literal["transfer"] = "transfer"
    value: str
    source: str
    destination: str
    size_bytes: int
    stream: str
    waits: tuple[int, ...] = ()
    variants: tuple[Literal["peer-to-peer", "host-staged", "argument"], ...]
    predicted_time_s: float
    predicted_energy_j: float = Field(default=0.0, description="above idle power")
    shadow: bool = Field(default=False, description="the value is a cache; only the rows that the step has appended "
                         "are sent, to the second copy of it (all of it where it changes in another way)")


class CommitStep(_Record):
    """At the end of a step, make a computed value the new contents of a cache that several regions read."""

    kind: Literal["commit"] = "commit"
    cache: str
    value: str
    device: str
    waits: tuple[int, ...] = ()


Step = Annotated[LaunchStep | TransferStep | CommitStep, Field(discriminator="kind")]


class BufferSpec(_Record):
    """Storage for a value on one device; live transient buffers never overlap."""

    value: str
    device: str
    residency: Residency
    size_bytes: int
    offset_bytes: int = Field(description="within the device's arena of this residency")
    first_step: int
    last_step: int


CachePolicy = Literal["single", "shadowed", "recomputable"]


class CacheSpec(_Record):
    """Where a cache lives and what that means when its device is lost."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    policy: CachePolicy = Field(
        description="single: one copy, lost with its device; shadowed: what is appended is sent to a second device as "
        "well; recomputable: made again from what the request has been fed")
    shadow: str = Field(default="", description="device of the second copy, if it is shadowed")


class Prediction(_Record):
    """What the cost model expects of one step, with the named GPU baseline."""

    baseline: str
    latency_s: float
    energy_j: float
    gpu_only_latency_s: float
    gpu_only_energy_j: float
    reconfiguration_s: float = Field(
        default=0.0, ge=0.0, description="part of latency_s: loading other xclbins, because not all kernels share one")


class RobustnessSpec(_Record):
    """How often the placement stays the best one found when every uncertain number moves within its range."""

    samples: int = Field(
        description="draws of all uncertain numbers, independent and uniform within low to high; none with a proof")
    seed: int
    stays_optimal: float = Field(description="share of the draws in which no better placement was found")
    low: float = Field(description="95 % Wilson interval of that share, lower end")
    high: float = Field(description="upper end")
    parameters: int = Field(description="uncertain numbers that were drawn")
    flips: tuple[tuple[str, float], ...] = Field(
        default=(), description="(number, share of its range's two ends at which it alone changes the placement)")
    proved: bool = Field(default=False, description="the placement is the best one for all values, by proof")


class PartitionSpec(_Record):
    """How good the placement is."""

    partitioner: str
    objective: float
    lower_bound: float
    gap: float
    robustness: RobustnessSpec | None = Field(default=None, description="absent: switched off, or somebody forced it")


class SurvivalSpec(_Record):
    """How a request goes on without a device, and what that costs."""

    device: str = Field(description="the device that may be lost")
    variant: str = Field(description="name of the plan among `stand_ins` that goes on in place of this one")
    shadow_time_s: float = Field(default=0.0, description="part of latency_s: rows sent to the second copies")
    recovery_time_s: float = Field(
        description="from the fault to the next result, caches full: second copies are sent, or all steps made again; "
        "then one step of the variant")


class PhasePlan(_Record):
    """One phase: what is fed, what comes out, and the steps between."""

    phase: str
    batch: int
    tokens: int = Field(description="tokens fed per sequence and step")
    context: int = Field(description="entries each cache holds")
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    observed: tuple[str, ...] = Field(default=(), description="selections that --verify compares")
    regions: tuple[RegionSpec, ...]
    steps: tuple[Step, ...]
    buffers: tuple[BufferSpec, ...]
    caches: tuple[CacheSpec, ...]
    memory_bytes: dict[str, int]
    prediction: Prediction
    partition: PartitionSpec
    survival: tuple[SurvivalSpec, ...] = Field(
        default=(), description="by device that may be lost; the loss of any other ends the request")


class Plan(_Record):
    """A whole bundle's plan."""

    schema_version: Literal[1] = 1
    model: str
    dtype: str
    targets: tuple[str, ...] = Field(description="GPU targets code was emitted for; empty for a planning-only bundle")
    fits: bool
    ignore_capacity: bool
    devices: tuple[DeviceSpec, ...]
    phases: tuple[PhasePlan, ...]
    stand_ins: tuple[PhasePlan, ...] = Field(
        default=(), description="plans that need one device less, for when it is lost; see `survival` of the phases")

    def phase(self, name: str) -> PhasePlan:
        """The plan of one phase.

        Raises:
            UserError: HET-B005, the bundle was compiled without that phase.
        """
        for phase in self.phases:
            if phase.phase == name:
                return phase
        raise UserError("HET-B005", f"the bundle has no phase '{name}'",
                        fix=f"it has {', '.join(phase.phase for phase in self.phases)}; compile with --phase {name}")

    def stand_ins_of(self, phase: PhasePlan) -> dict[str, PhasePlan]:
        """By lost device, the plan that goes on in place of a phase."""
        named = {one.phase: one for one in self.stand_ins}
        return {spec.device: named[spec.variant] for spec in phase.survival}

    @property
    def is_executable(self) -> bool:
        """Whether code was emitted, so that the plan can be run."""
        return bool(self.targets)


def plan_to_bytes(plan: Plan) -> bytes:
    """Canonical bytes of a plan."""
    return (json.dumps(plan.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


def plan_from_bytes(data: bytes, where: str) -> Plan:
    """Read and validate a plan.

    Raises:
        UserError: HET-B003, not a plan of this version; the text names the first wrong field.
    """
    try:
        return Plan.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise UserError("HET-B003", f"plan.json is not a valid plan: {field}: {first['msg']}", where=where,
                        fix="compile the model again") from error


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of ``plan.json``."""
    return {"$id": f"hetcc-plan-{PLAN_VERSION}", **Plan.model_json_schema()}
