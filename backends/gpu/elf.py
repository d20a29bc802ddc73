"""Reading the ELF files inside code objects: sections, symbols, notes, and the msgpack of AMD's notes.

Only what code objects have is read: 64 bits, little-endian. Sources: the System V ABI (gABI, chapters 4 and 5), and the
msgpack specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hetcc.errors import ToolError

MAGIC = b"\x7fELF\x02\x01"
"""Of a file of 64 bits, little-endian."""
AMDGPU, CUDA = 224, 190
"""Numbers of the machines."""
_NOTE, _NO_BITS, _SYMBOLS = 7, 8, 2
_HEADER, _SECTION, _SYMBOL = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an ELF file."""

    name: str
    kind: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class Elf:
    """An ELF file that starts at the first byte of ``data``; what follows it does not matter.

    Raises:
        ToolError: HET-T002, it is none or it is cut off.
    """

    data: bytes

    def __post_init__(self) -> None:
        if not self.data.startswith(MAGIC) or len(self.data) < _HEADER.size:
            raise ToolError("HET-T002", "a code object is no ELF file of 64 bits", fix="compile the model again")
        if self.size > len(self.data):
            raise ToolError("HET-T002", f"a code object is cut off: {len(self.data)} of {self.size} bytes",
                            fix="compile the model again")

    @cached_property
    def _header(self) -> tuple[Any, ...]:
        return _HEADER.unpack_from(self.data)

    @property
    def machine(self) -> int:
        """Number of the machine."""
        return int(self._header[2])

    @property
    def flags(self) -> int:
        """Flags, whose meaning depends on the machine."""
        return int(self._header[7])

    @property
    def size(self) -> int:
        """Bytes of the file: code objects end with their table of sections or of segments, or with a section."""
        header = self._header
        ends = [header[6] + header[11] * header[12], header[5] + header[9] * header[10], _HEADER.size]
        if ends[0] <= len(self.data):
            ends += [fields[4] + fields[5] for fields in self._section_fields() if fields[1] != _NO_BITS]
        return int(max(ends))

    def _section_fields(self) -> Iterator[tuple[Any, ...]]:
        for index in range(self._header[12]):
            yield _SECTION.unpack_from(self.data, self._header[6] + index * self._header[11])

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections in order."""
        rows = list(self._section_fields())
        names = rows[self._header[13]][4] if rows else 0
        return tuple(Section(_text_at(self.data, names + row[0]), row[1], row[4], row[5], row[6]) for row in rows)

    def content(self, section: Section) -> bytes:
        """Bytes of a section; none for one that takes no place in the file."""
        return b"" if section.kind == _NO_BITS else self.data[section.offset:section.offset + section.size]

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols of the symbol table, by index."""
        table = next((section for section in self.sections if section.kind == _SYMBOLS), None)
        if table is None:
            return ()
        names = self.sections[table.link].offset
        return tuple(_text_at(self.data, names + _SYMBOL.unpack_from(self.data, table.offset + at)[0])
                     for at in range(0, table.size, _SYMBOL.size))

    def notes(self) -> Iterator[tuple[str, int, bytes]]:
        """(owner, type, contents) of each note."""
        for section in self.sections:
            if section.kind != _NOTE:
                continue
            at, end = section.offset, section.offset + section.size
            while at + 12 <= end:
                name_size, size, kind = struct.unpack_from("<III", self.data, at)
                name_at, at = at + 12, at + 12 + _padded(name_size)
                yield self.data[name_at:name_at + name_size].rstrip(b"\0").decode(), kind, self.data[at:at + size]
                at += _padded(size)


def images(data: bytes, machine: int) -> Iterator[Elf]:
    """Every ELF file for a machine that is somewhere inside ``data``, in order."""
    at = data.find(MAGIC)
    while at >= 0:
        elf, step = None, len(MAGIC)
        if len(data) - at >= _HEADER.size and struct.unpack_from("<H", data, at + 18)[0] == machine:
            elf = Elf(data[at:])
            step = elf.size
            yield Elf(data[at:at + step])
        at = data.find(MAGIC, at + step)


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _text_at(data: bytes, offset: int) -> str:
    return data[offset:data.index(b"\0", offset)].decode()


def unpack_msgpack(data: bytes) -> Any:
    """One msgpack value: maps, arrays, text, bytes, integers, floats, booleans, nil.

    Raises:
        ToolError: HET-T002, it is cut off or of a type that is not read here.
    """
    try:
        return _Msgpack(data).value()
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ToolError("HET-T002", f"the metadata of a code object cannot be read: {error}",
                        fix="compile the model again") from error


_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h",
            0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I",
            0xDE: ">H", 0xDF: ">I"}
_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}


class _Msgpack:
    """A reader over bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def value(self) -> Any:
        """The next value."""
        tag = self.data[self.at]
        self.at += 1
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag in _SIMPLE:
            return _SIMPLE[tag]
        if tag in _NUMBERS:
            return self._number(_NUMBERS[tag])
        if tag < 0xC0:
            length = tag & (0x1F if tag >= 0xA0 else 0x0F)
        elif tag in _LENGTHS:
            length = self._number(_LENGTHS[tag])
        else:
            raise struct.error(f"type {tag:#x} is not read here")
        if tag < 0x90 or tag in (0xDE, 0xDF):
            return {self.value(): self.value() for _ in range(length)}
        if tag < 0xA0 or tag in (0xDC, 0xDD):
            return [self.value() for _ in range(length)]
        raw = self.data[self.at:self.at + length]
        if len(raw) != length:
            raise IndexError("it is cut off")
        self.at += length
        return raw if tag in (0xC4, 0xC5, 0xC6) else raw.decode()

    def _number(self, layout: str) -> Any:
        (number,) = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return number
