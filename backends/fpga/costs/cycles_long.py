"""Cycles and resources of inner products whose rows pass a word of memory at a time (``long_rows``)."""

from __future__ import annotations

import math

from hetcc.backends.fpga.costs.cycles import (
    ADD_LATENCY,
    INTEGER_MULTIPLY_LATENCY,
    TO_FLOAT_LATENCY,
    StageCost,
    depth_of,
    product_dsp,
    product_latency,
    product_lut,
)
from hetcc.backends.fpga.costs.unit_resources import ADD_FP32
from hetcc.backends.fpga.stages.long_rows import LongRows, long_rows
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import (
    Compact,
    InnerProduct,
    Parallelism,
    Scan,
    StageGraph,
    Store,
    TopK,
)

CONVERTED = 16
"""Words of a stationary vector that become integers per cycle; as many as come at most."""
EXPONENT_CYCLES = 2
"""Until the largest exponent of the words that come together is known."""
CONVERSION_CYCLES = 6 + EXPONENT_CYCLES
"""From the last word of the stationary vectors until rows are taken, beside a cycle for each group of words."""


def fold_latency(count: int) -> int:
    """Cycles from the last of ``count`` terms to their sum, an adder per level of the tree."""
    return depth_of(count) * ADD_LATENCY


def long_latency(rows: LongRows) -> int:
    """Cycles from a row's last beat to its inner products."""
    if rows.bits:
        return 1 + INTEGER_MULTIPLY_LATENCY + depth_of(rows.per_beat) + 1 + TO_FLOAT_LATENCY
    return 1 + product_latency(rows.per_beat, NumberFormat.FP32) + fold_latency(rows.beats)


def conversion_cycles(rows: LongRows) -> int:
    """Cycles from the last word of the stationary vectors until rows are taken."""
    return math.ceil(rows.depth / CONVERTED) * rows.vectors + CONVERSION_CYCLES if rows.bits else 0


def leaves_in_order(graph: StageGraph, parallel: Parallelism) -> bool:
    """Whether the values of a stream that is stored as a whole leave the core row by row."""
    streams = any(not isinstance(graph.stage(stage.source.stage), (TopK, Compact)) for stage in graph.of_kind(Store))
    if not streams or parallel.together == 1 or long_rows(graph) is not None:
        return True
    return all(math.prod(graph.axis(name).extent for name in stage.lanes) == parallel.lanes
               for stage in graph.of_kind(InnerProduct) if isinstance(graph.stage(stage.source.stage), Scan))


def long_cost(name: str, rows: LongRows) -> StageCost:
    """Of the inner products of one row with all vectors, a beat per cycle."""
    form = {0: NumberFormat.FP32, 8: NumberFormat.INT8, 16: NumberFormat.INT16}[rows.bits]
    dsp = product_dsp(rows.per_beat, rows.vectors, form)
    lut = product_lut(rows.per_beat, rows.vectors, form)
    if not rows.bits:
        lut += int(rows.vectors * depth_of(rows.beats) * ADD_FP32.lut)
    # Of integers, the words as they came are kept until they are converted.
    held = rows.vectors * rows.beats * rows.per_beat * (rows.bits or 32) + (rows.vectors * rows.depth * 32
                                                                            if rows.bits else 0)
    return StageCost(name, rows.vectors, math.ceil(rows.row_bytes / 64), long_latency(rows), dsp, held, "bram", lut)


__all__ = ["CONVERTED", "EXPONENT_CYCLES", "conversion_cycles", "fold_latency", "leaves_in_order", "long_cost",
           "long_latency"]
