"""Builds the emitted Verilog with Verilator and runs it on the kernel's buffers: what is checked is the file itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.rtl.simulation.simulate import Simulated
from hetcc.backends.fpga.rtl.simulation.simulator import build_simulator
from hetcc.backends.fpga.rtl.simulation.stimulus import stimuli
from hetcc.backends.fpga.stages.functional import append_rows
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.store import Store

_BENCH = """\
#include "Vcore.h"
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>
typedef std::vector<uint32_t> Words;
static Words take(FILE* file) {
  uint32_t count = 0;
  if (fread(&count, 4, 1, file) != 1) return Words();
  Words words(count);
  if (count && fread(words.data(), 4, count, file) != count) words.clear();
  return words;
}
int main(int argc, char** argv) {
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (argc != 3 || !in || !out) return 2;
  Vcore top;
  auto tick = [&] { top.clk = 0; top.eval(); top.clk = 1; top.eval(); };
  top.rst = 1; tick(); top.rst = 0;
  uint32_t instances = 0;
  if (fread(&instances, 4, 1, in) != 1) return 2;
  for (uint32_t i = 0; i < instances; ++i) {
    Words load = take(in), beats = take(in);
    Words side[SIDES + 1];
    for (int s = 0; s < SIDES; ++s) side[s] = take(in);
    size_t at_load = 0, at_beat = 0, at_side[SIDES + 1] = {0};
    top.start = 1; tick(); top.start = 0;
    Words result;
    uint32_t cycles = 0;
    while (!top.done && ++cycles < 2000000000u) {
      top.load_valid = at_load < load.size();
      if (top.load_valid) memcpy(&top.load_data, &load[at_load], 4 * LOAD);
      top.row_valid = at_beat + BEAT <= beats.size();
      if (top.row_valid) memcpy(&top.row_data, &beats[at_beat], 4 * BEAT);
      OFFER_SIDES
      top.out_ready = 1;
      top.clk = 0; top.eval();
      if (top.load_valid && top.load_ready) at_load += LOAD;
      if (top.row_valid && top.row_ready) at_beat += BEAT;
      TAKE_SIDES
      if (top.out_valid) { result.push_back(top.out_value); result.push_back(top.out_index); }
      top.clk = 1; top.eval();
    }
    uint32_t header[2] = {cycles, (uint32_t)result.size()};
    fwrite(header, 4, 2, out);
    fwrite(result.data(), 4, result.size(), out);
  }
  fclose(out);
  return 0;
}
"""


def build(verilog: bytes, kernel: str, core: Any, folder: Path) -> None:
    """Build the simulator of a kernel in a folder.

    Args:
        verilog: the emitted file.
        kernel: its top module.
        core: the ``StreamCore`` it was written from, for the widths of its ports.
        folder: where to build; the program is ``<folder>/obj/Vcore``.

    Raises:
        ToolError: HET-T001 without verilator, HET-T002 when it fails.
    """
    offers = " ".join(
        f"top.side{at}_valid = at_side[{at}] < side[{at}].size(); "
        f"if (top.side{at}_valid) top.side{at}_data = side[{at}][at_side[{at}]];" for at in range(len(core.sides)))
    takes = " ".join(f"if (top.side{at}_valid && top.side{at}_ready) ++at_side[{at}];" for at in range(len(core.sides)))
    bench = _BENCH.replace("OFFER_SIDES", offers).replace("TAKE_SIDES", takes)
    bench = bench.replace("SIDES", str(len(core.sides))).replace("BEAT", str(core.beat_words))
    bench = bench.replace("LOAD", str(core.load_words))
    build_simulator(verilog, kernel, bench, folder, program="Vcore", store=Store())


def run(graph: StageGraph, buffers: Mapping[str, Array], core: Any, folder: Path) -> list[Simulated]:
    """Run what :func:`build` made on buffers, all instances; rows are appended to the tables first.

    Raises:
        ToolError: HET-T002, it failed.
    """
    append_rows(graph, buffers)
    instances = list(stimuli(graph, buffers, core))
    parts = [struct.pack("<I", len(instances))]
    for stimulus in instances:
        for words in (stimulus.load.reshape(-1), stimulus.beats.reshape(-1), *stimulus.sides):
            parts += [struct.pack("<I", words.size), words.astype("<u4").tobytes()]
    (folder / "stimulus.bin").write_bytes(b"".join(parts))
    tools.run([str(folder / "obj" / "Vcore"), "stimulus.bin", "results.bin"], folder)
    answer = numpy.frombuffer((folder / "results.bin").read_bytes(), "<u4")
    results, at = [], 0
    for _ in instances:
        cycles, count = int(answer[at]), int(answer[at + 1])
        pairs = answer[at + 2:at + 2 + count].reshape(-1, 2)
        results.append(Simulated(pairs[:, 0].astype(numpy.uint32), pairs[:, 1].astype(numpy.int32).astype(numpy.int64),
                                 cycles))
        at += 2 + count
    return results


__all__ = ["build", "run"]
