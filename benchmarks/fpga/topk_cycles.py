"""Measures the exact top-k in Verilator, worst case over orders of the scores: cycles, and that it selects the same.

    python benchmarks/fpga/topk_cycles.py [--full]

``--full`` adds 2**20 scores with k = 4,096. The overhead is against ``scores / width`` cycles.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.costs.cycles import topk_cycles
from hetcc.backends.fpga.stages.functional import select

Floats = NDArray[numpy.float32]
SIZES = ((131_072, 2048, 1), (131_072, 2048, 16), (131_072, 2048, 32), (100_003, 1000, 16))
FULL = ((1 << 20, 4096, 16), (1 << 20, 4096, 1))


def orders(count: int) -> Iterator[tuple[str, Floats]]:
    """The cases by name."""
    random = numpy.random.default_rng(count)
    scores = random.standard_normal(count).astype(numpy.float32)
    yield "random", scores
    yield "ascending", numpy.sort(scores)
    yield "descending", -numpy.sort(-scores)
    yield "all equal", numpy.ones(count, numpy.float32)
    masked = scores.copy()
    masked[::2] = -math.inf
    yield "half masked", masked
    yield "tied", random.integers(-3, 4, count).astype(numpy.float32)


class Selection:
    """A built simulator of the unit for one size."""

    def __init__(self, count: int, k: int, width: int) -> None:
        from hetcc.backends.fpga.rtl.simulation.harness import UnitSimulator
        from hetcc.backends.fpga.rtl.units.library import Library
        from hetcc.backends.fpga.rtl.units.topk import TopKUnit

        self.count, self.k, self.width = count, k, width
        library = Library(shared=True)
        unit = TopKUnit(library, k, True, count, width)
        self.simulator = UnitSimulator(unit, library, ("clear", "valid", "values", "out_ready"),
                                       ("out_valid", "out_value", "out_index"))

    def run(self, scores: Floats) -> tuple[int, NDArray[numpy.int64]]:
        """Cycles from the first candidate to the last entry, and the entries' indices."""
        rows = -(-self.count // self.width)
        cycles = topk_cycles(self.count, self.k, self.width) + 64
        words = numpy.zeros((1 + cycles, self.simulator.input_words), numpy.uint32)
        words[0, 0] = 1
        words[1:1 + rows, 1] = 1
        padded = numpy.zeros(rows * self.width, numpy.float32)
        padded[:self.count] = scores
        words[1:1 + rows, 2:2 + self.width] = padded.view(numpy.uint32).reshape(rows, self.width)
        words[:, -1] = 1
        found = self.simulator.run(words)
        leaving = numpy.flatnonzero(found[:, 0])
        return int(leaving[self.k - 1]), found[leaving[:self.k], 2].astype(numpy.int64)


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    sizes = SIZES + (FULL if parser.parse_args().full else ())
    print("scores  k  scores/cycle  order  measured cycles  closed form  extra over scores/width  same selection")
    for count, k, width in sizes:
        selection = Selection(count, k, width)
        with selection.simulator:
            for order, scores in orders(count):
                cycles, indices = selection.run(scores)
                same = numpy.array_equal(indices, select(scores, k, True))
                ideal = count / width
                print(f"{count}  {k}  {width}  {order}  {cycles}  {topk_cycles(count, k, width)}  "
                      f"{cycles - ideal:.0f} ({cycles / ideal - 1:.1%})  {same}", flush=True)


if __name__ == "__main__":
    main()
