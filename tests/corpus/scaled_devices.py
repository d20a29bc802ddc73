"""Devices with one number changed: what a faster, larger or otherwise different device would be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hetcc.cost_model.device import Device
from hetcc.cost_model.quantity import Quantity

FASTER_IF_MORE = ("bandwidth_bytes_per_s", "on_chip_bytes", "on_chip_bandwidth_bytes_per_s", "on_chip_usable_fraction",
                  "matrix_flops_per_s", "vector_flops_per_s", "bandwidth_fraction", "compute_fraction", "factor",
                  "overlap_exponent", "rows", "cache_share", "clock_hz", "dsp_count", "dsp_usable_fraction",
                  "lut_count", "bram36_count", "uram_count", "memory_usable_fraction", "ports_per_kernel",
                  "port_bytes_per_cycle", "bram_bytes_per_cycle", "uram_bytes_per_cycle", "elements_per_cycle",
                  "topk_elements_per_cycle", "sort_elements_per_cycle")
"""Fields of which more is faster; ``rows`` are those of skinny products."""
FASTER_IF_LESS = ("kernel_launch_s", "replayed_launch_s", "region_launch_s", "doorbell_launch_s", "overhead_s",
                  "latency_s", "initiation_interval", "fill_cycles", "drain_cycles_per_selected",
                  "dsp_per_mac", "lut_per_mac", "reconfiguration_s")


def speed_numbers(device: Device) -> list[tuple[tuple[str, ...], bool]]:
    """Path of every number that makes the device faster or slower, and whether more is faster."""
    found = []
    for path in _paths(device, ()):
        named = {step for step in path if not step.isdigit()}
        if "power" in named or "tiles" in named:
            continue
        if named.intersection(FASTER_IF_MORE):
            found.append((path, True))
        elif named.intersection(FASTER_IF_LESS):
            found.append((path, False))
    return found


def changed(part: Any, path: tuple[str, ...], factor: float) -> Any:
    """A copy with the number at ``path`` multiplied, value and range alike."""
    if isinstance(part, Quantity):
        return part.model_copy(update={name: getattr(part, name) * factor for name in ("value", "low", "high")})
    step, rest = path[0], path[1:]
    if isinstance(part, BaseModel):
        return part.model_copy(update={step: changed(getattr(part, step), rest, factor)})
    if isinstance(part, tuple):
        return tuple(changed(entry, rest, factor) if str(index) == step else entry for index, entry in enumerate(part))
    return {key: changed(entry, rest, factor) if _spelled(key) == step else entry for key, entry in part.items()}


def faster(device: Device, path: tuple[str, ...], more: bool, factor: float) -> Device:
    """The device with one number made better by ``factor``, which is at least 1."""
    made: Device = changed(device, path, factor if more else 1.0 / factor)
    return made


def _paths(part: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(part, Quantity):
        yield path
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _paths(getattr(part, name), (*path, name))
    elif isinstance(part, dict):
        for key, entry in part.items():
            yield from _paths(entry, (*path, _spelled(key)))
    elif isinstance(part, tuple):
        for index, entry in enumerate(part):
            yield from _paths(entry, (*path, str(index)))


def _spelled(key: Any) -> str:
    return str(getattr(key, "value", key))
