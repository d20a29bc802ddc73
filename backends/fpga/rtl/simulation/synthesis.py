"""What units of the library, and whole kernels, take by yosys for UltraScale+: no placement, no routing, no clock rate.

A kernel is synthesised module by module: every distinct module once, with those inside it as black boxes, and the sum
is taken over the instances. Each module's figures are kept in the cache (``hetcc.store``), addressed by its text. What
synthesis would share or remove across module borders is not seen; ``flat=True`` synthesises everything as one module,
which takes minutes for small kernels and hours for large ones, to check how much that is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.costs.unit_resources import NOTHING, Resources
from hetcc.backends.fpga.rtl.simulation.structure import instances_of, modules_of
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.verilog import text_of
from hetcc.store import Store, key_of

_STEPS = """\
design -reset
read_verilog {name}.v
{boxes}
synth_xilinx -family xcup -noiopad -noclkbuf{flat} -top {top}
tee -o {name}.txt stat
"""
_TIMEOUT_S = 3600.0
# LUTs that one distributed memory primitive takes, and shift registers one each.
_LUTRAM = {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8,
           "RAM64M8": 8, "RAM64X8SW": 8, "RAM32X16DR8": 8, "RAM32X1S": 1, "RAM64X1S": 1}




@dataclass(frozen=True)
class KernelSynthesis:
    """A kernel, module by module."""

    total: Resources
    modules: Mapping[str, Resources]
    """Of one instance of each module, without the modules inside it."""
    instances: Mapping[str, int]
    """How often each module is there."""


def synthesise(units: Sequence[tuple[Any, tuple[Any, ...]]], store: Store | None = None) -> list[Resources]:
    """Resources of units, in one run, since starting yosys takes longer than small units.

    Args:
        units: the hardware, without units of the library inside, and all its ports but clock and reset.
        store: remembers what was synthesised before.

    Raises:
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    texts = [text_of(unit, "unit_under_test", ports, Library(shared=True)) for unit, ports in units]
    found = _figures([_Task(text, "unit_under_test", (), True) for text in texts], store)
    return [counted(text) for text in found]


def synthesise_kernel(verilog: bytes, top: str, store: Store | None = None, *, flat: bool = False) -> KernelSynthesis:
    """Resources of a kernel's Verilog.

    Args:
        verilog: as ``verilog.write_kernel`` made it.
        top: name of the kernel.
        store: remembers the modules that were synthesised before.
        flat: as one module instead of one by one.

    Raises:
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    if flat:
        found = counted(_figures([_Task(verilog, top, (), True)], store)[0])
        return KernelSynthesis(found, {top: found}, {top: 1})
    modules = modules_of(verilog.decode())
    names = sorted(modules)
    tasks = [_Task("\n".join(modules[part].text for part in (name, *sorted(modules[name].inside))).encode(), name,
                   tuple(sorted(modules[name].inside)), False) for name in names]
    own = {name: counted(text) for name, text in zip(names, _figures(tasks, store), strict=True)}
    counts = instances_of(modules, top)
    total = reduce(Resources.plus, (own[name].times(count) for name, count in counts.items()), NOTHING)
    return KernelSynthesis(total, own, counts)


@dataclass(frozen=True)
class _Task:
    """One module to synthesise."""

    text: bytes
    top: str
    boxes: tuple[str, ...]
    """Modules whose insides are not looked at."""
    flat: bool

    @property
    def key(self) -> str:
        """Of its figures in the cache."""
        return key_of("fpga-synthesis", self.text.decode(), self.top, list(self.boxes), self.flat, _STEPS,
                      tools.yosys_version())

    def script(self, name: str) -> str:
        """The steps for a file of that name."""
        boxes = "".join(f"blackbox \\{box}\n" for box in self.boxes)
        return _STEPS.format(name=name, boxes=boxes, flat=" -flatten" if self.flat else "", top=f"\\{self.top}")


def _figures(tasks: Sequence[_Task], store: Store | None) -> list[str]:
    """What yosys' ``stat`` says of every module, from the cache where it is there."""
    kept = [store.get_document(task.key) if store is not None else None for task in tasks]
    missing = [at for at, text in enumerate(kept) if not isinstance(text, str)]
    found = [text if isinstance(text, str) else "" for text in kept]
    if not missing:
        return found
    with tempfile.TemporaryDirectory(prefix="hetcc-synthesis-") as name:
        folder = Path(name)
        for at in missing:
            (folder / f"unit{at}.v").write_bytes(tasks[at].text)
        (folder / "synthesis.ys").write_text("".join(tasks[at].script(f"unit{at}") for at in missing))
        tools.run_yosys("synthesis.ys", folder, _TIMEOUT_S)
        for at in missing:
            found[at] = (folder / f"unit{at}.txt").read_text()
            if store is not None:
                store.put_document(tasks[at].key, found[at])
    return found


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


__all__ = ["KernelSynthesis", "counted", "synthesise", "synthesise_kernel"]
