"""Element-wise units on whole groups of values, and the alignment of streams that took different ways.

A flag is the low bit of its word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from amaranth import Const, Module, Mux, Signal

from hetcc.backends.fpga.costs.cycles import extent_product
from hetcc.backends.fpga.rtl.units.fp32 import is_nan
from hetcc.backends.fpga.rtl.units.library import Library, delay, sort_key
from hetcc.backends.fpga.stages.elements import COMPARISONS, LOGIC
from hetcc.backends.fpga.stages.stage_graph import Map, Operand, StageGraph, Stream
from hetcc.ir import DType

ONE = 0x3F800000


def applied(m: Module, library: Library, function: str, operands: Sequence[Sequence[Any]], *,
            of_flags: bool = False) -> list[Any]:
    """The values of a ``Map``, ``library.latency_of(function)`` cycles later.

    Args:
        m: where the units go.
        library: where they come from.
        function: of the stage.
        operands: values of each operand, side by side.
        of_flags: the operand of a cast is a flag.
    """
    together = list(zip(*operands, strict=True))
    if function in COMPARISONS or function in LOGIC or function == "where" or (function == "cast" and of_flags):
        return [_chosen(m, function, parts) for parts in together]
    if len(operands) == 1:
        return [library.unary(m, function, value) for value, in together]
    return [library.binary(m, function, left, right) for left, right in together]


def _chosen(m: Module, function: str, parts: Sequence[Any]) -> Any:
    """One comparison, gate, choice or flag as a number, one cycle later; NaN compares false."""
    result = Signal(32)
    if function == "where":
        found: Any = Mux(parts[0][0], parts[1], parts[2])
    elif function == "cast":
        found = Mux(parts[0][0], Const(ONE, 32), Const(0, 32))
    elif function == "not":
        found = ~parts[0][0]
    elif function in LOGIC:
        left, right = parts[0][0], parts[1][0]
        found = left & right if function == "and" else left | right
    else:
        left, right = sort_key(parts[0]), sort_key(parts[1])
        passes = {"ge": left >= right, "gt": left > right, "le": left <= right, "lt": left < right}[function]
        found = passes & ~is_nan(parts[0]) & ~is_nan(parts[1])
    m.d.sync += result.eq(found)
    return result


def aligned(m: Module, stage: Map, points: Mapping[str, Any]) -> tuple[Any, dict[str, list[Any]]]:
    """Where the latest of a stage's streams has got to, and the values of all of them at that time.

    Streams of one kernel start together and every unit has a fixed latency, so waiting is all it takes.
    """
    names = list(dict.fromkeys(part.stage for part in stage.operands if isinstance(part, Stream)))
    latest = max((points[name] for name in names), key=lambda point: point.age)
    values = {name: [delay(m, value, latest.age - points[name].age) for value in points[name].values]
              for name in names}
    return replace(latest, values=values[names[0]]), values


def is_flag(graph: StageGraph, operand: Operand) -> bool:
    """Whether an operand is a stream of flags."""
    return isinstance(operand, Stream) and getattr(graph.stage(operand.stage), "element", None) is DType.BOOL


def lane_places(graph: StageGraph, have: tuple[str, ...], over: tuple[str, ...],
                kept: tuple[str, ...]) -> list[list[int]]:
    """For every lane that stays, the numbers of the lanes that are combined into it, in the order of the tree."""
    import numpy

    extents = [graph.axis(name).extent for name in have]
    numbered = numpy.arange(math.prod(extents)).reshape(extents)
    moved = numbered.transpose([have.index(name) for name in (*kept, *over)])
    found: list[list[int]] = moved.reshape(extent_product(graph, kept), -1).tolist()
    return found


def bits_of(value: float) -> int:
    """The 32 bits of a binary32 number."""
    import numpy

    return int(numpy.array(value, numpy.float32).view(numpy.uint32))


__all__ = ["aligned", "applied", "bits_of", "is_flag", "lane_places"]
