"""The numbers of a device profile, one by one, and how certain they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from hetcc.cost_model.device import Device
from hetcc.cost_model.quantity import Provenance, Quantity


def quantities_of(device: Device) -> list[tuple[str, Quantity]]:
    """Every number with its dotted path in the profile, in the order of the profile's fields."""
    found: list[tuple[str, Quantity]] = []
    _collect("", device, found)
    return found


def provenance_counts(device: Device) -> dict[str, int]:
    """Numbers per kind of source, the most certain kind first; kinds without numbers are absent."""
    counts = Counter(quantity.kind for _, quantity in quantities_of(device))
    return {kind.value: counts[kind] for kind in Provenance if counts[kind]}


def _collect(path: str, part: Any, found: list[tuple[str, Quantity]]) -> None:
    if isinstance(part, Quantity):
        found.append((path, part))
        return
    entries: Mapping[Any, Any] = {}
    if isinstance(part, BaseModel):
        entries = {name: getattr(part, name) for name in type(part).model_fields}
    elif isinstance(part, Mapping):
        entries = part
    for name, inner in entries.items():
        spelled = name.value if isinstance(name, Enum) else str(name)
        _collect(f"{path}.{spelled}" if path else spelled, inner, found)
