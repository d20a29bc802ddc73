"""Cycles and resources of a softmax with its weighted sum of rows (``rtl/cores/attention.py``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.runs import WORD_BYTES
from hetcc.backends.fpga.stages.stage_graph import Scan, StageGraph, WeightedSum

if TYPE_CHECKING:
    from hetcc.backends.fpga.costs.cycles import StageCost

EXPONENTIAL_LATENCY = 12
DIVIDE_LATENCY = 28
VALUE_WORDS = 16
"""Elements of a row that are weighted per cycle: a word of memory."""
EXPONENTIAL_DSP, EXPONENTIAL_LUT, DIVIDE_LUT = 15, 549, 1679
"""Of one unit, as yosys synthesises it."""
_HANDOVER_CYCLES = 6
"""Registers between the passes: the last score, the last sum, the buffer of results."""


def weighted_sum_cost(graph: StageGraph, stage: WeightedSum, lanes: int) -> StageCost:
    """Of the second and third pass; the interval is that of the second.

    Args:
        graph: the kernel.
        stage: the weighted sum.
        lanes: scores per cycle.
    """
    from hetcc.backends.fpga.costs.cycles import ADD_LATENCY, DSP_OF, MULTIPLY_LATENCY, StageCost, depth_of
    from hetcc.backends.fpga.costs.unit_resources import ADD_FP32, MULTIPLY_FP32

    rows, width, scores = _sizes(graph, stage)
    lanes = min(lanes, scores)
    words = min(VALUE_WORDS, width)
    levels, products = depth_of(rows), lanes * words
    latency = (ADD_LATENCY + EXPONENTIAL_LATENCY + MULTIPLY_LATENCY + levels * ADD_LATENCY + DIVIDE_LATENCY
               + scores * width + _HANDOVER_CYCLES)
    dsp = products * int(DSP_OF[NumberFormat.FP32]) + lanes * EXPONENTIAL_DSP
    lut = int(products * MULTIPLY_FP32.lut + ((products + lanes) * levels + lanes) * ADD_FP32.lut
              + lanes * EXPONENTIAL_LUT + DIVIDE_LUT)
    return StageCost(stage.name, words, second_pass_cycles(graph, stage, lanes), latency, dsp, 32 * scores * rows,
                     "uram" if 32 * scores * rows > 2**21 else "bram", lut)


def second_pass_cycles(graph: StageGraph, stage: WeightedSum, lanes: int) -> int:
    """Cycles per row in which its elements are weighted."""
    _, width, scores = _sizes(graph, stage)
    return math.ceil(width / min(VALUE_WORDS, width)) * math.ceil(scores / min(lanes, scores))


def second_pass_total(graph: StageGraph, lanes: int, beat_cycles: float, held_words: int) -> float:
    """Cycles of the second pass over all rows of an instance, by the hardware or by one channel of memory.

    Args:
        graph: the kernel; 0 when it has no weighted sum.
        lanes: scores per cycle.
        beat_cycles: cycles per word of a channel.
        held_words: words that came during the first pass.
    """
    found = 0.0
    for stage in graph.of_kind(WeightedSum):
        rows, width, _ = _sizes(graph, stage)
        words = max(rows * 4 * width / WORD_BYTES - held_words, 0.0)
        found += max(rows * second_pass_cycles(graph, stage, lanes), words * beat_cycles)
    return found


def _sizes(graph: StageGraph, stage: WeightedSum) -> tuple[int, int, int]:
    """Rows of an instance, elements of a row of values, scores per row."""
    scan = graph.stage(stage.values.stage)
    lanes = scan.lanes if isinstance(scan, Scan) else ()
    width = math.prod(graph.axis(name).extent for name in lanes)
    scores = math.prod(graph.axis(name).extent for name in stage.lanes if name not in lanes)
    return math.prod(axis.extent for axis in graph.keys), width, scores


__all__ = ["DIVIDE_LATENCY", "EXPONENTIAL_DSP", "EXPONENTIAL_LATENCY", "VALUE_WORDS", "second_pass_cycles",
           "second_pass_total", "weighted_sum_cost"]
