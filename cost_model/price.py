"""What work costs on a device: seconds, joules, what limits it, and how sure one is.

On a GPU or host, for the operators of one cluster run as one kernel:
``time = max(sum(flops / (peak x fraction)), sum(bytes / (bandwidth x fraction))) + launch + extra overhead``.
Peak is that of the matrix units for matrix products, attention and convolution, else that of the vector units.

On an FPGA the operators are stages that run at the same time:
``time = max(cycles of the slowest stage / clock, sum(bytes / (bandwidth x fraction))) + launch``, with multiply-adds
of all stages sharing the DSP slices (``DSP x usable share / DSP per multiply-add`` of them per cycle), and a fixed
number of scalars per cycle for every other stage. A sort takes ``log2(n)`` passes.

``energy = dynamic power x time``, the power by what limits the work; moving the bytes is part of that power. Idle
power is paid whether or not a plan uses the device, so it does not belong to any cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hetcc.cost_model.device import Baseline, Device, Streaming
from hetcc.cost_model.quantity import Corner, Provenance, Quantity, worst
from hetcc.cost_model.work import Work
from hetcc.ir import DType, OperatorClass

WorkItem = tuple[Work, OperatorClass, DType]
_MATRIX_CLASSES = frozenset({OperatorClass.MATMUL, OperatorClass.ATTENTION, OperatorClass.CONVOLUTION})
_STAND_IN = {
    DType.FLOAT8_E4M3FN: DType.FLOAT16, DType.FLOAT8_E5M2: DType.FLOAT16, DType.UINT8: DType.INT8,
    DType.BFLOAT16: DType.FLOAT16, DType.FLOAT16: DType.FLOAT32, DType.FLOAT64: DType.FLOAT32,
    DType.INT8: DType.INT16, DType.BOOL: DType.INT8,
}
"""The type a device without rates for a type computes in, tried in turn; for all others float32."""


class Bound(Enum):
    """What most of the time goes to."""

    LAUNCH = "launch"
    MEMORY = "memory"
    COMPUTE = "compute"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one cluster on one device."""

    time_s: float
    energy_j: float
    bound: Bound
    low_s: float
    """With every number at its fast end."""
    high_s: float
    """With every number at its slow end."""
    source: Provenance
    """The least certain number the likely time rests on."""


