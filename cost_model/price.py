"""What work costs on a device: seconds, joules, what limits it, and how sure one is.

``gpu`` and ``fpga`` have the formulas of time, ``energy`` that of joules; here they become one price with its range and
the provenance of the weakest number it rests on. The range takes all numbers at their fast ends, or all at their slow
ends, so it is wider than independent errors would make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hetcc.cost_model.energy import kernel_energy_j
from hetcc.cost_model.fpga import streaming_numbers, streaming_parts
from hetcc.cost_model.gpu import kernel_numbers, kernel_parts
from hetcc.cost_model.parts import Parts, WorkItem
from hetcc.cost_model.profile import Baseline, Device
from hetcc.cost_model.quantity import Corner, Provenance, Quantity, worst


class Bound(Enum):
    """What most of the time goes to."""

    LAUNCH = "launch"
    LATENCY = "latency"
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
    low_j: float = 0.0
    high_j: float = 0.0
    parts: Parts | None = None
    """What the likely time is made of; absent if it is nothing."""
    sources: tuple[str, ...] = ()
    """Where the numbers come from that decide the likely time."""


FREE = Price(0.0, 0.0, Bound.FREE, 0.0, 0.0, Provenance.MEASURED)


def price(works: Sequence[WorkItem], device: Device, baseline: str | None = None, *,
          concurrent_kernels: int = 1) -> Price:
    """The price of operators that run as one kernel.

    Args:
        works: per operator its work, class and the type it computes in (``work.works_of``).
        device: where.
        baseline: which of the device's baselines; its default if absent.
        concurrent_kernels: kernels of a streaming device that share its memory ports meanwhile, this one included.

    Returns:
        the price; ``FREE`` if there is neither arithmetic nor traffic.

    Raises:
        UserError: HET-M001 for an unknown baseline.
    """
    chosen = device.baseline(baseline)
    real = [item for item in works if not item[0].is_nothing]
    if not real:
        return FREE
    parts = {corner: parts_of(real, device, chosen, corner, concurrent_kernels) for corner in Corner}
    energy = {corner: kernel_energy_j(real, device, chosen, parts[corner].time_s, corner) for corner in Corner}
    likely = parts[Corner.LIKELY]
    bound = _bound(likely)
    deciding = _numbers(real, device, chosen)[bound.value]
    return Price(likely.time_s, energy[Corner.LIKELY], bound, parts[Corner.FAST].time_s, parts[Corner.SLOW].time_s,
                 worst(deciding), energy[Corner.FAST], energy[Corner.SLOW], likely,
                 tuple(dict.fromkeys(number.source for number in deciding)))


def region_launch(device: Device, baseline: str | None = None, *, by_doorbell: bool = False) -> Price:
    """The price of launching one region.

    Args:
        device: where.
        baseline: which of its baselines.
        by_doorbell: of kernels that run all the time and are told to look, where the device has such.
    """
    chosen = device.baseline(baseline)
    rung = chosen.doorbell_launch_s if by_doorbell else None
    launch = chosen.region_launch_s if rung is None else rung
    active = device.power.active_w
    return Price(launch.value, launch.value * active.value, Bound.LAUNCH, launch.low, launch.high, launch.kind,
                 launch.low * active.low, launch.high * active.high, Parts(launch.value, 0.0, 0.0, 0.0),
                 (launch.source,))


def reconfiguration(device: Device) -> Price:
    """The price of loading another set of kernels; nothing on a device that is not streaming."""
    if device.streaming is None:
        return FREE
    load, active = device.streaming.reconfiguration_s, device.power.active_w
    return Price(load.value, load.value * active.value, Bound.LAUNCH, load.low, load.high, load.kind,
                 load.low * active.low, load.high * active.high, Parts(load.value, 0.0, 0.0, 0.0), (load.source,))


def parts_of(works: Sequence[WorkItem], device: Device, baseline: Baseline, corner: Corner,
             concurrent_kernels: int = 1) -> Parts:
    """The times of one kernel at one end of all ranges; no work is no kernel and takes none."""
    real = [item for item in works if not item[0].is_nothing]
    if not real:
        return Parts(0.0, 0.0, 0.0, 0.0)
    if device.streaming is not None:
        return streaming_parts(real, device, baseline, corner, concurrent_kernels=concurrent_kernels)
    return kernel_parts(real, device, baseline, corner)


def _bound(parts: Parts) -> Bound:
    """The largest part; memory before arithmetic, both before what is fixed."""
    order = ((parts.memory_s, Bound.MEMORY), (parts.compute_s, Bound.COMPUTE), (parts.launch_s, Bound.LAUNCH),
             (parts.latency_s, Bound.LATENCY))
    return max(order, key=lambda entry: entry[0])[1]


def _numbers(works: Sequence[WorkItem], device: Device, baseline: Baseline) -> dict[str, list[Quantity]]:
    """The numbers that decide each part of the time."""
    if device.streaming is not None:
        return streaming_numbers(works, device, baseline)
    return kernel_numbers(works, device, baseline)


__all__ = ["FREE", "Bound", "Price", "WorkItem", "parts_of", "price", "reconfiguration", "region_launch"]
