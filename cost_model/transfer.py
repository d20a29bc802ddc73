"""What it costs to move bytes between two devices, by named sets of links.

Between GPU and FPGA the published piecewise fit of peer-to-peer bandwidth over size is used; between host and device
latency plus size over bandwidth. A fit may claim that a larger copy takes less time than a smaller one; time is
therefore taken as the running maximum over sizes, and copies below the smallest size a fit speaks about cost what
that size costs. Zero bytes cost nothing. Where a set has no link between GPU and FPGA, copies go through the host and
pay both hops.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from hetcc.cost_model.device import Device, DeviceKind, invalid, read_toml
from hetcc.cost_model.quantity import Corner, Provenance, Quantity, Record, worst
from hetcc.errors import UserError

LINKS_FILE = Path(__file__).parent / "links.toml"
LINKS_SCHEMA_FILE = Path(__file__).parent / "links.schema.json"
PUBLISHED = "published"
"""The set that is used when none is named: the published test machine."""
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
    both_ways: bool = Field(default=False, description="the other direction is alike")
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


class LinkSet(Record):
    """The links of one kind of box."""

    name: str
    title: str
    links: tuple[Link, ...]

    @model_validator(mode="after")
    def _check_ends(self) -> LinkSet:
        ends = [pair for link in self.links for pair in ends_of(link)]
        wanted = {(DeviceKind.HOST, kind) for kind in (DeviceKind.GPU, DeviceKind.FPGA)}
        wanted |= {(target, source) for source, target in wanted}
        if len(ends) != len(set(ends)) or not wanted.issubset(ends):
            raise ValueError(f"'{self.name}' needs one link between host and GPU and host and FPGA, each way")
        return self


class _Links(Record):
    schema_name: Literal["hetcc-links/2"] = Field(alias="schema")
    sets: tuple[LinkSet, ...]


def ends_of(link: Link) -> list[tuple[DeviceKind, DeviceKind]]:
    """The directions a link serves."""
    there = (link.source, link.destination)
    return [there, (link.destination, link.source)] if link.both_ways else [there]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The price of one copy."""

    time_s: float
    energy_j: float
    low_s: float
    high_s: float
    source: Provenance


def link_between(source: Device | DeviceKind | str, destination: Device | DeviceKind | str,
                 links: str = PUBLISHED) -> Link:
    """The link from one kind of device to another, in a set of links.

    Raises:
        UserError: HET-M001 if a kind or the set is unknown, or no link joins the two.
    """
    ends = (_kind(source), _kind(destination))
    found = _directions(links).get(ends)
    if found is None:
        raise UserError("HET-M001", f"no link leads from '{ends[0].value}' to '{ends[1].value}' in '{links}'",
                        where=LINKS_FILE.name)
    return found


def transfer(
    source: Device | DeviceKind | str, destination: Device | DeviceKind | str, size_bytes: int, *,
    peer_to_peer: bool = True, links: str = PUBLISHED,
) -> Transfer:
    """The price of copying ``size_bytes`` once.

    Args:
        source: device, or kind of device (``gpu``, ``fpga``, ``host``).
        destination: likewise; two devices of one kind count as one device, and nothing is moved.
        size_bytes: how much; nothing costs nothing.
        peer_to_peer: whether GPU and FPGA may reach each other directly, if the set has a link for it; if not, the copy
            is staged through the host.
        links: set of links by name.
    """
    ends = (_kind(source), _kind(destination))
    if ends[0] is ends[1] or size_bytes <= 0:
        return Transfer(0.0, 0.0, 0.0, 0.0, Provenance.MEASURED)
    hops = route(*ends, peer_to_peer=peer_to_peer, links=links)
    times = {corner: sum(link.time_s(size_bytes, corner) for link in hops) for corner in Corner}
    energy_j = sum(link.energy_j_per_byte.value for link in hops) * size_bytes
    return Transfer(times[Corner.LIKELY], energy_j, times[Corner.FAST], times[Corner.SLOW],
                    worst(number for link in hops for number in link.quantities()))


def route(source: Device | DeviceKind | str, destination: Device | DeviceKind | str, *, peer_to_peer: bool = True,
          links: str = PUBLISHED) -> tuple[Link, ...]:
    """The hops of a copy between two kinds of device: one, or two through the host."""
    ends = (_kind(source), _kind(destination))
    if DeviceKind.HOST in ends or (peer_to_peer and ends in _directions(links)):
        return (link_between(*ends, links),)
    return (link_between(ends[0], DeviceKind.HOST, links), link_between(DeviceKind.HOST, ends[1], links))


def transfer_time_s(
    source: Device | DeviceKind | str, destination: Device | DeviceKind | str, size_bytes: int,
    links: str = PUBLISHED,
) -> float:
    """Seconds for copying ``size_bytes`` once."""
    return transfer(source, destination, size_bytes, links=links).time_s


def _kind(device: Device | DeviceKind | str) -> DeviceKind:
    if isinstance(device, Device):
        return device.kind
    try:
        return DeviceKind(device)
    except ValueError as error:
        known = ", ".join(kind.value for kind in DeviceKind)
        raise UserError("HET-M001", f"'{device}' is no kind of device; known: {known}", where=str(device)) from error


def list_link_sets() -> tuple[str, ...]:
    """Names of the sets of links, in the order of the file."""
    return tuple(found.name for found in load_link_sets())


def load_links(links: str = PUBLISHED) -> tuple[Link, ...]:
    """The links of a set.

    Raises:
        UserError: HET-M001 for an unknown name.
    """
    for found in load_link_sets():
        if found.name == links:
            return found.links
    raise UserError("HET-M001", f"no set of links is called '{links}'; known: {', '.join(list_link_sets())}",
                    where=links)


@lru_cache(maxsize=1)
def load_link_sets() -> tuple[LinkSet, ...]:
    """All sets, from ``links.toml``."""
    try:
        return _Links.model_validate(read_toml(LINKS_FILE, "a list of links")).sets
    except ValidationError as error:
        raise invalid(error, LINKS_FILE) from error


def links_schema_text() -> str:
    """The JSON Schema of ``links.toml`` as published in ``links.schema.json``, to the byte."""
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema",
                              **_Links.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


@lru_cache(maxsize=64)
def _directions(links: str) -> dict[tuple[DeviceKind, DeviceKind], Link]:
    return {ends: link for link in load_links(links) for ends in ends_of(link)}
