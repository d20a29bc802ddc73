"""Random inputs that are valid for a program nobody described: what an input may hold is read off its uses."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import numpy

from hetcc.capture.model import CaptureRequest
from hetcc.capture.onnx_door import memory_axes
from hetcc.ir import DType, Graph, Node, OperatorClass
from hetcc.onnx.types import numpy_dtype_of

Array = numpy.ndarray
_HIDDEN = -1e9
_COMPARED = frozenset({"lt", "le", "gt", "ge"})
_PLACING = frozenset({OperatorClass.VIEW, OperatorClass.COPY, OperatorClass.CONCAT, OperatorClass.ELEMENTWISE})
_MASKING = frozenset({*_PLACING, OperatorClass.GATHER, OperatorClass.SCATTER})


class Meaning(Enum):
    """What an input is to the program."""

    NUMBERS = "numbers"
    """Anything."""
    ROWS = "rows"
    """Indices into a table, such as token ids."""
    POSITIONS = "positions"
    """Where the tokens of the step stand in the sequence."""
    MASK = "mask"
    """Which entries may be looked at."""


def meaning_of(graph: Graph, name: str) -> Meaning:
    """What the input ``name`` is, by its uses; an input called a mask is one."""
    dtype = graph.type_of(name).dtype
    uses = list(_uses(graph, name, _PLACING))
    whole = not dtype.is_floating and dtype is not DType.BOOL
    if whole and any(_places_rows(node, value) for node, value in uses):
        return Meaning.POSITIONS
    if "mask" in name.lower() or _only_masks(graph, name):
        compared = whole and any(node.attribute("function") in _COMPARED for node, _ in uses)
        return Meaning.POSITIONS if compared and "mask" not in name.lower() else Meaning.MASK
    if whole and rows_of(graph, name):
        return Meaning.ROWS
    return Meaning.POSITIONS if whole else Meaning.NUMBERS


def rows_of(graph: Graph, name: str) -> int:
    """Rows of the smallest table that an input indexes, directly or through views and casts; 0 without one."""
    found = [graph.type_of(node.operand("data") or "").shape[node.integer("axis")]
             for node, value in _uses(graph, name, frozenset({OperatorClass.VIEW, OperatorClass.COPY}))
             if node.operator_class is OperatorClass.GATHER and node.operand("indices") == value]
    return min(found, default=0)


def _uses(graph: Graph, name: str, through: frozenset[OperatorClass]) -> Iterator[tuple[Node, str]]:
    """(node, value) for each node that reads ``name``, or what operators of the classes ``through`` make of it."""
    stack, seen = [name], {name}
    while stack:
        value = stack.pop()
        for node in graph.consumers_of(value):
            yield node, value
            if node.operator_class in through or node.attribute("function") == "cast":
                stack.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)


def _places_rows(node: Node, value: str) -> bool:
    writes = node.operator_class in (OperatorClass.CACHE_UPDATE, OperatorClass.SCATTER)
    return writes and node.operand("indices") == value


def _only_masks(graph: Graph, name: str) -> bool:
    """Whether an input reaches nothing but softmaxes and selections, and those through masking operators alone."""
    ends = [node for node, _ in _uses(graph, name, _MASKING) if node.operator_class not in _MASKING]
    return bool(ends) and all(node.operator_class in (OperatorClass.SOFTMAX, OperatorClass.TOPK) for node in ends)


class StepInputs:
    """Inputs of successive steps, and the caches they begin with.

    Args:
        graph: the program.
        request: says how many entries the caches hold.
        seed: equal seeds give equal numbers.
        history: entries the caches hold at first.
    """

    def __init__(self, graph: Graph, request: CaptureRequest, seed: int, history: int) -> None:
        self.graph = graph
        self.context = request.context
        self.history = history
        self.generator = numpy.random.default_rng(seed)
        self.meanings = {name: meaning_of(graph, name) for name in graph.inputs}
        self.tokens = self._tokens_per_step()

    def caches(self) -> dict[str, Array]:
        """Normal numbers in the first ``history`` entries, zeros behind; a cache of one whole number counts entries."""
        axes = memory_axes(self.graph)
        found = {}
        for name in self.graph.caches:
            kind = self.graph.type_of(name)
            array = numpy.zeros(kind.shape, numpy.float64)
            if not kind.dtype.is_floating:
                array[...] = self.history if kind.elements == 1 else 0
            elif name in axes:
                filled = numpy.moveaxis(array, axes[name], 0)[:self.history]
                filled[...] = self.generator.standard_normal(filled.shape)
            else:
                array = numpy.asarray(self.generator.standard_normal(kind.shape))
            found[name] = array.astype(numpy_dtype_of(kind.dtype))
        return found

    def step(self, position: int) -> dict[str, Array]:
        """Inputs of the step after ``position`` others."""
        return {name: self._input(name, self.history + position * self.tokens) for name in self.graph.inputs}

    def _input(self, name: str, first: int) -> Array:
        kind, meaning = self.graph.type_of(name), self.meanings[name]
        if meaning is Meaning.MASK:
            array = self._mask(kind.shape, kind.dtype, first)
        elif meaning is Meaning.ROWS:
            array = self.generator.integers(0, rows_of(self.graph, name), kind.shape)
        elif meaning is Meaning.POSITIONS:
            extent = kind.shape[-1] if kind.shape else 1
            array = numpy.broadcast_to(first + numpy.arange(extent), kind.shape or (1,)).reshape(kind.shape)
        elif kind.dtype is DType.BOOL:
            array = self.generator.random(kind.shape) < 0.5
        else:
            array = numpy.asarray(self.generator.standard_normal(kind.shape))
        return array.astype(numpy_dtype_of(kind.dtype))

    def _mask(self, shape: tuple[int, ...], dtype: DType, first: int) -> Array:
        """Everything up to each token's own position may be looked at; without caches, everything.

        As numbers: 1 and 0 in whole numbers and truth values, 0 and very negative in real ones, which are added.
        """
        visible = numpy.ones(shape, bool)
        if self.graph.caches and shape and shape[-1] == self.context:
            rows = shape[-2] if len(shape) > 1 and shape[-2] == self.tokens else 1
            last = first + (numpy.arange(rows) if rows > 1 else numpy.array([self.tokens - 1]))
            visible &= numpy.arange(self.context) <= last.reshape(-1, 1) if len(shape) > 1 else (
                numpy.arange(self.context) <= last[-1])
        return numpy.where(visible, 0.0, _HIDDEN) if dtype.is_floating else visible

    def _tokens_per_step(self) -> int:
        """Tokens each step adds: rows that are written into a cache at once."""
        for node in self.graph.nodes:
            indices = node.operand("indices")
            if node.operator_class is OperatorClass.CACHE_UPDATE and indices is not None:
                return max(1, self.graph.type_of(indices).elements)
        return 1


__all__ = ["Meaning", "StepInputs", "meaning_of", "rows_of"]
