"""Layers captured once and copied give the graph that capturing the whole model gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hetcc.capture import capture, layers
from hetcc.capture.layers import LayerPattern, find_pattern, instantiate
from hetcc.capture.source import resolve
from hetcc.ir import Graph
from hetcc.ir.subgraph import digest_of, interface_of

from corpus.graphs import GraphBuilder
from corpus.tiny import tiny


@pytest.mark.parametrize("model", ["llama", *(pytest.param(name, marks=pytest.mark.slow)
                                           for name in ("gpt_oss", "deepseek_v32"))])
def test_a_copied_model_is_the_whole_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = tiny(model, weights="", num_hidden_layers=6)
    said: list[str] = []
    copied = capture(request, said.append).graphs["decode"]
    assert any(" of 6 layers, the others repeat them" in line for line in said)
    monkeypatch.setattr(layers, "instantiate", lambda prefix, pattern: None)
    said.clear()
    whole = capture(request, said.append).graphs["decode"]
    assert "capturing decode: the whole model" in said, "a prefix that cannot be continued is no failure"
    assert digest_of(copied) == digest_of(whole)
    assert [(node.name, node.inputs, node.outputs) for node in copied.nodes] == [
        (node.name, node.inputs, node.outputs) for node in whole.nodes]
    assert [node.provenance.module_path for node in copied.nodes] == [
        node.provenance.module_path for node in whole.nodes]
    assert dict(copied.values) == dict(whole.values)
    assert copied.nodes == whole.nodes
    assert (copied.caches, copied.updates, copied.outputs) == (whole.caches, whole.updates, whole.outputs)
    assert interface_of(copied) == interface_of(whole)


@pytest.mark.parametrize(("kinds", "length"), [
    ("aaaa", 2), ("abbb", 2), ("dddmmm", 4), ("sfsf", 3), ("abcbc", 3), ("aaab", 4), ("a", 1), ("abcd", 4), ("ab", 2),
])
def test_prefixes_hold_a_representative_with_a_predecessor(kinds: str, length: int) -> None:
    assert LayerPattern("layers", tuple(kinds)).prefix_length() == length


@pytest.mark.parametrize(("model", "different"), [("llama", 1), ("gpt_oss", 2), ("deepseek_v32", 2)])
def test_kinds_of_layers(model: str, different: int) -> None:
    import torch

    with torch.device("meta"):
        built = resolve(tiny(model, num_hidden_layers=6)).build()
    pattern = find_pattern(built)
    assert pattern is not None and pattern.container == "model.layers" and len(pattern.kinds) == 6
    assert len(set(pattern.kinds)) == different
    built.model.layers[4].register_buffer("extra", torch.zeros(1, device="meta"))
    changed = find_pattern(built)
    assert changed is not None and changed.kinds[4] not in pattern.kinds, "a layer of its own is a kind of its own"
    del built.model.layers[5]
    assert find_pattern(built) is None, "no list has as many members as the configuration says"


def stack(*, layers: int = 2, carried: int = 1, skip: bool = False, between: bool = False) -> Graph:
    """Layers and what is around them, with the irregularities that make copying impossible."""
    build = GraphBuilder("stack")
    hidden = first = side = build.input("x", 2, 2)
    for position in range(layers):
        build.module = f"layers.{position}"
        if carried == 2:
            side = build.call("exp", side, to="side")
        hidden = build.call("mm", hidden, build.weight(f"layers.{position}.weight", 2, 2), to="out")
        hidden = build.call("add.Tensor", hidden, side if carried == 2 else hidden, to="sum")
        if skip and position == 2:
            hidden = build.call("mul.Tensor", hidden, first, to="skipped")
        first = hidden if position == 0 else first
        if between:
            build.module = ""
            hidden = build.call("neg", hidden, to=f"between{position}")
    build.module = ""
    results = [build.call("relu", hidden, to="end")]
    if carried == 2:
        results.append(build.call("neg", side, to="side_end"))
    return build.done(*results)


def test_copying_layers_by_hand() -> None:
    pattern = LayerPattern("layers", ("a",) * 5)
    graph = instantiate(stack(), pattern)
    assert graph is not None
    assert [node.name for node in graph.nodes] == [
        *(f"layers.{position}/{name}" for position in range(5) for name in ("out", "sum")), "end"]
    assert graph.node_by_name["layers.4/out"].inputs == ("layers.3/sum", "layers.4.weight")
    assert graph.node_by_name["end"].inputs == ("layers.4/sum",)
    assert graph.node_by_name["layers.3/out"].provenance.module_path == "layers.3"


@pytest.mark.parametrize("prefix", [stack(layers=3, carried=2), stack(layers=3, between=True),
                                    stack(layers=3, skip=True)],
                         ids=["two values handed over", "something in between", "the first layer is read again"])
def test_irregular_prefixes_are_not_copied(prefix: Graph) -> None:
    assert instantiate(prefix, LayerPattern("layers", tuple("abcbcb"))) is None
    assert instantiate(stack(layers=3), LayerPattern("layers", tuple("abcbcb"))) is not None


def test_a_prefix_as_long_as_the_model_is_the_model() -> None:
    graph = stack()
    assert instantiate(graph, LayerPattern("layers", ("a", "b"))) is graph
    missing = replace(graph, nodes=graph.nodes[:2], outputs=("layers.0/sum",))
    assert instantiate(missing, LayerPattern("layers", ("a",) * 5)) is None, "a layer without nodes"
