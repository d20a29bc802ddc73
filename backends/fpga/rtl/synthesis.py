"""What one unit of the library takes, by yosys for UltraScale+: no placement, no routing, no clock rate."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.rtl.library import Library
from hetcc.backends.fpga.rtl.verilog import text_of
from hetcc.backends.fpga.unit_resources import Resources

_STEPS = """\
design -reset
read_verilog unit{at}.v
synth_xilinx -family xcup -noiopad -noclkbuf -flatten -top unit_under_test
tee -o stat{at}.txt stat
"""
_TIMEOUT_S = 3600.0
# LUTs that one distributed memory primitive takes, and shift registers one each.
_LUTRAM = {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8,
           "RAM64M8": 8, "RAM64X8SW": 8, "RAM32X16DR8": 8, "RAM32X1S": 1, "RAM64X1S": 1}


def synthesise(units: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Resources]:
    """Resources of units, in one run, since starting yosys takes longer than small units.

    Args:
        units: the hardware, without units of the library inside, and all its ports but clock and reset.

    Raises:
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    with tempfile.TemporaryDirectory(prefix="hetcc-synthesis-") as name:
        folder = Path(name)
        for at, (unit, ports) in enumerate(units):
            text = text_of(unit, "unit_under_test", ports, Library(shared=True))
            (folder / f"unit{at}.v").write_bytes(text)
        (folder / "synthesis.ys").write_text("".join(_STEPS.format(at=at) for at in range(len(units))))
        tools.run_yosys("synthesis.ys", folder, _TIMEOUT_S)
        return [counted((folder / f"stat{at}.txt").read_text()) for at in range(len(units))]


def counted(text: str) -> Resources:
    """The primitives that yosys' ``stat`` lists, as resources."""
    lut = register = dsp = half_bram = uram = 0
    for count, cell in re.findall(r"^\s+(\d+)\s+(?:[\d.e+]+\s+)?([A-Z][A-Z0-9]*)\s*$", text, re.MULTILINE):
        number = int(count)
        if re.fullmatch(r"LUT[1-6]|SRL\w*|INV", cell):
            lut += number if cell != "INV" else 0
        elif cell in _LUTRAM:
            lut += number * _LUTRAM[cell]
        elif re.fullmatch(r"FD[RCSP]E(_1)?", cell):
            register += number
        elif cell.startswith("DSP48"):
            dsp += number
        elif cell.startswith("RAMB"):
            half_bram += number * (2 if "36" in cell else 1)
        elif cell.startswith("URAM"):
            uram += number
    return Resources(lut, register, dsp, half_bram / 2, uram)


__all__ = ["counted", "synthesise"]
