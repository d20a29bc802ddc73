"""All that kernels compute in a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hetcc.backends.gpu.partition.attention import match_attention
from hetcc.backends.gpu.partition.attention_node import match_attention_node
from hetcc.backends.gpu.partition.patterns import Match, Reader
from hetcc.backends.gpu.partition.selection import match_selection
from hetcc.ir import Graph, Node, OperatorClass

MINIMUM_ENTRIES = 257
"""Shorter rows are ranked, and shorter attention is fused, by the general compiler in one module."""
_MATCHERS: Mapping[OperatorClass, Callable[[Reader, Node, int], Match | None]] = {
    OperatorClass.TOPK: match_selection,
    OperatorClass.SOFTMAX: match_attention,
    OperatorClass.ATTENTION: match_attention_node,
}


def matches_of(region: Graph, minimum_entries: int = MINIMUM_ENTRIES) -> tuple[Match, ...]:
    """Kernel operations that replace operators of ``region``, in the order of their anchors."""
    reader = Reader(region)
    found = (matcher(reader, node, minimum_entries) for node in region.nodes
             if (matcher := _MATCHERS.get(node.operator_class)) is not None)
    return tuple(match for match in found if match is not None)
