"""From regions to stage graphs: which stages, which loops, and why a region is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest

from hetcc.backends.contract import Rejected, Supported
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.samples.scans import RegionBuilder
from hetcc.backends.fpga.stages.stage_graph import Immediate, InnerProduct, Map, StageGraph, TopK
from hetcc.backends.fpga.support import FpgaSupport
from hetcc.ir import CacheUpdate, DType, Graph, OperatorClass, Role, TensorType, Value
from hetcc.ir.subgraph import rename


def composed(region: Graph) -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    return graph


def kinds(graph: StageGraph) -> list[str]:
    return [type(stage).__name__ for stage in graph.stages]


def test_the_weighted_scan_is_one_chain() -> None:
    graph = composed(sample.weighted_scan(2, 3, 4, 8, 16, 4))
    assert kinds(graph) == ["Append", "Scan", "InnerProduct", "Map", "Map", "InnerProduct", "Map", "TopK", "Store"]
    assert [axis.extent for axis in graph.instances] == [2, 3]
    assert [axis.extent for axis in graph.keys] == [16]
    first, second = graph.of_kind(InnerProduct)
    assert [graph.axis(name).extent for name in (*first.over, *first.lanes)] == [8, 4]
    assert (second.over, second.lanes) == (first.lanes, ())


@pytest.mark.parametrize("make", [
    sample.weighted_scan, lambda: sample.weighted_scan(2, 1), lambda: sample.weighted_scan(1, 3),
    sample.single_scan, sample.block_scan, lambda: sample.block_scan(function="sum"), sample.onnx_scan,
    lambda: sample.weighted_scan(rows=1, k=1), lambda: sample.weighted_scan(heads=1, depth=1),
])
def test_every_form_composes_and_survives_its_file(make: Callable[[], Graph]) -> None:
    graph = composed(make())
    assert StageGraph.from_json(graph.to_json()) == graph
    assert StageGraph.from_json(graph.to_json()).to_json() == graph.to_json()


def test_names_do_not_reach_the_kernel() -> None:
    region = sample.weighted_scan()
    mapping = {name: f"other.{name}" for name in region.values}
    other = Graph(
        "other", tuple(rename(node, mapping, f"x{node.name}") for node in region.nodes),
        {mapping[name]: replace(value, name=mapping[name]) for name, value in region.values.items()},
        tuple(map(mapping.__getitem__, region.inputs)), tuple(map(mapping.__getitem__, region.outputs)),
        tuple(map(mapping.__getitem__, region.caches)),
        tuple(CacheUpdate(mapping[update.cache], mapping[update.value]) for update in region.updates))
    assert composed(other).to_json() == composed(region).to_json()


def test_both_spellings_of_a_weighted_sum_select_alike() -> None:
    assert kinds(composed(sample.onnx_scan())) == [
        "Scan", "InnerProduct", "Map", "Map", "Map", "Reduce", "TopK", "Store", "Store"]


def test_a_known_constant_becomes_an_immediate() -> None:
    graph = compose(sample.onnx_scan(), {"scale": numpy.array(0.5, numpy.float32)})
    assert isinstance(graph, StageGraph)
    assert graph.of_kind(Map)[0].operands[1] == Immediate(0.5)


def test_division_by_a_power_of_two_is_a_multiplication() -> None:
    graph = composed(scaled("div", 4.0))
    assert [stage.function for stage in graph.of_kind(Map)] == ["mul"]


def test_blocks_of_rows_are_reduced_before_the_selection() -> None:
    graph = composed(sample.block_scan(2, 4, 8, 4, 2))
    assert [axis.extent for axis in graph.keys] == [8, 4]
    selection = graph.of_kind(TopK)[0]
    assert selection.over == (graph.keys[0].name,)
    assert [axis.extent for axis in graph.instances] == [2]


def scaled(function: str, factor: float) -> Graph:
    b = RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    return b.graph(*b.topk(b.map(function, score, factor, shape=(1, 16)), 2))


def value_product() -> Graph:
    """softmax weights x values: the contraction runs along the rows."""
    b = RegionBuilder()
    cache = b.feed("values", 16, 4, role=Role.CACHE)
    table = b.append(cache, b.feed("at", 1, dtype=DType.INT64), b.feed("new", 1, 4), 0)
    return b.graph(b.matmul(b.feed("weights", 1, 16), table, 1, 4))


def weight_product() -> Graph:
    b = RegionBuilder()
    cache = b.feed("latents", 16, 4, role=Role.CACHE)
    return b.graph(b.matmul(cache, b.feed("up", 4, 32, role=Role.PARAMETER), 16, 32))


def routing() -> Graph:
    b = RegionBuilder()
    return b.graph(*b.topk(b.feed("logits", 1, 256), 8))


def softmax() -> Graph:
    b = RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    return b.graph(b.node(OperatorClass.SOFTMAX, (score,), 1, 16, operator="_softmax", attributes={"axis": 1}))


def stale_scan() -> Graph:
    """The table is scanned as it was before the rows came in."""
    b = RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    b.append(cache, b.feed("at", 1, dtype=DType.INT64), b.feed("new", 1, 4), 0)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    return b.graph(*b.topk(score, 2))


def interleaved_blocks() -> Graph:
    b = RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    blocked = b.view("reshape", score, 1, 4, 4)
    best = b.node(OperatorClass.REDUCTION, (blocked,), 1, 4, operator="amax",
                  attributes={"function": "max", "axes": (1,), "keepdims": False})
    return b.graph(*b.topk(best, 2))


def only_append() -> Graph:
    b = RegionBuilder()
    b.append(b.feed("keys", 16, 4, role=Role.CACHE), b.feed("at", 1, dtype=DType.INT64), b.feed("new", 1, 4), 0)
    return b.graph()


def fused_reduction() -> Graph:
    b = RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 2, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 2, 16)
    total = b.node(OperatorClass.REDUCTION, (score,), 16, operator="logsumexp",
                   attributes={"function": "sum", "axes": (0,), "keepdims": False})
    return b.graph(*b.topk(total, 2))


def scaled_addition() -> Graph:
    region = sample.single_scan()
    nodes = tuple(replace(node, keywords=(("alpha", 2),)) if node.operator.name == "add" else node
                  for node in region.nodes)
    return replace(region, nodes=nodes)


@pytest.mark.parametrize(("make", "rule"), [
    (value_product, "along the rows"), (weight_product, "model weight"), (routing, "not over a resident table"),
    (softmax, "only as a weighted sum"), (stale_scan, "before its rows were appended"),
    (interleaved_blocks, "neighbouring rows"), (only_append, "scans a resident table"),
    (fused_reduction, "reduces like this"), (scaled_addition, "option of the operator"),
    (lambda: scaled("div", 3.0), "no divider"), (lambda: scaled("exp2", 3.0), "no stage has this function"),
    (lambda: sample.single_scan(rows=8192, k=5000), "too many entries"),
    (lambda: sample.single_scan(depth=1, rows=2**25 + 1, k=1), "too many rows"),
])
def test_what_cannot_stream_says_why(make: Callable[[], Graph], rule: str) -> None:
    verdict = compose(make())
    assert isinstance(verdict, Rejected)
    assert rule in verdict.rule


@pytest.mark.parametrize(("make", "expected"), [
    (sample.weighted_scan, {"stream"}), (value_product, {"stream", "along the rows"}), (weight_product, {"weight"}),
    (routing, {"not over a resident table"}), (softmax, {"stream"}),
])
def test_verdicts_on_nodes(make: Callable[[], Graph], expected: set[str]) -> None:
    graph = make()
    support = FpgaSupport()
    found = {verdict.kernel if isinstance(verdict, Supported) else verdict.rule
             for node in graph.nodes
             # Views of what is fed in belong to whoever computes it.
             if node.operator_class is not OperatorClass.VIEW
             for verdict in [support.verdict(graph, node)]}
    assert len(found) == len(expected)
    assert all(any(part in rule for rule in found) for part in expected)


def test_a_whole_model_is_judged_quickly() -> None:
    import time

    b = RegionBuilder()
    last = b.feed("x", 1, 8)
    for layer in range(100):
        cache = b.feed(f"keys{layer}", 64, 8, role=Role.CACHE)
        score = b.matmul(last, b.view("permute", cache, 8, 64, permutation=(1, 0)), 1, 64)
        for _ in range(150):
            score = b.map("relu", score, shape=(1, 64))
        _, indices = b.topk(score, 8)
        last = b.map("cast", indices, shape=(1, 8), dtype=DType.FLOAT32)
    graph = b.graph(last)
    support = FpgaSupport()
    start = time.process_time()
    verdicts = [support.verdict(graph, node) for node in graph.nodes]
    assert len(verdicts) > 15_000
    # Measured 0.3 s on an idle core; a busy one is several times slower even by its own clock.
    assert time.process_time() - start < 5.0


def test_an_unstorable_type_is_refused_with_its_name() -> None:
    region = sample.single_scan()
    values = dict(region.values)
    values["keys"] = Value("keys", TensorType((16, 4), DType.FLOAT8_E4M3FN), Role.CACHE)
    verdict = compose(replace(region, values=values))
    assert isinstance(verdict, Rejected)
    assert verdict.actual == "float8_e4m3fn"
