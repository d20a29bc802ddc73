"""A product of three factors written out in the other order, for any extents of its digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hetcc.ir import Graph, Node, TensorType, Value
from hetcc.ir.builder import Builder
from hetcc.ir.graph import Role
from hetcc.passes.normalize.digits import Digits
from hetcc.passes.normalize.factors import Candidate, Inner, Term

_QUERY, _LATENT = -1, -2
"""Digits that no operand of a term has: rows of the other operand, and the axis the inner product sums over."""


@dataclass(frozen=True, slots=True)
class _Laid:
    """A value whose elements lie in the order of digits."""

    value: str
    digits: tuple[int, ...]


class Regrouping:
    """Writes the nodes that compute one candidate in the other order.

    Args:
        graph: the program.
        candidate: what is rewritten.
        builder: makes nodes.
        change: the type of an existing value from its type in ``graph`` (for the shrunk program of the proof).
        small: extents to use instead of those of the program; None: its own.
    """

    def __init__(self, graph: Graph, candidate: Candidate, builder: Builder,
                 change: Callable[[str], TensorType] | None = None, small: Callable[[int], int] | None = None) -> None:
        self.graph = graph
        self.candidate = candidate
        self.builder = builder
        self.type_of = change or graph.type_of
        self.small = small
        self.extents: dict[int, int] = {}
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}

    def program(self) -> Graph:
        """The nodes as a program of their own, with the outer product's value as its one output."""
        node = self.candidate.node
        sums = [self._term(term, start) for term, start in zip(self.candidate.terms, self._starts(), strict=True)]
        total = sums[0]
        for term in sums[1:]:
            total = self._add(total, term)
        last = self.nodes[-1]
        assert last.outputs == (total,)
        output = node.outputs[0]
        nodes = (*self.nodes[:-1], replace(last, name=node.name, outputs=(output,)))
        values = {name: value for name, value in self.values.items() if name != total}
        values[output] = Value(output, self.values[total].type)
        made = {name for made_by in nodes for name in made_by.outputs}
        outside = dict.fromkeys(name for reader in nodes for name in reader.inputs if name not in made)
        inputs = []
        for name in outside:
            value = self.graph.values[name]
            role = Role.INPUT if value.role is Role.ACTIVATION else value.role
            values[name] = Value(name, self.type_of(name), role)
            if role is Role.INPUT:
                inputs.append(name)
        caches = tuple(name for name in outside if self.graph.values[name].role is Role.CACHE)
        return Graph(f"{node.name} (other order)", nodes, values, tuple(inputs), (output,), caches)

    def _starts(self) -> list[int]:
        """Where each term's span of the summed axis starts."""
        starts = [0]
        for term in self.candidate.terms:
            starts.append(starts[-1] + math.prod(term.look.digits.extents[digit] for digit in term.depth))
        return starts[:-1]

    def _term(self, term: Term, start: int) -> str:
        digits = term.look.digits
        self.extents = dict(digits.shrunk(self.small)) if self.small else dict(digits.extents)
        other = self._other(term, start)
        inner = term.inner
        if inner is None:
            whole = self._materialized(term.look.base, digits.axes_of[term.look.base], digits)
            done = self._outer(other, whole, term, [digit for digit in term.stack if digit not in digits.repeated])
        else:
            done = self._factored(other, term, inner)
        last = [term.free, (_QUERY,)] if self.candidate.factored_left else [(_QUERY,), term.free]
        return self._arranged(done, [*term.batch, *last])

    def _factored(self, other: _Laid, term: Term, inner: Inner) -> _Laid:
        digits = term.look.digits
        columns = term.column_digits()
        roots = digits.axes_of[term.look.base]
        self.extents[_LATENT] = self.type_of(inner.rows_of).shape[-1]
        latent = (_LATENT,)
        rows = self._materialized(inner.rows_of, (*roots[:-1], latent), digits)
        weight = self._materialized(inner.weight, (roots[-1], latent) if inner.transposed else (latent, roots[-1]),
                                    digits)
        of_rows = [digit for digit in term.stack if digit not in columns and digit not in digits.repeated]
        of_columns = [digit for digit in term.stack if digit in columns]
        first, second = (weight, rows) if term.sums_columns else (rows, weight)
        first_stack, second_stack = (of_columns, of_rows) if term.sums_columns else (of_rows, of_columns)
        narrow = self._product(other, first, first_stack, self._rows(term, first_stack), term.depth, latent)
        return self._product(narrow, second, second_stack, self._rows(term, second_stack), latent, term.free)

    def _outer(self, other: _Laid, whole: _Laid, term: Term, stack: list[int]) -> _Laid:
        return self._product(other, whole, stack, self._rows(term, stack), term.depth, term.free)

    def _rows(self, term: Term, stack: Sequence[int]) -> tuple[int, ...]:
        """What indexes the other operand's rows when ``stack`` numbers the products."""
        return (*(digit for digit in term.stack if digit not in stack), _QUERY)

    def _other(self, term: Term, start: int) -> _Laid:
        """The other operand, cut to the term's span of the summed axis."""
        value, left = self.candidate.other, self.candidate.factored_left
        shape = self.type_of(value).shape
        axis = len(shape) - (2 if left else 1)
        self.extents[_QUERY] = shape[-1] if left else shape[-2]
        span = math.prod(self.extents[digit] for digit in term.depth)
        if span != shape[axis]:
            value = self._slice(value, axis, (start, start + span, 1))
        order = (*term.stack, *term.depth, _QUERY) if left else (*term.stack, _QUERY, *term.depth)
        return _Laid(value, order)

    def _materialized(self, value: str, axes: Iterable[Sequence[int]], digits: Digits) -> _Laid:
        """``value`` with its digits split and cut as they were on the way to the operand."""
        laid = _Laid(value, tuple(digit for axis in axes for digit in axis))
        while True:
            split = tuple(part for digit in laid.digits for part in digits.splits.get(digit, (digit,)))
            if split != laid.digits:
                laid = _Laid(laid.value, split)
                continue
            place = next((place for place, digit in enumerate(split) if digit in digits.cuts), None)
            if place is None:
                return laid
            cut = digits.cuts[split[place]]
            apart = self._arranged(laid, [(digit,) for digit in split])
            laid = _Laid(self._slice(apart, place, (cut.start, cut.stop, cut.step)),
                         (*split[:place], cut.digit, *split[place + 1:]))

    def _product(self, left: _Laid, right: _Laid, stack: Sequence[int], rows: Sequence[int], depth: Sequence[int],
                 columns: Sequence[int]) -> _Laid:
        stacked = [stack] if self._size(stack) != 1 else []
        lhs = self._arranged(left, [*stacked, rows, depth])
        rhs = self._arranged(right, [*stacked, depth, columns])
        shape = tuple(self._size(group) for group in (*stacked, rows, columns))
        output = self._declare(shape)
        self.nodes.append(self.builder.matmul(output.name, lhs, rhs, output, self.candidate.node.provenance))
        return _Laid(output.name, (*stack, *rows, *columns))

    def _size(self, digits: Iterable[int]) -> int:
        return math.prod(self.extents[digit] for digit in digits)

    def _arranged(self, laid: _Laid, groups: Sequence[Sequence[int]]) -> str:
        """``laid`` with an axis for each group of digits, in that order."""
        have = [digit for digit in laid.digits if self.extents[digit] != 1]
        want = [digit for group in groups for digit in group if self.extents[digit] != 1]
        assert sorted(have) == sorted(want), (laid, groups)
        value = laid.value
        if have != want:
            value = self._reshape(value, tuple(self.extents[digit] for digit in have))
            order = tuple(have.index(digit) for digit in want)
            output = self._declare(tuple(self.extents[digit] for digit in want))
            self.nodes.append(self.builder.permute(output.name, value, order, output, self.candidate.node.provenance))
            value = output.name
        return self._reshape(value, tuple(self._size(group) for group in groups))

    def _shape(self, value: str) -> tuple[int, ...]:
        return self.values[value].type.shape if value in self.values else self.type_of(value).shape

    def _declare(self, shape: tuple[int, ...]) -> Value:
        dtype = self.type_of(self.candidate.other).dtype
        value = Value(f"{self.candidate.node.name}.part.{len(self.nodes)}", TensorType(shape, dtype))
        self.values[value.name] = value
        return value

    def _reshape(self, value: str, shape: tuple[int, ...]) -> str:
        # An axis can be followed through one reshape, not through two that merge and split it; the proof keeps both.
        while self.small is None and (node := self.graph.producer.get(value)) is not None and (
                node.attribute("kind") in ("reshape", "unsqueeze", "squeeze")):
            value = node.inputs[0]
        if self._shape(value) == shape:
            return value
        output = self._declare(shape)
        self.nodes.append(self.builder.reshape(output.name, value, output, self.candidate.node.provenance))
        return output.name

    def _slice(self, value: str, axis: int, span: tuple[int, int, int]) -> str:
        shape = list(self._shape(value))
        shape[axis] = -(-(span[1] - span[0]) // span[2])
        output = self._declare(tuple(shape))
        self.nodes.append(self.builder.slice(output.name, value, axis, span, output, self.candidate.node.provenance))
        return output.name

    def _add(self, first: str, second: str) -> str:
        output = self._declare(self._shape(first))
        self.nodes.append(self.builder.add(output.name, first, second, output, self.candidate.node.provenance))
        return output.name
