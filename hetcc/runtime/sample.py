"""Inputs for a phase when nobody gives any: random, and valid for the program."""

from __future__ import annotations

import numpy

from hetcc.ir import Graph, Node, OperatorClass
from hetcc.plan.plan import PhasePlan
from hetcc.plan.tensors import numpy_type


def random_inputs(plan: PhasePlan, graph: Graph, seed: int) -> dict[str, numpy.ndarray]:
    """An array for every input of a phase.

    Integers that look rows up are drawn from the rows of the smallest table they index; other integers and booleans
    are ones, which is what masks and types look like when nothing is masked; the rest is drawn from a normal
    distribution.

    Args:
        plan: whose inputs are made.
        graph: the graph of the same phase, which says what indexes what.
        seed: equal seeds give equal inputs.
    """
    generator = numpy.random.default_rng(seed)
    made = {}
    for spec in plan.inputs:
        kind = numpy_type(spec.dtype)
        if kind.kind in "iu":
            rows = rows_indexed_by(graph, spec.name)
            array = generator.integers(0, rows, spec.shape) if rows else numpy.ones(spec.shape)
        elif kind.kind == "b":
            array = numpy.ones(spec.shape)
        else:
            array = generator.standard_normal(spec.shape)
        made[spec.name] = array.astype(kind)
    return made


def rows_indexed_by(graph: Graph, name: str) -> int:
    """Rows of the smallest table that an input indexes, directly or through views; 0 if it indexes nothing."""
    found: list[int] = []
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        for node in graph.consumers_of(value):
            if node.operator_class is OperatorClass.GATHER and node.operand("indices") == value:
                found.append(_rows_of(graph, node))
            elif node.operator_class is OperatorClass.VIEW:
                waiting += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
    return min(found, default=0)


def _rows_of(graph: Graph, node: Node) -> int:
    table = node.operand("data")
    assert table is not None  # every gather names its data
    return graph.type_of(table).shape[node.integer("axis")]
