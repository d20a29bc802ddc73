"""What work costs in joules.

``energy of a kernel = time x active power + bytes x joules per byte + flops / peak x arithmetic power of the class``,
bytes read from on-chip memory at their own price. Idle power is paid whether or not a plan uses a device, so it belongs
to no kernel: ``idle_energy_j`` adds it per step, for every device in the box, and ``request_energy_j`` puts a request
together. The published ranges of draw (``memory_bound_w``, ``compute_bound_w``) are what these prices are tested
against; no formula reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hetcc.cost_model.elementwise import smaller
from hetcc.cost_model.fpga import mac_rate
from hetcc.cost_model.gpu import cached_bytes, peak_of
from hetcc.cost_model.parts import MATRIX_CLASSES, WorkItem
from hetcc.cost_model.profile import DEFAULT, PROJECTION, Baseline, Device
from hetcc.cost_model.quantity import Corner, Quantity
from hetcc.cost_model.work import Work
from hetcc.ir import DType, OperatorClass


@dataclass(frozen=True, slots=True)
class RequestEnergy:
    """Energy of one request, in joules."""

    dynamic_j: float
    """Kernels, launches and transfers of all its steps."""
    idle_j: float
    """Its share of what the devices draw at rest while it runs."""

    @property
    def total_j(self) -> float:
        """Both."""
        return self.dynamic_j + self.idle_j


def kernel_energy_j(works: Sequence[WorkItem], device: Device, baseline: Baseline, time_s: float,
                    corner: Corner = Corner.LIKELY) -> float:
    """Dynamic energy of one kernel that takes ``time_s``."""
    power = device.power
    energy_j = time_s * power.active_w.delay(corner)
    for work, operator_class, dtype in works:
        near = smaller(near_bytes(work, device, baseline, corner), work.bytes_moved)
        energy_j += (work.bytes_moved - near) * power.joules_per_byte.delay(corner)
        energy_j += near * power.joules_per_on_chip_byte.delay(corner)
        energy_j += arithmetic_s(work, operator_class, dtype, device) * arithmetic_w(work, operator_class,
                                                                                   device).delay(corner)
    return energy_j


def near_bytes(work: Work, device: Device, baseline: Baseline, corner: Corner) -> float:
    """Bytes that come from on-chip memory: held by the last-level cache, or kept beside the stages."""
    if device.streaming is not None:
        return float(sum(work.resident)) if baseline.keeps_index else 0.0
    return cached_bytes(work, device, corner)


def arithmetic_s(work: Work, operator_class: OperatorClass, dtype: DType, device: Device) -> float:
    """Seconds that the arithmetic would take at the peak of the device."""
    if not work.flops:
        return 0.0
    if device.streaming is None:
        return work.flops / peak_of(device, operator_class, dtype).value
    if operator_class in MATRIX_CLASSES:
        return work.flops / 2 / mac_rate(device.streaming, work.factors or dtype, Corner.LIKELY)
    return work.elements / (device.streaming.elements_per_cycle.value * device.streaming.clock_hz.value)


def arithmetic_w(work: Work, operator_class: OperatorClass, device: Device) -> Quantity:
    """Draw of the arithmetic of a class at the peak."""
    table = device.power.arithmetic_w
    if work.product is not None and work.product.is_projection and PROJECTION in table:
        return table[PROJECTION]
    return table.get(operator_class.value, table[DEFAULT])


def idle_energy_j(devices: Iterable[Device], time_s: float, corner: Corner = Corner.LIKELY) -> float:
    """What the devices of a box draw at rest for ``time_s``."""
    return time_s * sum(device.power.idle_w.delay(corner) for device in devices)


def request_energy_j(step_dynamic_j: float, step_time_s: float, steps: int, devices: Sequence[Device],
                     requests_at_once: int = 1, corner: Corner = Corner.LIKELY) -> RequestEnergy:
    """Energy of a request of ``steps`` equal steps that shares each step with ``requests_at_once - 1`` others."""
    share = steps / max(requests_at_once, 1)
    return RequestEnergy(share * step_dynamic_j, share * idle_energy_j(devices, step_time_s, corner))
