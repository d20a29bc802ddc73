"""Stationary operands: what a core holds on chip before an instance's first row, and how fast it comes.

The shell sends all operands in stage order, each with its lanes slowest. Words that are neighbours in memory come
together where the core's memory takes them at once: a granule per cycle, as wide as a word of memory at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.runs import WORD_BYTES, granule_of, runs_of
from hetcc.backends.fpga.stages.stage_graph import Access, InnerProduct, Lookup, Map, Scan, StageGraph


@dataclass(frozen=True, slots=True)
class Load:
    """One stationary operand: 32-bit words, ``fast`` of them per lane."""

    operand: Access
    loops: tuple[str, ...]
    """Over its words, slowest first, in the order in which they come."""
    lanes: int
    fast: int
    meets_rows: bool = False
    """Whether an inner product with rows of a table takes it, in the format of that."""
    granule: int = 1
    """Words that come together, all of one lane or, of a lookup, entries."""

    @property
    def words(self) -> int:
        """How many words there are."""
        return self.lanes * self.fast

    @property
    def beats(self) -> int:
        """Granules in which they come; the last one of a lookup may hold fewer."""
        return math.ceil(self.words / self.granule)


_BLOCK_ROWS, _BLOCK_BITS = 4096, 72


def ultra_rows(rows: int) -> int:
    """Blocks of ultra RAM behind one another for so many rows."""
    return math.ceil(rows / _BLOCK_ROWS)


def ultra_blocks(rows: int, bits: int) -> int:
    """Blocks of ultra RAM of a memory, each 72 bits of 4,096 rows."""
    return ultra_rows(rows) * math.ceil(bits / _BLOCK_BITS)


def loads_of(graph: StageGraph) -> tuple[Load, ...]:
    """The stationary operands of a kernel, in the order in which they come."""
    found: list[Load] = []
    keys = {axis.name for axis in graph.keys}
    for stage in graph.stages:
        if isinstance(stage, InnerProduct):
            depth, loops = _extent(graph, stage.over), (*stage.lanes, *stage.over)
            if isinstance(graph.stage(stage.source.stage), Scan):
                granule = _granule(graph, stage.stationary, loops, depth)
                found.append(Load(stage.stationary, loops, _extent(graph, stage.lanes), depth, True, granule))
            else:
                found.append(Load(stage.stationary, loops, depth * _extent(graph, stage.lanes), 1))
        elif isinstance(stage, Lookup):
            entries = _extent(graph, stage.over)
            granule = _entries_together(graph, stage.table, stage.over, entries)
            found.append(Load(stage.table, stage.over, entries, 1, granule=granule))
        elif isinstance(stage, Map):
            found += [Load(part, stage.lanes, _extent(graph, stage.lanes), 1) for part in stage.operands
                      if isinstance(part, Access) and not {name for name, _ in part.strides} & keys]
    return tuple(found)


def load_of(graph: StageGraph, operand: Access) -> Load:
    """The load of one stationary operand."""
    return next(load for load in loads_of(graph) if load.operand == operand)


def load_words(graph: StageGraph) -> int:
    """Words of all stationary operands of an instance."""
    return sum(load.words for load in loads_of(graph))


def load_cycles(graph: StageGraph, beat: float = 1.0) -> int:
    """Cycles in which the stationary operands of an instance come.

    Args:
        graph: the kernel.
        beat: cycles per word of the channel they come through.
    """
    return sum(max(load.beats, math.ceil(load.words * 4 / WORD_BYTES * beat)) for load in loads_of(graph))


def _granule(graph: StageGraph, operand: Access, loops: Iterable[str], fast: int) -> int:
    runs = runs_of(operand, graph.instances, [graph.axis(name) for name in loops])
    return granule_of(runs, fast, storage_type(graph.buffer(operand.buffer).element).itemsize)


def _entries_together(graph: StageGraph, operand: Access, loops: Iterable[str], entries: int) -> int:
    """As many as lie side by side in the fewest blocks of memory, and always begin a granule in memory too."""
    runs = runs_of(operand, graph.instances, [graph.axis(name) for name in loops])
    if runs.inner:
        return 1
    whole = math.gcd(runs.offset, *(stride for _, stride in runs.outer))
    sizes = [1 << bit for bit in range((WORD_BYTES // 4).bit_length()) if whole % (1 << bit) == 0]
    blocks = {size: ultra_blocks(math.ceil(entries / size), 32 * size) for size in sizes}
    return max(size for size in sizes if blocks[size] == min(blocks.values()))


def _extent(graph: StageGraph, names: Iterable[str]) -> int:
    return math.prod(graph.axis(name).extent for name in names)


__all__ = ["Load", "load_cycles", "load_of", "load_words", "loads_of", "ultra_blocks", "ultra_rows"]
