"""Model weights as tables: a product of a few activation rows with a weight streams the rows of the weight.

What a row is comes from the product alone: the matrix axis that is not contracted. The activation is the stationary
operand, and its own rows are lanes, so the weight is read once however many there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hetcc.backends.fpga.compose.traced import Kind, Leaf, Traced
from hetcc.backends.fpga.stages.axes import extent_of
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.backends.fpga.stages.stage_graph import Buffer, BufferRole, InnerProduct, Scan, StageGraph
from hetcc.ir import Graph, Node, OperatorClass, Role

if TYPE_CHECKING:
    from hetcc.backends.fpga.compose.trace import Tracer

MAX_ACTIVATION_ROWS = 16
"""Beyond it every weight is used often enough that other hardware than a stream from memory is the right one."""


def parameter_of(graph: Graph, name: str) -> str | None:
    """The model parameter that a value is, or is a view of."""
    while (maker := graph.producer.get(name)) is not None and maker.operator_class is OperatorClass.VIEW:
        name = maker.inputs[0]
    return name if graph.values[name].role is Role.PARAMETER else None


def is_weight_product(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies something by a model parameter."""
    if node.operator_class is not OperatorClass.MATMUL:
        return False
    factors = [node.inputs[node.integer(side)] for side in ("lhs", "rhs")]
    return sum(parameter_of(graph, name) is not None for name in factors) == 1


def factors_of(tracer: Tracer, node: Node) -> tuple[Traced, Traced]:
    """Both factors of a product; a parameter that meets an activation from outside becomes a table.

    Raises:
        Unstreamable: too many rows of activations.
    """
    names = [node.inputs[node.integer(side)] for side in ("lhs", "rhs")]
    factors = [tracer.value(name) for name in names]
    if any(factor.kind is not Kind.OPERAND for factor in factors) or not is_weight_product(tracer.graph, node):
        return factors[0], factors[1]
    at = 0 if parameter_of(tracer.graph, names[0]) else 1
    kept = node.outputs[0]
    elements = tracer.graph.type_of(kept).elements
    group = factors[at].layout
    rows = extent_of(group[-2] if at == 0 and len(group) > 1 else group[-1])
    if elements // max(rows, 1) > MAX_ACTIVATION_ROWS:
        raise Unstreamable("a weight streams past a few rows of activations", MAX_ACTIVATION_ROWS, elements // rows)
    factors[at] = replace(factors[at], kind=Kind.RESIDENT)
    return factors[0], factors[1]


def weight_buffers(tracer: Tracer) -> frozenset[str]:
    """Names of the parameters that the traced products read as tables."""
    found = set()
    for traced in tracer.traced.values():
        parts = getattr(traced.origin, "operands", ())
        for part in parts:
            if isinstance(part, Traced) and part.kind is Kind.RESIDENT and isinstance(part.origin, Leaf):
                found.add(part.origin.buffer)
    return frozenset(name for name in found if tracer.graph.values[name].role is Role.PARAMETER)


def as_weights(buffers: dict[str, Buffer], names: frozenset[str]) -> None:
    """Give the buffers of scanned weights their role, in place."""
    for name in names:
        buffers[name] = replace(buffers[name], role=BufferRole.WEIGHT)


def held_bits(graph: StageGraph, buffer: str) -> int:
    """Bits of the integers a weight is held as in device memory under a quantised policy; 0 when it is as it was."""
    if graph.buffer(buffer).role is not BufferRole.WEIGHT:
        return 0
    for stage in graph.of_kind(InnerProduct):
        source = graph.stage(stage.source.stage)
        if isinstance(source, Scan) and source.table.buffer == buffer and stage.format.integer_bits:
            return int(stage.format.integer_bits)
    return 0


__all__ = ["MAX_ACTIVATION_ROWS", "as_weights", "factors_of", "held_bits", "is_weight_product", "parameter_of",
           "weight_buffers"]
