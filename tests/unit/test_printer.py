"""The text of a graph: its margins, and that one change is one line."""

from __future__ import annotations

import difflib
from dataclasses import replace

from hetcc.ir import Graph, Node, OperatorClass, SourceOperator
from hetcc.ir.printer import print_graph
from hetcc.passes.tag import TagMemoryPipeline

from corpus.graphs import GraphBuilder, sparse_selection


def strange() -> Graph:
    build = GraphBuilder("strange")
    x = build.input("x", 2, 4)
    y = build.call("masked_fill.Scalar", x, build.call("gt.Scalar", x, 0.0, to="mask"), float("-inf"), to="filled")
    graph = build.done(build.call("sum.dim_IntList", y, (-1,), True, to="total"))
    unknown = Node("total", SourceOperator("mine", "total", "fast"), OperatorClass.OPAQUE, ("filled",), ("total",))
    return replace(graph, nodes=(*graph.nodes[:-1], unknown))


def test_every_spelling() -> None:
    assert print_graph(strange(), {}, {"mask": "gpu", "total": "host"}) == "\n".join([
        "graph strange", "  input x: float32[2,4]",
        "          gpu  | mask: bool[2,4] = elementwise.gt(x, 0.0)",
        "               | filled: float32[2,4] = elementwise.where[masked_fill](x, mask, -inf)",
        "          host | total: float32[2,1] = opaque[mine.total.fast](filled)", "  return total", ""])


def test_one_change_is_one_line() -> None:
    tagged = TagMemoryPipeline().run(sparse_selection())
    device_of = {node.name: "gpu" for node in tagged.graph.nodes}
    before = print_graph(tagged.graph, tagged.tags, device_of).splitlines()
    selection = next(node for node in tagged.graph.nodes if node.operator_class is OperatorClass.TOPK)
    moved = print_graph(tagged.graph, tagged.tags, {**device_of, selection.name: "fpga"}).splitlines()
    untagged = print_graph(tagged.graph, {name: tag for name, tag in tagged.tags.items() if name != selection.name},
                           device_of).splitlines()
    for after in (moved, untagged):
        changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
        assert len(changes) == 2 and all(selection.name in line for line in changes)
    assert len({line.index("|") for line in before if "|" in line}) == 1, "the margin has one width"
