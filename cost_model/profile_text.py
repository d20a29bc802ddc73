"""A profile as TOML text, in the form of the files under ``devices``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_DATES = "date"


def profile_text(profile: Mapping[str, Any], head: str = "") -> str:
    """TOML of a profile; numbers with their sources stand on one line each.

    Args:
        profile: as ``Device`` reads it, dates as ISO text.
        head: comment for the top, without the mark.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    lines += _table(profile, "")
    return "\n".join(lines).strip() + "\n"


def _table(table: Mapping[str, Any], path: str) -> list[str]:
    lines = [f"{_name(key)} = {_value(value)}" for key, value in table.items() if _is_plain(value)]
    for key, value in table.items():
        inside = f"{path}.{_name(key)}" if path else _name(key)
        if isinstance(value, Mapping) and not _is_plain(value):
            # A table that only holds tables needs no header of its own; one that holds nothing does.
            body = _table(value, inside)
            own = not value or any(_is_plain(part) for part in value.values())
            lines += ["", f"[{inside}]", *body] if own else body
        elif isinstance(value, list):
            for item in value:
                lines += ["", f"[[{inside}]]", *_table(item, inside)]
    return lines


def _is_plain(value: Any) -> bool:
    return not isinstance(value, list) and not (isinstance(value, Mapping) and "value" not in value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (f"{key} = {part if key == _DATES else _value(part)}" for key, part in value.items())
        return "{ " + ", ".join(parts) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON and TOML write strings alike, and Python's shortest form of a float is TOML's.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _name(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


__all__ = ["profile_text"]
