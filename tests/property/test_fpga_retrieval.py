"""Regions that retrieve (by a threshold, from a flat table, from a forward index) against numpy in float64."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.compose.tables import tables_of
from hetcc.backends.fpga.samples import retrieval as sample
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.operations import compacted, looked_up
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.ir import Graph, Role
from hetcc.ir.subgraph import interface_of

COMPARISONS = {"ge": numpy.greater_equal, "gt": numpy.greater, "le": numpy.less_equal, "lt": numpy.less}


def run(region: Graph, arguments: dict[str, numpy.ndarray]) -> list[numpy.ndarray]:
    """The outputs of a region."""
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    buffers = {}
    for name, buffer in zip((*interface_of(region), *region.outputs), graph.buffers, strict=True):
        kind = storage_type(buffer.element)
        given = arguments[name] if name in arguments else numpy.zeros(buffer.shape, kind)
        assert (given.shape, given.dtype) == (buffer.shape, kind), name
        buffers[buffer.name] = given.reshape(-1).copy()
    execute(graph, buffers)
    found = graph.buffers[len(graph.buffers) - len(region.outputs):]
    return [buffers[buffer.name].reshape(buffer.shape) for buffer in found]


def whole(random: numpy.random.Generator, *shape: int) -> numpy.ndarray:
    """Whole numbers, whose sums are exact in binary32, so that even ties must come out alike."""
    return random.integers(-3, 4, shape).astype(numpy.float32)


def listed(flags: numpy.ndarray, capacity: int, fill: int) -> list[int]:
    """Positions one after the other, as a loop over the flags finds them."""
    found = [at for at, flag in enumerate(flags) if flag][:capacity]
    return found + [fill] * (capacity - len(found))


# ---- thresholds


@settings(max_examples=40)
@given(depth=st.integers(1, 9), rows=st.integers(2, 700), capacity=st.integers(1, 40), fill=st.sampled_from([-1, 0]),
       comparison=st.sampled_from(sorted(COMPARISONS)), fed=st.booleans(), seed=st.integers(0, 2**32 - 1),
       threshold=st.sampled_from([0.0, 2.0, -40.0, 1e9]))
def test_rows_that_pass_are_listed_in_order(depth: int, rows: int, capacity: int, fill: int, comparison: str,
                                            fed: bool, seed: int, threshold: float) -> None:
    random = numpy.random.default_rng(seed)
    region = sample.threshold_scan(depth, rows, capacity, None if fed else threshold, comparison=comparison, fill=fill)
    arguments = {"keys": whole(random, rows, depth), "query": whole(random, depth)}
    if fed:
        arguments["threshold"] = numpy.array([threshold], numpy.float32)
    flags = COMPARISONS[comparison](arguments["keys"].astype(float) @ arguments["query"].astype(float), threshold)
    indices, count = run(region, arguments)
    assert indices.tolist() == [[at] for at in listed(flags, capacity, fill)]
    assert count.tolist() == int(flags.sum())


@pytest.mark.parametrize(("scores", "threshold", "comparison"), [
    ([math.nan, 1.0, -math.inf, math.inf, 0.5, 0.5], 0.5, "ge"), ([math.nan] * 4, -math.inf, "ge"),
    ([-math.inf] * 3, -math.inf, "ge"), ([-math.inf] * 3, -math.inf, "gt"), ([0.0, -0.0, 1e-42], 0.0, "gt"),
    ([-0.0, 0.0], 0.0, "ge"), ([3.0, math.nan, 2.0], math.inf, "lt"), ([math.inf, 1.0], math.inf, "le"),
])
def test_edges_of_a_threshold(scores: list[float], threshold: float, comparison: str) -> None:
    # Each row is (score, 0) and the query (1, 0), so that the score comes out as it is; 1e-42 is flushed to zero.
    keys = numpy.zeros((len(scores), 2), numpy.float32)
    keys[:, 0] = scores
    region = sample.threshold_scan(2, len(scores), 3, None, comparison=comparison)
    indices, count = run(region, {"keys": keys, "query": numpy.array([1, 0], numpy.float32),
                                  "threshold": numpy.array([threshold], numpy.float32)})
    seen = [0.0 if abs(score) < 2.0**-126 else score for score in scores]
    flags = COMPARISONS[comparison](numpy.array(seen), threshold)
    assert indices.reshape(-1).tolist() == listed(flags, 3, -1)
    assert count.tolist() == int(flags.sum())


@settings(max_examples=25)
@given(heads=st.integers(1, 3), rows=st.integers(5, 60), k=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_what_fails_the_threshold_is_chosen_last(heads: int, rows: int, k: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    keys, query = whole(random, heads, rows, 3), whole(random, heads, 1, 3)
    values, indices, count = run(sample.kept_scan(heads, 3, rows, k, 2.0), {"keys": keys, "query": query})
    scores = (query.astype(float) @ keys.astype(float).transpose(0, 2, 1))
    kept = numpy.where(scores >= 2.0, scores, numpy.float64(numpy.finfo(numpy.float32).min))
    order = numpy.argsort(-kept, axis=-1, kind="stable")[..., :k]
    assert numpy.array_equal(indices, order)
    assert numpy.array_equal(values, numpy.take_along_axis(kept, order, -1))
    assert numpy.array_equal(count, (scores >= 2.0).sum(-1))


# ---- flat tables, several tables, and looked-up entries


def stable(scores: numpy.ndarray, k: int) -> numpy.ndarray:
    return numpy.argsort(-scores, axis=-1, kind="stable")[..., :k]


@settings(max_examples=25)
@given(depth=st.integers(1, 20), rows=st.integers(5, 600), k=st.integers(1, 5), queries=st.integers(1, 3),
       role=st.sampled_from([Role.INPUT, Role.BUFFER]), seed=st.integers(0, 2**32 - 1))
def test_a_table_that_is_fed_in_is_scanned(depth: int, rows: int, k: int, queries: int, role: Role, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    documents, query = whole(random, rows, depth), whole(random, queries, depth)
    region = sample.flat_scan(depth, rows, k, queries=queries, role=role)
    values, indices = run(region, {"query": query, "documents": documents})
    scores = query.astype(float) @ documents.astype(float).T
    assert numpy.array_equal(indices, stable(scores, k))
    assert numpy.array_equal(values, numpy.take_along_axis(scores, indices, -1))


@settings(max_examples=30)
@given(entries=st.integers(1, 20), rows=st.integers(5, 600), vocabulary=st.integers(2, 50), k=st.integers(1, 5),
       queries=st.integers(1, 3), weighted=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_entries_of_the_query_are_summed_where_rows_say(entries: int, rows: int, vocabulary: int, k: int, queries: int,
                                                        weighted: bool, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    arguments = {"query": whole(random, queries, vocabulary), "weights": whole(random, rows, entries),
                 "words": random.integers(-vocabulary, vocabulary, (rows, entries)).astype(numpy.int32)}
    region = sample.entry_scan(entries, rows, vocabulary, k, queries=queries, weighted=weighted)
    scores = numpy.zeros((queries, rows))
    for query in range(queries):
        for row in range(rows):
            for word, weight in zip(arguments["words"][row], arguments["weights"][row], strict=True):
                scores[query, row] += float(arguments["query"][query, word]) * (float(weight) if weighted else 0.5)
    if not weighted:
        del arguments["weights"]
    values, indices = run(region, arguments)
    assert numpy.array_equal(indices, stable(scores, k))
    assert numpy.array_equal(values, numpy.take_along_axis(scores, indices, -1))


def test_a_position_outside_is_not_a_number() -> None:
    entries = numpy.array([1, 2, 3], numpy.float32)
    found = looked_up(entries, numpy.array([0, -1, -3, -4, 3, 2**31 - 1, -(2**31)]))
    assert found[:3].tolist() == [1, 3, 1]
    assert numpy.isnan(found[3:]).all()


@settings(max_examples=15)
@given(depth=st.integers(1, 9), pages=st.integers(4, 60), k=st.integers(1, 4), groups=st.integers(1, 3),
       seed=st.integers(0, 2**32 - 1))
def test_two_tables_bound_each_page(depth: int, pages: int, k: int, groups: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    arguments = {"query": whole(random, groups, 1, depth), "lower": whole(random, groups, pages, depth),
                 "upper": whole(random, groups, pages, depth)}
    _, indices = run(sample.bounds_scan(depth, pages, k, groups=groups), arguments)
    products = [arguments["query"].astype(float) * arguments[name].astype(float) for name in ("lower", "upper")]
    assert numpy.array_equal(indices, stable(numpy.maximum(*products).sum(-1), k))


# ---- selected rows


@settings(max_examples=20)
@given(batch=st.integers(1, 3), rows=st.integers(5, 200), k=st.integers(1, 5), width=st.integers(1, 9),
       listed=st.booleans(), appended=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_selected_rows_are_copied(batch: int, rows: int, k: int, width: int, listed: bool, appended: bool,
                                  seed: int) -> None:
    random = numpy.random.default_rng(seed)
    arguments = {"keys": whole(random, batch, rows, 3), "query": whole(random, batch, 1, 3),
                 "latents": random.standard_normal((batch, rows, width)).astype(numpy.float32)}
    # Copied bit by bit: numbers that arithmetic would flush or canonicalise stay as they are.
    arguments["latents"].view(numpy.uint32).reshape(-1)[::3] = 0x00000001
    arguments["latents"].view(numpy.uint32).reshape(-1)[1::3] = 0xFFC12345
    table = arguments["latents"].copy()
    if appended:
        arguments["at"], arguments["latent"] = numpy.array([2]), whole(random, batch, 1, width)
        table[:, 2] = arguments["latent"][:, 0]
    region = sample.fetching_scan(batch, 3, rows, k, width, listed=listed, appended=appended)
    found = run(region, arguments)
    scores = (arguments["query"].astype(float) @ arguments["keys"].astype(float).transpose(0, 2, 1))[:, 0]
    chosen = stable(scores, k)
    expected = numpy.take_along_axis(table, chosen[..., None], 1)
    assert found[0].tobytes() == expected.tobytes()
    if listed:
        assert numpy.array_equal(found[1], chosen)


@pytest.mark.parametrize("fill", [0, -1])
def test_rows_that_pass_a_threshold_are_copied(fill: int) -> None:
    random = numpy.random.default_rng(4)
    documents, query = whole(random, 30, 4), whole(random, 4)
    for capacity in (2, 25):
        found, = run(sample.fetched_documents(4, 30, capacity, fill=fill), {"documents": documents, "query": query})
        places = listed(documents.astype(float) @ query.astype(float) > 0, capacity, fill)
        assert numpy.array_equal(found, documents[places])


def test_weights_of_a_router_are_no_table() -> None:
    assert tables_of(sample.flat_scan(role=Role.PARAMETER)) == frozenset()
    assert tables_of(sample.flat_scan()) == {"documents"}
    assert tables_of(sample.entry_scan()) == {"words", "weights"}
    assert tables_of(sample.threshold_scan()) == frozenset()


@given(flags=st.lists(st.booleans(), min_size=1, max_size=50), capacity=st.integers(0, 60))
def test_compaction_is_a_loop(flags: list[bool], capacity: int) -> None:
    indices, count = compacted(numpy.array(flags), capacity, -1)
    assert indices.tolist() == listed(numpy.array(flags), capacity, -1)
    assert count.tolist() == [sum(flags)]


def test_flags_that_are_only_counted_list_nothing() -> None:
    graph = compose(sample.kept_scan())
    assert isinstance(graph, StageGraph)
    assert [stage.capacity for stage in graph.stages if type(stage).__name__ == "Compact"] == [0]
    assert StageGraph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize(("region", "rule"), [
    (sample.threshold_scan(rows=70_000, capacity=2**16 + 1), "too many entries"),
    (sample.threshold_scan(depth=1, rows=2**25 + 1), "too many rows"),
])
def test_what_cannot_be_compacted_says_why(region: Graph, rule: str) -> None:
    verdict = compose(region)
    assert isinstance(verdict, Rejected)
    assert rule in verdict.rule
