"""What is read where indices say: entries of a small operand that the rows of a table name, and selected rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetcc.backends.fpga.compose.trace_selections import SELECTIONS
from hetcc.backends.fpga.compose.traced import Computed, Kind, Leaf, Traced
from hetcc.backends.fpga.stages.axes import Layout, extent_of
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import DType, Node

if TYPE_CHECKING:
    from hetcc.backends.fpga.compose.trace import Tracer

MAX_ENTRIES = 2**18
"""Entries of an operand that is looked up: each unit has a copy of it on chip."""
_INDEX_TYPES = (DType.INT32, DType.INT64)


def gather(tracer: Tracer, node: Node) -> None:
    """Entries of an operand from outside at the positions that a table holds, or rows that were selected."""
    names = node.operand("data"), node.operand("indices")
    mode = node.attribute("mode")
    if names[0] is None or names[1] is None or mode not in ("rows", "along"):
        raise Unstreamable("a gather takes entries along one axis", "rows, along", mode)
    data, index, axis = tracer.value(names[0]), tracer.value(names[1]), node.integer("axis")
    if index.kind is Kind.SELECTION:
        _selected_rows(tracer, node, data, index)
        return
    if mode != "rows":
        raise Unstreamable("a lookup takes whole entries", "rows", mode)
    if index.kind is not Kind.RESIDENT or data.kind is not Kind.OPERAND:
        raise Unstreamable("a lookup takes entries of an operand where rows of a table say", "operand by table",
                           f"{data.kind.value} by {index.kind.value}")
    if index.element not in _INDEX_TYPES or not data.element.is_floating:
        raise Unstreamable("positions are integers and entries floating point numbers", "",
                           f"{data.element.value} at {index.element.value}")
    over = tracer.axes.resolve(data.layout[axis])
    if len(over) > 1 or extent_of(over) > MAX_ENTRIES:
        raise Unstreamable("the operand that is looked up has too many entries", MAX_ENTRIES, extent_of(over))
    if not over:
        raise Unstreamable("an operand of one entry is not looked up", "2 entries", 1)
    tracer.check_stationary(data, index.keys or ())
    layout = (*data.layout[:axis], *index.layout, *data.layout[axis + 1:])
    element = tracer.graph.type_of(node.outputs[0]).dtype
    origin = Computed("lookup", "", (index, data), over, node, element=element)
    tracer.record(node, Traced(Kind.STREAM, layout, element, origin, index.keys))


def _selected_rows(tracer: Tracer, node: Node, data: Traced, index: Traced) -> None:
    """Rows of a table, or of anything else in memory, at the indices of a selection."""
    axis, chosen = node.integer("axis"), index.origin
    if not isinstance(data.origin, Leaf) or not isinstance(chosen, Computed) or chosen.stage not in SELECTIONS:
        raise Unstreamable("rows are taken from memory where a selection says", "a table by indices",
                           f"{data.kind.value} by {index.kind.value}")
    if chosen.port != "indices" or index.element not in _INDEX_TYPES:
        raise Unstreamable("rows are taken at the indices of a selection", "indices", chosen.port)
    over = tracer.axes.resolve(data.layout[axis])
    if len(over) != 1 or over[0].extent < extent_of(tracer.axes.resolve(chosen.over)):
        raise Unstreamable("a selected row may be outside of the table", extent_of(chosen.over), extent_of(over))
    if node.attribute("mode") == "rows":
        layout: Layout = (*data.layout[:axis], *index.layout, *data.layout[axis + 1:])
    else:
        pairs = [(left, right) for at, (left, right) in enumerate(zip(index.layout, data.layout, strict=True))
                 if at != axis]
        if not all(tracer.axes.unify(left, right) for left, right in pairs):
            raise Unstreamable("the indices do not factor like the table")
        layout = index.layout
    layout = tuple(tracer.axes.resolve(group) for group in layout)
    element = tracer.graph.type_of(node.outputs[0]).dtype
    origin = Computed("gather", "", (index, data), over, node, element=element)
    tracer.record(node, Traced(Kind.SELECTION, layout, element, origin, index.keys))


__all__ = ["MAX_ENTRIES", "gather"]
