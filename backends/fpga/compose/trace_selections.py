"""What selects rows of a table: the best ones, those whose flag is set, and how many these are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetcc.backends.fpga.compose import views
from hetcc.backends.fpga.compose.traced import Computed, Kind, Leaf, Traced
from hetcc.backends.fpga.costs.cycles_selections import MAX_ROWS
from hetcc.backends.fpga.stages.axes import Atom, Group, Layout, extent_of
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import DType, Node

if TYPE_CHECKING:
    from hetcc.backends.fpga.compose.trace import Tracer

MAX_K = 4096
MAX_CAPACITY = 2**16
"""Entries that a compaction keeps on chip."""
SELECTIONS = frozenset({"topk", "compact"})
"""Stages whose results come after the last row of an instance."""


def topk(tracer: Tracer, node: Node) -> None:
    """The k best rows of every instance: values and indices."""
    source = tracer.value(node.inputs[node.integer("input")])
    if source.kind is not Kind.STREAM:
        raise Unstreamable("the selection is not over a resident table", "scores of a cache scan", source.kind.value)
    axis, k = node.integer("axis"), node.integer("k")
    if axis != len(source.layout) - 1:
        raise Unstreamable("the selection is not along the last axis", len(source.layout) - 1, axis)
    if not source.element.is_floating:
        raise Unstreamable("the selection compares floating point numbers", "float32, float16, bfloat16",
                           source.element.value)
    over = _rows_of(tracer, source)
    if not 1 <= k <= MAX_K:
        raise Unstreamable("the selection keeps too many entries", MAX_K, k)
    layout = (*source.layout[:-1], tracer.axes.fresh(k))
    function = "largest" if node.attribute("largest", True) else "smallest"
    for port, output in zip(("values", "indices"), node.outputs, strict=False):
        element = tracer.graph.type_of(output).dtype
        origin = Computed("topk", function, (source,), over, node, port, element)
        tracer.traced[output] = Traced(Kind.SELECTION, layout, element, origin, over)


def compaction(tracer: Tracer, node: Node) -> None:
    """The rows whose flag is set, in order: positions ``[capacity, 1]``."""
    source = tracer.value(node.inputs[node.integer("input")])
    if source.kind is not Kind.STREAM or source.element is not DType.BOOL:
        raise Unstreamable("the compaction is not of flags of a resident table", "bool stream",
                           f"{source.element.value} {source.kind.value}")
    if len(source.layout) != 1:
        raise Unstreamable("the compaction is of one axis", 1, len(source.layout))
    capacity = node.integer("capacity")
    if not 1 <= capacity <= MAX_CAPACITY:
        raise Unstreamable("the compaction keeps too many entries", MAX_CAPACITY, capacity)
    over = _rows_of(tracer, source)
    element = tracer.graph.type_of(node.outputs[0]).dtype
    origin = Computed("compact", "", (source,), over, node, "indices", element)
    layout: Layout = (tracer.axes.fresh(capacity), ())
    tracer.traced[node.outputs[0]] = Traced(Kind.SELECTION, layout, element, origin, over)


def count(tracer: Tracer, node: Node, source: Traced, keep: bool) -> None:
    """How many rows of every instance have their flag set."""
    axes = node.attribute("axes")
    last = len(source.layout) - 1
    if not isinstance(axes, tuple) or any(axis != last and source.layout[axis] for axis in axes) or last not in axes:
        raise Unstreamable("flags are counted over the rows, which are the last axis", last, axes)
    over = _rows_of(tracer, source)
    element = tracer.graph.type_of(node.outputs[0]).dtype
    layout: Layout = tuple(() if axis in axes else group for axis, group in enumerate(source.layout)
                           if keep or axis not in axes)
    origin = Computed("compact", "count", (source,), over, node, "count", element)
    tracer.traced[node.outputs[0]] = Traced(Kind.SELECTION, layout, element, origin, over)


def selecting(traced: Traced) -> Traced:
    """The selection behind a value: that of rows taken where it says."""
    while isinstance(traced.origin, Computed) and traced.origin.stage == "gather":
        index = traced.origin.operands[0]
        if not isinstance(index, Traced):
            break
        traced = index
    return traced


def flags_of(origin: Computed) -> object:
    """What identifies the flags that a compaction counts and lists."""
    source = origin.operands[0]
    return id(source.origin) if isinstance(source, Traced) else source


def listing_of(tracer: Tracer, origin: Computed) -> Traced | None:
    """The value that lists the rows whose flags a compaction counts, if the region has one."""
    found = [traced for traced in tracer.traced.values() if isinstance(traced.origin, Computed)
             and traced.origin.stage == "compact" and traced.origin.port == "indices"
             and flags_of(traced.origin) == flags_of(origin)]
    sizes = {room_of(traced) for traced in found}
    if len(sizes) > 1:
        raise Unstreamable("the same flags are listed twice in different ways", 1, len(sizes))
    return found[0] if found else None


def room_of(listed: Traced | None) -> tuple[int, int]:
    """Capacity and fill of a compaction."""
    if listed is None or not isinstance(listed.origin, Computed) or listed.origin.node is None:
        return 0, -1
    return listed.origin.node.integer("capacity"), listed.origin.node.integer("fill")


def _rows_of(tracer: Tracer, source: Traced) -> Group:
    """The row loops along the last axis of a stream, all of them."""
    over = tracer.axes.resolve(source.layout[-1])
    # Where no product and no append told which loops are the rows, those that are selected from are.
    keys = over if source.keys is None else tracer.axes.resolve(source.keys)
    if over != keys or (source.keys is None and not set(over) <= _table_loops(tracer, source)):
        raise Unstreamable("the selection does not run along the rows of the table")
    if extent_of(over) > MAX_ROWS:
        raise Unstreamable("the table has too many rows", MAX_ROWS, extent_of(over))
    return over


def _table_loops(tracer: Tracer, traced: Traced) -> set[Atom]:
    """Loops that the table behind a value has."""
    if isinstance(traced.origin, Leaf):
        loops = views.strides_of(tracer.axes, traced.origin) if traced.kind is Kind.RESIDENT else {}
        return set(loops)
    parts = [part for part in traced.origin.operands if isinstance(part, Traced)]
    return set().union(*(_table_loops(tracer, part) for part in parts)) if parts else set()


__all__ = ["MAX_CAPACITY", "MAX_K", "SELECTIONS", "compaction", "count", "flags_of", "listing_of",
           "room_of", "selecting", "topk"]
