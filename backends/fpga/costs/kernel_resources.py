"""What a whole kernel takes of the card: the closed forms of its units, times how often its structure has them.

All *estimated*. ``rtl/simulation/synthesis.py`` synthesises the same kernel module by module; docs/fpga_build.md has
both, and a whole small kernel synthesised flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hetcc.backends.fpga.costs.cycles import (
    StageCost,
    accumulator_bits,
    extent_product,
    row_width,
    run_rows,
    stage_costs,
)
from hetcc.backends.fpga.costs.cycles_resident import banks
from hetcc.backends.fpga.costs.lookups import lookup_copies
from hetcc.backends.fpga.costs.resources_long import long_products, long_stationary
from hetcc.backends.fpga.costs.unit_resources import (
    ADD_FP32,
    CARD,
    ENTRY_BITS,
    MARGIN,
    MULTIPLY_FP32,
    NOTHING,
    WORD_WRITER,
    Resources,
    assembler,
    burst_reader,
    control_slave,
    factor,
    factor_bits,
    float_dot,
    integer_dots,
    integer_to_float,
    memory,
    quantiser,
    row_sorter,
    run_merger,
    together,
    unpacker,
    write_combiner,
)
from hetcc.backends.fpga.memory.memory_map import MemoryMap, memory_map, side_accesses
from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.backends.fpga.stages.loads import Load, load_of, loads_of
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.slices import slice_words
from hetcc.backends.fpga.stages.stage_graph import (
    Append,
    Compact,
    Gather,
    InnerProduct,
    Lookup,
    Parallelism,
    Scan,
    StageGraph,
    Store,
    TopK,
    row_words,
)

TABLE_BUFFER_BEATS, SMALL_BUFFER_BEATS = 512, 64
TABLE_BURST_BEATS, SMALL_BURST_BEATS = 64, 16
_RAMB36_BITS, _URAM_BITS = 36 * 1024, 288 * 1024


def kernel_resources(graph: StageGraph) -> dict[str, Resources]:
    """Resources by part: every stage, the rows on their way to it, stationary operands, and the shell.

    Args:
        graph: the kernel, as wide as its ``parallel`` says (one lane when it says nothing).
    """
    parallel = graph.parallel or Parallelism()
    costs = stage_costs(graph, parallel)
    found = {cost.name: _arithmetic(graph, cost) for cost in costs}
    latency = sum(cost.latency_cycles for cost in costs
                  if not isinstance(graph.stage(cost.name), (Scan, TopK, Compact, Gather)))
    found["rows"] = _rows(graph, parallel, latency)
    found["stationary"] = together(_stationary(graph, parallel))
    for stage in graph.of_kind(TopK):
        found[stage.name] = top_k(stage.k, _offered(graph, stage, parallel))
    found["shell"] = _shell(graph, memory_map(graph))
    found["table on chip"] = banks(graph)
    return {name: one for name, one in found.items() if one != NOTHING}


def total_of(parts: Mapping[str, Resources]) -> Resources:
    """The sum of all parts."""
    return together(parts.values())


def largest_share(resources: Resources) -> float:
    """The largest part of any resource of the card within its margin; above 1 it does not fit."""
    return max(resources.shares(CARD).values()) / MARGIN


def top_k(k: int, offered: int) -> Resources:
    """A selection of ``offered`` candidates per cycle: sort keys, sorter, mergers, the list kept, and the result."""
    width = row_width(offered)
    rows = run_rows(k, width)
    parts = [row_sorter(width), run_merger(width, rows, keep=True), memory(rows, width * ENTRY_BITS)]
    parts += [run_merger(width, 1 << level) for level in range((rows - 1).bit_length())]
    entries = Resources(95 * offered + 54 * (width - 1), width * ENTRY_BITS, 0, 0, 0)
    counters = Resources(180, 40 + 6 * (rows - 1).bit_length(), 0, 0, 0)
    return together((*parts, entries, counters))


def _offered(graph: StageGraph, stage: TopK, parallel: Parallelism) -> int:
    rows = math.prod(axis.extent for axis in graph.keys)
    return max(parallel.together * extent_product(graph, stage.over) // rows, 1)


def _arithmetic(graph: StageGraph, cost: StageCost) -> Resources:
    """Units of a stage; registers follow from how many of each kind there are."""
    stage = graph.stage(cost.name)
    if isinstance(stage, InnerProduct) and isinstance(graph.stage(stage.source.stage), Scan):
        return _products(graph, stage, graph.parallel or Parallelism())
    if isinstance(stage, Lookup):
        load = load_of(graph, stage.table)
        return lookup_copies(load.words, load.granule, cost.lanes * (graph.parallel or Parallelism()).together)
    products = cost.dsp / MULTIPLY_FP32.dsp
    adders = max(cost.lut - products * MULTIPLY_FP32.lut, 0) / ADD_FP32.lut
    held = _blocks(cost) if cost.memory in ("bram", "uram") and not isinstance(
        stage, (Scan, TopK, InnerProduct)) else NOTHING
    registers = products * MULTIPLY_FP32.register + adders * ADD_FP32.register
    return Resources(cost.lut, registers, cost.dsp, 0, 0).plus(held)


def _blocks(cost: StageCost) -> Resources:
    """State of a stage without a form of its own, counted in bits."""
    if cost.memory == "uram":
        return Resources(0, 0, 0, 0, math.ceil(cost.state_bits / _URAM_BITS))
    return Resources(0, 0, 0, math.ceil(cost.state_bits / _RAMB36_BITS), 0)


def _products(graph: StageGraph, stage: InnerProduct, parallel: Parallelism) -> Resources:
    """Inner products of all rows that pass together."""
    if (long := long_rows(graph)) is not None:
        return long_products(long).times(parallel.together)
    lanes = min(parallel.lanes, extent_product(graph, stage.lanes))
    depth, bits = extent_product(graph, stage.over), stage.format.float_bits
    if not bits:
        return _integers(graph, stage, lanes, parallel.together)
    return factor(bits).times(depth).plus(float_dot(depth, bits).times(lanes)).times(parallel.together)


def _integers(graph: StageGraph, stage: InnerProduct, lanes: int, rows: int) -> Resources:
    """Converters of the rows, multipliers with exact sums, and converters of the totals."""
    depth, bits = extent_product(graph, stage.over), stage.format.integer_bits
    pairs = lanes // 2 if stage.format is NumberFormat.INT8 else 0
    row = together((quantiser(depth, bits), integer_dots(depth, bits, 1).times(lanes - 2 * pairs),
                    integer_dots(depth, bits, 2).times(pairs),
                    integer_to_float(accumulator_bits(depth, bits)).times(lanes)))
    if is_resident(graph):
        # Rows are converted once, on their way into their banks.
        one = quantiser(depth, bits)
        return row.plus(one.times(-1)).times(rows).plus(one)
    return row.times(rows)


def _rows(graph: StageGraph, parallel: Parallelism, latency: int) -> Resources:
    """A step's rows while they are put together and while they pass; operands that differ by row travel beside them."""
    tables = len(graph.of_kind(Scan)) if slice_words(graph) else 1
    words = slice_words(graph) or (WORD_BYTES // 4 if long_rows(graph) is not None else row_words(graph))
    bits = 32 * words * tables * parallel.together
    if is_resident(graph):
        bits = 32 * row_words(graph)
    sides = 32 * len(side_accesses(graph)) * parallel.together
    return Resources(1.1 * bits, 2 * bits + sides * (latency + 1), 0, 0, 0)


def _stationary(graph: StageGraph, parallel: Parallelism) -> list[Resources]:
    """Memories of what is loaded before the first row, a word wide, as deep as a row has groups of lanes."""
    found, long = [], long_rows(graph)
    looked_up = {stage.table for stage in graph.of_kind(Lookup)}
    for load in loads_of(graph):
        if load.meets_rows and long is not None:
            found.append(long_stationary(long))
        elif load.operand not in looked_up:
            found.append(_held(load, _held_bits(graph, load), parallel.lanes))
    return found


def _held_bits(graph: StageGraph, load: Load) -> int:
    """Of a word of a stationary vector: an integer, a factor, or the binary32 number as it came."""
    if not load.meets_rows:
        return 32
    form = next(stage.format for stage in graph.of_kind(InnerProduct) if stage.stationary == load.operand)
    return form.integer_bits or factor_bits(form.float_bits)


def _held(load: Load, bits: int, lanes: int) -> Resources:
    """``fast`` words for each lane, of which ``lanes`` are read at a time."""
    width = min(lanes, load.lanes)
    groups = load.lanes // width
    one = Resources(0, bits, 0, 0, 0) if groups == 1 else memory(groups, bits)
    enables = width * load.fast / load.granule / 2
    return one.times(width * load.fast).plus(Resources(20 + enables, 30, 0, 0, 0))


def _shell(graph: StageGraph, places: MemoryMap) -> Resources:
    """Registers, channels, and what turns words of memory into rows."""
    tables = {scan.table.buffer for scan in graph.of_kind(Scan)}
    table_masters = {argument.master for name in tables for argument in places.of_buffer(name)}
    others = [master for master in places.masters if master.number not in table_masters]
    writers = sum(master.writes for master in places.masters)
    elements = 4 if not graph.of_kind(Scan) else graph.of_kind(Scan)[0].element.size_bytes
    sinks = len(graph.of_kind(Store)) + len(graph.of_kind(Append))
    return together((
        control_slave(len(places.pointers), len(places.arguments) - len(places.pointers)),
        burst_reader(TABLE_BUFFER_BEATS, TABLE_BURST_BEATS).times(len(table_masters)),
        burst_reader(SMALL_BUFFER_BEATS, SMALL_BURST_BEATS).times(len(others)),
        unpacker((64,)).times(len(table_masters)), unpacker((4,)).times(len(others)),
        assembler(8 * elements, 1), write_combiner(elements).times(sinks), WORD_WRITER.times(writers),
        # Choosing among what writes to one master costs about one table per bit of a word and source.
        Resources(640 * (sinks + 1) + 700, 700, 0, 0, 0)))


__all__ = ["kernel_resources", "largest_share", "top_k", "total_of"]
