"""Writes and reads ``.xclbin`` files: the container XRT opens (axlf), its sections, and what hetcc keeps in them.

Layout and section kinds after the structures of ``xrt/xclbin.h`` (little endian, bodies aligned to 8 bytes). Every
kernel of a file has a compute unit of its own. An *emulation* file says mode ``sw_emu`` and holds stage graphs where a
bitstream would be: XRT opens it and knows every kernel, argument and memory, and a card refuses it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from hetcc.backends.fpga.memory.memory_map import HBM_BANK_BYTES, HBM_BANKS

MAGIC = b"xclbin2\0"
PLATFORM_NAME = b"xilinx_u55c_gen3x16_xdma_3_202210_1"
FIRST_UNIT_ADDRESS = 0x800000
UNIT_ADDRESS_STEP = 0x10000
"""Between the control registers of two compute units."""
KERNEL_TYPE = 1
_HBM = 6
_SW_EMULATION_MODE = 5
_KERNEL_CLOCK, _DATA_CLOCK, _SYSTEM_CLOCK = 2, 1, 3
_FIXED = 8 + 4 + 28 + 256 + 8
_HEADER = struct.Struct("<QQQHBBHH16s64s16s16sI4x")
_SECTION = struct.Struct("<I16s4xQQ")
_UNIT = struct.Struct("<IIQ64s")
_MEMORY = struct.Struct("<BB6xQQ16s")
_LINK = struct.Struct("<iii")
_CLOCK = struct.Struct("<HB5x128s")


class Kind(IntEnum):
    """What a section holds; the numbers are XRT's."""

    BITSTREAM = 0
    EMBEDDED_METADATA = 2
    MEM_TOPOLOGY = 6
    CONNECTIVITY = 7
    IP_LAYOUT = 8
    CLOCK_FREQ_TOPOLOGY = 11
    BUILD_METADATA = 14
    EMULATION_DATA = 21
    GROUP_TOPOLOGY = 26
    GROUP_CONNECTIVITY = 27


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind (a ``Kind`` where hetcc knows it) and its bytes."""

    kind: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Unit:
    """A kernel with its one compute unit, ``<name>_1``."""

    name: str
    banks: tuple[int, ...]
    """HBM pseudo-channel of each pointer argument; those are the first ones of a kernel."""
    emulation_data: bytes = b""
    """The stage graph; empty when nothing stands behind the compute unit."""

    @property
    def instance(self) -> str:
        """Name of the compute unit."""
        return f"{self.name}_1"


@dataclass(frozen=True, slots=True)
class Container:
    """What an xclbin holds."""

    uuid: bytes
    mode: int
    metadata: bytes
    """The XML that describes every kernel; empty when the file has none."""
    units: tuple[Unit, ...]

    @property
    def kernel(self) -> str:
        """Name of the first kernel."""
        return self.units[0].name

    @property
    def banks(self) -> tuple[int, ...]:
        """Pseudo-channels of the first kernel's pointers."""
        return self.units[0].banks

    @property
    def emulation_data(self) -> bytes:
        """The first kernel's stage graph."""
        return self.units[0].emulation_data

    def unit(self, name: str) -> Unit | None:
        """The unit of a kernel, if the file has it."""
        return next((unit for unit in self.units if unit.name == name), None)


def pack(kernel: str, banks: Sequence[int], metadata: bytes, emulation_data: bytes) -> bytes:
    """The bytes of an emulation file with one kernel; see :func:`pack_units`."""
    return pack_units((Unit(kernel, tuple(banks), emulation_data),), metadata)


