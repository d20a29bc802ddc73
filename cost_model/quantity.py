"""A number with its unit, its range and where it comes from; nothing in the cost model is a bare number."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Provenance(Enum):
    """How a number is known, from best to worst."""

    MEASURED = "measured"
    PUBLISHED = "published"
    DATASHEET = "datasheet"
    ASSUMED = "assumed"


_RANK = {kind: rank for rank, kind in enumerate(Provenance)}


class Corner(Enum):
    """Which end of every interval a calculation uses."""

    FAST = "fast"
    LIKELY = "likely"
    SLOW = "slow"


class Record(BaseModel):
    """Base of everything read from a profile: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(Record):
    """A number from a profile."""

    value: float = Field(ge=0.0, allow_inf_nan=False)
    unit: Literal["1", "B", "B/s", "GiB/s", "GiB/s/KiB", "Hz", "J/B", "W", "flop/s", "s"]
    low: float = Field(ge=0.0, allow_inf_nan=False, description="the value is hardly below this")
    high: float = Field(ge=0.0, allow_inf_nan=False, description="the value is hardly above this")
    kind: Provenance
    source: str = Field(min_length=8, description="document, measurement or reason, so that somebody can check it")
    date: datetime.date = Field(description="when the number was entered or measured")

    @model_validator(mode="after")
    def _check_order(self) -> Quantity:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} is not between low {self.low} and high {self.high}")
        return self

    def rate(self, corner: Corner) -> float:
        """The number at a corner, for quantities of which more is faster."""
        return self.value if corner is Corner.LIKELY else self.high if corner is Corner.FAST else self.low

    def delay(self, corner: Corner) -> float:
        """The number at a corner, for quantities of which more is slower."""
        return self.value if corner is Corner.LIKELY else self.low if corner is Corner.FAST else self.high


def worst(quantities: Iterable[Quantity]) -> Provenance:
    """The least certain provenance among the numbers of a formula; ``assumed`` if there is none."""
    return max((quantity.kind for quantity in quantities), key=lambda kind: _RANK[kind], default=Provenance.ASSUMED)
