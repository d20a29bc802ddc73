"""Which FPGA kernels share an xclbin, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetcc.report.tables import text_table
from hetcc.units import format_time

PACKING_FILE = "fpga/packing.json"
_SHOWN = ("lut", "register", "dsp", "bram36", "uram")


def packing_block(packing: Mapping[str, Any] | None, phase: str) -> str:
    """A row per xclbin, and what loading others costs a step of a phase; empty without FPGA code."""
    if packing is None:
        return ""
    rows = [[one["name"], str(len(one["kernels"])), *(f"{one['shares'][name]:.1%}" for name in _SHOWN),
             str(one["channels"]), _dies(one), "" if one["fits"] else "does not fit"] for one in packing["xclbins"]]
    head = (f"FPGA kernels in {len(rows)} xclbin{'s' if len(rows) > 1 else ''} (estimated; shares of the card, at most "
            f"{packing['margin']:.0%}" + ("" if packing["proved"] else "; fewer may be possible") + ")")
    table = text_table(["xclbin", "kernels", *_SHOWN, "channels", "dies", ""], rows, right=range(1, 8))
    loads = packing["loads"].get(phase, {"per_step": 0, "time_s": 0.0})
    cost = (f"loads per step: {loads['per_step']}, {format_time(loads['time_s'])} of the predicted latency (assumed)"
            if loads["per_step"] else "loads per step: none")
    return f"{head}\n{table}\n{cost}"


def _dies(one: Mapping[str, Any]) -> str:
    found = sorted({"several" if kernel["die"] is None else str(kernel["die"]) for kernel in one["kernels"]})
    return ", ".join(found)


__all__ = ["PACKING_FILE", "packing_block"]
