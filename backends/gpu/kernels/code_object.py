"""A compiled Triton kernel: what the driver loads, and what a launch of it has to know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HIDDEN_PARAMETERS = (("global_scratch", "*i8"), ("profile_scratch", "*i8"))
"""Triton 3.7 adds two pointers behind the arguments of every kernel; both are null unless it asked for memory there."""
_SIZES = {"i1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "fp16": 2, "bf16": 2, "i32": 4, "u32": 4, "fp32": 4,
          "i64": 8, "u64": 8, "fp64": 8}


def size_of(triton_type: str) -> int:
    """Bytes of an argument of this type."""
    return 8 if triton_type.startswith("*") else _SIZES[triton_type]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a kernel, in the order a launch passes them."""

    name: str
    triton_type: str
    """``*fp32`` and the like for a pointer, ``i32`` and the like for a number."""

    @property
    def is_pointer(self) -> bool:
        """Whether an address is passed."""
        return self.triton_type.startswith("*")


@dataclass(frozen=True, slots=True)
class CodeObject:
    """A kernel as the driver loads it, and what a launch of it needs to know."""

    content: bytes
    """The ELF file."""
    kind: str
    """``hsaco`` or ``cubin``."""
    target: str
    symbol: str
    """Name to ask the driver for."""
    parameters: tuple[Parameter, ...]
    """All arguments in order, the hidden ones of Triton behind the launch's own."""
    shared_bytes: int
    """Dynamic shared memory per block, which the launch has to ask for."""
    warps: int
    threads: int
    """Threads per block: (threads, 1, 1)."""

    @property
    def hidden(self) -> int:
        """How many of the last parameters are Triton's own; a launch passes null for each."""
        return len(self.parameters) - len(self.visible)

    @property
    def visible(self) -> tuple[Parameter, ...]:
        """The parameters that the launch names."""
        return self.parameters[:len(self.parameters) - len(HIDDEN_PARAMETERS)]

    @property
    def file_name(self) -> str:
        """A name that says what it holds; equal contents have equal names."""
        return f"{self.symbol}.{hashlib.sha256(self.content).hexdigest()[:16]}.{self.target}.{self.kind}"

    def facts(self) -> dict[str, Any]:
        """Everything but the content, as plain data."""
        return {"kind": self.kind, "target": self.target, "symbol": self.symbol, "warps": self.warps,
                "threads": self.threads, "shared_bytes": self.shared_bytes,
                "parameters": [[parameter.name, parameter.triton_type] for parameter in self.parameters]}

    def to_bytes(self) -> bytes:
        """Facts and content in one: length of the facts (4 bytes, little-endian), facts as JSON, content."""
        text = json.dumps(self.facts(), sort_keys=True).encode()
        return len(text).to_bytes(4, "little") + text + self.content

    @staticmethod
    def from_bytes(data: bytes) -> CodeObject:
        """What :meth:`to_bytes` gave."""
        size = int.from_bytes(data[:4], "little")
        return CodeObject.from_facts(json.loads(data[4:4 + size]), data[4 + size:])

    @staticmethod
    def from_facts(facts: Mapping[str, Any], content: bytes) -> CodeObject:
        """From what :meth:`facts` gave."""
        parameters = tuple(Parameter(name, kind) for name, kind in facts["parameters"])
        return CodeObject(content, facts["kind"], facts["target"], facts["symbol"], parameters,
                          facts["shared_bytes"], facts["warps"], facts["threads"])
