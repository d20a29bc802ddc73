"""What it costs to move bytes between two devices.

Between GPU and FPGA the published piecewise fit of peer-to-peer bandwidth over size is used; between host and device
latency plus size over bandwidth. A fit may claim that a larger copy takes less time than a smaller one; time is
therefore taken as the running maximum over sizes, and copies below the smallest size a fit speaks about cost what
that size costs. Zero bytes cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from hetcc.cost_model.device import Device, DeviceKind, invalid, read_toml
from hetcc.cost_model.quantity import Corner, Provenance, Quantity, Record, worst
from hetcc.errors import UserError

LINKS_FILE = Path(__file__).parent / "links.toml"
_KIB = 1024.0
_GIB = float(1 << 30)


class Piece(Record):
    """Bandwidth in GiB/s = slope x size in KiB + base, up to a size."""

    up_to_bytes: int | None = Field(default=None, gt=0, description="absent in the last piece")
    slope_gib_per_s_per_kib: Quantity
    base_gib_per_s: Quantity

    def time_s(self, size_bytes: float) -> float:
        """Time of one copy by this piece."""
        bandwidth = self.slope_gib_per_s_per_kib.value * size_bytes / _KIB + self.base_gib_per_s.value
        return size_bytes / (bandwidth * _GIB)


class Link(Record):
    """One direction between two kinds of device: either a fit in pieces, or latency and bandwidth."""

    source: DeviceKind
    destination: DeviceKind
    medium: str
    energy_j_per_byte: Quantity
    latency_s: Quantity | None = None
    bandwidth_bytes_per_s: Quantity | None = None
    pieces: tuple[Piece, ...] = ()
    floor_bytes: Quantity | None = Field(default=None, description="smaller copies cost what this size costs")
    uncertainty: Quantity | None = Field(default=None, description="factor on the time of the fit")

    @model_validator(mode="after")
    def _check_form(self) -> Link:
        fit = (bool(self.pieces), self.floor_bytes is not None, self.uncertainty is not None)
        straight = (self.latency_s is not None, self.bandwidth_bytes_per_s is not None)
        if not ((all(fit) and not any(straight)) or (all(straight) and not any(fit))):
            raise ValueError("a link has pieces, floor_bytes and uncertainty, or latency_s and bandwidth_bytes_per_s")
        ends = [piece.up_to_bytes for piece in self.pieces]
        limits = [end for end in ends[:-1] if end is not None]
        if len(limits) != len(ends[:-1]) or limits != sorted(set(limits)) or (ends and ends[-1] is not None):
            raise ValueError("up_to_bytes must rise from piece to piece and be absent in the last")
        return self

    def time_s(self, size_bytes: float, corner: Corner = Corner.LIKELY) -> float:
        """Time of one copy; never falls with size, and is 0 for no bytes."""
        if size_bytes <= 0:
            return 0.0
        if self.latency_s is not None and self.bandwidth_bytes_per_s is not None:
            return self.latency_s.delay(corner) + size_bytes / self.bandwidth_bytes_per_s.rate(corner)
        assert self.floor_bytes is not None and self.uncertainty is not None  # by _check_form
        return self.fitted_time_s(max(size_bytes, self.floor_bytes.delay(corner))) * self.uncertainty.delay(corner)

    def fitted_time_s(self, size_bytes: float) -> float:
        """The fit alone, as a running maximum: within a piece time rises, so only the ends of earlier pieces count."""
        ends: list[float] = []
        for piece in self.pieces:
            if piece.up_to_bytes is None or size_bytes <= piece.up_to_bytes:
                return max([piece.time_s(size_bytes), *ends])
            ends.append(piece.time_s(piece.up_to_bytes))
        return max(ends, default=0.0)

    def quantities(self) -> list[Quantity]:
        """The numbers its time rests on."""
        own = [self.latency_s, self.bandwidth_bytes_per_s, self.floor_bytes]
        slopes = [piece.slope_gib_per_s_per_kib for piece in self.pieces]
        bases = [piece.base_gib_per_s for piece in self.pieces]
        return [number for number in own if number is not None] + slopes + bases


class _Links(Record):
    schema_name: Literal["hetcc-links/1"] = Field(alias="schema")
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The price of one copy."""

    time_s: float
    energy_j: float
    low_s: float
    high_s: float
    source: Provenance


def link_between(source: Device | DeviceKind | str, destination: Device | DeviceKind | str) -> Link:
    """The link from one kind of device to another.

    Raises:
        UserError: HET-M001 if a kind is unknown or no link joins the two.
    """
    ends = (_kind(source), _kind(destination))
    for link in load_links():
        if (link.source, link.destination) == ends:
            return link
    raise UserError("HET-M001", f"no link leads from '{ends[0].value}' to '{ends[1].value}'", where=LINKS_FILE.name)


def transfer(
    source: Device | DeviceKind | str, destination: Device | DeviceKind | str, size_bytes: int, *,
    peer_to_peer: bool = True,
) -> Transfer:
    """The price of copying ``size_bytes`` once.

    Args:
        source: device, or kind of device (``gpu``, ``fpga``, ``host``).
        destination: likewise; two devices of one kind count as one device, and nothing is moved.
        size_bytes: how much; nothing costs nothing.
        peer_to_peer: whether GPU and FPGA reach each other directly; if not, the copy is staged through the host.
    """
    ends = (_kind(source), _kind(destination))
    if ends[0] is ends[1] or size_bytes <= 0:
        return Transfer(0.0, 0.0, 0.0, 0.0, Provenance.MEASURED)
    links = [link_between(*ends)]
    if not peer_to_peer and DeviceKind.HOST not in ends:
        links = [link_between(ends[0], DeviceKind.HOST), link_between(DeviceKind.HOST, ends[1])]
    times = {corner: sum(link.time_s(size_bytes, corner) for link in links) for corner in Corner}
    energy_j = sum(link.energy_j_per_byte.value for link in links) * size_bytes
    return Transfer(times[Corner.LIKELY], energy_j, times[Corner.FAST], times[Corner.SLOW],
                    worst(number for link in links for number in link.quantities()))


def transfer_time_s(
    source: Device | DeviceKind | str, destination: Device | DeviceKind | str, size_bytes: int,
) -> float:
    """Seconds for copying ``size_bytes`` once."""
    return transfer(source, destination, size_bytes).time_s


def _kind(device: Device | DeviceKind | str) -> DeviceKind:
    if isinstance(device, Device):
        return device.kind
    try:
        return DeviceKind(device)
    except ValueError as error:
        known = ", ".join(kind.value for kind in DeviceKind)
        raise UserError("HET-M001", f"'{device}' is no kind of device; known: {known}", where=str(device)) from error


@lru_cache(maxsize=1)
def load_links() -> tuple[Link, ...]:
    """All links, from ``links.toml``."""
    try:
        return _Links.model_validate(read_toml(LINKS_FILE, "a list of links")).links
    except ValidationError as error:
        raise invalid(error, LINKS_FILE) from error
