"""How many cycles a stage graph takes, and what it occupies: closed forms, used to choose its width (``choice``).

Every number here is an *estimate* from the structure of the kernel; nothing was placed or routed. Sources: slices and
LUTs of a unit from yosys' synthesis of it (``benchmarks/fpga/resources.py``); the card's 9,024 DSP, 1,304,000 LUT,
2,016 RAMB36, 960 URAM and 512-bit HBM ports from its data sheet. Latencies are those of the RTL in ``rtl``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hetcc.backends.fpga.costs.cycles_attention import second_pass_cycles, weighted_sum_cost
from hetcc.backends.fpga.costs.cycles_selections import compact_cycles, compact_state_bits, fetch_cycles, index_bits
from hetcc.backends.fpga.costs.lookups import LOOKUP_PORTS, lookup_style
from hetcc.backends.fpga.costs.unit_resources import ADD_FP32, MULTIPLY_FP32, Resources, float_dot, integer_dots
from hetcc.backends.fpga.memory.layout import dealt_rows, wide_scan
from hetcc.backends.fpga.memory.resident import residency_of
from hetcc.backends.fpga.stages.gathers import entries_of
from hetcc.backends.fpga.stages.loads import load_cycles, load_of, load_words
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.numbers import GRIDS
from hetcc.backends.fpga.stages.slices import LOOKUP_LATENCY, slice_words
from hetcc.backends.fpga.stages.stage_graph import (
    Append,
    Compact,
    Gather,
    InnerProduct,
    Lookup,
    Map,
    Parallelism,
    Reduce,
    Scan,
    Stage,
    StageGraph,
    Store,
    Stream,
    TopK,
    WeightedSum,
    operands_of,
    row_words,
)

MULTIPLY_LATENCY = 4
ADD_LATENCY = 5
SELECT_LATENCY = 1
"""Cycles of relu, negation, absolute value, choice, comparison."""
INTEGER_MULTIPLY_LATENCY = 3
BANK_LATENCY = 2
"""Cycles of a bank of a table kept on chip: its memory and a register behind it."""
TO_FLOAT_LATENCY = 3
"""Cycles from an exact integer total to binary32."""
DSP_OF = {NumberFormat.FP32: 2.0, NumberFormat.BF16: 1.0, NumberFormat.INT16: 1.0, NumberFormat.INT8: 1.0}
"""Slices of one multiplier, as synthesised; two of 8 bits that share a factor take one."""
DSP_BUDGET = int(9024 * 0.7)
PORT_BYTES = 64
"""Bytes per cycle of one 512-bit memory port."""
MEMORY_LATENCY = 128
"""Cycles from a read request to its data; hidden inside a burst, paid once per instance."""
DEFAULT_CLOCK_HZ = 300e6


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage does per row and what it occupies."""

    name: str
    lanes: int
    """Results per cycle and row (words per cycle for memory stages)."""
    interval_cycles: int
    """Cycles between two steps of as many rows as pass together."""
    latency_cycles: int
    """Cycles from the last operand of a row to its result."""
    dsp: int
    state_bits: int
    """On-chip bits held between cycles beside pipeline registers."""
    memory: str
    """Where the state lies: ``none``, ``registers``, ``bram``, ``uram`` or ``hbm``."""
    lut: int = 0
    """Of its arithmetic units."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cycles and occupancy of a kernel, all estimated."""

    cycles: int
    time_s: float
    """At the clock asked for."""
    row_interval_cycles: float
    """Between two rows, of memory or arithmetic; below one when several pass together."""
    rows: int
    instances: int
    fill_cycles: int
    """Per instance: memory latency, pipeline depth and draining the selection."""
    stages: tuple[StageCost, ...]
    dsp: int
    resources: Resources
    """Of the whole kernel, its shell included."""
    bytes_read: int
    """From HBM, over the whole run; a table that is on chip already is not read."""


