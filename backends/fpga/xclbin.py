"""Writes and reads the emulation ``.xclbin``: the container XRT opens, with a stage graph where a bitstream would be.

Layout after ``xrt/xclbin.h`` (axlf, little endian). The file says mode ``sw_emu`` and holds no bitstream: it runs in
the emulator only, and a real card refuses it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAGIC = b"xclbin2\0"
EMBEDDED_METADATA, MEM_TOPOLOGY, CONNECTIVITY, IP_LAYOUT, EMULATION_DATA = 2, 6, 7, 8, 21
_NAMES = {EMBEDDED_METADATA: "EMBEDDED_METADATA", MEM_TOPOLOGY: "MEM_TOPOLOGY", CONNECTIVITY: "CONNECTIVITY",
          IP_LAYOUT: "IP_LAYOUT", EMULATION_DATA: "EMULATION_DATA"}
_SW_EMULATION_MODE = 5
_HBM = 6
_HBM_BANK_BYTES = 512 * 2**20
_FIXED = 8 + 4 + 28 + 256 + 8
_HEADER = struct.Struct("<QQQHBBHH16s64s16s16sI4x")
_SECTION = struct.Struct("<I16s4xQQ")


@dataclass(frozen=True)
class Container:
    """What an emulation file holds."""

    uuid: bytes
    kernel: str
    banks: tuple[int, ...]
    """HBM bank of each argument."""
    emulation_data: bytes
    """The stage graph, or empty when nothing stands behind the compute unit."""


def pack(kernel: str, banks: Sequence[int], metadata: bytes, emulation_data: bytes) -> bytes:
    """The bytes of an emulation ``.xclbin``; equal arguments give equal bytes.

    Args:
        kernel: name of the kernel; its one compute unit is ``<kernel>_1``.
        banks: HBM bank of each argument.
        metadata: the embedded metadata XML.
        emulation_data: canonical bytes of the stage graph.
    """
    sections = {
        EMBEDDED_METADATA: metadata,
        MEM_TOPOLOGY: _memory_topology(max(banks, default=0) + 1),
        CONNECTIVITY: struct.pack("<i", len(banks)) + b"".join(
            struct.pack("<iii", argument, 0, bank) for argument, bank in enumerate(banks)),
        IP_LAYOUT: struct.pack("<i4xIIQ64s", 1, 1, 1, 0x800000, f"{kernel}:{kernel}_1".encode()),
        EMULATION_DATA: emulation_data,
    }
    uuid = hashlib.sha256(b"".join(sections.values())).digest()[:16]
    offset = _FIXED + _HEADER.size + _SECTION.size * len(sections)
    headers, bodies = b"", b""
    for kind, body in sections.items():
        pad = -(offset + len(bodies)) % 8
        bodies += b"\0" * pad
        headers += _SECTION.pack(kind, _NAMES[kind][:15].encode(), offset + len(bodies), len(body))
        bodies += body
    header = _HEADER.pack(offset + len(bodies), 0, 0, 0, 0, 0, _SW_EMULATION_MODE, 0, b"\0" * 16,
                          b"xilinx_u55c_gen3x16_xdma_3_202210_1", uuid, b"\0" * 16, len(sections))
    return MAGIC + struct.pack("<i", -1) + b"\xff" * 284 + b"\0" * 8 + header + headers + bodies


def _memory_topology(banks: int) -> bytes:
    entries = b"".join(
        struct.pack("<BB6xQQ16s", _HBM, 1, _HBM_BANK_BYTES // 1024, bank * _HBM_BANK_BYTES, f"HBM[{bank}]".encode())
        for bank in range(banks))
    return struct.pack("<i4x", banks) + entries


def unpack(content: bytes) -> Container:
    """What :func:`pack` wrote.

    Raises:
        ValueError: not an xclbin, or sections are missing.
    """
    if content[:8] != MAGIC or len(content) < _FIXED + _HEADER.size:
        raise ValueError("not an xclbin")
    header = _HEADER.unpack_from(content, _FIXED)
    uuid, count = header[10], header[12]
    if header[0] != len(content):
        raise ValueError(f"the file has {len(content)} bytes and says {header[0]}")
    sections = dict(_sections(content, count))
    for kind in (CONNECTIVITY, IP_LAYOUT):
        if kind not in sections:
            raise ValueError(f"section {_NAMES[kind]} is missing")
    name = sections[IP_LAYOUT][8 + 16:8 + 80].rstrip(b"\0").decode().partition(":")[0]
    links = struct.iter_unpack("<iii", sections[CONNECTIVITY][4:])
    return Container(uuid, name, tuple(bank for _, _, bank in links), sections.get(EMULATION_DATA, b""))


def _sections(content: bytes, count: int) -> Mapping[int, bytes]:
    found = {}
    for index in range(count):
        at = _FIXED + _HEADER.size + index * _SECTION.size
        kind, _, offset, size = _SECTION.unpack_from(content, at)
        found[kind] = content[offset:offset + size]
    return found
