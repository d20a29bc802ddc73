"""What work costs on a device of streaming stages.

The operators of a cluster are stages that run at the same time, one input per ``initiation interval``::

    time   = fill of the first stage + (stages - 1) x fill cycles + selected x drain cycles
             + max(cycles of the slowest stage / clock, bytes from HBM / bandwidth, resident bytes / on-chip rate)
    lanes  = min(DSP x usable / DSP per multiply-add, LUT x usable / LUT per multiply-add), shared by all products
    bandwidth = min(HBM bandwidth x fraction, ports per kernel x bytes per cycle x clock) / kernels at the same time

The type of a multiply-add is the one the hardware has it in (``Work.factors``), else the model's. A sort takes
``log2(n)`` passes. An index that is kept on chip (block RAM first, then ultra RAM, the rest in HBM) is read from all
its blocks at once, each at so many bytes per cycle; an index of few blocks is spread over more of them, so that
reading it never takes longer than from HBM. ``backends/fpga/costs/cycles.py`` has closed forms for hardware that has
been composed; these are for hardware that has not, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from hetcc.cost_model.elementwise import larger, smaller
from hetcc.cost_model.gpu import lookup
from hetcc.cost_model.parts import MATRIX_CLASSES, Parts, WorkItem
from hetcc.cost_model.profile import Baseline, Device, Streaming
from hetcc.cost_model.quantity import Corner, Quantity
from hetcc.errors import InternalError
from hetcc.ir import DType, OperatorClass

BRAM_BYTES = 36 * 1024 // 8
URAM_BYTES = 288 * 1024 // 8


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One streaming stage at the likely numbers."""

    operator_class: OperatorClass
    interval_cycles: float
    """Between two inputs."""
    lanes: float
    """Multiply-adds, or scalars, per cycle."""
    cycles: float
    dsp: float
    lut: float
    memory: str
    """Where its largest operand lies: ``bram``, ``uram``, ``hbm``, or ``none`` if nothing is read."""


@dataclass(frozen=True, slots=True)
class StreamingEstimate:
    """A cluster as hardware: its stages and what they occupy."""

    stages: tuple[StageEstimate, ...]
    fill_cycles: float
    ports: int
    dsp: float
    lut: float
    bram36: int
    uram: int
    occupied: float
    """The largest share of a resource that routing leaves, over all resources; above 1 it does not fit."""


def streaming_parts(works: Sequence[WorkItem], device: Device, baseline: Baseline, corner: Corner, *,
                    concurrent_kernels: int = 1) -> Parts:
    """The times of one streaming kernel at one end of all ranges.

    Args:
        works: stages that do something, each with its class and the type it computes in.
        device: a device with a ``streaming`` section.
        baseline: one of its baselines.
        corner: which end of every range.
        concurrent_kernels: kernels that use the memory ports at the same time, this one included.
    """
    streaming = _streaming(device)
    clock_hz = streaming.clock_hz.rate(corner)
    cycles = larger(*_cycles(works, streaming, corner))
    near = baseline.keeps_index
    bandwidth = smaller(device.memory.bandwidth_bytes_per_s.rate(corner), clock_hz
                        * streaming.ports_per_kernel.rate(corner) * streaming.port_bytes_per_cycle.rate(corner))
    share = bandwidth / max(concurrent_kernels, 1)
    far_s = all_far_s = near_cycles = 0.0
    for work, operator_class, _ in works:
        rate = smaller(device.memory.bandwidth_bytes_per_s.rate(corner) / max(concurrent_kernels, 1)
                       * baseline.achieved_by(operator_class).bandwidth_fraction.rate(corner), share)
        kept = min(sum(work.resident), work.bytes_moved) if near else 0
        far_s += (work.bytes_moved - kept) / rate
        all_far_s += work.bytes_moved / rate
        near_cycles = larger(near_cycles, _near_cycles(work.resident, streaming, corner) if kept else 0.0)
    memory_s = smaller(larger(far_s, near_cycles / clock_hz), all_far_s)
    return Parts(baseline.launch_s.delay(corner), _fill_cycles(works, streaming, corner) / clock_hz, memory_s,
                 cycles / clock_hz)


def streaming_numbers(works: Sequence[WorkItem], device: Device, baseline: Baseline) -> dict[str, list[Quantity]]:
    """The numbers each part of the time rests on: ``launch``, ``latency``, ``memory`` and ``compute``."""
    streaming = _streaming(device)
    memory = [device.memory.bandwidth_bytes_per_s, streaming.ports_per_kernel]
    compute = [streaming.clock_hz]
    for work, operator_class, dtype in works:
        memory.append(baseline.achieved_by(operator_class).bandwidth_fraction)
        if operator_class in MATRIX_CLASSES:
            compute += [streaming.dsp_usable_fraction, lookup(streaming.dsp_per_mac, work.factors or dtype)]
        elif work.elements:
            compute.append(_scalars_per_cycle(operator_class, streaming))
    return {"launch": [baseline.launch_s], "latency": [streaming.fill_cycles, streaming.clock_hz], "memory": memory,
            "compute": compute}


