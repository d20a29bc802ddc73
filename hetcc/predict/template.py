"""A graph as a function of batch and context, found from captures of the same model at a few sizes.

Captures of one model at different sizes differ in whole numbers alone: extents, and sizes in arguments. Every such
number is a constant or ``a + b x monomial`` with the batch, the context or their product as monomial. A number is
believed when exactly one of these forms fits all captures. Three captures fix its two unknowns and check them. Two fix
them; then ``b`` must be a whole number, and ``a`` zero, or along the context a whole number that is not further below
zero than the smaller number is above.

A number with a kink, such as ``min(k, context)``, fits no form. Of three captures the middle one lies off the line. Of
two on different sides of it the slope along the context is a fraction; should it have grown as the batch did, it is
known by being the context in one of them, and not believed. A square does not fit two captures, for its ``a`` is too
far below zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from hetcc.ir import Argument, DType, Graph, Node, Operand, TaggedGraph, TensorType

Size = tuple[int, int]
"""Batch and context."""
_MONOMIALS: tuple[Callable[[Size], int], ...] = (
    lambda size: size[0], lambda size: size[1], lambda size: size[0] * size[1])


@dataclass(frozen=True)
class Skeleton:
    """A tagged graph with its whole numbers taken out."""

    structure: object
    """Equal for graphs that differ in names and whole numbers alone."""
    numbers: tuple[int, ...]


def skeleton_of(tagged: TaggedGraph) -> Skeleton:
    """Structure and whole numbers; values are known by the place of their first use, not by name."""
    graph, numbers = tagged.graph, list[int]()
    place: dict[str, int] = {}
    values: list[object] = []

    def number(name: str) -> int:
        if name not in place:
            place[name] = len(place)
            value = graph.values[name]
            values.append((value.role, value.type.dtype, len(value.type.shape)))
            numbers.extend(value.type.shape)
        return place[name]

    head = [tuple(map(number, names)) for names in (graph.inputs, graph.caches)]
    nodes = []
    for node in graph.nodes:
        nodes.append((str(node.operator), node.operator_class, tuple(map(number, node.inputs)),
                      tuple(map(number, node.outputs)), _without(node.arguments, numbers),
                      tuple((key, _without(value, numbers)) for key, value in node.keywords),
                      tuple((key, _without(value, numbers)) for key, value in node.attributes),
                      tagged.stage_of(node.name)))
    tail = [tuple(map(number, graph.outputs)),
            tuple((number(update.cache), number(update.value)) for update in graph.updates)]
    return Skeleton((tuple(head), tuple(nodes), tuple(tail), tuple(values)), tuple(numbers))


def _without(argument: Argument, numbers: list[int]) -> object:
    """The argument with a mark for every whole number, which goes to ``numbers``."""
    if isinstance(argument, tuple):
        return tuple(_without(part, numbers) for part in argument)
    if isinstance(argument, bool) or not isinstance(argument, int):
        return (type(argument).__name__, argument.index if isinstance(argument, Operand) else
                repr(argument) if isinstance(argument, float) else argument)
    numbers.append(argument)
    return "#"


def with_numbers(tagged: TaggedGraph, numbers: Sequence[int]) -> TaggedGraph:
    """The graph with other whole numbers, in the order of :func:`skeleton_of`."""
    graph, stream = tagged.graph, iter(numbers)
    types: dict[str, TensorType] = {}

    def visit(names: Sequence[str]) -> None:
        for name in names:
            if name not in types:
                own = graph.values[name].type
                types[name] = TensorType(tuple(next(stream) for _ in own.shape), own.dtype)

    visit(graph.inputs)
    visit(graph.caches)
    nodes: list[Node] = []
    for node in graph.nodes:
        visit(node.inputs)
        visit(node.outputs)
        arguments = tuple(_with(part, stream) for part in node.arguments)
        keywords = tuple((key, _with(value, stream)) for key, value in node.keywords)
        attributes = tuple((key, _with(value, stream)) for key, value in node.attributes)
        nodes.append(replace(node, arguments=arguments, keywords=keywords, attributes=attributes))  # type: ignore[arg-type]
    visit(graph.outputs)
    for update in graph.updates:
        visit((update.cache, update.value))
    values = {name: replace(value, type=types.get(name, value.type)) for name, value in graph.values.items()}
    return TaggedGraph(Graph(graph.name, tuple(nodes), values, graph.inputs, graph.outputs, graph.caches,
                             graph.updates), tagged.tags)


def _with(argument: Argument, stream: object) -> Argument:
    if isinstance(argument, tuple):
        return tuple(_with(part, stream) for part in argument)
    if isinstance(argument, (bool, DType)) or not isinstance(argument, int):
        return argument
    return next(stream)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True)
class _Form:
    """``offset + slope x monomial``."""

    offset: Fraction
    slope: Fraction
    monomial: int

    def at(self, size: Size) -> Fraction:
        return self.offset + self.slope * _MONOMIALS[self.monomial](size)


@dataclass(frozen=True)
class Template:
    """The whole numbers of a structure as functions of the size."""

    structure: object
    forms: tuple[_Form, ...]
    """Distinct forms."""
    form_of: tuple[int, ...]
    """By number: its form."""

    def along_contexts(self, batch: int) -> set[tuple[Fraction, Fraction]]:
        """The forms at one batch: (offset, slope) over the context."""
        found = set()
        for form in self.forms:
            constant = form.monomial == 0
            offset = form.offset + (form.slope * batch if constant else 0)
            slope = Fraction(0) if constant else form.slope * (batch if form.monomial == 2 else 1)
            found.add((offset, slope))
        return found

    def numbers_at(self, size: Size) -> tuple[int, ...] | None:
        """The numbers of a size; None if one of them would not be whole or would be negative where none was."""
        found = [form.at(size) for form in self.forms]
        if any(one.denominator != 1 for one in found):
            return None
        whole = [int(one) for one in found]
        return tuple(whole[index] for index in self.form_of)


def fit(samples: Sequence[tuple[Size, Skeleton]]) -> Template | None:
    """The template all samples follow.

    Args:
        samples: size and skeleton of captures.

    Returns:
        None if the structures differ, or some number follows no form or more than one.
    """
    first = samples[0][1]
    if any(skeleton.structure != first.structure for _, skeleton in samples[1:]):
        return None
    sizes = [size for size, _ in samples]
    known: dict[tuple[int, ...], int] = {}
    forms: list[_Form] = []
    form_of = []
    for column in zip(*(skeleton.numbers for _, skeleton in samples), strict=True):
        if column not in known:
            form = _form_of(column, sizes)
            if form is None:
                return None
            known[column] = len(forms)
            forms.append(form)
        form_of.append(known[column])
    return Template(first.structure, tuple(forms), tuple(form_of))


def fit_by(known: set[tuple[Fraction, Fraction]], size: Size, skeleton: Skeleton) -> Template | None:
    """A template from one capture, when every number agrees with exactly one form known from other captures.

    Args:
        known: (offset, slope) over the context that occur in the model.
        size: of the capture.
        skeleton: of the capture.
    """
    forms: list[_Form] = []
    place: dict[int, int] = {}
    for number in dict.fromkeys(skeleton.numbers):
        fitting = [(offset, slope) for offset, slope in known if offset + slope * size[1] == number]
        if len(fitting) != 1:
            return None
        place[number] = len(forms)
        forms.append(_Form(*fitting[0], 1))
    return Template(skeleton.structure, tuple(forms), tuple(place[number] for number in skeleton.numbers))


def _form_of(column: tuple[int, ...], sizes: Sequence[Size]) -> _Form | None:
    """The one form a number follows."""
    if len(set(column)) == 1:
        return _Form(Fraction(column[0]), Fraction(0), 0)
    found = []
    for index in _varying(sizes):
        at = [_MONOMIALS[index](size) for size in sizes]
        other = next(place for place in range(1, len(at)) if at[place] != at[0])
        slope = Fraction(column[other] - column[0], at[other] - at[0])
        form = _Form(column[0] - slope * at[0], slope, index)
        fits = all(form.at(size) == value for size, value in zip(sizes, column, strict=True))
        if fits and not _may_be_kinked(form, column, sizes) and (len(sizes) > 2 or _is_plain(form, column)):
            found.append(form)
    return found[0] if len(found) == 1 else None


def _may_be_kinked(form: _Form, column: tuple[int, ...], sizes: Sequence[Size]) -> bool:
    """Whether the number may be the context up to a kink and, by chance, have grown as the batch did."""
    return form.monomial != 1 and 1 in _varying(sizes) and any(
        number == size[1] for number, size in zip(column, sizes, strict=True))


def _is_plain(form: _Form, column: tuple[int, ...]) -> bool:
    """Whether two captures are enough to believe the form."""
    if form.slope.denominator > 1 or form.offset.denominator > 1:
        return False
    return form.offset >= -min(map(abs, column)) if form.monomial == 1 else not form.offset


def _varying(sizes: Sequence[Size]) -> tuple[int, ...]:
    """The monomials to try; while one extent never changes, the other says all that their product says."""
    batches, contexts = ({size[axis] for size in sizes} for axis in (0, 1))
    if len(batches) > 1 and len(contexts) > 1:
        return (0, 1, 2)
    return (0,) if len(batches) > 1 else (1,) if len(contexts) > 1 else ()


def tells_apart(sizes: Sequence[Size]) -> bool:
    """Whether no number that changes over three sizes can follow two forms: no two monomials lie on a line."""
    if len(set(sizes)) < 3:
        return False
    columns = [[_MONOMIALS[index](size) for size in sizes] for index in _varying(sizes)]
    if len(columns) == 1:
        return len(set(columns[0])) >= 3
    return all(_off_a_line(left, right) for place, left in enumerate(columns) for right in columns[place + 1:])


def _off_a_line(left: Sequence[int], right: Sequence[int]) -> bool:
    return any((left[1] - left[0]) * (right[place] - right[0]) != (left[place] - left[0]) * (right[1] - right[0])
               for place in range(2, len(left)))
