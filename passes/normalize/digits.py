"""What the axes of a view are made of: digits, whose extents multiply to the extent of an axis.

A reshape deals the digits out to other axes and splits them where needed, a permutation moves them, a broadcast adds
repeated ones, a slice cuts one. So a view of a product can be read as indices of the product's two factors, and the
same splits and cuts can be made on the factors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hetcc.ir import Graph, Node, OperatorClass

Axes = tuple[tuple[int, ...], ...]
"""Digits of every axis, outermost first; digits of extent 1 are left out."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a digit: entries ``start, start + step, ...`` below ``stop``."""

    digit: int
    start: int
    stop: int
    step: int


@dataclass
class Digits:
    """The digits of one value and of the views on the way to it."""

    extents: dict[int, int] = field(default_factory=dict)
    splits: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Digit -> the digits it was split into, outermost first."""
    cuts: dict[int, Cut] = field(default_factory=dict)
    """Digit -> the one part of it that is used."""
    repeated: set[int] = field(default_factory=set)
    """Digits along which all entries are the same."""
    axes_of: dict[str, Axes] = field(default_factory=dict)
    """Values on the way."""

    def fresh(self, extent: int) -> int:
        """A new digit."""
        digit = len(self.extents)
        self.extents[digit] = extent
        return digit

    def fresh_axes(self, shape: Sequence[int]) -> Axes:
        """A new digit for every axis."""
        return tuple((self.fresh(extent),) if extent != 1 else () for extent in shape)

    def leaves(self, digits: Iterable[int]) -> tuple[int, ...]:
        """The digits, those that were split since then replaced by their parts."""
        found: list[int] = []
        for digit in digits:
            found.extend(self.leaves(self.splits[digit]) if digit in self.splits else (digit,))
        return tuple(found)

    def shrunk(self, small: Callable[[int], int]) -> dict[int, int]:
        """Smaller extents that fit together: leaves shrink, what is cut or comes from a cut keeps its extent."""
        kept = {*self.cuts, *(cut.digit for cut in self.cuts.values())}
        kept.update(*(self.leaves((digit,)) for digit in tuple(kept)))
        found: dict[int, int] = {}
        for digit in sorted(self.extents, reverse=True):
            parts = self.splits.get(digit)
            if parts is not None:
                found[digit] = math.prod(found[part] for part in parts)
            else:
                found[digit] = self.extents[digit] if digit in kept else small(self.extents[digit])
        return found

    def follow(self, graph: Graph, node: Node, value: str) -> Axes | None:
        """The axes of the view ``value``, which ``node`` makes; None when it is no arrangement of whole digits."""
        source, shape = self.axes_of[node.inputs[0]], graph.type_of(value).shape
        kind = node.attribute("kind")
        if kind in ("reshape", "unsqueeze", "squeeze", "alias"):
            return self._regrouped(source, shape)
        if kind == "permute":
            order = node.attribute("permutation")
            return tuple(source[place] for place in order) if isinstance(order, tuple) else None
        if kind == "expand":
            return self._expanded(source, shape)
        if kind == "slice":
            axis = node.integer("axis")
            step = node.attribute("step", 1)
            start = node.integer("start")
            return self._cut(source, axis, start, int(step) if isinstance(step, int) else 1, shape[axis])
        if kind == "split" and len(shape) == len(source):
            axis = node.integer("axis")
            start = sum(graph.type_of(name).shape[axis] for name in node.outputs[:node.outputs.index(value)])
            return self._cut(source, axis, start, 1, shape[axis])
        return None

    def _regrouped(self, source: Axes, shape: Sequence[int]) -> Axes | None:
        rest = list(self.leaves(digit for axis in source for digit in axis))
        axes: list[tuple[int, ...]] = []
        for extent in shape:
            axis: list[int] = []
            missing = extent
            while missing > 1:
                if not rest:
                    return None
                size = self.extents[rest[0]]
                if missing % size and size % missing:
                    return None
                if size > missing:
                    rest[0:1] = self._split(rest[0], missing)
                digit = rest.pop(0)
                axis.append(digit)
                missing //= self.extents[digit]
            axes.append(tuple(axis))
        return None if rest else tuple(axes)

    def _split(self, digit: int, outer: int) -> tuple[int, int]:
        parts = (self.fresh(outer), self.fresh(self.extents[digit] // outer))
        self.splits[digit] = parts
        if digit in self.repeated:
            self.repeated.update(parts)
        return parts

    def _expanded(self, source: Axes, shape: Sequence[int]) -> Axes:
        padded = ((),) * (len(shape) - len(source)) + source
        axes = []
        for axis, extent in zip(padded, shape, strict=True):
            added = (self.fresh(extent),) if not axis and extent != 1 else ()
            self.repeated.update(added)
            axes.append(axis or added)
        return tuple(axes)

    def _cut(self, source: Axes, axis: int, start: int, step: int, extent: int) -> Axes | None:
        digits = self.leaves(source[axis])
        if math.prod(self.extents[digit] for digit in digits) == extent:
            return source
        if len(digits) != 1 or extent == 1 or digits[0] in self.cuts:
            return None
        part = self.fresh(extent)
        self.cuts[digits[0]] = Cut(part, start, start + (extent - 1) * step + 1, step)
        if digits[0] in self.repeated:
            self.repeated.add(part)
        return (*source[:axis], (part,), *source[axis + 1:])


@dataclass(frozen=True)
class Look:
    """A value as views of another one."""

    base: str
    """The value at the far end, which no view makes."""
    axes: Axes
    digits: Digits
    nodes: tuple[Node, ...]
    """The views, in order."""


def look_at(graph: Graph, value: str) -> Look | None:
    """``value`` read as a view of what is in memory; None when some view on the way is no arrangement of digits."""
    chain: list[tuple[Node, str]] = []
    base = value
    while (node := graph.producer.get(base)) is not None and node.operator_class is OperatorClass.VIEW:
        chain.append((node, base))
        base = node.inputs[0]
    digits = Digits()
    digits.axes_of[base] = digits.fresh_axes(graph.type_of(base).shape)
    for node, result in reversed(chain):
        axes = digits.follow(graph, node, result)
        if axes is None:
            return None
        digits.axes_of[result] = axes
    return Look(base, digits.axes_of[value], digits, tuple(node for node, _ in reversed(chain)))