FREE = Price(0.0, 0.0, Bound.FREE, 0.0, 0.0, Provenance.MEASURED)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The three times a price is made of."""

    compute_s: float
    memory_s: float
    overhead_s: float

    @property
    def time_s(self) -> float:
        return max(self.compute_s, self.memory_s) + self.overhead_s

    @property
    def bound(self) -> Bound:
        if self.overhead_s > max(self.compute_s, self.memory_s):
            return Bound.LAUNCH
        return Bound.COMPUTE if self.compute_s > self.memory_s else Bound.MEMORY


def price(works: Sequence[WorkItem], device: Device, baseline: str | None = None) -> Price:
    """The price of operators that run as one kernel.

    Args:
        works: per operator its work, class and the type it computes in (``work.works_of``).
        device: where.
        baseline: which of the device's baselines; its default if absent.

    Returns:
        the price; ``FREE`` if there is neither arithmetic nor traffic.

    Raises:
        UserError: HET-M001 for an unknown baseline.
    """
    chosen = device.baseline(baseline)
    real = [item for item in works if not item[0].is_nothing]
    if not real:
        return FREE
    parts = {corner: _parts(real, device, chosen, corner) for corner in Corner}
    likely = parts[Corner.LIKELY]
    power = device.power.compute_bound_w if likely.bound is Bound.COMPUTE else device.power.memory_bound_w
    return Price(likely.time_s, likely.time_s * power.value, likely.bound, parts[Corner.FAST].time_s,
                 parts[Corner.SLOW].time_s, worst(_numbers(real, device, chosen, likely.bound)))


def region_launch(device: Device, baseline: str | None = None) -> Price:
    """The price of launching one region."""
    launch = device.baseline(baseline).region_launch_s
    return Price(launch.value, launch.value * device.power.memory_bound_w.value, Bound.LAUNCH, launch.low, launch.high,
                 launch.kind)


def _parts(works: Sequence[WorkItem], device: Device, baseline: Baseline, corner: Corner) -> _Parts:
    memory_s = overhead_s = 0.0
    bandwidth = device.memory.bandwidth_bytes_per_s.rate(corner)
    for work, operator_class, _ in works:
        achieved = baseline.achieved_by(operator_class)
        memory_s += work.bytes_moved / (bandwidth * achieved.bandwidth_fraction.rate(corner))
        if achieved.overhead_s is not None:
            overhead_s += achieved.overhead_s.delay(corner)
    if device.streaming is not None:
        compute_s = _streaming_s(works, device.streaming, corner)
    else:
        compute_s = sum(
            work.flops / (_peak(device, operator_class, dtype).rate(corner)
                          * baseline.achieved_by(operator_class).compute_fraction.rate(corner))
            for work, operator_class, dtype in works)
    return _Parts(compute_s, memory_s, baseline.kernel_launch_s.delay(corner) + overhead_s)


def _streaming_s(works: Sequence[WorkItem], streaming: Streaming, corner: Corner) -> float:
    """Time of the slowest stage; multiply-adds of all stages share the DSP slices."""
    dsp = streaming.dsp_count.rate(corner) * streaming.dsp_usable_fraction.rate(corner)
    product_cycles = slowest_cycles = 0.0
    for work, operator_class, dtype in works:
        if operator_class in _MATRIX_CLASSES:
            product_cycles += work.flops / 2 * _lookup(streaming.dsp_per_mac, dtype).delay(corner) / dsp
        elif operator_class is OperatorClass.TOPK:
            slowest_cycles = max(slowest_cycles, work.elements / streaming.topk_elements_per_cycle.rate(corner))
        elif operator_class is OperatorClass.SORT:
            passes = math.ceil(math.log2(max(work.elements, 2)))
            slowest_cycles = max(slowest_cycles,
                                 passes * work.elements / streaming.sort_elements_per_cycle.rate(corner))
        else:
            slowest_cycles = max(slowest_cycles, work.elements / streaming.elements_per_cycle.rate(corner))
    return max(product_cycles, slowest_cycles) / streaming.clock_hz.rate(corner)


def _peak(device: Device, operator_class: OperatorClass, dtype: DType) -> Quantity:
    matrix = operator_class in _MATRIX_CLASSES
    return _lookup(device.matrix_flops_per_s if matrix else device.vector_flops_per_s, dtype)


def _lookup(rates: dict[DType, Quantity], dtype: DType) -> Quantity:
    """The rate of a type, or of the type that stands in for it."""
    while dtype not in rates:
        dtype = _STAND_IN.get(dtype, DType.FLOAT32)
    return rates[dtype]


def _numbers(works: Sequence[WorkItem], device: Device, baseline: Baseline, bound: Bound) -> list[Quantity]:
    """The numbers that decide the likely time."""
    if bound is Bound.LAUNCH:
        extra = [baseline.achieved_by(operator_class).overhead_s for _, operator_class, _ in works]
        return [baseline.kernel_launch_s, *(number for number in extra if number is not None)]
    if bound is Bound.MEMORY:
        return [device.memory.bandwidth_bytes_per_s,
                *(baseline.achieved_by(operator_class).bandwidth_fraction for _, operator_class, _ in works)]
    if device.streaming is not None:
        return [device.streaming.clock_hz, device.streaming.dsp_usable_fraction,
                *(_lookup(device.streaming.dsp_per_mac, dtype) for _, _, dtype in works)]
    return [number for _, operator_class, dtype in works
            for number in (_peak(device, operator_class, dtype), baseline.achieved_by(operator_class).compute_fraction)]
