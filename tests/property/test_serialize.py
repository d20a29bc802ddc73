"""Graphs come back from bytes as they were, whatever numbers and arguments they hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.errors import UserError
from hetcc.ir import DType, Graph, Node, Operand, Provenance, TaggedGraph
from hetcc.ir.serialize import graph_from_bytes, graph_to_bytes, tagged_from_bytes, tagged_to_bytes
from hetcc.ir.subgraph import digest_of

from corpus.random_graphs import graphs, tagged_graphs

_NUMBERS = [0.0, -0.0, 1.0, 0.1, math.inf, -math.inf, math.nan, -3.4028234663852886e38, 5e-324]
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**63), st.sampled_from(_NUMBERS), st.floats(),
                     st.text(max_size=5), st.sampled_from(DType), st.builds(Operand, st.integers(0, 3)))
_ARGUMENTS = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
_ATTRIBUTES = st.one_of(st.booleans(), st.integers(-9, 9), st.sampled_from(_NUMBERS), st.text(max_size=4),
                        st.lists(st.integers(0, 5), max_size=3).map(tuple))


@st.composite
def decorated(draw: Any) -> Graph:
    """A random graph with random arguments, keywords, attributes and provenance."""
    graph = draw(graphs(most_nodes=4))
    keys = st.text("abc_", min_size=1, max_size=3)
    nodes = tuple(replace(
        node, arguments=tuple(draw(st.lists(_ARGUMENTS, max_size=3))),
        keywords=tuple(sorted(draw(st.dictionaries(keys, _ARGUMENTS, max_size=2)).items(), key=lambda pair: pair[0])),
        attributes=tuple(draw(st.dictionaries(keys, _ATTRIBUTES, max_size=3)).items()),
        provenance=Provenance("a.b", "C", "d.py:1")) for node in graph.nodes)
    return replace(graph, nodes=nodes)


def exact(part: object) -> object:
    """Equal for equal arguments; tells 1 from 1.0 from True, 0.0 from -0.0, and finds NaN equal to itself."""
    if isinstance(part, tuple):
        return tuple(map(exact, part))
    return (type(part).__name__, part.hex() if isinstance(part, float) else part)


def exact_node(node: Node) -> object:
    return (replace(node, arguments=(), keywords=(), attributes=()), exact(node.arguments), exact(node.keywords),
            exact(node.attributes))


@given(decorated())
@settings(max_examples=100)
def test_round_trip(graph: Graph) -> None:
    data = graph_to_bytes(graph)
    json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    back = graph_from_bytes(data)
    assert [exact_node(node) for node in back.nodes] == [exact_node(node) for node in graph.nodes]
    assert (dict(back.values), back.inputs, back.outputs, back.caches,
            back.updates, back.name) == (
        dict(graph.values), graph.inputs, graph.outputs, graph.caches, graph.updates, graph.name)
    assert list(back.values) == list(graph.values), "values keep their order"
    assert graph_to_bytes(back) == data
    assert digest_of(back) == digest_of(graph)


@given(graphs())
@settings(max_examples=30)
def test_graphs_are_equal_after_a_round_trip(graph: Graph) -> None:
    assert graph_from_bytes(graph_to_bytes(graph)) == graph
    anonymous = graph_from_bytes(graph_to_bytes(graph, provenance=False))
    assert all(node.provenance == Provenance() for node in anonymous.nodes)
    assert digest_of(anonymous) == digest_of(graph), "where a node came from is not what it does"


@given(tagged_graphs())
@settings(max_examples=30)
def test_tags_come_back(tagged: TaggedGraph) -> None:
    back = tagged_from_bytes(tagged_to_bytes(tagged))
    assert back.graph == tagged.graph and dict(back.tags) == dict(tagged.tags)


@given(graphs(most_nodes=5), st.data())
@settings(max_examples=40)
def test_cut_off_bytes_are_refused(graph: Graph, data: st.DataObject) -> None:
    content = graph_to_bytes(graph)
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UserError) as caught:
        graph_from_bytes(content[:length])
    assert caught.value.code == "HET-B003"


@pytest.mark.parametrize("spoil", [
    lambda document: document["nodes"][0].__setitem__(3, ["nowhere"]),
    lambda document: document["nodes"][0].__setitem__(2, "no class"),
    lambda document: document["values"][0].__setitem__(2, "float7"),
    lambda document: document.pop("updates"),
    lambda document: document["nodes"][0].__setitem__(5, [{"float": "x"}]),
    lambda document: document["nodes"].append([]),
])
def test_wrong_contents_are_refused(spoil: Any) -> None:
    from corpus.graphs import dense_attention

    document = json.loads(graph_to_bytes(dense_attention()))
    spoil(document)
    with pytest.raises(UserError) as caught:
        graph_from_bytes(json.dumps(document).encode())
    assert caught.value.code == "HET-B003"


@given(graphs(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_digest_forgets_names_and_nothing_else(graph: Graph, random: Any) -> None:
    def new(name: str) -> str:
        return f"other/{name}"

    nodes = tuple(replace(node, name=new(node.name), inputs=tuple(map(new, node.inputs)),
                          outputs=tuple(map(new, node.outputs)), provenance=Provenance()) for node in graph.nodes)
    renamed = Graph(
        "another", nodes, {new(name): replace(value, name=new(name)) for name, value in graph.values.items()},
        tuple(map(new, graph.inputs)), tuple(map(new, graph.outputs)), tuple(map(new, graph.caches)),
        tuple(replace(update, cache=new(update.cache), value=new(update.value)) for update in graph.updates))
    assert digest_of(renamed) == digest_of(graph)
    place = random.randrange(len(graph.nodes))
    changed = replace(graph.nodes[place], keywords=(("flag", True),))
    nodes = (*graph.nodes[:place], changed, *graph.nodes[place + 1:])
    assert digest_of(replace(graph, nodes=nodes)) != digest_of(graph)
    as_number = replace(changed, keywords=(("flag", 1),))
    numbered = replace(graph, nodes=(*graph.nodes[:place], as_number, *graph.nodes[place + 1:]))
    assert digest_of(numbered) != digest_of(replace(graph, nodes=nodes)), "True is not 1"
