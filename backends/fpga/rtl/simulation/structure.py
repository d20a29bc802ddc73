"""Which modules an emitted Verilog file has, how often each is there, and which of them a simulator should share.

Verilator by itself copies a unit out for each place where it stands. Two kinds of lines in a control file (``.vlt``)
stop that, and the emitted Verilog stays as it is:

* ``hier_block``: a large unit that stands in many places becomes a library of its own, made once. Each of its places
  then costs a few calls per cycle.
* ``public_flat_rd`` on what enters a smaller unit: the wire stays a variable of the unit, where it would have become
  the name of the other unit that drives it, which made every copy a different text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MODULE = re.compile(r"^module (\\\S+|\w+).*?^endmodule$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^ {2}(\\\S+|\w+) +(?:\\\S+|\w+) +\($", re.MULTILINE)
_INPUT = re.compile(r"^ {2}input (?:signed )?(?:\[[^]]+\] )?(\\\S+|\w+) ?;$", re.MULTILINE)
# A name that Verilator spells as it is, in the names of files too.
_PLAIN = re.compile(r"(?!.*__)\w+$")
BLOCK_BYTES = 32_000
"""Text that a unit must have, with all units in it, before calling it is cheaper than having it in place."""
SAVED_BYTES = 256_000
"""Text that must be saved by making a unit once: below it one more library costs as much."""


@dataclass(frozen=True)
class VerilogModule:
    """One module of a file."""

    text: str
    inside: Mapping[str, int]
    """How often it instantiates each of the others."""

    @property
    def inputs(self) -> list[str]:
        """Names of its input ports but clock and reset."""
        return [name for name in _INPUT.findall(self.text) if name not in ("clk", "rst")]


def modules_of(verilog: str) -> dict[str, VerilogModule]:
    """The modules of a file, by name, in the order of the file.

    Args:
        verilog: as ``rtl.verilog`` writes it.
    """
    texts = {match[1].removeprefix("\\"): match[0] for match in _MODULE.finditer(verilog)}
    found = {}
    for name, text in texts.items():
        inside: dict[str, int] = {}
        for match in _INSTANCE.finditer(text):
            part = match[1].removeprefix("\\")
            if part in texts:
                inside[part] = inside.get(part, 0) + 1
        found[name] = VerilogModule(text, inside)
    return found


def instances_of(modules: Mapping[str, VerilogModule], top: str) -> dict[str, int]:
    """How often each module is there in all, those that are not there left out; nothing without the top module."""
    counts: dict[str, int] = {}

    def count(name: str, times: int) -> None:
        counts[name] = counts.get(name, 0) + times
        for part, each in modules[name].inside.items():
            count(part, times * each)

    if top in modules:
        count(top, 1)
    return counts


def blocks_of(modules: Mapping[str, VerilogModule], top: str) -> list[str]:
    """The largest modules that are worth a library of their own; see above."""
    counts = instances_of(modules, top)
    whole: dict[str, int] = {}

    def size(name: str) -> int:
        if name not in whole:
            whole[name] = len(modules[name].text) + sum(
                times * size(part) for part, times in modules[name].inside.items())
        return whole[name]

    found: set[str] = set()

    def look_into(name: str) -> None:
        for part in modules[name].inside:
            saved = size(part) * (counts[part] - 1)
            if size(part) >= BLOCK_BYTES and saved >= SAVED_BYTES and _PLAIN.match(part):
                found.add(part)
            else:
                look_into(part)

    if top in modules:
        look_into(top)
    return sorted(found)


def control_file(verilog: str, top: str) -> str:
    """The text of a Verilator control file for a kernel.

    Args:
        verilog: as ``rtl.verilog`` writes it.
        top: its top module.
    """
    modules = modules_of(verilog)
    blocks = blocks_of(modules, top)
    lines = ["`verilator_config", *(f'hier_block -module "{_pattern(name)}"' for name in blocks)]
    for name, times in sorted(instances_of(modules, top).items()):
        if times > 1 and name not in blocks:
            lines += [f'public_flat_rd -module "{_pattern(name)}" -var "{_pattern(port)}"'
                      for port in modules[name].inputs]
    return "\n".join(lines) + "\n"


def _pattern(name: str) -> str:
    """A name as Verilator compares it: what it spells differently inside is left open."""
    return re.sub(r"__|[^\w]", "*", name.removeprefix("\\"))


__all__ = ["BLOCK_BYTES", "SAVED_BYTES", "VerilogModule", "blocks_of", "control_file", "instances_of", "modules_of"]
