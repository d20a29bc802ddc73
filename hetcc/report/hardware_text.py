"""How wide the FPGA's kernels were made and what limits them, read from their reports, as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hetcc.plan.plan import PhasePlan
from hetcc.report.tables import text_table

REPORT_FILE = "report.json"


def hardware_of_regions(phase: PhasePlan, read: Callable[[str], bytes]) -> dict[str, dict[str, Any]]:
    """What was chosen for the kernel of each FPGA region, by region name; regions without code have none.

    Args:
        phase: whose regions.
        read: contents of a file of the bundle.
    """
    found: dict[str, dict[str, Any]] = {}
    for region in phase.regions:
        if region.device == "fpga" and region.entry:
            found[region.name] = json.loads(read(f"{region.entry.rpartition('/')[0]}/{REPORT_FILE}"))["choice"]
    return found


def hardware_block(hardware: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per kind of kernel; empty without FPGA code."""
    if not hardware:
        return ""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, choice in hardware.items():
        kinds.setdefault(tuple(_cells(choice)), []).append(name)
    rows = [[names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""), *cells]
            for cells, names in kinds.items()]
    head = ["region", "policy", "results x rows", "stripes", "channels", "rows/cycle", "bound by"]
    return "FPGA kernels (estimated)\n" + text_table(head, rows, right=range(3, 6))


def hardware_lines(choice: Mapping[str, Any] | None, policy: str) -> list[tuple[str, str]]:
    """Labels and values for one region; nothing for other devices."""
    if choice is None:
        return []
    text = (f"{choice['results_per_cycle_and_row']} results of {choice['rows_per_step']} rows per cycle; the table is "
            f"in {choice['stripes_of_the_table']} stripes; {choice['memory_channels']} memory channels")
    lines = [("policy", policy), ("hardware", text)]
    if held := choice.get("table_on_chip"):
        lines.append(("on chip", (f"the table, {held['bytes']:,} bytes in {held['banks_in_block_ram']} banks of block "
                                  f"RAM and {held['banks_in_ultra_ram']} of ultra RAM; read when it changes")))
    if "rows_per_cycle" in choice:
        limits = (f"memory allows {choice['rows_per_cycle_memory']:g}, arithmetic "
                  f"{choice['rows_per_cycle_arithmetic']:g}")
        lines.append(("rate", (f"{choice['rows_per_cycle']:g} rows per cycle (estimated), bound by "
                               f"{choice['bound_by']}: {limits}")))
    return lines


def _cells(choice: Mapping[str, Any]) -> list[str]:
    rate = f"{choice['rows_per_cycle']:g}" if "rows_per_cycle" in choice else "-"
    return [str(choice.get("policy", "exact")),
            f"{choice['results_per_cycle_and_row']} x {choice['rows_per_step']}", str(choice["stripes_of_the_table"]),
            str(choice["memory_channels"]), rate, str(choice.get("bound_by", "-"))]


__all__ = ["hardware_block", "hardware_lines", "hardware_of_regions"]
