"""What the hardware of a weighted sum can build today."""

from __future__ import annotations

import math

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.stages.long_rows import MAX_TREE
from hetcc.backends.fpga.stages.stage_graph import InnerProduct, Scan, StageGraph, WeightedSum, operands_of
from hetcc.ir import DType

MAX_SCORES = 2**19
"""Scores of an instance: 2 MiB, 58 of the card's 960 URAM."""
MAX_WIDTH = 256
"""Elements of a row of values."""
MAX_SUMS = 2**12
"""Results of an instance."""


def check_weighted_sum(graph: StageGraph) -> Rejected | None:
    """The first limit a kernel with a weighted sum is beyond."""
    total: WeightedSum = graph.of_kind(WeightedSum)[0]
    scans = graph.of_kind(Scan)
    readers = [stage for stage in graph.stages for part in operands_of(stage) if part == total.values]
    values = graph.stage(total.values.stage)
    products = [stage for stage in graph.of_kind(InnerProduct) if isinstance(graph.stage(stage.source.stage), Scan)]
    alone = len(graph.of_kind(WeightedSum)) == 1 and len(scans) == 2 and values is scans[1] and len(readers) == 1
    if not alone or len(products) != 1:
        return Rejected("a weighted sum has one table that is scored and another that is summed", "2 tables",
                        str(len(scans)))
    assert isinstance(values, Scan)
    depth, width = (math.prod(graph.axis(name).extent for name in names) for names in (products[0].over, values.lanes))
    if depth > MAX_TREE:
        return Rejected("a row is longer than one adder tree", str(MAX_TREE), str(depth))
    if width > MAX_WIDTH:
        return Rejected("rows of values are too long", str(MAX_WIDTH), str(width))
    if values.element is not DType.FLOAT32:
        return Rejected("the RTL computes in float32", "float32", values.element.value)
    results = math.prod(graph.axis(name).extent for name in total.lanes)
    rows = math.prod(axis.extent for axis in graph.keys)
    if rows * (results // width) > MAX_SCORES or results > MAX_SUMS:
        return Rejected("the scores or the sums of an instance do not fit on chip", f"{MAX_SCORES} and {MAX_SUMS}",
                        f"{rows * (results // width)} and {results}")
    return None


__all__ = ["MAX_SCORES", "MAX_SUMS", "MAX_WIDTH", "check_weighted_sum"]
