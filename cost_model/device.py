"""Device profiles: data files with a source and a range per number, and the only place where such numbers are."""

from __future__ import annotations

import json
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hetcc.cost_model.profile import Achieved, Baseline, Device, DeviceKind, Memory, Power, Streaming
from hetcc.errors import UserError

DEVICES_FOLDER = Path(__file__).parent / "devices"
SCHEMA_FILE = DEVICES_FOLDER / "schema.json"


def list_devices() -> tuple[str, ...]:
    """Names of the profiles that come with hetcc, sorted."""
    return tuple(sorted(path.stem for path in DEVICES_FOLDER.glob("*.toml")))


def load_device(name_or_path: str) -> Device:
    """A device profile.

    Args:
        name_or_path: one of ``list_devices()``, or the path of a ``.toml`` file of the same form.

    Raises:
        UserError: HET-M001 if there is none, HET-M002 if the file is not a valid profile.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = DEVICES_FOLDER / f"{name_or_path}.toml"
        if name_or_path not in list_devices():
            raise UserError("HET-M001", f"no device is called '{name_or_path}'; known: {', '.join(list_devices())}",
                            where=name_or_path, fix="use one of these, or the path of a .toml file of the same form")
    if not path.is_file():
        raise UserError("HET-M001", f"there is no file '{path}'", where=name_or_path)
    return _read_device(path.resolve(), path.stat().st_mtime_ns)


def device_schema() -> dict[str, Any]:
    """The JSON Schema of a profile, as published in ``devices/schema.json``."""
    schema = Device.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The published file, to the byte."""
    return json.dumps(device_schema(), indent=1, sort_keys=True) + "\n"


@lru_cache(maxsize=32)
def _read_device(path: Path, modified_ns: int) -> Device:
    del modified_ns  # part of the key only: a file that changed is read again
    try:
        return Device.model_validate(read_toml(path, "a device profile"))
    except ValidationError as error:
        raise invalid(error, path) from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file as plain data.

    Raises:
        UserError: HET-M002 if it is not TOML or cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError("HET-M002", f"not {what}: {error}", where=str(path)) from error


def invalid(error: ValidationError, path: Path) -> UserError:
    """The error for a file that breaks the schema: the first few fields and what is wrong with each."""
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'profile'}: {fault['msg']}" for fault in error.errors()[:5]]
    return UserError("HET-M002", f"{error.error_count()} faults; " + "; ".join(faults), where=str(path),
                     fix="cost_model/devices/schema.json describes the form")


__all__ = ["DEVICES_FOLDER", "SCHEMA_FILE", "Achieved", "Baseline", "Device", "DeviceKind", "Memory", "Power",
           "Streaming", "device_schema", "invalid", "list_devices", "load_device", "read_toml", "schema_text"]
