"""How wide the hardware of a kernel is made: results and rows per cycle, and parts of the scanned table.

Every combination that the layout allows is priced in cycles of a whole run, by the memory's rate and the core's, within
the budget of the card's resources. What is taken has the lowest cycles times ``1 + SHARE_PRICE * share``, the share
being the mean of those of slices, tables and channels: a scan of many rows takes all that makes it faster, a short one
does not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from hetcc.backends.fpga.costs.cycles import (
    DEFAULT_CLOCK_HZ,
    DSP_BUDGET,
    MEMORY_LATENCY,
    extent_product,
    stage_costs,
)
from hetcc.backends.fpga.costs.cycles_long import leaves_in_order
from hetcc.backends.fpga.costs.cycles_resident import block_bank, resident_candidates
from hetcc.backends.fpga.costs.unit_resources import CARD, MARGIN, NAMES, Resources
from hetcc.backends.fpga.memory.hbm import HbmModel
from hetcc.backends.fpga.memory.layout import WideScan, dealt_rows, is_wide, portion_words, wide_scan
from hetcc.backends.fpga.memory.memory_map import HBM_BANKS, memory_map, side_accesses
from hetcc.backends.fpga.memory.resident import is_resident, residency_of
from hetcc.backends.fpga.stages.loads import load_cycles
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.runs import WORD_BYTES, granule_of, runs_of
from hetcc.backends.fpga.stages.stage_graph import (
    Gather,
    InnerProduct,
    Parallelism,
    Reduce,
    Scan,
    StageGraph,
    WeightedSum,
    row_words,
)

SHARE_PRICE = 0.75
"""What a whole card costs, as a part of the time of a run."""
MAX_TOGETHER = 32
"""Rows per step; a wider row of the selection would cost more than the rest."""
MAX_STEP_BITS = 60_000
"""Of all rows of a step: inputs of one module, of which the tool that writes the netlist allows 65,536 bits."""
MAX_NARROW_STRIPES = 2
"""A table that cannot be dealt out wide passes a granule per cycle: two channels feed that."""


_MARGIN = CARD.times(MARGIN)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one kernel may take of the card."""

    limits: Resources = _MARGIN
    masters: int = HBM_BANKS
    """Memory ports; each has a pseudo-channel of its own."""
    on_chip: bool = False
    """Whether the kernel works on one table only, so that this may be kept on chip between runs."""

    def shared(self, kernels: int) -> Budget:
        """The part of each of several kernels that have to be on the card together."""
        return Budget(self.limits.times(1 / kernels), self.masters // kernels, self.on_chip)


@dataclass(frozen=True, slots=True)
class Rate:
    """Cycles between two rows, estimated, by what makes them."""

    memory_cycles: float
    """Of the chosen channels; for a table kept on chip, of those that bring operands which differ by row."""
    core_cycles: float
    dsp: int

    @property
    def row_cycles(self) -> float:
        """Of the slower one."""
        return max(self.memory_cycles, self.core_cycles)

    @property
    def binds(self) -> str:
        """``memory`` or ``arithmetic``."""
        return "memory" if self.memory_cycles >= self.core_cycles else "arithmetic"


def chosen(graph: StageGraph, budget: Budget | None = None) -> StageGraph:
    """The kernel with its ``parallel`` chosen, or as it was if that had been done."""
    return graph if graph.parallel is not None else replace(graph, parallel=choose(graph, budget))


@functools.lru_cache(maxsize=256)
def choose(graph: StageGraph, budget: Budget | None = None, clock_hz: float = DEFAULT_CLOCK_HZ) -> Parallelism:
    """What has the lowest price within the budget; see above. The narrowest hardware where nothing is within it.

    Args:
        graph: the kernel.
        budget: what it may take; 70% of the card and all channels when absent.
        clock_hz: of the kernel, against which memory is fast or slow.
    """
    budget = budget or Budget()
    if graph.of_kind(WeightedSum):
        return _scores_at_once(graph, budget)
    tables = len(graph.of_kind(Scan))
    if tables != 1 and wide_scan(graph) is None:
        return Parallelism()
    rows = math.prod(axis.extent for axis in graph.keys)
    fetched = {stage.table.buffer for stage in graph.of_kind(Gather)}
    masters = (budget.masters - 1 - len({part.buffer for part in side_accesses(graph)} | fetched)) // tables
    timed = []
    for parallel in (*_candidates(graph, masters), *(_on_chip(graph, budget, masters) if budget.on_chip else ())):
        fill = MEMORY_LATENCY + load_cycles(graph) + sum(cost.latency_cycles for cost in stage_costs(graph, parallel))
        timed.append((rows * rate_of(graph, parallel, clock_hz).row_cycles + fill, parallel))
    best, taken = math.inf, Parallelism()
    for cycles, parallel in sorted(timed, key=lambda one: (one[0], *astuple(one[1]))):
        if cycles >= best:
            break
        share = _share(replace(graph, parallel=parallel), budget)
        if share is not None and cycles * (1 + SHARE_PRICE * share) < best:
            best, taken = cycles * (1 + SHARE_PRICE * share), parallel
    return taken


def _scores_at_once(graph: StageGraph, budget: Budget) -> Parallelism:
    """Of a weighted sum, as many scores per cycle as fit: a row takes as many cycles as it has groups of them."""
    wanted = [Parallelism(lanes, 1, MAX_NARROW_STRIPES) for lanes in _lane_counts(graph)]
    fitting = [one for one in wanted if _share(replace(graph, parallel=one), budget) is not None]
    return fitting[-1] if fitting else Parallelism(1, 1, MAX_NARROW_STRIPES)


def _share(graph: StageGraph, budget: Budget) -> float | None:
    """Mean share of the budget that hardware takes; None beyond it."""
    from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of

    total = total_of(kernel_resources(graph))
    shares: dict[str, float] = {name: getattr(total, name) / limit for name in NAMES
                                if (limit := getattr(budget.limits, name))}
    if max(shares.values()) > 1:
        return None
    held = max(shares.get("bram36", 0.0), shares.get("uram", 0.0)) if is_resident(graph) else 0.0
    return (shares["dsp"] + shares["lut"] + len(memory_map(graph).masters) / budget.masters + held) / 3


def _on_chip(graph: StageGraph, budget: Budget, masters: int) -> Iterator[Parallelism]:
    """Widths with the table on chip: as many banks in block RAM as are left of it, the others in ultra RAM."""
    from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of

    for parallel in resident_candidates(graph, _lane_counts(graph), MAX_TOGETHER, masters):
        if not leaves_in_order(graph, parallel):
            continue
        taken = total_of(kernel_resources(replace(graph, parallel=parallel))).bram36
        each = block_bank(residency_of(graph, parallel.together)).bram36
        blocks = max(min(int((budget.limits.bram36 - taken) // each), parallel.together), 0)
        yield replace(parallel, block_banks=blocks, ultra_banks=parallel.together - blocks)


def choice_report(graph: StageGraph, clock_hz: float = DEFAULT_CLOCK_HZ) -> dict[str, object]:
    """What was chosen, in words and numbers, for reports.

    Args:
        graph: with its ``parallel``.
        clock_hz: of the kernel.
    """
    parallel = graph.parallel or Parallelism()
    found: dict[str, object] = {
        "results_per_cycle_and_row": parallel.lanes, "rows_per_step": parallel.together,
        "stripes_of_the_table": parallel.stripes, "memory_channels": len(memory_map(graph).masters)}
    if len(graph.of_kind(Scan)) == 1 or is_wide(graph) is not None:
        rate = rate_of(graph, parallel, clock_hz)
        memory = 1 / rate.memory_cycles if rate.memory_cycles else float(parallel.together)
        found |= {"rows_per_cycle": round(1 / rate.row_cycles, 4), "rows_per_cycle_memory": round(memory, 4),
                  "rows_per_cycle_arithmetic": round(1 / rate.core_cycles, 4), "bound_by": rate.binds,
                  "dsp": rate.dsp, "dsp_budget": DSP_BUDGET}
    if is_resident(graph):
        held = residency_of(graph, parallel.together)
        found["table_on_chip"] = {
            "banks_in_block_ram": parallel.block_banks, "banks_in_ultra_ram": parallel.ultra_banks,
            "rows_per_bank": held.depth, "bits_per_row": held.row_bits, "bytes": held.bits // 8}
    return found


def rate_of(graph: StageGraph, parallel: Parallelism, clock_hz: float = DEFAULT_CLOCK_HZ,
            hbm: HbmModel | None = None) -> Rate:
    """What rows cost with a choice.

    Args:
        graph: the kernel, with one scan, or several tables that are dealt out wide.
        parallel: the choice.
        clock_hz: of the kernel.
        hbm: the memory.
    """
    scan: Scan = graph.of_kind(Scan)[0]
    size = storage_type(scan.element).itemsize
    row = row_words(graph)
    beat = (hbm or HbmModel()).beat_cycles(clock_hz)
    costs = stage_costs(graph, parallel)
    # What a weighted sum does comes after the rows have passed.
    elsewhere = {scan.name}
    for stage in graph.of_kind(WeightedSum):
        elsewhere |= {stage.name, stage.values.stage}
    core = max((cost.interval_cycles for cost in costs if cost.name not in elsewhere), default=1.0) / parallel.together
    wide = wide_scan(graph)
    if parallel.block_banks + parallel.ultra_banks:
        return Rate(_side_words(graph) * beat, max(core, _side_cycles(graph, parallel.together)),
                    sum(cost.dsp for cost in costs))
    if wide is not None and wide.fits(parallel):
        memory = wide.unit_words * beat / parallel.stripes / wide.unit_rows
        per_group = parallel.stripes * wide.unit_rows // parallel.together
        portion = portion_words(wide.beat_words, per_group)
        core = max(core, wide.unit_words / portion / parallel.together)
    else:
        lanes = [graph.axis(name) for name in scan.lanes]
        runs = runs_of(scan.table, (), (*graph.instances, *graph.keys, *lanes))
        memory = row * size / WORD_BYTES * beat / parallel.stripes
        core = max(core, row / granule_of(runs, row, size))
    sides = _side_cycles(graph, parallel.together)
    return Rate(memory, max(core, sides), sum(cost.dsp for cost in costs))


def _side_words(graph: StageGraph) -> float:
    """Words of memory per row of the operands that differ by row, each of which has a channel."""
    sizes = [storage_type(graph.buffer(access.buffer).element).itemsize for access in side_accesses(graph)]
    return max(sizes, default=0) / WORD_BYTES


def _side_cycles(graph: StageGraph, together: int) -> float:
    """Cycles per row that operands which differ by row take to come."""
    rows, slowest = math.prod(axis.extent for axis in graph.keys), 0.0
    for access in side_accesses(graph):
        size = storage_type(graph.buffer(access.buffer).element).itemsize
        runs = runs_of(access, (), (*graph.instances, *graph.keys))
        given = granule_of(runs, rows, size) if together > 1 else 1
        slowest = max(slowest, 1 / given, 1 / together)
    return slowest


def _candidates(graph: StageGraph, masters: int) -> Iterator[Parallelism]:
    """What can be built with so many masters for the table."""
    wide = wide_scan(graph)
    lanes = _lane_counts(graph)
    for width in lanes:
        for stripes in range(1, min(MAX_NARROW_STRIPES, masters) + 1):
            narrow = Parallelism(width, 1, stripes)
            if wide is None or (not wide.fits(narrow) and len(graph.of_kind(Scan)) == 1):
                yield narrow
    if wide is None:
        return
    for groups in range(1, min(masters, MAX_TOGETHER // wide.unit_rows) + 1):
        together = groups * wide.unit_rows
        if not _can_pass(graph, wide, together):
            continue
        for per_group in range(1, masters // groups + 1):
            for width in lanes:
                parallel = Parallelism(width, together, groups * per_group)
                if wide.fits(parallel) and leaves_in_order(graph, parallel):
                    yield parallel


def _lane_counts(graph: StageGraph) -> list[int]:
    """Powers of two that divide the results per row of every inner product that reads the table."""
    results = [extent_product(graph, stage.lanes) for stage in graph.of_kind(InnerProduct)
               if isinstance(graph.stage(stage.source.stage), Scan)]
    most = math.gcd(*results) if results else 1
    return [1 << bit for bit in range(most.bit_length()) if most % (1 << bit) == 0]


def _can_pass(graph: StageGraph, wide: WideScan, together: int) -> bool:
    """Whether so many rows can be taken at a time: blocks of rows that are reduced must not be cut."""
    step_bits = 8 * wide.beat_words * WORD_BYTES * together // wide.unit_rows * len(graph.of_kind(Scan))
    if together >= 2 * max(wide.rows, wide.unit_rows) or step_bits > MAX_STEP_BITS:
        return False
    if dealt_rows(graph) > 1:
        return together < 2 * wide.rows // dealt_rows(graph)
    keys = {axis.name for axis in graph.keys}
    for stage in graph.of_kind(Reduce):
        block = extent_product(graph, tuple(name for name in stage.over if name in keys))
        if block > 1 and (block & (block - 1) or together & (together - 1)):
            return False
    return True


__all__ = ["Budget", "Rate", "choice_report", "choose", "chosen", "rate_of"]
