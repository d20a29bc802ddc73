"""What the host takes: every operator of a domain it can rebuild. It is the fallback, and counted as such."""

from __future__ import annotations

from dataclasses import dataclass

from hetcc.backends.contract import Rejected, Supported, Verdict
from hetcc.ir import Graph, Node

_KERNELS = {"onnx": "onnxruntime"}


@dataclass(frozen=True)
class HostSupport:
    """The planning half of the host back end."""

    name: str = "host"

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """Supported for every operator that can be rebuilt; other torch domains are registered operators of torch."""
        del graph
        domain = node.operator.domain
        if not domain.replace("_", "").isalnum():
            return Rejected("the operator's domain cannot be rebuilt", "aten, onnx, a torch library", domain)
        return Supported(_KERNELS.get(domain, "torch"))
