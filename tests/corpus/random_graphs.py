"""Random programs: every operator class, weights and caches, tags and layers, whatever order they come in."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from hetcc.ir import (
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    OperatorClass,
    Provenance,
    Role,
    SourceOperator,
    Stage,
    Tag,
    TaggedGraph,
    TensorType,
    Value,
)

SHAPE = (4, 4)
_CLASSES = (OperatorClass.ELEMENTWISE, OperatorClass.ELEMENTWISE, OperatorClass.MATMUL, OperatorClass.VIEW,
            OperatorClass.VIEW, OperatorClass.CREATE, OperatorClass.REDUCTION, OperatorClass.CACHE_UPDATE,
            OperatorClass.TOPK, OperatorClass.NORMALIZATION, OperatorClass.CONCAT)
_INPUTS = {OperatorClass.VIEW: 1, OperatorClass.CREATE: 0, OperatorClass.REDUCTION: 1, OperatorClass.TOPK: 1,
           OperatorClass.NORMALIZATION: 1}
_ROLES = {"input": Role.INPUT, "weight": Role.PARAMETER, "cache": Role.CACHE}
LAYERS = ("", "layers.0", "layers.1")


def _value(name: str, role: Role = Role.ACTIVATION) -> Value:
    return Value(name, TensorType(SHAPE, DType.FLOAT32), role)


@st.composite
def graphs(draw: Any, most_nodes: int = 14) -> Graph:
    """A valid graph of made-up operators over values of one shape; results and cache updates at random."""
    external = [f"{kind}{place}" for kind in _ROLES for place in range(draw(st.integers(1, 2)))]
    values = {name: _value(name, _ROLES[name[:-1]]) for name in external}
    nodes: list[Node] = []
    known = list(external)
    for position in range(draw(st.integers(1, most_nodes))):
        operator_class = draw(st.sampled_from(_CLASSES))
        count = _INPUTS.get(operator_class, draw(st.integers(1, 3)))
        inputs = tuple(dict.fromkeys(draw(st.sampled_from(known)) for _ in range(count)))
        parts = 2 if operator_class is OperatorClass.TOPK else 1
        outputs = tuple(f"v{position}" if parts == 1 else f"v{position}:{part}" for part in range(parts))
        values.update((name, _value(name)) for name in outputs)
        known.extend(outputs)
        layer = draw(st.sampled_from(LAYERS))
        nodes.append(Node(f"n{position}", SourceOperator("test", operator_class.value), operator_class, inputs,
                          outputs, tuple(Operand(place) for place in range(len(inputs))), (),
                          (("function", "made up"),), Provenance(layer)))
    produced = [name for node in nodes for name in node.outputs]
    outputs = tuple(draw(st.lists(st.sampled_from([*produced, *external]), min_size=1, max_size=3, unique=True)))
    caches = tuple(name for name in external if name.startswith("cache"))
    updates = tuple(CacheUpdate(cache, draw(st.sampled_from([*produced, *external]))) for cache in caches
                    if draw(st.booleans()))
    return Graph("random", tuple(nodes), values, tuple(name for name in external if name.startswith("input")), outputs,
                 caches, updates)


@st.composite
def tagged_graphs(draw: Any) -> TaggedGraph:
    """A random graph with random tags, which no dataflow has to justify."""
    graph = draw(graphs())
    pipelines, stages = draw(st.sampled_from([["p"], ["p", "q"]])), [Stage.RELEVANCY, Stage.APPLY, *Stage]
    tags = {node.name: Tag(draw(st.sampled_from(stages)), draw(st.sampled_from(pipelines)), ())
            for node in graph.nodes if draw(st.booleans())}
    return TaggedGraph(graph, tags)
