"""What the host takes: every operator of a domain it can rebuild. It is the fallback, and counted as such."""

from __future__ import annotations

from dataclasses import dataclass

from hetcc.backends.contract import Rejected, Supported, Verdict
from hetcc.ir import DType, Graph, Node

_KERNELS = {"onnx": "onnxruntime"}


@dataclass(frozen=True)
class HostSupport:
    """The planning half of the host back end."""

    name: str = "host"
    fault_code: str = ""

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """Supported for every operator that can be rebuilt; other torch domains are registered operators of torch."""
        del graph
        domain = node.operator.domain
        if not domain.replace("_", "").isalnum():
            return Rejected("the operator's domain cannot be rebuilt", "aten, onnx, a torch library", domain)
        return Supported(_KERNELS.get(domain, "torch"))

    def factor_type(self, graph: Graph, node: Node, policy: str) -> DType | None:
        """None: policies are about products with tables in the FPGA's kernels."""
        del graph, node, policy
        return None
