"""Resources of units, as records; filled below."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """What hardware takes of the card."""

    lut: float
    register: float
    dsp: float
    bram36: float
    uram: float
