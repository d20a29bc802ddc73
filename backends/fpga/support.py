"""Which nodes can be part of a streaming kernel, said without any tool and for a whole model in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hetcc.backends.contract import Rejected, Supported, Verdict
from hetcc.backends.fpga.compose.trace import Tracer
from hetcc.backends.fpga.compose.traced import Computed, Kind, Leaf, Traced
from hetcc.backends.fpga.formats import factor_type_of
from hetcc.ir import DType, Graph, Node, OperatorClass


class FpgaSupport:
    """The planning half of the FPGA back end.

    A verdict is about the node in its graph: what its operands derive from decides. Whether a set of supported nodes
    forms one kernel is the composer's answer (:func:`hetcc.backends.fpga.compose.compose.compose`).
    """

    name = "fpga"
    fault_code = "HET-F002"

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._walk = Walk({}, frozenset())

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """``Supported("stream")`` or the rule that forbids it; the first question about a graph walks all of it."""
        return self._walked(graph).verdicts[node.name]

    def factor_type(self, graph: Graph, node: Node, policy: str) -> DType | None:
        """The policy's type for a product of the rows of a table, binary32 for every other, whatever the model's is.

        Attention in one node is more than such a product: its weighted sum is in binary32, so all of it is said to be.

        Raises:
            UserError: HET-U001, no such policy.
        """
        factors = factor_type_of(policy)
        if node.operator_class not in (OperatorClass.MATMUL, OperatorClass.ATTENTION):
            return None
        return factors if node.name in self._walked(graph).products else DType.FLOAT32

    def _walked(self, graph: Graph) -> Walk:
        if graph is not self._graph:
            self._walk = walk(graph)
            self._graph = graph
        return self._walk


@dataclass(frozen=True, slots=True)
class Walk:
    """What one pass over a graph tells."""

    verdicts: Mapping[str, Verdict]
    """By node."""
    products: frozenset[str]
    """Nodes that are inner products of a table's rows as memory has them: those that a numeric policy is about."""


def walk(graph: Graph) -> Walk:
    """The verdict on every node, and which of them are products with a table."""
    tracer = Tracer(graph)
    found: dict[str, Verdict] = {}
    products = set()
    for node in graph.nodes:
        if any(tracer.is_derived(name) for name in node.inputs):
            found[node.name] = tracer.visit(node) or Supported("stream")
            if isinstance(found[node.name], Supported) and reads_table(node, tracer.traced.get(node.outputs[0])):
                products.add(node.name)
        elif node.operator_class is OperatorClass.TOPK:
            found[node.name] = Rejected("the selection is not over a resident table", "scores of a cache scan",
                                        "values that depend on no cache")
        else:
            found[node.name] = Rejected("nothing the node reads comes from a resident table", "a cache scan",
                                        node.operator_class.value)
    return Walk(found, frozenset(products))


def reads_table(node: Node, made: Traced | None) -> bool:
    """Whether a node makes inner products of a table's rows: what composes to an ``InnerProduct`` of a ``Scan``."""
    origin = made.origin if made is not None else None
    # Views of a product share its origin and are none themselves.
    if not isinstance(origin, Computed) or origin.stage != "contract" or origin.node is not node:
        return False
    table = origin.operands[0]
    return isinstance(table, Traced) and table.kind is Kind.RESIDENT and isinstance(table.origin, Leaf)


__all__ = ["FpgaSupport", "Walk", "reads_table", "walk"]
