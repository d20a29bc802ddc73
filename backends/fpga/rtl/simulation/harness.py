"""Runs one unit of the library alone, in Verilator: words in on each cycle, words out on each cycle.

For measurements and for sizes that Amaranth's own simulator (about 10^3 cycles per second) cannot reach.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.rtl.simulation.simulator import build_simulator
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.verilog import text_of
from hetcc.store import Store

Words = NDArray[numpy.uint32]

_BUILD_TIMEOUT_S = 3600.0
_BENCH = """\
#include "Vunit.h"
#include <cstdint>
#include <cstdio>
#include <cstring>
int main(int, char** argv) {
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (!in || !out) return 2;
  Vunit top;
  auto tick = [&] { top.clk = 1; top.eval(); top.clk = 0; };
  top.rst = 1; top.clk = 0; top.eval(); tick(); top.rst = 0;
  uint32_t words[INPUTS], found[OUTPUTS];
  while (fread(words, 4, INPUTS, in) == INPUTS) {
    const uint32_t* from = words;
    uint32_t* to = found;
    SET
    top.eval();
    GET
    fwrite(found, 4, OUTPUTS, out);
    tick();
  }
  fclose(out);
  return 0;
}
"""


class UnitSimulator:
    """A built simulator of one unit; a context manager that removes it at the end.

    Args:
        unit: the hardware; its ports are attributes.
        library: what it was made with (``Library(shared=True)``).
        inputs: names of its input ports.
        outputs: names of its output ports.

    Raises:
        ToolError: HET-T001 without verilator or yosys, HET-T002 when one fails.
    """

    def __init__(self, unit: Any, library: Library, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hetcc-unit-")
        self._inputs = [(name, len(getattr(unit, name))) for name in inputs]
        self._outputs = [(name, len(getattr(unit, name))) for name in outputs]
        self.input_words = sum(_words(bits) for _, bits in self._inputs)
        self.output_words = sum(_words(bits) for _, bits in self._outputs)
        ports = tuple(getattr(unit, name) for name in (*inputs, *outputs))
        folder = Path(self._folder.name)
        verilog = text_of(unit, "unit_under_test", ports, library)
        bench = _BENCH.replace("INPUTS", str(self.input_words)).replace("OUTPUTS", str(self.output_words))
        bench = bench.replace("SET", "\n    ".join(_set(name, bits) for name, bits in self._inputs))
        bench = bench.replace("GET", "\n    ".join(_get(name, bits) for name, bits in self._outputs))
        build_simulator(verilog, "unit_under_test", bench, folder, program="Vunit", timeout_s=_BUILD_TIMEOUT_S,
                        store=Store())

    def __enter__(self) -> UnitSimulator:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, cycles: Words) -> Words:
        """Simulate after a reset.

        Args:
            cycles: ``[cycles, input_words]``; ports in order, each from its low word on.

        Returns:
            ``[cycles, output_words]``, as they stand before the clock edge of each cycle.
        """
        folder = Path(self._folder.name)
        (folder / "in.bin").write_bytes(numpy.ascontiguousarray(cycles, "<u4").tobytes())
        tools.run([str(folder / "obj" / "Vunit"), "in.bin", "out.bin"], folder)
        found = numpy.frombuffer((folder / "out.bin").read_bytes(), "<u4")
        return found.reshape(len(cycles), self.output_words).astype(numpy.uint32)


def _words(bits: int) -> int:
    return -(-bits // 32)


def _set(name: str, bits: int) -> str:
    words = _words(bits)
    return f"memcpy(&top.{name}, from, {bits_to_bytes(bits)}); from += {words};"


def _get(name: str, bits: int) -> str:
    words = _words(bits)
    return f"memset(to, 0, {4 * words}); memcpy(to, &top.{name}, {bits_to_bytes(bits)}); to += {words};"


def bits_to_bytes(bits: int) -> int:
    """Bytes of the variable Verilator makes of a port."""
    for limit in (8, 16, 32, 64):
        if bits <= limit:
            return limit // 8
    return 4 * _words(bits)


__all__ = ["UnitSimulator", "Words"]
