"""The records of a device profile: what may stand in ``devices/*.toml``, and what has to hold between the numbers.

Nothing here reads files (``device``) or prices anything (``gpu``, ``fpga``, ``energy``). A profile written by a program
has the same form as one written by hand: every number of a record is a ``Quantity``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

from pydantic import Field, model_validator

from hetcc.cost_model.quantity import Corner, Quantity, Record
from hetcc.errors import UserError
from hetcc.ir import DType, OperatorClass

DEFAULT = "default"
PROJECTION = "projection"
"""A matrix product one of whose operands is a weight: the work of a library, unlike products of activations."""
COST_CLASSES = frozenset({DEFAULT, PROJECTION, *(item.value for item in OperatorClass)})
"""What a baseline may say fractions for: operator classes, projections, and ``default`` for all others."""


class DeviceKind(Enum):
    """What a device is; links and back ends go by it."""

    GPU = "gpu"
    FPGA = "fpga"
    HOST = "host"


class Memory(Record):
    """The memory weights and caches live in, and the fast memory beside the arithmetic."""

    capacity_bytes: Quantity
    bandwidth_bytes_per_s: Quantity
    on_chip_bytes: Quantity = Field(description="last-level cache; on an FPGA block and ultra RAM together")
    on_chip_bandwidth_bytes_per_s: Quantity | None = Field(
        default=None, description="reads of what the last-level cache holds; absent: nothing is taken to be held")
    on_chip_usable_fraction: Quantity | None = Field(
        default=None, description="share of the last-level cache that holds what was touched last; absent: none")

    @model_validator(mode="after")
    def _check_cache(self) -> Memory:
        near = self.on_chip_bandwidth_bytes_per_s
        for corner in Corner:
            if near is not None and near.rate(corner) < self.bandwidth_bytes_per_s.rate(corner):
                raise ValueError(f"the cache is slower than the memory at the {corner.value} end")
        return self


class Power(Record):
    """Where energy goes: at rest, while anything runs, per byte, and by arithmetic."""

    idle_w: Quantity = Field(description="paid whether the device works or not")
    active_w: Quantity = Field(description="added while a kernel runs, whatever it does")
    joules_per_byte: Quantity = Field(description="added per byte to or from memory")
    joules_per_on_chip_byte: Quantity = Field(description="added per byte read from on-chip memory")
    arithmetic_w: dict[str, Quantity] = Field(
        description="added when the arithmetic of a class runs at the peak of its element type; by operator class, "
                    "'default' for all others")
    memory_bound_w: Quantity = Field(
        description="draw above idle seen while memory limits: a data point the prices are tested against")
    compute_bound_w: Quantity = Field(description="the same while arithmetic limits")

    @model_validator(mode="after")
    def _check_classes(self) -> Power:
        _check_keys("arithmetic_w", self.arithmetic_w)
        return self


class SizePoint(Record):
    """How much of a fraction is reached at one size."""

    at: int = Field(gt=0, description="bytes, or flops")
    factor: Quantity = Field(description="times the fraction; between sizes a power law, beyond the ends constant")


class Skinny(Record):
    """Matrix products with few rows or columns, which read a matrix once and have kernels of their own."""

    rows: Quantity = Field(description="rows at which half of the advantage is gone")
    bandwidth_fraction: Quantity = Field(description="with one row; not below the fraction of other products")


class Achieved(Record):
    """What operators of one class reach of the peak."""

    bandwidth_fraction: Quantity
    compute_fraction: Quantity
    overhead_s: Quantity | None = Field(default=None, description="added per operator beside the launch; absent: none")
    latency_s: Quantity | None = Field(
        default=None, description="from the start of a kernel to its first result and from its last operand to its "
                                  "end; once per kernel, the largest of its operators; absent: none")
    skinny: Skinny | None = None
    cache_share: Quantity | None = Field(
        default=None, description="how much of the cache's gain over memory reaches the operators: 0 for those whose "
                                  "way of reading is as slow from either; at most 1; absent: 1")
    bandwidth_by_size: tuple[SizePoint, ...] = Field(default=(), description="over bytes; absent: all sizes alike")
    compute_by_size: tuple[SizePoint, ...] = Field(default=(), description="over flops; absent: all sizes alike")

    @model_validator(mode="after")
    def _check_monotone(self) -> Achieved:
        """More bytes or flops must not take less time, whichever end of the ranges is used."""
        if self.skinny is not None:
            for corner in Corner:
                if self.skinny.bandwidth_fraction.rate(corner) < self.bandwidth_fraction.rate(corner):
                    raise ValueError(f"skinny products reach less than others at the {corner.value} end")
        for points in (self.bandwidth_by_size, self.compute_by_size):
            for corner in Corner:
                times = [point.at / max(point.factor.rate(corner), 1e-300) for point in points]
                sizes = [point.at for point in points]
                if times != sorted(times) or sizes != sorted(set(sizes)):
                    raise ValueError(f"sizes must rise, and time with them; not so at the {corner.value} end")
            if any(point.factor.low <= 0 for point in points):
                raise ValueError("a factor must be positive")
        return self


class Tiles(Record):
    """How matrix products are cut into pieces that run on one compute unit each."""

    rows: Quantity
    columns: Quantity
    granule: Quantity = Field(description="smallest tile side: what the matrix instructions take")
    split_depth: Quantity = Field(description="least sum length worth a piece of its own")
    ramp: Quantity = Field(description="share of a wave after which it costs a whole one; 1: no quantisation")


class Baseline(Record):
    """One way of programming the device, said by name."""

    description: str
    kernel_launch_s: Quantity = Field(description="per cluster, put into a stream one by one")
    replayed_launch_s: Quantity | None = Field(
        default=None, description="per cluster, replayed from a recorded graph; present if regions are recorded")
    region_launch_s: Quantity = Field(description="per region: host call and completion")
    doorbell_launch_s: Quantity | None = Field(
        default=None, description="per region of a kernel that runs all the time: a word written, an answer read; "
                                  "absent: there are no such kernels")
    overlap_exponent: Quantity | None = Field(
        default=None, description="p of (memory^p + compute^p)^(1/p): 1 is no overlap; absent: perfect overlap")
    tiles: Tiles | None = Field(default=None, description="absent: products are not cut into tiles")
    keeps_index: bool = Field(default=False, description="streaming: an index that fits stays in on-chip memory")
    achieved: dict[str, Achieved] = Field(
        description="by operator class; 'projection' for products with a weight; 'default' for all others")

    @model_validator(mode="after")
    def _check_classes(self) -> Baseline:
        _check_keys("achieved", self.achieved)
        if self.overlap_exponent is not None and self.overlap_exponent.low < 1:
            raise ValueError("overlap_exponent is below 1: two things at once would take longer than one by one")
        return self

    @property
    def launch_s(self) -> Quantity:
        """What one cluster pays to start inside a region that is already running."""
        return self.replayed_launch_s if self.replayed_launch_s is not None else self.kernel_launch_s

    def achieved_by(self, operator_class: OperatorClass, *, is_projection: bool = False) -> Achieved:
        """The fractions of a class."""
        if is_projection and PROJECTION in self.achieved:
            return self.achieved[PROJECTION]
        return self.achieved.get(operator_class.value, self.achieved[DEFAULT])


class Streaming(Record):
    """An FPGA as streaming stages: what a stage takes per cycle, and what there is to build stages of."""

    clock_hz: Quantity
    dsp_count: Quantity
    dsp_usable_fraction: Quantity = Field(description="what routing leaves of the DSP slices")
    lut_count: Quantity
    bram36_count: Quantity
    uram_count: Quantity
    memory_usable_fraction: Quantity = Field(description="what routing leaves of block and ultra RAM")
    regions: Quantity = Field(description="dies that only a few wires join; 1: none")
    hbm_ports: Quantity
    ports_per_kernel: Quantity = Field(description="ports one kernel spreads its reads and writes over")
    port_bytes_per_cycle: Quantity
    bram_bytes_per_cycle: Quantity = Field(description="per block, both of its ports read")
    uram_bytes_per_cycle: Quantity = Field(description="per block, both of its ports read")
    initiation_interval: Quantity = Field(description="cycles between two inputs of a stage that is pipelined well")
    fill_cycles: Quantity = Field(description="of one stage: from its first input to its first output")
    drain_cycles_per_selected: Quantity = Field(description="writing out one selected entry after the last score")
    elements_per_cycle: Quantity
    topk_elements_per_cycle: Quantity
    sort_elements_per_cycle: Quantity
    reconfiguration_s: Quantity = Field(description="loading another set of kernels")
    dsp_per_mac: dict[DType, Quantity]
    lut_per_mac: dict[DType, Quantity]


class Device(Record):
    """A device profile."""

    schema_name: Literal["hetcc-device/1"] = Field(alias="schema")
    name: str
    title: str
    kind: DeviceKind
    code_target: str = Field(default="", description="GPU target whose code it runs; empty: none is generated")
    default_baseline: str
    compute_units: Quantity | None = Field(default=None, description="what tiles are spread over; absent: one")
    memory: Memory
    matrix_flops_per_s: dict[DType, Quantity] = Field(description="peak of matrix units; empty if streaming")
    vector_flops_per_s: dict[DType, Quantity] = Field(description="peak of everything else; empty if streaming")
    power: Power
    streaming: Streaming | None = None
    baselines: dict[str, Baseline]

    @model_validator(mode="after")
    def _check_parts(self) -> Device:
        if self.default_baseline not in self.baselines:
            raise ValueError(f"default_baseline '{self.default_baseline}' is not one of {sorted(self.baselines)}")
        rates = (self.matrix_flops_per_s, self.vector_flops_per_s)
        if self.streaming is None and not all(DType.FLOAT32 in rate for rate in rates):
            raise ValueError("a device that is not streaming needs matrix and vector peaks, float32 at least")
        per_mac = (self.streaming.dsp_per_mac, self.streaming.lut_per_mac) if self.streaming is not None else ()
        if not all(DType.FLOAT32 in costs for costs in per_mac):
            raise ValueError("streaming.dsp_per_mac and lut_per_mac need float32 at least")
        return self

    @property
    def capacity_bytes(self) -> int:
        """Memory for weights and caches."""
        return int(self.memory.capacity_bytes.value)

    def baseline(self, name: str | None = None) -> Baseline:
        """A baseline by name, or the default one.

        Raises:
            UserError: HET-M001 for an unknown name.
        """
        if name is not None and name not in self.baselines:
            raise UserError("HET-M001", f"device '{self.name}' has no baseline '{name}'; it has "
                                        f"{', '.join(sorted(self.baselines))}", where=self.name)
        return self.baselines[name or self.default_baseline]


def _check_keys(field: str, table: Mapping[str, object]) -> None:
    if DEFAULT not in table or not COST_CLASSES.issuperset(table):
        raise ValueError(f"{field} has 'default' and otherwise operator classes, not {sorted(table)}")


__all__ = ["COST_CLASSES", "DEFAULT", "PROJECTION", "Achieved", "Baseline", "Device", "DeviceKind", "Memory", "Power",
           "SizePoint", "Skinny", "Streaming", "Tiles"]
