"""Softmax over the rows of a table, and the sum of another table's rows that it weights: by classes and loops alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hetcc.backends.fpga.compose.softmax_form import WrittenSoftmax
from hetcc.backends.fpga.compose.traced import Computed, Kind, Traced
from hetcc.backends.fpga.stages.axes import Group, extent_of, flat
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import DType, Node

if TYPE_CHECKING:
    from hetcc.backends.fpga.compose.trace import Tracer

# Operators of the class that give zeros where all scores are minus infinity.
_SAFE = frozenset({"_safe_softmax"})
PLAIN, ZERO_WHEN_MASKED = "nan", "zero"
"""What a softmax gives there: the function of its record."""


def softmax(tracer: Tracer, node: Node) -> None:
    """Weights of the rows of a table.

    Raises:
        Unstreamable: the softmax does not run along the rows.
    """
    function = ZERO_WHEN_MASKED if node.operator.name in _SAFE else PLAIN
    weigh(tracer, node, tracer.value(node.inputs[0]), node.integer("axis"), function)


def attention(tracer: Tracer, node: Node) -> None:
    """Scores, scale, mask, softmax and weighted sum in one node: recorded as the stages it stands for.

    Raises:
        Unstreamable: keys or values are no table, or the operator does more than that.
    """
    masked_rows = node.attribute("masked_rows")
    if masked_rows not in (PLAIN, ZERO_WHEN_MASKED) or node.attribute("causal", False):
        raise Unstreamable("this attention does more than scores, scale, mask, softmax and weighted sum", "",
                           node.operator)
    query, keys, values = (tracer.value(node.inputs[node.integer(name)]) for name in ("query", "key", "value"))
    if query.kind is not Kind.OPERAND or keys.kind is not Kind.RESIDENT or values.kind is not Kind.RESIDENT:
        raise Unstreamable("attention streams over tables of keys and values", "two tables",
                           f"{keys.kind.value} and {values.kind.value}")
    if not query.element.is_floating or min(len(part.layout) for part in (query, keys, values)) < 2:
        raise Unstreamable("inner products are of floating point numbers", "", query.element.value)
    if not tracer.axes.unify(query.layout[-1], keys.layout[-1]) or not tracer.axes.unify(
            keys.layout[-2], values.layout[-2]):
        raise Unstreamable("the contracted axes do not factor alike")
    batch = tracer.broadcast((query.layout[:-2], keys.layout[:-2], values.layout[:-2]))
    over = tracer.axes.resolve(query.layout[-1])
    rows = tracer.keys_after(keys, over, keys.layout[-2])
    tracer.check_stationary(query, rows)
    element = tracer.graph.type_of(node.outputs[0]).dtype
    layout = (*batch, query.layout[-2], keys.layout[-2])

    def stream(stage: str, function: str, operands: tuple[Traced | float, ...], ends: Group = ()) -> Traced:
        return Traced(Kind.STREAM, layout, element, Computed(stage, function, operands, ends, node, element=element),
                      rows)

    scale = node.attribute("scale")
    factor = float(scale) if isinstance(scale, (int, float)) else extent_of(over) ** -0.5
    scores = stream("map", "mul", (stream("contract", "sum", (keys, query), over), factor))
    mask = node.operand("mask")
    if mask is not None:
        given = tracer.value(mask)
        tracer.broadcast((layout, given.layout))
        if given.element is DType.BOOL:
            scores = stream("map", "where", (given, scores, -math.inf))
        else:
            scores = stream("map", "add", (scores, given))
    origin = Computed("attend", str(masked_rows), (scores, values), rows, node, element=element)
    tracer.record(node, Traced(Kind.SUMMARY, (*batch, query.layout[-2], values.layout[-1]), element, origin, ()))


def weigh(tracer: Tracer, node: Node, source: Traced, axis: int, function: str = PLAIN) -> None:
    """Record a node's output as the softmax of a stream along one axis."""
    if source.kind is not Kind.STREAM or source.keys is None:
        raise Unstreamable("the softmax is not over the scores of a table", "scores of a scan", source.kind.value)
    over, keys = tracer.axes.resolve(source.layout[axis]), tracer.axes.resolve(source.keys)
    if over != keys:
        raise Unstreamable("the softmax does not run along the rows of the table")
    element = tracer.graph.type_of(node.outputs[0]).dtype
    origin = Computed("softmax", function, (source,), (), node, element=element)
    tracer.record(node, Traced(Kind.WEIGHTS, source.layout, element, origin, keys))