def estimate_stages(works: Sequence[WorkItem], device: Device, baseline: Baseline) -> StreamingEstimate:
    """The hardware of a cluster at the likely numbers: lanes shared by the products in proportion to their work."""
    streaming = _streaming(device)
    real = [item for item in works if not item[0].is_nothing]
    weights = [_mac_cost(item, streaming, Corner.LIKELY) for item in real]
    whole = sum(weights)
    interval = streaming.initiation_interval.value
    stages = []
    for (work, operator_class, dtype), weight in zip(real, weights, strict=True):
        lanes, dsp, lut = 0.0, 0.0, 0.0
        if weight:
            factors = work.factors or dtype
            lanes = mac_rate(streaming, factors, Corner.LIKELY) / streaming.clock_hz.value * weight / whole
            dsp = lanes * lookup(streaming.dsp_per_mac, factors).value
            lut = lanes * lookup(streaming.lut_per_mac, factors).value
            cycles = work.flops / 2 / lanes
        else:
            lanes = _scalars_per_cycle(operator_class, streaming).value
            cycles = _scalar_cycles(operator_class, work.elements, streaming, Corner.LIKELY)
        kept = work.resident if baseline.keeps_index else (0, 0)
        memory = "uram" if kept[1] else "bram" if kept[0] else "hbm" if work.bytes_read else "none"
        stages.append(StageEstimate(operator_class, interval, lanes, cycles * interval, dsp, lut, memory))
    bram, uram = (sum(item[0].resident[index] for item in real) if baseline.keeps_index else 0 for index in (0, 1))
    blocks = (math.ceil(bram / BRAM_BYTES), math.ceil(uram / URAM_BYTES))
    used = (sum(stage.dsp for stage in stages), sum(stage.lut for stage in stages), *blocks)
    return StreamingEstimate(tuple(stages), _fill_cycles(real, streaming, Corner.LIKELY),
                             int(streaming.ports_per_kernel.value), *used[:2], *blocks,
                             max(amount / limit for amount, limit in zip(used, _limits(streaming), strict=True)))


def on_chip_budget(streaming: Streaming) -> tuple[int, int]:
    """Bytes of block RAM and of ultra RAM that an index may take, within the margin."""
    usable = streaming.memory_usable_fraction.value
    return (int(streaming.bram36_count.value * usable) * BRAM_BYTES,
            int(streaming.uram_count.value * usable) * URAM_BYTES)


def mac_rate(streaming: Streaming, dtype: DType, corner: Corner) -> float:
    """Multiply-adds per second of all usable slices and look-up tables."""
    usable = streaming.dsp_usable_fraction.rate(corner)
    lanes = smaller(streaming.dsp_count.rate(corner) * usable / lookup(streaming.dsp_per_mac, dtype).delay(corner),
                    streaming.lut_count.rate(corner) * usable / lookup(streaming.lut_per_mac, dtype).delay(corner))
    return lanes * streaming.clock_hz.rate(corner)


def _cycles(works: Sequence[WorkItem], streaming: Streaming, corner: Corner) -> tuple[float, float]:
    """Cycles of all products, which share the slices, and of the slowest other stage."""
    interval = streaming.initiation_interval.delay(corner)
    products = sum(_mac_cost(item, streaming, corner) for item in works) * streaming.clock_hz.rate(corner) * interval
    others = reduce(larger, (_scalar_cycles(operator_class, work.elements, streaming, corner)
                             for work, operator_class, _ in works if operator_class not in MATRIX_CLASSES), 0.0)
    return products, others * interval


def _mac_cost(item: WorkItem, streaming: Streaming, corner: Corner) -> float:
    """Seconds that the multiply-adds of a stage would take with all lanes to itself."""
    work, operator_class, dtype = item
    if operator_class not in MATRIX_CLASSES:
        return 0.0
    return work.flops / 2 / mac_rate(streaming, work.factors or dtype, corner)


def _scalar_cycles(operator_class: OperatorClass, elements: int, streaming: Streaming, corner: Corner) -> float:
    passes = math.ceil(math.log2(max(elements, 2))) if operator_class is OperatorClass.SORT else 1
    return passes * elements / _scalars_per_cycle(operator_class, streaming).rate(corner)


def _scalars_per_cycle(operator_class: OperatorClass, streaming: Streaming) -> Quantity:
    return {OperatorClass.TOPK: streaming.topk_elements_per_cycle,
            OperatorClass.SORT: streaming.sort_elements_per_cycle}.get(operator_class, streaming.elements_per_cycle)


def _fill_cycles(works: Sequence[WorkItem], streaming: Streaming, corner: Corner) -> float:
    """The launch fills the first stage; each further one adds its depth, a selection what it takes to write it out."""
    selected = sum(work.selected for work, _, _ in works)
    return (max(len(works) - 1, 0) * streaming.fill_cycles.delay(corner)
            + selected * streaming.drain_cycles_per_selected.delay(corner))


def _near_cycles(resident: tuple[int, int], streaming: Streaming, corner: Corner) -> float:
    """All blocks are read at the same time, each at its own rate."""
    return larger(min(resident[0], BRAM_BYTES) / streaming.bram_bytes_per_cycle.rate(corner),
                  min(resident[1], URAM_BYTES) / streaming.uram_bytes_per_cycle.rate(corner))


def _limits(streaming: Streaming) -> tuple[float, float, float, float]:
    logic, ram = streaming.dsp_usable_fraction.value, streaming.memory_usable_fraction.value
    return (streaming.dsp_count.value * logic, streaming.lut_count.value * logic,
            streaming.bram36_count.value * ram, streaming.uram_count.value * ram)


def _streaming(device: Device) -> Streaming:
    if device.streaming is None:
        raise InternalError("HET-I001", "only a streaming device has stages", where=device.name)
    return device.streaming
