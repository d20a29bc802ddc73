"""Records of a stage graph as plain values for JSON, and back; floating point numbers keep every bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


def encode_fields(record: Any) -> dict[str, Any]:
    """The fields of a record by name."""
    return {entry.name: _encode(getattr(record, entry.name)) for entry in fields(record)}


def _encode(value: Any) -> Any:
    if isinstance(value, Enum):
        return {"enum": type(value).__name__, "value": value.value}
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    if type(value).__name__ == "Immediate":
        return {"kind": "Immediate", "value": float(value.value).hex()}
    if is_dataclass(value):
        return {"kind": type(value).__name__, **encode_fields(value)}
    return value


def decode(value: Any, kinds: Mapping[str, type], enums: Mapping[str, type[Enum]]) -> Any:
    """What :func:`encode_fields` made of a value.

    Args:
        value: from JSON.
        kinds: record types by name.
        enums: enumerations by name.

    Raises:
        KeyError, TypeError, ValueError: it is no such thing.
    """
    if isinstance(value, list):
        return tuple(decode(part, kinds, enums) for part in value)
    if not isinstance(value, dict):
        return value
    if "enum" in value:
        return enums[value["enum"]](value["value"])
    rest = {key: decode(part, kinds, enums) for key, part in value.items() if key != "kind"}
    if value["kind"] == "Immediate":
        rest["value"] = float.fromhex(rest["value"])
    return kinds[value["kind"]](**rest)


__all__ = ["decode", "encode_fields"]
