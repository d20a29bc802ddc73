"""Attention whose keys and values are projected from a shared latent memory, as small programs."""

from __future__ import annotations

from hetcc.ir import DType, Graph

from corpus.graphs import LOWEST, GraphBuilder, Name

HEADS, NOPE, ROPE, VALUE, LATENT = 3, 4, 2, 5, 8


def project(build: GraphBuilder, entries: Name, batch: int, context: int) -> tuple[Name, Name]:
    """Keys without position and values ``[batch, heads, entries, ...]``; the batch is merged with the entries."""
    weight = build.weight(f"{build.module}.up", HEADS * (NOPE + VALUE), LATENT)
    flat = build.call("view", entries, (batch * context, LATENT), to="flat")
    up = build.call("mm", flat, build.call("permute", weight, (1, 0), to="turned"), to="up")
    heads = build.call("view", up, (batch, context, HEADS, NOPE + VALUE), to="heads")
    keys, values = build.call("split_with_sizes", build.call("permute", heads, (0, 2, 1, 3), to="by_head"),
                              (NOPE, VALUE), 3, to="parts")
    return keys, values


def attend(build: GraphBuilder, query: Name, entries: Name, rope: Name, mask: Name | None, batch: int, queries: int,
           context: int) -> Name:
    """Attention of ``query [batch, heads, queries, ...]`` over ``entries`` and ``rope`` ``[batch, context, ...]``."""
    nope, values = project(build, entries, batch, context)
    shared = build.call("expand", build.call("unsqueeze", rope, 1, to="one_head"), (batch, HEADS, context, ROPE),
                        to="rope_by_head")
    keys = build.call("permute", build.call("cat", (nope, shared), 3, to="keys"), (0, 1, 3, 2), to="keys_turned")
    stacked = build.call("view", keys, (batch * HEADS, NOPE + ROPE, context), to="keys_stacked")
    flat_query = build.call("view", query, (batch * HEADS, queries, NOPE + ROPE), to="query_stacked")
    scores = build.call("view", build.call("bmm", flat_query, stacked, to="scores"), (batch, HEADS, queries, context),
                        to="scores_by_head")
    scaled = build.call("mul.Tensor", scores, 0.4, to="scaled")
    masked = scaled if mask is None else build.call("add.Tensor", scaled, mask, to="masked")
    weights = build.call("view", build.call("_softmax", masked, -1, False, to="weights"),
                         (batch * HEADS, queries, context), to="weights_stacked")
    stacked_values = build.call("view", values, (batch * HEADS, context, VALUE), to="values_stacked")
    attended: Name = build.call("bmm", weights, stacked_values, to="attended")
    return attended


def latent_attention(batch: int = 1, queries: int = 1, context: int = 24, layers: int = 1) -> Graph:
    """Attention over a latent memory that is passed in, once per layer."""
    build = GraphBuilder("latent_attention")
    results = []
    for layer in range(layers):
        build.module = ""
        query = build.input(f"query.{layer}", batch, HEADS, queries, NOPE + ROPE)
        entries, rope = build.input(f"entries.{layer}", batch, context, LATENT), build.input(f"rope.{layer}", batch,
                                                                                               context, ROPE)
        build.module = f"layers.{layer}"
        results.append(attend(build, query, entries, rope, None, batch, queries, context))
    return build.done(*results)


def latent_selection(batch: int = 1, context: int = 40, selected: int = 4) -> Graph:
    """The best entries of every sequence are selected; all others are masked out of attention over a latent memory."""
    build = GraphBuilder("latent_selection")
    query, row = build.input("query", batch, HEADS, 1, NOPE + ROPE), build.input("row", batch, 1, LATENT)
    rope_row, relevancy = build.input("rope_row", batch, 1, ROPE), build.input("relevancy", batch, 1, context)
    visible, position = build.input("visible", 1, 1, 1, context), build.input("position", 1, dtype=DType.INT64)
    memory, rope = build.cache("memory", batch, context, LATENT), build.cache("rope", batch, context, ROPE)
    build.module = "layers.0"
    _, chosen = build.call("topk", relevancy, selected, -1, to="best")
    blank = build.call("full", (batch, 1, context), LOWEST, dtype=DType.FLOAT32, to="blank")
    hidden = build.call("unsqueeze", build.call("scatter.value", blank, -1, chosen, 0.0, to="hidden"), 1, to="hide")
    mask = build.call("add.Tensor", hidden, visible, to="mask")
    entries = build.append(memory, 1, position, row, "memory_written")
    ropes = build.append(rope, 1, position, rope_row, "rope_written")
    return build.done(attend(build, query, entries, ropes, mask, batch, 1, context))
