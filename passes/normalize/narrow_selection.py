"""Attention over a masked full memory becomes attention over the selected entries alone.

Hugging Face writes sparse attention as: scatter the selected indices into a mask over all entries, add the mask to the
scores of all entries, softmax, weighted sum. Entries that were not selected get weight zero, so it is enough to gather
the selected entries and compute on them. The gather is moved as far towards the memory as every operator on the way
treats entries one by one, so that projections of the entries shrink too. Nothing is rewritten before the old and the
new program gave the same numbers on random inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from hetcc.ir import Graph, Node, OperatorClass, TensorType, Value
from hetcc.ir.builder import Builder, Resize, in_order, resize
from hetcc.ir.proof import Checker, CheckRequest, CheckResult
from hetcc.ir.subgraph import digest_of, extract
from hetcc.ir.types import DType
from hetcc.passes.normalize.memory_slice import MemorySlice, collect_slice, is_candidate
from hetcc.passes.normalize.report import Rewrite

_CHECK_EXTENT = 96
_CHECK_SELECTED = 24


@dataclass(frozen=True)
class NarrowToSelection:
    """Gather the selected memory entries instead of masking out the others.

    Before: ``softmax(scores + mask(scatter(indices)))``. After: the same over gathered entries. Does not touch:
    prefill (several queries share the memory), selections of everything, programs whose numbers would change.
    """

    name: ClassVar[str] = "narrow-to-selection"
    builders: Mapping[str, Builder]
    check: Checker

    def run(self, graph: Graph) -> tuple[Graph, tuple[Rewrite, ...]]:
        """The rewritten graph and what was decided for each candidate."""
        report: list[Rewrite] = []
        believed: list[_Rewritten] = []
        taken: set[str] = set()
        verified: dict[tuple[str, str], CheckResult] = {}
        for scatter in [node for node in graph.nodes if is_candidate(graph, node)]:
            found = collect_slice(graph, scatter)
            builder = self.builders.get(scatter.operator.domain)
            if not found.refusal and taken.intersection(found.ends):
                found.refusal = "another selection narrows the same product"
            if found.refusal or builder is None:
                report.append(Rewrite(scatter.name, False, found.refusal or "no builder for this domain",
                                      self.name))
                continue
            claimed = frozenset(name for one in believed for name in (*one.values, *(node.name for node in one.added)))
            rewritten = _Narrowing(graph, found, builder, claimed).build()
            if rewritten is None:
                report.append(Rewrite(scatter.name, False, "an operator on the way has a fixed size", self.name))
                continue
            result = self._verify(rewritten, verified)
            verdict = f"relative error {result.relative_error:.1e} on random inputs"
            report.append(Rewrite(scatter.name, result.agrees, result.detail or verdict, self.name))
            if result.agrees:
                believed.append(rewritten)
                taken.update(found.ends)
        return _apply(graph, believed), tuple(report)

    def _verify(self, rewritten: _Rewritten, verified: dict[tuple[str, str], CheckResult]) -> CheckResult:
        request = rewritten.request
        key = (digest_of(request.before), digest_of(request.after))
        if key not in verified:
            verified[key] = self.check(request)
        return verified[key]


def _apply(graph: Graph, believed: list[_Rewritten]) -> Graph:
    """All verified rewrites at once."""
    if not believed:
        return graph
    relinked = {node.name: node for rewritten in believed for node in rewritten.ends}
    added = [node for rewritten in believed for node in rewritten.added]
    values = dict(graph.values)
    for rewritten in believed:
        values.update(rewritten.values)
    nodes = in_order((*(relinked.get(node.name, node) for node in graph.nodes), *added))
    return replace(graph, nodes=nodes, values=values)


@dataclass(frozen=True)
class _Rewritten:
    added: tuple[Node, ...]
    ends: tuple[Node, ...]
    """The nodes that sum the memory axis away, with their new inputs."""
    values: Mapping[str, Value]
    request: CheckRequest


class _Narrowing:
    """Builds the narrowed nodes and the two small programs that prove them."""

    def __init__(self, graph: Graph, found: MemorySlice, builder: Builder, claimed: frozenset[str]) -> None:
        base = graph.producer[found.scatter.operand("data") or ""]
        names = _with_constants(graph, {*found.nodes, *found.ends, found.scatter.name, base.name}, found.frontier)
        self.graph = extract(graph, names, "before")
        self.found = found
        self.builder = builder
        self.claimed = claimed
        """Names that other selections have given to narrowed values: layers, or two in one, may share a mask."""
        self.selected = graph.type_of(found.indices).shape[found.scatter.integer("axis")]
        self.provenance = found.scatter.provenance
        self.values: dict[str, Value] = {}
        self.renames: dict[str, str] = {}
        self.added: list[Node] = []
        self.resizes: dict[str, Resize] = {}

    def build(self) -> _Rewritten | None:
        """The narrowed nodes with their proof, or None when an operator cannot be resized."""
        self._fill_scatter()
        for value, axis in self.found.frontier.items():
            self._gather(value, axis)
        for node in self.graph.nodes:
            if node.name in self.found.nodes and not self._clone(node):
                return None
        ends = {name: replace(node, inputs=self._renamed_inputs(node)) for name, node in self.found.ends.items()}
        request = self._proof(ends)
        return None if request is None else _Rewritten(tuple(self.added), tuple(ends.values()), self.values, request)

    def _twin_name(self, value: str) -> str:
        """Of a value or a node."""
        layer = self.provenance.layer
        inside = value.startswith((layer + ".", layer + "/"))
        name = f"{value}.selected" if inside or not layer else f"{layer}/{value.replace('/', '.')}.selected"
        return name if name not in self.claimed else f"{name}.{self.found.scatter.name.replace('/', '.')}"

    def _narrow(self, value: str, axis: int) -> Value:
        """Declare the narrowed twin of ``value``."""
        shape = list(self.graph.type_of(value).shape)
        shape[axis] = self.selected * self.found.outer_of(value)
        twin = Value(self._twin_name(value), TensorType(tuple(shape), self.graph.type_of(value).dtype))
        self._declare(twin, axis, self.found.outer_of(value))
        self.renames[value] = twin.name
        return twin

    def _declare(self, value: Value, axis: int, outer: int = 1) -> None:
        self.values[value.name] = value
        self.resizes[value.name] = Resize(axis, outer * min(self.selected, _CHECK_SELECTED))

    def _fill_scatter(self) -> None:
        """At the selected entries the scattered mask holds the scattered constant."""
        scatter = self.found.scatter
        output = self._narrow(scatter.outputs[0], scatter.integer("axis"))
        constant = scatter.attribute("value")
        assert isinstance(constant, (bool, int, float))
        if output.type.dtype is DType.BOOL:
            constant = bool(constant)
        self.added.append(self.builder.fill(output.name, output, constant, self.provenance))

    def _gather(self, value: str, axis: int) -> None:
        if self.found.batch == 1:
            flat = self._index((self.selected,), 0)
            output = self._narrow(value, axis)
            self.added.append(self.builder.gather_rows(output.name, value, flat, axis, output, self.provenance))
        elif self.found.outer_of(value) > 1:
            self._gather_apart(value, axis)
        else:
            source = self._widened(value, axis)
            output_shape = list(self.graph.type_of(value).shape)
            output_shape[0], output_shape[axis] = self.found.batch, self.selected
            output = Value(self._twin_name(value), TensorType(tuple(output_shape), self.graph.type_of(value).dtype))
            self._gather_each(source, axis, output)
            self.renames[value] = output.name

    def _gather_each(self, source: str, axis: int, output: Value) -> None:
        """Every sequence's own entries: axis 0 is the batch."""
        shape = output.type.shape
        thin = tuple(extent if place in (0, axis) else 1 for place, extent in enumerate(shape))
        spread = self._index(thin, axis, shape)
        self._declare(output, axis)
        self.added.append(self.builder.gather_along(output.name, source, spread, axis, output, self.provenance))

    def _gather_apart(self, value: str, axis: int) -> None:
        """From a value whose memory axis holds one sequence after the other."""
        batch, dtype = self.found.batch, self.graph.type_of(value).dtype
        rest = self.graph.type_of(value).shape[axis + 1:]
        name = self._twin_name(value)
        apart = Value(f"{name}.apart", TensorType((batch, self.found.extent, *rest), dtype))
        self.values[apart.name] = apart
        self.resizes[apart.name] = Resize(1, self._check_extent())
        self.added.append(self.builder.reshape(apart.name, value, apart, self.provenance))
        gathered = Value(f"{name}.each", TensorType((batch, self.selected, *rest), dtype))
        self._gather_each(apart.name, 1, gathered)
        output = self._narrow(value, axis)
        self.added.append(self.builder.reshape(output.name, gathered.name, output, self.provenance))

    def _widened(self, value: str, axis: int) -> str:
        """``value`` with an own copy for each sequence, if all share it."""
        full = (self.found.batch, *self.graph.type_of(value).shape[1:])
        if self.graph.type_of(value).shape == full:
            return value
        widened = Value(f"{self._twin_name(value)}.batch", TensorType(full, self.graph.type_of(value).dtype))
        self.values[widened.name] = widened
        self.resizes[widened.name] = Resize(axis, self._check_extent())
        self.added.append(self.builder.expand(widened.name, value, widened, self.provenance))
        return widened.name

    def _index(self, shape: tuple[int, ...], axis: int, spread: tuple[int, ...] = ()) -> str:
        """The indices reshaped (and broadcast to ``spread``), made once per shape."""
        dtype = self.graph.type_of(self.found.indices).dtype
        spelled = "x".join(map(str, shape))
        name = f"{self.found.scatter.name}.index.{spelled}"
        if name not in self.values:
            output = Value(name, TensorType(shape, dtype))
            self._declare(output, axis)
            self.added.append(self.builder.reshape(name, self.found.indices, output, self.provenance))
        if not spread or spread == shape:
            return name
        wide = f"{self.found.scatter.name}.index.{'x'.join(map(str, spread))}"
        if wide not in self.values:
            output = Value(wide, TensorType(spread, dtype))
            self._declare(output, axis)
            self.added.append(self.builder.expand(wide, name, output, self.provenance))
        return wide

    def _clone(self, node: Node) -> bool:
        outputs = tuple(self._narrow(name, self.found.axis_of[name]) for name in node.outputs)
        moved = replace(node, name=self._twin_name(node.name), inputs=self._renamed_inputs(node),
                        outputs=tuple(output.name for output in outputs))
        resized = self.builder.resized(moved, tuple(output.type.shape for output in outputs))
        if resized is None:
            return False
        self.added.append(resized)
        return True

    def _renamed_inputs(self, node: Node) -> tuple[str, ...]:
        return tuple(self.renames.get(name, name) if name in self.found.axis_of else name for name in node.inputs)

    def _check_extent(self) -> int:
        return min(self.found.extent, _CHECK_EXTENT)

    def _proof(self, ends: Mapping[str, Node]) -> CheckRequest | None:
        """Both versions, shrunk along the memory axis so that even a huge memory is checked quickly."""
        found, extent, axis = self.found, self._check_extent(), self.found.scatter.integer("axis")
        wide = {value: Resize(place, extent * found.outer_of(value)) for value, place in found.axis_of.items()}
        wide[found.scatter.operand("data") or ""] = Resize(axis, extent)
        wide[found.indices] = Resize(axis, min(self.selected, _CHECK_SELECTED))
        before = resize(self.graph, _touching(wide, self.graph), self.builder)
        nodes = in_order((*(ends.get(node.name, node) for node in self.graph.nodes), *self.added))
        rewritten = replace(self.graph, nodes=nodes, values={**self.graph.values, **self.values})
        fresh = _with_constants(rewritten, {node.name for node in self.added} | set(ends), found.frontier)
        cut = extract(rewritten, fresh, "after")
        after = resize(cut, _touching({**wide, **self.resizes}, cut), self.builder)
        if before is None or after is None:
            return None
        masks = frozenset(value for value in found.frontier if _only_masks(before, value))
        compared = tuple(value for node in ends.values() for value in node.outputs)
        return CheckRequest(before, after, compared, found.indices, extent, masks)


def _with_constants(graph: Graph, names: set[str], gathered: Iterable[str]) -> set[str]:
    """The named nodes and the constants created for them, which random inputs must not stand in for."""
    read = {value for name in names for value in graph.node_by_name[name].inputs}.difference(gathered)
    producers = (graph.producer.get(value) for value in read)
    return names | {node.name for node in producers if node is not None and not node.inputs}


def _touching(changes: Mapping[str, Resize], graph: Graph) -> dict[str, Resize]:
    """The changes to values that ``graph`` has."""
    return {value: change for value, change in changes.items() if value in graph.values}


def _only_masks(graph: Graph, value: str) -> bool:
    """Whether ``value`` reaches the softmax through views and element-wise operators alone."""
    stack, seen = [value], {value}
    while stack:
        for node in graph.consumers_of(stack.pop()):
            if node.operator_class is OperatorClass.SOFTMAX:
                continue
            if node.operator_class not in (OperatorClass.VIEW, OperatorClass.ELEMENTWISE):
                return False
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return True
