"""The graph that every part of hetcc speaks about."""

from hetcc.ir.graph import (
    Argument,
    Attribute,
    CacheUpdate,
    Graph,
    Node,
    Operand,
    Provenance,
    Role,
    Value,
    live_nodes,
)
from hetcc.ir.operators import OperatorClass, SourceOperator
from hetcc.ir.tags import Stage, Tag, TaggedGraph
from hetcc.ir.types import DType, TensorType

__all__ = [
    "Argument", "Attribute", "CacheUpdate", "DType", "Graph", "Node", "Operand", "OperatorClass", "Provenance", "Role",
    "SourceOperator", "Stage", "Tag", "TaggedGraph", "TensorType", "Value", "live_nodes",
]
