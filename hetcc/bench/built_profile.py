"""A device profile with the clock that the vendor's tools reached."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

from hetcc.cost_model.device import DEVICES_FOLDER, list_devices, load_device, read_toml
from hetcc.cost_model.profile_text import profile_text


def built_profile(name_or_path: str, clock_hz: float, xclbin: str) -> tuple[str, str]:
    """Name and text of the profile of a card that runs at a built clock.

    Args:
        name_or_path: the profile that lends everything else.
        clock_hz: of the slowest xclbin.
        xclbin: which that is, for the source of the number.

    Raises:
        UserError: HET-M001 or HET-M002, there is no such profile or it is not valid.
    """
    load_device(name_or_path)
    known = name_or_path in list_devices()
    path = DEVICES_FOLDER / f"{name_or_path}.toml" if known else Path(name_or_path)
    profile: dict[str, Any] = _plain(copy.deepcopy(read_toml(path, "a device profile")))
    profile["name"] = f"{profile['name'].removesuffix('-built')}-built"
    today = datetime.datetime.now(tz=datetime.UTC).date()
    profile["streaming"]["clock_hz"] = {
        "value": clock_hz, "unit": "Hz", "low": clock_hz, "high": clock_hz, "kind": "measured",
        "source": f"hetcc build: clock in {xclbin}.xclbin after place and route, slowest of the plan",
        "date": today.isoformat()}
    return profile["name"], profile_text(profile, "Written by hetcc build: the clock is what place and route reached.")


def _plain(part: Any) -> Any:
    """The same with dates as ISO text."""
    if isinstance(part, dict):
        return {key: _plain(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_plain(value) for value in part]
    return part.isoformat() if isinstance(part, datetime.date) else part


__all__ = ["built_profile"]
