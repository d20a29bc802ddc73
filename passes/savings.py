"""What a device saves when a value never leaves it: when its producer and all its consumers are one program.

On a streaming device neighbouring stages overlap, so the shorter is hidden behind the longer. On the others a fused
kernel keeps scores on chip between relevancy and what uses them, and neither writes nor reads them.

Every cluster takes part in at most one saving per device, first come first served: pairs of relevancy and what uses it
before others, larger values before smaller, in program order. So no time is saved twice, and what a plan costs never
rises when a device gets faster: each saving is a difference between two prices of the same work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from hetcc.cost_model.device import Device
from hetcc.cost_model.elementwise import larger, smaller
from hetcc.cost_model.price import Price, WorkItem
from hetcc.ir import Stage
from hetcc.plan.placement import Cost

if TYPE_CHECKING:
    from hetcc.passes.estimate import ClusterEstimate

PriceOf = Callable[[tuple[WorkItem, ...], str], Price]
_USERS = frozenset({Stage.RETRIEVAL, Stage.APPLY})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A value that goes from one cluster to others."""

    value: str
    size_bytes: int
    producer: str
    users: tuple[str, ...]


def find_savings(crossings: Sequence[Crossing], estimates: Mapping[str, ClusterEstimate],
                 profiles: Mapping[str, Device], price_of: PriceOf) -> dict[str, dict[str, Cost]]:
    """The saving per value and device; values that save nothing are absent.

    Args:
        crossings: in program order, the values of one producer largest first.
        estimates: prices and work of every cluster.
        profiles: devices by name; the host fuses nothing and may be left out.
        price_of: the price of a cluster's work on a device.
    """
    found: dict[str, dict[str, Cost]] = {}
    ordered = sorted(crossings, key=lambda crossing: not _is_scored(crossing, estimates))
    for device, profile in profiles.items():
        taken: set[str] = set()
        for crossing in ordered:
            involved = (crossing.producer, *crossing.users)
            if len(involved) < 2 or not taken.isdisjoint(involved):
                continue
            if any(device not in estimates[name].prices for name in involved):
                continue
            if profile.streaming is not None:
                saving = _overlapped(crossing, estimates, device, profile)
            elif _is_scored(crossing, estimates):
                saving = _kept_on_chip(crossing, estimates, device, price_of)
            else:
                continue
            taken.update(involved)
            found.setdefault(crossing.value, {})[device] = saving
    return found


def _is_scored(crossing: Crossing, estimates: Mapping[str, ClusterEstimate]) -> bool:
    """Whether the value goes from relevancy to what uses it alone."""
    return (estimates[crossing.producer].group.stage is Stage.RELEVANCY
            and all(estimates[name].group.stage in _USERS for name in crossing.users))


def _overlapped(crossing: Crossing, estimates: Mapping[str, ClusterEstimate], device: str, profile: Device) -> Cost:
    """The shorter of the producer and the longest consumer, and what the device draws for as long."""
    first = estimates[crossing.producer].prices[device].time_s
    second = reduce(larger, (estimates[name].prices[device].time_s for name in crossing.users))
    hidden_s = smaller(first, second)
    return Cost(hidden_s, hidden_s * profile.power.active_w.value)


def _kept_on_chip(crossing: Crossing, estimates: Mapping[str, ClusterEstimate], device: str,
                  price_of: PriceOf) -> Cost:
    """The difference to the prices of clusters that do not write the value, and do not read it."""
    saved = Cost()
    for name in (crossing.producer, *crossing.users):
        items = estimates[name].items
        less = without(items, crossing.size_bytes, is_written=name == crossing.producer)
        before, after = estimates[name].prices[device], price_of(less, device)
        saved += Cost(larger(before.time_s - after.time_s, 0.0), larger(before.energy_j - after.energy_j, 0.0))
    return saved


def without(items: tuple[WorkItem, ...], size_bytes: int, *, is_written: bool) -> tuple[WorkItem, ...]:
    """The work less one value of ``size_bytes``: written by, or read by, the operator that moves most that way."""
    def moved(index: int) -> int:
        work = items[index][0]
        return work.bytes_written if is_written else work.bytes_read

    index = max(range(len(items)), key=moved, default=None)
    if index is None:
        return items
    work, operator_class, dtype = items[index]
    if is_written:
        less = replace(work, bytes_written=max(work.bytes_written - size_bytes, 0))
    else:
        recent = [entry for entry in work.recent if entry[0] != size_bytes]
        less = replace(work, bytes_read=max(work.bytes_read - size_bytes, 0), recent=tuple(recent))
    return (*items[:index], (less, operator_class, dtype), *items[index + 1:])