def pack_units(units: Sequence[Unit], metadata: bytes, clock_hz: float = 300e6) -> bytes:
    """The bytes of an emulation ``.xclbin``; equal arguments give equal bytes.

    Args:
        units: the kernels, in the order of their control registers (``unit_address``).
        metadata: the embedded metadata XML that describes all of them (``packaging.embedded_metadata``).
        clock_hz: of the kernels.
    """
    links = b"".join(_LINK.pack(argument, place, bank) for place, unit in enumerate(units)
                     for argument, bank in enumerate(unit.banks))
    connected = struct.pack("<i", len(links) // _LINK.size) + links
    memories = _memory_topology({bank for unit in units for bank in unit.banks})
    sections = [
        Section(Kind.EMBEDDED_METADATA, metadata),
        Section(Kind.MEM_TOPOLOGY, memories),
        Section(Kind.CONNECTIVITY, connected),
        Section(Kind.IP_LAYOUT, _ip_layout(units)),
        Section(Kind.CLOCK_FREQ_TOPOLOGY, _clocks(clock_hz)),
        Section(Kind.BUILD_METADATA, _build_metadata(units)),
        # No argument reaches several memories, so groups and memories are the same.
        Section(Kind.GROUP_TOPOLOGY, memories),
        Section(Kind.GROUP_CONNECTIVITY, connected),
        *(Section(Kind.EMULATION_DATA, unit.emulation_data) for unit in units),
    ]
    return write_sections(sections, _SW_EMULATION_MODE)


def unit_address(place: int) -> int:
    """Address of the control registers of a file's n-th compute unit."""
    return FIRST_UNIT_ADDRESS + UNIT_ADDRESS_STEP * place


def write_sections(sections: Sequence[Section], mode: int) -> bytes:
    """The container with those sections; its uuid is made of their bytes."""
    uuid = hashlib.sha256(b"".join(section.content for section in sections)).digest()[:16]
    offset = _FIXED + _HEADER.size + _SECTION.size * len(sections)
    headers, bodies = b"", b""
    for section in sections:
        bodies += b"\0" * (-(offset + len(bodies)) % 8)
        name = Kind(section.kind).name[:15].encode()
        headers += _SECTION.pack(section.kind, name, offset + len(bodies), len(section.content))
        bodies += section.content
    header = _HEADER.pack(offset + len(bodies), 0, 0, 0, 2, 13, mode, 0, b"\0" * 16, PLATFORM_NAME, uuid, b"\0" * 16,
                          len(sections))
    return MAGIC + struct.pack("<i", -1) + b"\xff" * 284 + b"\0" * 8 + header + headers + bodies


def read_sections(content: bytes) -> list[Section]:
    """All sections of an xclbin, whoever wrote it.

    Raises:
        ValueError: not an xclbin, cut off, or a section lies outside it.
    """
    if content[:8] != MAGIC or len(content) < _FIXED + _HEADER.size:
        raise ValueError("not an xclbin")
    header = _HEADER.unpack_from(content, _FIXED)
    if header[0] != len(content):
        raise ValueError(f"the file has {len(content)} bytes and says {header[0]}")
    first = _FIXED + _HEADER.size
    if first + header[12] * _SECTION.size > len(content):
        raise ValueError(f"{header[12]} sections do not fit into the file")
    found = []
    for index in range(header[12]):
        kind, _, offset, size = _SECTION.unpack_from(content, first + index * _SECTION.size)
        if offset + size > len(content):
            raise ValueError(f"section {index} of kind {kind} ends at {offset + size}, beyond the file")
        found.append(Section(kind, content[offset:offset + size]))
    return found


def unpack(content: bytes) -> Container:
    """The kernels of an xclbin with their memories.

    Raises:
        ValueError: not an xclbin, damaged, or sections are missing.
    """
    sections = read_sections(content)
    by_kind = {section.kind: section.content for section in reversed(sections)}
    for kind in (Kind.CONNECTIVITY, Kind.IP_LAYOUT):
        if kind not in by_kind:
            raise ValueError(f"section {kind.name} is missing")
    header = _HEADER.unpack_from(content, _FIXED)
    names = _unit_names(by_kind[Kind.IP_LAYOUT])
    banks: dict[int, dict[int, int]] = {}
    for argument, place, bank in _LINK.iter_unpack(_entries(by_kind[Kind.CONNECTIVITY], 4, _LINK.size)):
        banks.setdefault(place, {})[argument] = bank
    data = [section.content for section in sections if section.kind == Kind.EMULATION_DATA]
    units = tuple(Unit(name, tuple(bank for _, bank in sorted(banks.get(place, {}).items())),
                       data[at] if at < len(data) else b"") for at, (place, name) in enumerate(names))
    if not units:
        raise ValueError("there is no kernel in it")
    return Container(header[10], header[6], by_kind.get(Kind.EMBEDDED_METADATA, b""), units)


def _unit_names(layout: bytes) -> list[tuple[int, str]]:
    """Place and kernel of every compute unit; other blocks of the card are left out."""
    rows = enumerate(_UNIT.iter_unpack(_entries(layout, 8, _UNIT.size)))
    return [(place, name.rstrip(b"\0").decode().partition(":")[0]) for place, (kind, _, _, name) in rows
            if kind == KERNEL_TYPE]


def _entries(content: bytes, start: int, size: int) -> bytes:
    """The rows of a section that begins with their number.

    Raises:
        ValueError: there are fewer rows than it says.
    """
    if len(content) < 4:
        raise ValueError("a section is cut off")
    count, = struct.unpack_from("<i", content)
    rows = content[start:start + max(count, 0) * size]
    if len(rows) < max(count, 0) * size:
        raise ValueError(f"a section says {count} entries and holds {len(rows) // size}")
    return rows


def _ip_layout(units: Sequence[Unit]) -> bytes:
    """Compute units with interrupts, numbered in order, in the ``ap_ctrl_hs`` protocol."""
    rows = b"".join(_UNIT.pack(KERNEL_TYPE, 1 | place << 1, unit_address(place),
                               f"{unit.name}:{unit.instance}".encode()) for place, unit in enumerate(units))
    return struct.pack("<i4x", len(units)) + rows


def _memory_topology(used: set[int]) -> bytes:
    rows = b"".join(_MEMORY.pack(_HBM, bank in used, HBM_BANK_BYTES // 1024, bank * HBM_BANK_BYTES,
                                 f"HBM[{bank}]".encode()) for bank in range(HBM_BANKS))
    return struct.pack("<i4x", HBM_BANKS) + rows


def _clocks(clock_hz: float) -> bytes:
    named = ((_DATA_CLOCK, b"DATA_CLK", clock_hz), (_KERNEL_CLOCK, b"KERNEL_CLK", 500e6),
             (_SYSTEM_CLOCK, b"SYSTEM_CLK", 100e6))
    return struct.pack("<h", len(named)) + b"".join(_CLOCK.pack(round(rate_hz / 1e6), kind, name)
                                                   for kind, name, rate_hz in named)


def _build_metadata(units: Sequence[Unit]) -> bytes:
    body = {"build_metadata": {"xclbin": {
        "generated_by": {"name": "hetcc", "options": "emulation: stage graphs instead of a bitstream"},
        "kernels": [unit.name for unit in units]}}}
    return json.dumps(body, sort_keys=True).encode()


__all__ = ["MAGIC", "Container", "Kind", "Section", "Unit", "pack", "pack_units", "read_sections", "unit_address",
           "unpack", "write_sections"]
