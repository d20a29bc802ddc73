"""Products one of whose operands is, seen through views, itself a product with a weight."""

from __future__ import annotations

from dataclasses import dataclass

from hetcc.ir import Graph, Node, OperatorClass
from hetcc.passes.normalize.digits import Axes, Look, look_at


@dataclass(frozen=True)
class Inner:
    """The inner product ``X W`` of a factor."""

    node: Node
    rows_of: str
    """``X [rows..., latent]``."""
    weight: str
    """``W``, as what its transpositions look at."""
    transposed: bool
    """Whether ``weight`` is ``[columns, latent]``."""
    weight_views: tuple[Node, ...]
    latent: int
    """Extent of the axis that the inner product sums over."""


@dataclass(frozen=True)
class Term:
    """One summand: the other operand (a span of it) times this part of the operand."""

    look: Look
    batch: Axes
    """Digits of the operand's batch axes."""
    depth: tuple[int, ...]
    """Digits of the axis that is summed over."""
    free: tuple[int, ...]
    """Digits of the operand's own axis."""
    inner: Inner | None = None
    """Absent: the part is multiplied as it is."""
    sums_columns: bool = False
    """Whether the outer product sums over columns of the weight; else over rows of X."""

    @property
    def stack(self) -> tuple[int, ...]:
        """All batch digits in order."""
        return tuple(digit for axis in self.batch for digit in axis)

    def column_digits(self) -> frozenset[int]:
        """Digits that index columns of the weight."""
        digits = self.look.digits
        reached = list(digits.axes_of[self.look.base][-1])
        found: set[int] = set()
        while reached:
            digit = reached.pop()
            found.add(digit)
            reached.extend(digits.splits.get(digit, ()))
            if digit in digits.cuts:
                reached.append(digits.cuts[digit].digit)
        return frozenset(found)


@dataclass(frozen=True)
class Candidate:
    """A product that can be computed in another order."""

    node: Node
    other: str
    """The operand that stays as it is."""
    factored_left: bool
    """Whether the left operand is the one with the inner product."""
    terms: tuple[Term, ...]
    upper: Look | None = None
    """How the operand looks at the concatenation that the terms are parts of, if there are several."""

    @property
    def inner_products(self) -> frozenset[str]:
        """Names of the inner products."""
        return frozenset(term.inner.node.name for term in self.terms if term.inner is not None)

    @property
    def concat(self) -> tuple[str, ...]:
        """The concatenated value, if there is one."""
        return () if self.upper is None else (self.upper.base,)


def candidate_of(graph: Graph, node: Node) -> Candidate | None:
    """How ``node`` could be computed in another order, if an operand is a product with a weight behind views."""
    lhs, rhs = node.operand("lhs"), node.operand("rhs")
    if lhs is None or rhs is None or node.operand("bias") is not None:
        return None
    shapes = graph.type_of(lhs).shape, graph.type_of(rhs).shape
    if len(shapes[0]) < 2 or len(shapes[0]) != len(shapes[1]) or shapes[0][:-2] != shapes[1][:-2]:
        return None
    for operand, other, is_left in ((rhs, lhs, False), (lhs, rhs, True)):
        found = _terms(graph, operand, is_left)
        if found is not None and any(term.inner is not None for term in found[0]):
            return Candidate(node, other, is_left, *found)
    return None


def _terms(graph: Graph, operand: str, is_left: bool) -> tuple[tuple[Term, ...], Look | None] | None:
    base = operand
    while (producer := graph.producer.get(base)) is not None and producer.operator_class is OperatorClass.VIEW:
        base = producer.inputs[0]
    if producer is None or producer.operator_class not in (OperatorClass.MATMUL, OperatorClass.CONCAT):
        return None
    look = look_at(graph, operand)
    if look is None:
        return None
    if producer.operator_class is OperatorClass.MATMUL:
        term = _term(graph, look, look.axes, is_left)
        return None if term is None else ((term,), None)
    parts = _concatenated(graph, producer, look, is_left)
    return None if parts is None else (parts, look)


def _sides(axes: Axes, is_left: bool) -> tuple[Axes, tuple[int, ...], tuple[int, ...]]:
    """Batch axes, summed axis, free axis of an operand."""
    return (axes[:-2], axes[-1], axes[-2]) if is_left else (axes[:-2], axes[-2], axes[-1])


def _term(graph: Graph, look: Look, axes: Axes, is_left: bool) -> Term | None:
    digits = look.digits
    batch, depth, free = _sides(tuple(digits.leaves(axis) for axis in axes), is_left)
    if digits.repeated.intersection((*depth, *free)):
        return None
    plain = Term(look, batch, depth, free)
    inner = _inner(graph, look.base)
    if inner is None:
        return plain
    columns = plain.column_digits()
    sums_columns = bool(depth) and columns.issuperset(depth) and columns.isdisjoint(free)
    sums_rows = bool(depth) and columns.isdisjoint(depth) and columns.issuperset(free)
    return Term(look, batch, depth, free, inner, sums_columns) if sums_columns or sums_rows else plain


def _concatenated(graph: Graph, concat: Node, upper: Look, is_left: bool) -> tuple[Term, ...] | None:
    """A term for each part of a concatenation along the summed axis."""
    roots = upper.digits.axes_of[upper.base]
    axis = concat.integer("axis")
    depth = _sides(upper.axes, is_left)[1]
    arranged = not upper.digits.splits and not upper.digits.cuts
    if not arranged or not roots[axis] or depth != roots[axis] or not _operands_in_order(concat):
        return None
    terms: list[Term] = []
    for part in concat.inputs:
        look = look_at(graph, part)
        if look is None:
            return None
        place_of = {digit: place for place, root in enumerate(roots) for digit in root}
        axes: list[tuple[int, ...]] = []
        for upper_axis in upper.axes:
            own: list[int] = []
            for digit in upper_axis:
                if digit in place_of:
                    own.extend(look.axes[place_of[digit]])
                else:
                    own.append(look.digits.fresh(upper.digits.extents[digit]))
                    look.digits.repeated.add(own[-1])
            axes.append(tuple(own))
        term = _term(graph, look, tuple(axes), is_left)
        if term is None:
            return None
        terms.append(term)
    return tuple(terms)


def _operands_in_order(concat: Node) -> bool:
    """Whether every input is one part: a part that is given twice is one input."""
    listed = concat.arguments[0] if concat.arguments and isinstance(concat.arguments[0], tuple) else concat.arguments
    return len(listed) == len(concat.inputs)


def _inner(graph: Graph, value: str) -> Inner | None:
    """The product with a weight matrix that makes ``value``."""
    node = graph.producer.get(value)
    if node is None or node.operator_class is not OperatorClass.MATMUL or node.operand("bias") is not None:
        return None
    left, weight = node.operand("lhs"), node.operand("rhs")
    if left is None or weight is None or len(graph.type_of(weight).shape) != 2:
        return None
    views: list[Node] = []
    transposed = False
    while (view := graph.producer.get(weight)) is not None and view.attribute("kind") == "permute":
        transposed ^= view.attribute("permutation") == (1, 0)
        views.insert(0, view)
        weight = view.inputs[0]
    if not graph.values[weight].role.is_weight:
        return None
    return Inner(node, left, weight, transposed, tuple(views), graph.type_of(left).shape[-1])
