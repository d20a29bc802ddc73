"""Products of three factors are computed in the order that takes less work.

``A (X W)``, where X has many rows and W is a weight, projects all rows of X before a few rows of A are multiplied with
them. ``(A W') X`` projects the rows of A instead. The same holds for ``P (X W) = (P X) W``. The inner product may reach
the outer one through views (heads that are split off and permuted, parts of the columns), and as one part of a
concatenation along the summed axis: a product over a concatenation is the sum of the products over its parts. Exact
but for rounding; done only where the counts of work fall and the two programs gave the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hetcc.cost_model.work import Work, total_work, work_of
from hetcc.ir import DType, Graph, Node, OperatorClass, TensorType, Value
from hetcc.ir.builder import Builder, resize
from hetcc.ir.proof import Checker, CheckRequest, CheckResult
from hetcc.ir.subgraph import digest_of, extract
from hetcc.passes.normalize.digits import Digits
from hetcc.passes.normalize.factors import Candidate, candidate_of
from hetcc.passes.normalize.regrouped import Regrouping
from hetcc.passes.normalize.report import Rewrite

_SMALL_EXTENT = 6
"""Extents that the proof uses at most, where it may choose."""


@dataclass(frozen=True)
class Reassociate:
    """Compute products of three factors in the cheaper order.

    Before: ``A (X W)`` or ``P (X W)`` with a weight W, seen through views and concatenations. After: ``(A W') X`` or
    ``(P X) W``, where flops and bytes together fall. Does not touch: inner products with a bias, products whose
    numbers would change beyond rounding in double precision.
    """

    name: ClassVar[str] = "reassociate"
    builders: Mapping[str, Builder]
    check: Checker

    def run(self, graph: Graph) -> tuple[Graph, tuple[Rewrite, ...]]:
        """The rewritten graph and what was decided for each product that another order would make cheaper."""
        report: list[Rewrite] = []
        believed: dict[str, Graph] = {}
        verified: dict[str, CheckResult] = {}
        for group in _groups(_candidates(graph, self.builders)):
            programs = [Regrouping(graph, each, self.builders[each.node.operator.domain]).program() for each in group]
            before, after = _work_before(graph, group), sum(map(total_work, programs), Work())
            if not is_less(after, before):
                continue
            saving = (f"{_change(before.flops, after.flops)} flops, "
                      f"{_change(before.bytes_moved, after.bytes_moved)} bytes")
            results = [self._verify(graph, each, verified) for each in group]
            failed = next((result for result in results if not result.agrees), None)
            for each, result in zip(group, results, strict=True):
                reason = f"{saving}; relative error {result.relative_error:.1e} in double precision" \
                    if failed is None else failed.detail or "another product of the same factors does not agree"
                report.append(Rewrite(each.node.name, failed is None, reason, self.name))
            if failed is None:
                believed.update((each.node.name, program) for each, program in zip(group, programs, strict=True))
        return _apply(graph, believed), tuple(report)

    def _verify(self, graph: Graph, candidate: Candidate, verified: dict[str, CheckResult]) -> CheckResult:
        before = extract(graph, {node.name for node in _involved(graph, candidate)}, "before")
        key = digest_of(before)
        if key not in verified:
            request = _proof(graph, candidate, before, self.builders[candidate.node.operator.domain])
            verified[key] = CheckResult(False, math.inf, "cannot be made small enough to be checked") \
                if request is None else self.check(request)
        return verified[key]


def is_less(after: Work, before: Work) -> bool:
    """Whether flops and bytes together fall: their product does, so that neither needs a unit of the other."""
    return after.flops * after.bytes_moved < before.flops * before.bytes_moved


def _change(before: int, after: int) -> str:
    return f"{after / before:.2g} x" if before else str(after)


def _candidates(graph: Graph, builders: Mapping[str, Builder]) -> list[Candidate]:
    found = (candidate_of(graph, node) for node in graph.nodes
             if node.operator_class is OperatorClass.MATMUL and node.operator.domain in builders)
    return [candidate for candidate in found if candidate is not None]


def _groups(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates that share an inner product, which only goes away when all of them are rewritten."""
    groups: list[list[Candidate]] = []
    group_of: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        joined = [candidate]
        for group in {id(group_of[name]): group_of[name] for name in sorted(candidate.inner_products)
                      if name in group_of}.values():
            joined = [*group, *joined]
            groups.remove(group)
        groups.append(joined)
        group_of.update({name: joined for each in joined for name in each.inner_products})
    return groups


def _involved(graph: Graph, candidate: Candidate) -> list[Node]:
    """The nodes between the factors and the outer product, itself included."""
    found = [candidate.node]
    if candidate.upper is not None:
        found += [*candidate.upper.nodes, graph.producer[candidate.upper.base]]
    for term in candidate.terms:
        found += term.look.nodes
        if term.inner is not None:
            found += [term.inner.node, *term.inner.weight_views]
    return list({node.name: node for node in found}.values())


def _work_before(graph: Graph, group: Sequence[Candidate]) -> Work:
    """The work that goes away: of the outer products, and of what nothing else needs then."""
    names = {node.name for each in group for node in _involved(graph, each)}
    gone = {each.node.name for each in group}
    for node in sorted((graph.node_by_name[name] for name in names - gone),
                       key=lambda node: graph.position[node.name], reverse=True):
        readers = [reader.name for output in node.outputs for reader in graph.consumers_of(output)]
        if gone.issuperset(readers) and not graph.results.intersection(node.outputs):
            gone.add(node.name)
    program = extract(graph, names, "before")
    return sum((work_of(node, program) for node in program.nodes if node.name in gone), Work())


@dataclass(frozen=True, slots=True)
class _Shaped:
    """Another shape, in double precision."""

    shape: tuple[int, ...]

    def apply(self, tensor_type: TensorType) -> TensorType:
        """The type after the change."""
        del tensor_type
        return TensorType(self.shape, DType.FLOAT64)


def _small(extent: int) -> int:
    return min(extent, _SMALL_EXTENT)


def _proof(graph: Graph, candidate: Candidate, before: Graph, builder: Builder) -> CheckRequest | None:
    """Both orders, in double precision, with every extent shrunk that no slice depends on."""
    shapes = _small_shapes(graph, candidate)
    if shapes is None:
        return None
    shapes.update(_siblings(before, shapes))
    if not shapes.keys() >= before.values.keys():
        return None
    changes = {name: _Shaped(shapes[name]) for name in before.values}
    small = resize(before, changes, builder)
    regrouping = Regrouping(graph, candidate, builder, lambda name: TensorType(shapes[name], DType.FLOAT64), _small)
    after = regrouping.program()
    return None if small is None else CheckRequest(small, after, candidate.node.outputs)


def _siblings(before: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parts of a split that the product does not read."""
    found = {}
    for node in before.nodes:
        known = next((shapes[name] for name in node.outputs if name in shapes), None)
        for name in node.outputs:
            if known is not None and name not in shapes and node.attribute("kind") == "split":
                axis = node.integer("axis")
                found[name] = (*known[:axis], before.type_of(name).shape[axis], *known[axis + 1:])
    return found


def _small_shapes(graph: Graph, candidate: Candidate) -> dict[str, tuple[int, ...]] | None:
    """A small shape for every value between the factors and the result; None when the terms' do not fit together."""
    shapes: dict[str, tuple[int, ...]] = {}
    depth, common = 0, None
    for term in candidate.terms:
        digits, extents = term.look.digits, term.look.digits.shrunk(_small)
        shapes.update(_shapes(digits, extents))
        base = shapes[term.look.base]
        if term.inner is not None:
            latent = _small(term.inner.latent)
            shapes[term.inner.rows_of] = (*base[:-1], latent)
            shapes[term.inner.weight] = (base[-1], latent) if term.inner.transposed else (latent, base[-1])
            shapes.update(_transposed(term.inner.weight_views, shapes[term.inner.weight]))
        own = (tuple(_size(extents, axis) for axis in term.batch), _size(extents, term.free))
        if common not in (None, own):
            return None
        common = own
        depth += _size(extents, term.depth)
    assert common is not None
    batch, free = common
    if candidate.upper is not None:
        shapes.update(_upper_shapes(graph, candidate, shapes))
    kept = graph.type_of(candidate.other).shape[-1 if candidate.factored_left else -2]
    other, left = (depth, _small(kept)), (free, _small(kept))
    shapes[candidate.other] = (*batch, *(other if candidate.factored_left else other[::-1]))
    shapes[candidate.node.outputs[0]] = (*batch, *(left if candidate.factored_left else left[::-1]))
    return shapes


def _size(extents: Mapping[int, int], digits: Sequence[int]) -> int:
    return math.prod(extents[digit] for digit in digits)


def _shapes(digits: Digits, extents: Mapping[int, int]) -> dict[str, tuple[int, ...]]:
    return {value: tuple(_size(extents, axis) for axis in axes) for value, axes in digits.axes_of.items()}


def _transposed(views: Sequence[Node], shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    found = {}
    for view in views:
        shape = shape[::-1] if view.attribute("permutation") == (1, 0) else shape
        found[view.outputs[0]] = shape
    return found


def _upper_shapes(graph: Graph, candidate: Candidate,
                  shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the concatenation and its views, from those of its parts."""
    assert candidate.upper is not None
    upper = candidate.upper.digits
    concat = graph.producer[candidate.upper.base]
    axis = concat.integer("axis")
    whole = list(shapes[concat.inputs[0]])
    whole[axis] = sum(shapes[part][axis] for part in concat.inputs)
    extents = {digit: _small(extent) for digit, extent in upper.extents.items()}
    for place, root in enumerate(upper.axes_of[candidate.upper.base]):
        extents.update(dict.fromkeys(root, whole[place]))
    return _shapes(upper, extents)


def _apply(graph: Graph, believed: Mapping[str, Graph]) -> Graph:
    """The products replaced where they stand; what nothing needs any more is left to be removed."""
    if not believed:
        return graph
    nodes: list[Node] = []
    values: dict[str, Value] = dict(graph.values)
    for node in graph.nodes:
        program = believed.get(node.name)
        nodes.extend((node,) if program is None else program.nodes)
        if program is not None:
            values.update((name, value) for name, value in program.values.items() if name not in values)
    return replace(graph, nodes=tuple(nodes), values=values)