def estimate_cycles(graph: StageGraph, clock_hz: float = DEFAULT_CLOCK_HZ) -> Estimate:
    """Cycles of one run: ``instances * (rows * cycles per row + fill) + appended words``.

    Args:
        graph: the kernel; what its hardware has not been given yet is chosen here.
        clock_hz: clock of the kernel.
    """
    from hetcc.backends.fpga.costs.choice import choose, rate_of
    from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of

    parallel = graph.parallel or choose(graph)
    costs = stage_costs(graph, parallel)
    rows = math.prod(axis.extent for axis in graph.keys)
    instances = math.prod(axis.extent for axis in graph.instances)
    scans = graph.of_kind(Scan)
    interval = (rate_of(graph, parallel, clock_hz).row_cycles if len(scans) == 1 or wide_scan(graph) is not None
                else float(max((cost.interval_cycles for cost in costs
                                if not isinstance(graph.stage(cost.name), WeightedSum)), default=0)))
    # The two passes of a weighted sum come one after the other.
    interval += sum(second_pass_cycles(graph, stage, parallel.lanes) for stage in graph.of_kind(WeightedSum))
    fill = MEMORY_LATENCY + sum(cost.latency_cycles for cost in costs) + load_cycles(graph)
    appended = sum(math.prod(axis.extent for axis in stage.axes) for stage in graph.of_kind(Append))
    cycles = instances * (math.ceil(rows * interval) + fill) + appended
    scanned = 0 if parallel.block_banks + parallel.ultra_banks else sum(_row_bytes(graph, stage) for stage in scans)
    read = instances * (rows * scanned + load_words(graph) * 4)
    return Estimate(cycles, cycles / clock_hz, interval, rows, instances, fill, costs, sum(cost.dsp for cost in costs),
                    total_of(kernel_resources(replace(graph, parallel=parallel))), read)


def stage_costs(graph: StageGraph, parallel: Parallelism) -> tuple[StageCost, ...]:
    """What each stage does and occupies in hardware of some width, that of all rows which pass together."""
    scanned = any(isinstance(graph.stage(stage.source.stage), Scan) for stage in graph.of_kind(InnerProduct))
    # Without a product that reads the rows, all their words pass together.
    lanes = slice_words(graph) or (parallel.lanes if scanned else max(row_words(graph), 1))
    costs = []
    for stage in graph.stages:
        if isinstance(stage, Scan):
            costs.append(_scan_cost(graph, stage, parallel))
        elif isinstance(stage, (TopK, Compact)):
            costs.append(_selection_cost(graph, stage, parallel.together))
        elif isinstance(stage, Lookup):
            costs.append(_lookup_cost(graph, stage, lanes * parallel.together, parallel.together))
        elif isinstance(stage, WeightedSum):
            costs.append(weighted_sum_cost(graph, stage, lanes))
        elif (cost := _cost(graph, stage, lanes)) is not None:
            costs.append(_times(cost, parallel.together))
    return tuple(costs)


def quantise_latency(depth: int) -> int:
    """Cycles from a vector to its integers: find the largest, shift, round."""
    return depth_of(depth) + 2


def accumulator_bits(depth: int, bits: int) -> int:
    """Bits of an exact sum of ``depth`` products of symmetric integers."""
    return 2 * bits - 1 + depth_of(depth)


def product_latency(depth: int, form: NumberFormat) -> int:
    """Cycles from converted factors to an inner product in binary32."""
    if form.integer_bits:
        return INTEGER_MULTIPLY_LATENCY + depth_of(depth) + TO_FLOAT_LATENCY
    elements = GRIDS[form.float_bits].elements
    return block_latency(min(depth, elements)) + depth_of(math.ceil(depth / elements)) * ADD_LATENCY


def compare_latency(count: int) -> int:
    """Cycles that look for the largest exponent of a block, two levels of comparisons each; products take two."""
    return max(math.ceil(depth_of(count) / 2), 2)