def written_out(tracer: Tracer, node: Node, ends: WrittenSoftmax | None, within: WrittenSoftmax | None) -> None:
    """A node of a softmax that is written out: its last one, or one before that.

    Raises:
        Unstreamable: as :func:`weigh`.
    """
    if ends is not None:
        weigh(tracer, node, tracer.value(ends.source), ends.axis)
    elif within is not None:
        source = tracer.value(within.source)
        if source.kind is not Kind.STREAM:
            raise Unstreamable("the softmax is not over the scores of a table", "scores of a scan", source.kind.value)
        shape = tracer.graph.type_of(node.outputs[0]).shape
        layout = tuple(() if extent == 1 else group for extent, group in zip(shape, source.layout, strict=True))
        origin = Computed("softmax", "", (source,), (), node)
        tracer.traced[node.outputs[0]] = Traced(Kind.WEIGHTS, layout, source.element, origin, source.keys)


def weighted_sum(tracer: Tracer, node: Node, left: Traced, right: Traced) -> bool:
    """Record a product of softmax weights with the rows of a table; False when it is not one.

    Raises:
        Unstreamable: the weights meet something other than the rows they belong to.
    """
    if Kind.WEIGHTS not in (left.kind, right.kind):
        return False
    weights, table = (left, right) if left.kind is Kind.WEIGHTS else (right, left)
    if table.kind is not Kind.RESIDENT:
        raise Unstreamable("softmax weights leave the kernel only as a weighted sum of rows", "a table",
                           table.kind.value)
    if len(left.layout) < 2 or len(right.layout) < 2:
        raise Unstreamable("a weighted sum is a product of matrices")
    if not tracer.axes.unify(left.layout[-1], right.layout[-2]):
        raise Unstreamable("the contracted axes do not factor alike")
    over = tracer.axes.resolve(left.layout[-1])
    if over != tracer.axes.resolve(weights.keys or ()) or (
            table.keys is not None and tracer.axes.resolve(table.keys) != over):
        raise Unstreamable("softmax weights are summed along the rows they belong to")
    batch = tracer.broadcast((left.layout[:-2], right.layout[:-2]))
    assert isinstance(weights.origin, Computed)
    scores, function = weights.origin.operands[0], weights.origin.function
    element = tracer.graph.type_of(node.outputs[0]).dtype
    origin = Computed("attend", function, (scores, table), over, node, element=element)
    tracer.record(node, Traced(Kind.SUMMARY, (*batch, left.layout[-2], right.layout[-1]), element, origin, ()))
    return True


def cast(tracer: Tracer, node: Node, function: str, tensors: list[Traced], element: DType) -> bool:
    """Record another element type of softmax weights or of a weighted sum; False when there are none.

    Raises:
        Unstreamable: they are used for something else.
    """
    if not any(part.kind in (Kind.WEIGHTS, Kind.SUMMARY) for part in tensors):
        return False
    if function not in ("cast", "copy") or len(tensors) != 1 or not element.is_floating:
        raise Unstreamable("nothing is computed from softmax weights but a weighted sum, and from that only casts",
                           "cast", function)
    source = tensors[0]
    tracer.record(node, Traced(source.kind, source.layout, element, source.origin, source.keys))
    return True


def score_loops(tracer: Tracer, summary: Traced) -> Group:
    """Loops of the scores behind a weighted sum."""
    origin = summary.origin
    scores = origin.operands[0] if isinstance(origin, Computed) else None
    return tracer.axes.resolve(flat(scores.layout)) if isinstance(scores, Traced) else ()


__all__ = ["PLAIN", "ZERO_WHEN_MASKED", "attention", "cast", "score_loops", "softmax", "weigh", "weighted_sum",
           "written_out"]
