"""Views of traced values: only the loops behind the axes change, never a stage."""

from __future__ import annotations

from dataclasses import replace

from hetcc.backends.fpga.compose.traced import Kind, Leaf, Traced
from hetcc.backends.fpga.stages.axes import Atom, AxisTable, Group, Layout, extent_of, flat
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import Node


def apply(axes: AxisTable, source: Traced, node: Node, shape: tuple[int, ...], before: int) -> Traced:
    """The traced value of a view.

    Args:
        axes: the loops of the graph.
        source: the value that is viewed.
        node: the view, for its normalised attributes.
        shape: shape of the result.
        before: of a split, elements of the axis before this part.

    Raises:
        Unstreamable: the view cannot be expressed with loops.
    """
    kind = node.attribute("kind")
    layout = tuple(axes.resolve(group) for group in source.layout)
    if kind in ("reshape", "unsqueeze", "squeeze", "alias"):
        return _viewed(source, _reshape(axes, layout, shape))
    if kind == "permute":
        order = node.attribute("permutation")
        positions = order if isinstance(order, tuple) else ()
        return _viewed(source, tuple(layout[position] for position in positions))
    if kind == "expand":
        return _viewed(source, _expand(axes, layout, shape))
    axis = node.integer("axis") if kind in ("slice", "select", "split") else -1
    if kind == "slice":
        step = node.attribute("step", 1)
        return _narrow(axes, source, layout, axis, node.integer("start"), step if isinstance(step, int) else 0, shape)
    if kind == "split":
        if len(shape) == len(layout):
            return _narrow(axes, source, layout, axis, before, 1, shape)
        raise Unstreamable("a split that drops its axis has no address pattern")
    if kind == "select":
        kept = (*shape[:axis], 1, *shape[axis:])
        chosen = _narrow(axes, source, layout, axis, node.integer("index"), 1, kept)
        return _viewed(chosen, (*chosen.layout[:axis], *chosen.layout[axis + 1:]))
    raise Unstreamable("no loop expresses this view", "", kind)


def _viewed(source: Traced, layout: Layout) -> Traced:
    return replace(source, layout=layout)


def _reshape(axes: AxisTable, layout: Layout, shape: tuple[int, ...]) -> Layout:
    found = axes.regroup(flat(layout), shape)
    if found is None:
        raise Unstreamable("the reshape cuts across loops", tuple(extent_of(group) for group in layout), shape)
    return found


def _expand(axes: AxisTable, layout: Layout, shape: tuple[int, ...]) -> Layout:
    padded: list[Group] = [*[()] * (len(shape) - len(layout)), *layout]
    return tuple(group if extent_of(group) == extent else axes.fresh(extent)
                 for group, extent in zip(padded, shape, strict=True))


def _narrow(axes: AxisTable, source: Traced, layout: Layout, axis: int, start: int, step: int,
            shape: tuple[int, ...]) -> Traced:
    """Part of one axis: another offset and stride of a buffer; a stream cannot be cut."""
    group = layout[axis]
    if extent_of(group) == shape[axis] and start == 0 and step == 1:
        return _viewed(source, layout)
    leaf = source.origin
    if not isinstance(leaf, Leaf) or source.kind is not Kind.OPERAND:
        raise Unstreamable("part of a table or stream cannot be taken", extent_of(group), shape[axis])
    if len(group) != 1 or step < 1:
        raise Unstreamable("part of a merged axis has no address pattern")
    strides = strides_of(axes, leaf)
    stride = strides.pop(group[0], 0)
    part = axes.fresh(shape[axis])
    kept = [*strides.items(), *((atom, stride * step) for atom in part if stride)]
    narrowed = Leaf(leaf.buffer, leaf.offset + start * stride, tuple(kept), leaf.updated)
    return replace(source, layout=(*layout[:axis], part, *layout[axis + 1:]), origin=narrowed)


def strides_of(axes: AxisTable, leaf: Leaf) -> dict[Atom, int]:
    """Strides of a leaf for the loops its own atoms turned out to be; equal loops add up."""
    found: dict[Atom, int] = {}
    for atom, stride in leaf.strides:
        step = stride
        for inner in reversed(axes.resolve((atom,))):
            found[inner] = found.get(inner, 0) + step
            step *= inner.extent
    return found