def block_latency(count: int) -> int:
    """Cycles from factors to the rounded sum of a block of ``count`` products."""
    return 1 + compare_latency(count) + 2 + depth_of(count) + TO_FLOAT_LATENCY


def conversion_latency(depth: int, form: NumberFormat) -> int:
    """Cycles from a row of binary32 to factors of a format."""
    if form.integer_bits:
        return quantise_latency(depth)
    return 1 if form is NumberFormat.BF16 else 0


def row_width(offered: int) -> int:
    """Entries of a row of the selection that is given so many candidates per cycle."""
    return 1 << (offered - 1).bit_length()


def run_rows(k: int, width: int) -> int:
    """Rows of ``width`` entries in a run of the selection: a power of two that holds k.

    At least eight, so that the best so far are written before they are read again.
    """
    return max(1 << max(math.ceil(k / width) - 1, 0).bit_length(), 8)


def sorter_stages(width: int) -> int:
    """Stages of the network that sorts a row (odd-even merge sort)."""
    levels = (width - 1).bit_length()
    return levels * (levels + 1) // 2


def topk_cycles(count: int, k: int, offered: int) -> int:
    """Cycles of a selection from its first candidate until its last entry has left, nobody pausing.

    Whole runs pass at a row per cycle. The last one fills the tree of mergers (a level waits for its first run, so all
    of them for ``rows - 1`` rows, and needs two cycles of memory, one of choice, and the merging network), and then
    either the list leaves at one entry per cycle or, of one entry per row, as fast as it is merged.
    """
    width = row_width(offered)
    rows = run_rows(k, width)
    given = math.ceil(count / offered)
    filled = math.ceil(given / rows) * rows
    levels = rows.bit_length() - 1
    merger = 3 + (width - 1).bit_length()
    first_row = filled - rows + 1 + sorter_stages(width) + (rows - 1) + (levels + 1) * merger
    return first_row + 2 + k


def topk_state_bits(k: int, width: int, count: int = 1) -> int:
    """Bits of all runs that a selection holds: two of each length on both sides of a merger, and the result."""
    rows = run_rows(k, width)
    return (34 + index_bits(count)) * width * (4 * (rows - 1) + 4 * rows + rows)


def extent_product(graph: StageGraph, names: tuple[str, ...]) -> int:
    """Number of points of some loops."""
    return math.prod(graph.axis(name).extent for name in names)


def depth_of(count: int) -> int:
    """Levels of the aligned pairwise tree over ``count`` terms."""
    return max(count - 1, 0).bit_length()


def _row_bytes(graph: StageGraph, stage: Scan) -> int:
    return extent_product(graph, stage.lanes) * stage.element.size_bytes


def _cost(graph: StageGraph, stage: Stage, parallel: int) -> StageCost | None:
    if isinstance(stage, InnerProduct):
        return _inner_product_cost(graph, stage, parallel)
    if isinstance(stage, Map):
        count = extent_product(graph, stage.lanes)
        lanes = min(parallel, count)
        latency = {"mul": MULTIPLY_LATENCY, "add": ADD_LATENCY, "sub": ADD_LATENCY}.get(stage.function, SELECT_LATENCY)
        dsp = int(DSP_OF[NumberFormat.FP32]) if stage.function == "mul" else 0
        lut = {"mul": MULTIPLY_FP32.lut, "add": ADD_FP32.lut, "sub": ADD_FP32.lut}.get(stage.function, 32)
        return StageCost(stage.name, lanes, math.ceil(count / lanes), latency, lanes * dsp, 0, "none",
                         int(lanes * lut))
    if isinstance(stage, Reduce):
        return _reduce_cost(graph, stage, parallel)
    if isinstance(stage, Gather):
        row_bytes = extent_product(graph, stage.lanes) * stage.element.size_bytes
        return StageCost(stage.name, PORT_BYTES // stage.element.size_bytes, 0,
                         MEMORY_LATENCY + fetch_cycles(entries_of(graph, stage), row_bytes), 0, 0, "hbm")
    if isinstance(stage, Store) and not isinstance(graph.stage(stage.source.stage), (TopK, Compact, Gather)):
        keys = {axis.name for axis in graph.keys}
        values = extent_product(graph, tuple(axis.name for axis in graph.lanes if axis.name in stage.axes))
        blocks = extent_product(graph, tuple(keys - set(stage.axes)))
        return StageCost(stage.name, 1, math.ceil(values / blocks), 1, 0, 0, "hbm")
    return None


