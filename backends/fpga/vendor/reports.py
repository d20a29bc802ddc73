"""What the vendor's reports and files say of a built xclbin: slack, resources of every kernel, and the clock it got.

Written after the documented form of the reports; the tests read made-up ones of that form.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.backends.fpga.costs.unit_resources import Resources
from hetcc.backends.fpga.xrt.xclbin import Kind, read_sections

_CLOCK = struct.Struct("<HB5x128s")
_DATA_CLOCK = 1
_TIMING_TABLE = re.compile(r"^ *WNS\(ns\) +TNS\(ns\).*\n[ -]*-{3}[ -]*\n *(-?[\d.]+) +-?[\d.]+ +(\d+)", re.MULTILINE)
_COLUMNS = {"LUT": "lut", "REG": "register", "DSP": "dsp", "BRAM": "bram36", "URAM": "uram"}


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one implementation."""

    worst_slack_ns: float
    """Setup; negative means the clock that was asked for is not met."""
    failing_endpoints: int


@dataclass(frozen=True)
class Built:
    """Of one xclbin."""

    clock_hz: float | None
    """Of the kernels; None when the file does not say."""
    timing: Timing | None
    kernels: Mapping[str, Resources]
    """Of every kernel that the report names."""


def built(xclbin: bytes, reports: Mapping[str, str]) -> Built:
    """What is known of an xclbin.

    Args:
        xclbin: the file.
        reports: text of each report by file name.

    Raises:
        ValueError: not an xclbin.
    """
    timings = [found for name, text in reports.items() if "timing" in name and (found := timing_of(text)) is not None]
    kernels: dict[str, Resources] = {}
    for name, text in reports.items():
        if "util" in name:
            kernels.update(utilisation_of(text))
    worst = min(timings, key=lambda one: one.worst_slack_ns) if timings else None
    return Built(clock_of(xclbin), worst, kernels)


def clock_of(xclbin: bytes) -> float | None:
    """The kernels' clock as the linker left it, which may be slower than was asked for.

    Raises:
        ValueError: not an xclbin.
    """
    for section in read_sections(xclbin):
        if section.kind == Kind.CLOCK_FREQ_TOPOLOGY:
            for mega_hz, kind, _ in _CLOCK.iter_unpack(section.content[2:2 + len(section.content[2:]) // 136 * 136]):
                if kind == _DATA_CLOCK:
                    return float(mega_hz) * 1e6
    return None


def timing_of(report: str) -> Timing | None:
    """Worst slack of a timing summary, or None when it holds no such table."""
    found = _TIMING_TABLE.search(report)
    return Timing(float(found[1]), int(found[2])) if found else None


def utilisation_of(report: str) -> dict[str, Resources]:
    """Resources of each kernel from a utilisation report, the rows of its instances left out."""
    columns: list[str] = []
    found: dict[str, Resources] = {}
    for line in report.splitlines():
        cells = line.strip().strip("|").split("|")
        if len(cells) < 2:
            continue
        if cells[0].strip() == "Name":
            columns = [cell.strip() for cell in cells]
            continue
        name = cells[0]
        if not columns or not re.fullmatch(r" [A-Za-z_]\w* *", name):
            continue
        amounts = {column: _amount(cell) for column, cell in zip(columns, cells, strict=False)}
        found[name.strip()] = Resources(**{field: amounts.get(column, 0.0) for column, field in _COLUMNS.items()})
    return {name: one for name, one in found.items() if name not in ("Platform", "Total")}


def _amount(cell: str) -> float:
    """The number before the share in brackets."""
    found = re.match(r"\s*([\d.]+)", cell)
    return float(found[1]) if found else 0.0


__all__ = ["Built", "Timing", "built", "clock_of", "timing_of", "utilisation_of"]
