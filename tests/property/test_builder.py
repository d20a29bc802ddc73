"""Putting nodes in order and changing extents."""

from __future__ import annotations

from typing import Any

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.aten.build import AtenBuilder
from hetcc.backends.host.program import load_host_program
from hetcc.ir import Graph, Node
from hetcc.ir.builder import Resize, in_order, resize
from hetcc.ir.subgraph import interface_of

from corpus.graphs import GraphBuilder
from corpus.random_graphs import graphs


@given(graphs(), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_producers_come_first_and_nothing_else_moves(graph: Graph, random: Any) -> None:
    assert in_order(graph.nodes) == graph.nodes
    shuffled = list(graph.nodes)
    random.shuffle(shuffled)
    ordered = in_order(shuffled)
    assert sorted(node.name for node in ordered) == sorted(node.name for node in shuffled)
    place = {node.name: position for position, node in enumerate(ordered)}
    for node in graph.nodes:
        for name in node.inputs:
            assert name not in graph.producer or place[graph.producer[name].name] < place[node.name]
    assert ordered == _greedy(shuffled, graph)


def _greedy(nodes: list[Node], graph: Graph) -> tuple[Node, ...]:
    """The definition: always the earliest given node whose producers have all been taken."""
    rest, taken = list(nodes), []
    while rest:
        waiting = {name for node in rest for name in node.outputs}
        following = next(node for node in rest if not waiting.intersection(node.inputs))
        rest.remove(following)
        taken.append(following)
    return tuple(taken)


def masked_scores(extent: int) -> Graph:
    build = GraphBuilder("masked_scores")
    keys, query = build.input("keys", 2, extent, 4), build.input("query", 2, 1, 4)
    scores = build.call("bmm", query, build.call("transpose.int", keys, 1, 2, to="turned"), to="scores")
    flat = build.call("view", scores, (2, extent), to="flat")
    blank = build.call("full", (2, extent), 0.5, to="blank")
    wide = build.call("expand", build.call("full", (1, 1), 2.0, to="one"), (2, extent), to="wide")
    total = build.call("mul.Tensor", build.call("add.Tensor", flat, blank, to="sum"), wide, to="total")
    return build.done(build.call("_softmax", total, -1, False, to="weights"))


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20)
def test_a_resized_graph_is_the_graph_of_that_size(before: int, after: int) -> None:
    changes = {"keys": Resize(1, after), "turned": Resize(2, after), "scores": Resize(2, after),
               **dict.fromkeys(("flat", "blank", "wide", "sum", "total", "weights"), Resize(1, after))}
    resized = resize(masked_scores(before), changes, AtenBuilder())
    expected = masked_scores(after)
    assert resized is not None
    assert dict(resized.values) == dict(expected.values)
    generator = numpy.random.default_rng(0)
    arrays = {name: generator.standard_normal(expected.type_of(name).shape).astype("float32")
              for name in interface_of(expected)}
    results = [load_host_program(graph).run(arrays)["weights"] for graph in (resized, expected)]
    numpy.testing.assert_array_equal(*results)


def test_what_has_its_size_written_out_cannot_be_resized() -> None:
    build = GraphBuilder("fixed")
    x = build.input("x", 1, 4)
    graph = build.done(build.call("repeat", x, (2, 1), to="twice"))
    assert resize(graph, {"x": Resize(1, 3), "twice": Resize(1, 3)}, AtenBuilder()) is None
    assert resize(graph, {}, AtenBuilder()) == graph
