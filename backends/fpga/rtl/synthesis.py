"""What one unit of the library takes, by yosys for UltraScale+: no placement, no routing, no clock rate."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.resources import Resources
from hetcc.backends.fpga.rtl.library import Library
from hetcc.backends.fpga.rtl.verilog import text_of

_SCRIPT = """\
read_verilog unit.v
synth_xilinx -family xcup -noiopad -noclkbuf -flatten -top unit_under_test
tee -o stat.txt stat
"""
# LUTs that one distributed memory primitive takes, and shift registers one each.
_LUTRAM = {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8,
           "RAM64M8": 8, "RAM64X8SW": 8, "RAM32X16DR8": 8, "RAM32X1S": 1, "RAM64X1S": 1}


def synthesise(unit: Any, library: Library, ports: tuple[Any, ...]) -> Resources:
    """Resources of a unit and of all it is made of.

    Args:
        unit: the hardware.
        library: what it was made with (``Library(shared=True)``).
        ports: all its ports but clock and reset.

    Raises:
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    with tempfile.TemporaryDirectory(prefix="hetcc-synthesis-") as name:
        folder = Path(name)
        (folder / "unit.v").write_bytes(text_of(unit, "unit_under_test", ports, library))
        (folder / "synthesis.ys").write_text(_SCRIPT)
        tools.run_yosys("synthesis.ys", folder)
        return counted((folder / "stat.txt").read_text())


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
