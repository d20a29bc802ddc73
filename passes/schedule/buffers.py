"""Storage: every value a place on its device, transient ones reusing the places of those that are dead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hetcc.passes.schedule.steps import PricedStep
from hetcc.plan.plan import BufferSpec, LaunchStep, Residency, TransferStep

ALIGNMENT_BYTES = 256


@dataclass
class _Lifetime:
    value: str
    device: str
    size_bytes: int
    first_step: int
    last_step: int


def allocate(
    steps: Sequence[PricedStep], sizes: Mapping[str, int], resident: Iterable[tuple[str, str, Residency]],
) -> tuple[BufferSpec, ...]:
    """A buffer for every value on every device that holds it.

    Args:
        steps: the schedule.
        sizes: bytes by value name.
        resident: (value, device, residency) of weights and caches, which live through all steps.
    """
    last = max(len(steps) - 1, 0)
    buffers: list[BufferSpec] = []
    ends: dict[tuple[str, str], int] = {}
    held = set()
    for value, device, residency in resident:
        offset = ends.get((device, residency), 0)
        buffers.append(BufferSpec(value=value, device=device, residency=residency, size_bytes=sizes[value],
                                  offset_bytes=offset, first_step=0, last_step=last))
        ends[(device, residency)] = offset + _aligned(sizes[value])
        held.add((value, device))
    lifetimes = [life for life in _lifetimes(steps, sizes) if (life.value, life.device) not in held]
    for device in dict.fromkeys(life.device for life in lifetimes):
        buffers.extend(_pack([life for life in lifetimes if life.device == device]))
    return tuple(buffers)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _lifetimes(steps: Sequence[PricedStep], sizes: Mapping[str, int]) -> list[_Lifetime]:
    found: dict[tuple[str, str], _Lifetime] = {}

    def touch(value: str, device: str, step: int) -> None:
        life = found.setdefault((value, device), _Lifetime(value, device, sizes[value], step, step))
        life.last_step = step

    for position, step in enumerate(steps):
        if isinstance(step, LaunchStep):
            for value in (*step.inputs, *step.outputs):
                touch(value, step.stream, position)
        elif isinstance(step, TransferStep):
            touch(step.value, step.source, position)
            touch(step.value, step.destination, position)
        else:
            touch(step.value, step.device, position)
    return list(found.values())


def _pack(lifetimes: Sequence[_Lifetime]) -> list[BufferSpec]:
    """First fit: each buffer at the lowest offset that is free during its whole life."""
    active: list[tuple[int, int, int]] = []
    """(offset, end, last step) of placed buffers that may still be alive, by offset."""
    placed: list[BufferSpec] = []
    for life in sorted(lifetimes, key=lambda entry: (entry.first_step, entry.value)):
        active = sorted(entry for entry in active if entry[2] >= life.first_step)
        offset = 0
        for start, end, _ in active:
            if offset + _aligned(life.size_bytes) <= start:
                break
            offset = max(offset, end)
        active.append((offset, offset + _aligned(life.size_bytes), life.last_step))
        placed.append(BufferSpec(value=life.value, device=life.device, residency="transient",
                                 size_bytes=life.size_bytes, offset_bytes=offset, first_step=life.first_step,
                                 last_step=life.last_step))
    return placed


def memory_bytes(buffers: Sequence[BufferSpec]) -> dict[str, int]:
    """Bytes each device needs: its arenas at their fullest."""
    ends: dict[tuple[str, str], int] = {}
    for buffer in buffers:
        key = (buffer.device, buffer.residency)
        ends[key] = max(ends.get(key, 0), buffer.offset_bytes + buffer.size_bytes)
    totals: dict[str, int] = {}
    for (device, _), end in ends.items():
        totals[device] = totals.get(device, 0) + end
    return totals
