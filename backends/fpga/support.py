"""Which nodes can be part of a streaming kernel, said without any tool and for a whole model in one pass."""

from __future__ import annotations

from hetcc.backends.contract import Rejected, Supported, Verdict
from hetcc.backends.fpga.compose.trace import Tracer
from hetcc.ir import Graph, Node, OperatorClass


class FpgaSupport:
    """The planning half of the FPGA back end.

    A verdict is about the node in its graph: what its operands derive from decides. Whether a set of supported nodes
    forms one kernel is the composer's answer (:func:`hetcc.backends.fpga.compose.compose.compose`).
    """

    name = "fpga"

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._verdicts: dict[str, Verdict] = {}

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """``Supported("stream")`` or the rule that forbids it; the first question about a graph walks all of it."""
        if graph is not self._graph:
            self._verdicts = verdicts_of(graph)
            self._graph = graph
        return self._verdicts[node.name]


def verdicts_of(graph: Graph) -> dict[str, Verdict]:
    """The verdict on every node, by node name."""
    tracer = Tracer(graph)
    found: dict[str, Verdict] = {}
    for node in graph.nodes:
        if any(tracer.is_derived(name) for name in node.inputs):
            found[node.name] = tracer.visit(node) or Supported("stream")
        elif node.operator_class is OperatorClass.TOPK:
            found[node.name] = Rejected("the selection is not over a resident table", "scores of a cache scan",
                                        "values that depend on no cache")
        else:
            found[node.name] = Rejected("nothing the node reads comes from a resident table", "a cache scan",
                                        node.operator_class.value)
    return found


__all__ = ["FpgaSupport", "verdicts_of"]