def _times(cost: StageCost, together: int) -> StageCost:
    """The cost of a stage that several rows pass side by side."""
    # A value per cycle goes to memory, however many rows pass side by side.
    waits = together if cost.memory == "hbm" else 1
    return replace(cost, dsp=cost.dsp * together, lut=cost.lut * together, interval_cycles=cost.interval_cycles * waits)


def _scan_cost(graph: StageGraph, stage: Scan, parallel: Parallelism) -> StageCost:
    """Ports at a word per cycle; what memory gives them is in ``choice.rate_of``."""
    step_bytes = _row_bytes(graph, stage) * parallel.together
    if parallel.block_banks + parallel.ultra_banks:
        held = residency_of(graph, parallel.together)
        return StageCost(stage.name, held.banks, 1, BANK_LATENCY, 0, held.bits, "uram" if parallel.ultra_banks else
                         "bram")
    return StageCost(stage.name, PORT_BYTES // stage.element.size_bytes * parallel.stripes,
                     math.ceil(step_bytes / PORT_BYTES / parallel.stripes), 1, 0, 2 * 8 * step_bytes, "registers")


def _selection_cost(graph: StageGraph, stage: TopK | Compact, together: int) -> StageCost:
    """A selection of as many candidates per step as blocks of rows that are left of those that pass together."""
    count = extent_product(graph, stage.over)
    rows = math.prod(axis.extent for axis in graph.keys)
    # Blocks of rows that are reduced pass side by side, or several in a step.
    offered = together if dealt_rows(graph) > 1 else max(together * count // rows, 1)
    if isinstance(stage, Compact):
        drain = compact_cycles(count, stage.capacity, offered) - math.ceil(count / offered)
        return StageCost(stage.name, offered, 1, drain, 0, compact_state_bits(count, stage.capacity, offered), "bram")
    drain = topk_cycles(count, stage.k, offered) - math.ceil(count / offered)
    return StageCost(stage.name, offered, 1, drain, 0, topk_state_bits(stage.k, row_width(offered), count), "bram")


def _lookup_cost(graph: StageGraph, stage: Lookup, positions: int, together: int) -> StageCost:
    """Copies of the entries for all positions that pass in a cycle."""
    interval = math.ceil(extent_product(graph, stage.lanes) * together / positions)
    load = load_of(graph, stage.table)
    memory = "bram" if lookup_style(load.words, load.granule) == "block" else "uram"
    bits = 32 * load.words * math.ceil(positions / LOOKUP_PORTS)
    return StageCost(stage.name, positions // together, interval, LOOKUP_LATENCY, 0, bits, memory)


def _inner_product_cost(graph: StageGraph, stage: InnerProduct, parallel: int) -> StageCost:
    """Full trees over the contracted lanes; of the result's lanes ``parallel`` at a time.

    A product whose operand arrives in groups (it contracts lanes another inner product made) needs one tree over a
    group, and an adder per level of one over the groups of a row.
    """
    depth = extent_product(graph, stage.over)
    results = extent_product(graph, stage.lanes)
    stationary = depth * results * 32
    memory = "registers" if stationary <= 2**15 else ("bram" if stationary <= 2**24 else "uram")
    if _comes_in_groups(graph, stage.source):
        width = min(parallel, depth)
        groups = math.ceil(depth / width)
        dsp = int(width * DSP_OF[NumberFormat.FP32])
        lut = int(width * MULTIPLY_FP32.lut + (width - 1 + depth_of(groups)) * ADD_FP32.lut)
        latency = MULTIPLY_LATENCY + depth_of(depth) * ADD_LATENCY + groups
        return StageCost(stage.name, width, groups * results, latency, dsp, stationary, memory, lut)
    if (long := long_rows(graph)) is not None:
        from hetcc.backends.fpga.costs.cycles_long import long_cost

        return long_cost(stage.name, long)
    lanes = min(parallel, results)
    latency = conversion_latency(depth, stage.format) + product_latency(depth, stage.format)
    return StageCost(stage.name, lanes, math.ceil(results / lanes), latency, product_dsp(depth, lanes, stage.format),
                     stationary, memory, product_lut(depth, lanes, stage.format))


def product_dsp(depth: int, lanes: int, form: NumberFormat) -> int:
    """Slices of ``lanes`` inner products of one row per cycle; 8-bit lanes share them in pairs."""
    if form is NumberFormat.INT8:
        return depth * math.ceil(lanes / 2)
    return int(lanes * depth * DSP_OF[form])


def product_lut(depth: int, lanes: int, form: NumberFormat) -> int:
    """LUTs of the same: blocks on a grid, or the carries of exact sums; conversions are not counted."""
    if not form.integer_bits:
        return int(lanes * float_dot(depth, form.float_bits).lut)
    pairs = lanes // 2 if form is NumberFormat.INT8 else 0
    single = integer_dots(depth, form.integer_bits, 1).times(lanes - 2 * pairs)
    return int(single.lut + integer_dots(depth, form.integer_bits, 2).times(pairs).lut)


def _reduce_cost(graph: StageGraph, stage: Reduce, parallel: int) -> StageCost:
    keys = {axis.name for axis in graph.keys}
    count = extent_product(graph, tuple(name for name in stage.over if name not in keys))
    rest = extent_product(graph, stage.lanes)
    width = min(parallel, count)
    groups = math.ceil(count / width)
    if count > 1 and not _comes_in_groups(graph, stage.source):
        # Whole rows pass at once, so there is a tree for every lane that stays.
        tree = (count - 1) * int(ADD_FP32.lut if stage.function == "sum" else 100)
        return StageCost(stage.name, count, 1, depth_of(count) * unit_latency(stage.function), 0, 0, "none",
                         tree * rest)
    unit = unit_latency(stage.function)
    rows = extent_product(graph, tuple(name for name in stage.over if name in keys))
    units = width - 1 + _joining_units(stage.function, groups) + _joining_units(stage.function, rows)
    lut = units * int(ADD_FP32.lut if stage.function == "sum" else 100) * (min(parallel, rest) if count == 1 else 1)
    latency = depth_of(count) * unit + groups + depth_of(rows) * unit
    state = 32 * rest * (depth_of(rows) + 1)
    return StageCost(stage.name, width, groups * rest, latency, 0, state, "registers", lut)


def _joining_units(function: str, terms: int) -> int:
    """Units that join terms which come one after another: adders per level, comparisons of all."""
    return depth_of(terms) if function == "sum" else terms - 1


def unit_latency(function: str) -> int:
    """Cycles of one combining step of a reduction."""
    return ADD_LATENCY if function == "sum" else SELECT_LATENCY


def _comes_in_groups(graph: StageGraph, source: Stream) -> bool:
    """Whether a stream was made by an inner product, or comes in slices, rather than read as whole rows."""
    stage = graph.stage(source.stage)
    if isinstance(stage, InnerProduct) or slice_words(graph):
        return True
    return any(_comes_in_groups(graph, part) for part in operands_of(stage) if isinstance(part, Stream))


__all__ = ["ADD_LATENCY", "DEFAULT_CLOCK_HZ", "MULTIPLY_LATENCY", "SELECT_LATENCY", "Estimate", "StageCost",
           "depth_of", "estimate_cycles", "extent_product", "stage_costs"]
