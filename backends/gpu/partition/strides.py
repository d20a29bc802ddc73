"""Where the elements of a view lie in the tensor it looks at: factors of extents and strides, axis by axis.

An axis is a list of (extent, stride) factors, outermost first, so that an axis which merges others (heads with the
repetition of heads, batch with tokens) still says what it is made of; torch's plain strides cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hetcc.ir import Argument, DType, Graph, Node, Operand, OperatorClass

Factor = tuple[int, int]
"""Extent and stride in elements; stride 0 repeats."""
Factors = tuple[Factor, ...]

_WIDENING = frozenset({(DType.BFLOAT16, DType.FLOAT32), (DType.FLOAT16, DType.FLOAT32), (DType.INT32, DType.INT64)})
"""Casts that keep every number; a kernel that computes in the wider type may read the narrower tensor."""


@dataclass(frozen=True, slots=True)
class Strided:
    """A value as a look at another one."""

    base: str
    """The value that is looked at; not a view itself."""
    axes: tuple[Factors, ...]
    offset: int = 0
    scale: float = 1.0
    """What the elements are multiplied by on the way."""

    @property
    def factors(self) -> Factors:
        """All factors in the order of the axes."""
        return tuple(factor for axis in self.axes for factor in axis)


def dense(base: str, shape: Sequence[int]) -> Strided:
    """The value itself."""
    strides = [math.prod(shape[axis + 1:]) for axis in range(len(shape))]
    return Strided(base, tuple(((extent, stride),) for extent, stride in zip(shape, strides, strict=True)))


def regroup(factors: Factors, shape: Sequence[int]) -> tuple[Factors, ...] | None:
    """Row-major factors dealt out to axes of ``shape``; None when a factor would have to be cut unevenly."""
    rest = [factor for factor in factors if factor[0] != 1]
    axes: list[Factors] = []
    for extent in shape:
        axis: list[Factor] = []
        missing = extent
        while missing > 1:
            if not rest:
                return None
            size, stride = rest.pop(0)
            if missing % size == 0:
                axis.append((size, stride))
                missing //= size
            elif size % missing == 0:
                axis.append((missing, stride * (size // missing)))
                rest.insert(0, (size // missing, stride))
                missing = 1
            else:
                return None
        axes.append(tuple(axis))
    return None if rest else tuple(axes)


def is_dense(factors: Sequence[Factor], elements: int) -> bool:
    """Whether walking the factors in order walks over all ``elements`` in order."""
    expected = elements
    for extent, stride in factors:
        if extent == 1:
            continue
        if extent * stride != expected:
            return False
        expected = stride
    return expected == 1


def looks_of(graph: Graph, value: str, *, scaled: bool = False) -> Iterator[Strided]:
    """``value`` as a look at everything it is a view of, the farthest first and itself last.

    Casts that keep every number count as views: a kernel that computes in the wider type may read the narrower tensor.
    So do, if ``scaled``, products with a literal.
    """
    chain: list[tuple[Node, str]] = []
    here = value
    while (node := graph.producer.get(here)) is not None and (
            node.operator_class is OperatorClass.VIEW or _widens(graph, node)
            or (scaled and literal_factor(node) is not None)):
        chain.append((node, here))
        here = node.inputs[0]
    for start in range(len(chain), -1, -1):
        base = chain[start - 1][0].inputs[0] if start else value
        look: Strided | None = dense(base, graph.type_of(base).shape)
        for node, result in reversed(chain[:start]):
            if node.operator_class is OperatorClass.VIEW:
                look = _viewed(graph, node, result, look) if look is not None else None
        if look is not None:
            factors = (literal_factor(node) for node, _ in chain[:start])
            yield replace(look, scale=math.prod(factor for factor in factors if factor is not None))


def broadcast(look: Strided, shape: Sequence[int], dims: Sequence[int], elements: int) -> tuple[int, ...] | None:
    """Extents, full or 1, of a dense tensor that ``look``, broadcast to ``shape`` and regrouped to ``dims``, repeats.

    Args:
        look: at a tensor.
        shape: what it is broadcast to.
        dims: extents with the same product as ``shape``.
        elements: of the tensor that is looked at.
    """
    axes = regroup(_expanded(look, shape).factors, dims) if len(look.axes) <= len(shape) else None
    if axes is None or look.offset:
        return None
    repeated = [all(stride == 0 for _, stride in axis) for axis in axes]
    moving = [factor for axis, zero in zip(axes, repeated, strict=True) if not zero for factor in axis]
    if not is_dense(moving, elements):
        return None
    return tuple(1 if zero else extent for extent, zero in zip(dims, repeated, strict=True))


def _widens(graph: Graph, node: Node) -> bool:
    if node.attribute("function") != "cast" or not node.inputs:
        return False
    source, result = graph.type_of(node.inputs[0]), graph.type_of(node.outputs[0])
    return source.shape == result.shape and (source.dtype, result.dtype) in _WIDENING


def _viewed(graph: Graph, node: Node, value: str, source: Strided) -> Strided | None:
    shape = graph.type_of(value).shape
    kind = node.attribute("kind")
    if kind in ("reshape", "unsqueeze", "squeeze", "alias"):
        axes = regroup(source.factors, shape)
        return None if axes is None else Strided(source.base, axes, source.offset)
    if kind == "permute":
        order = node.attribute("permutation")
        return Strided(source.base, tuple(source.axes[place] for place in order), source.offset) \
            if isinstance(order, tuple) else None
    if kind == "expand":
        return _expanded(source, shape)
    if kind == "slice":
        step = node.attribute("step", 1)
        return _part(source, node.integer("axis"), node.integer("start"), step, shape[node.integer("axis")])
    if kind == "select":
        axis = node.integer("axis")
        part = _part(source, axis, node.integer("index"), 1, 1)
        return part and Strided(part.base, (*part.axes[:axis], *part.axes[axis + 1:]), part.offset)
    if kind == "split" and len(shape) == len(source.axes):
        axis = node.integer("axis")
        before = [graph.type_of(name).shape[axis] for name in node.outputs[:node.outputs.index(value)]]
        return _part(source, axis, sum(before), 1, shape[axis])
    return None


def _extent(axis: Factors) -> int:
    return math.prod(extent for extent, _ in axis)


def _expanded(source: Strided, shape: Sequence[int]) -> Strided:
    padded: list[Factors] = [*[()] * (len(shape) - len(source.axes)), *source.axes]
    axes = tuple(axis if _extent(axis) == extent else ((extent, 0),)
                 for axis, extent in zip(padded, shape, strict=True))
    return Strided(source.base, axes, source.offset)


def _part(source: Strided, axis: int, start: int, step: object, extent: int) -> Strided | None:
    """Elements ``start, start + step, ...`` of an axis that is one factor."""
    factors = [factor for factor in source.axes[axis] if factor[0] != 1]
    if start == 0 and step == 1 and _extent(source.axes[axis]) == extent:
        return source
    if len(factors) > 1 or not isinstance(step, int):
        return None
    stride = factors[0][1] if factors else 0
    return Strided(source.base, (*source.axes[:axis], ((extent, stride * step),), *source.axes[axis + 1:]),
                   source.offset + start * stride)


def literal_factor(node: Node) -> float | None:
    """The number that an element-wise node multiplies its one tensor by."""
    function = node.attribute("function")
    if function not in ("mul", "div") or len(node.inputs) != 1 or len(node.arguments) != 2 or node.keywords:
        return None
    terms = node.arguments if node.arguments[0] == Operand(0) or function == "div" else node.arguments[::-1]
    number = _number(terms[1])
    if terms[0] != Operand(0) or not number:
        return None
    return number if function == "mul" else 1.0 / number


def _number(argument: Argument) -> float | None:
    """A literal number; ONNX writes it as a tensor: (element type, shape, elements)."""
    if isinstance(argument, tuple) and len(argument) == 3 and isinstance(argument[0], DType) and \
            isinstance(argument[2], tuple) and len(argument[2]) == 1:
        argument = argument[2][0]
    return float(argument) if isinstance(argument, int | float) and not isinstance(argument, bool) else None
