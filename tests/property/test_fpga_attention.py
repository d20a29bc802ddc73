"""Softmax and weighted sums of rows, the functional model against float64."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.samples.attention import fused_attention, memory_attention, written_attention
from hetcc.backends.fpga.stages import attention
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import decode
from hetcc.backends.fpga.stages.stage_graph import StageGraph, WeightedSum
from hetcc.ir import DType, Graph, OperatorClass, Role
from hetcc.ir.subgraph import interface_of


def reference(arguments: dict[str, numpy.ndarray], scale: float) -> numpy.ndarray:
    """In float64, by numpy alone."""
    wide = {name: array.astype(numpy.float64) for name, array in arguments.items()}
    keys, values = wide["keys"], wide["values"]
    if "positions" in arguments:
        at = arguments["positions"]
        keys, values = keys.copy(), values.copy()
        keys[:, :, at], values[:, :, at] = wide["key"], wide["value"]
    scores = wide["query"] @ numpy.swapaxes(keys, -1, -2) * scale
    if "mask" in wide:
        flags = arguments["mask"].dtype == bool
        scores = numpy.where(arguments["mask"], scores, -math.inf) if flags else scores + wide["mask"]
    with numpy.errstate(invalid="ignore"):
        weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    found: numpy.ndarray = (weights / weights.sum(axis=-1, keepdims=True)) @ values
    return found


def arguments_of(region: Graph, seed: int, scale: float = 1.0) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    found = {}
    for name in interface_of(region):
        kind = region.type_of(name)
        if kind.dtype is DType.INT64:
            found[name] = random.permutation(4)[:kind.shape[0]].astype(numpy.int64)
        else:
            found[name] = (random.standard_normal(kind.shape) * scale).astype(numpy.float32)
    if "mask" in found and region.type_of("mask").dtype is DType.BOOL:
        found["mask"] = random.random(found["mask"].shape) < 0.7
        found["mask"][..., 0] = True
    elif "mask" in found:
        found["mask"] = numpy.where(random.random(found["mask"].shape) < 0.3, -math.inf, 0).astype(numpy.float32)
        found["mask"][..., 0] = 0
    return found


def run(region: Graph, arguments: dict[str, numpy.ndarray]) -> numpy.ndarray:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    names = (*interface_of(region), *region.outputs)
    shape = region.type_of(region.outputs[0]).shape
    buffers = {buffer.name: arguments[name].reshape(-1).copy() if name in arguments
               else numpy.zeros(math.prod(shape), numpy.float32)
               for buffer, name in zip(graph.buffers, names, strict=True)}
    execute(graph, buffers)
    return buffers[graph.buffers[-1].name].reshape(shape)


def test_a_loaded_kernel_gives_the_same() -> None:
    region = memory_attention(2, 2, 4, 5, 20, appended=True)
    arguments = arguments_of(region, 0)
    emitted = emit(region, "region")
    assert not isinstance(emitted, Rejected), emitted
    loaded = load_program(emitted.files, region).run(arguments)[region.outputs[0]]
    assert numpy.array_equal(loaded, run(region, arguments))


@settings(max_examples=40)
@given(heads=st.integers(1, 3), queries=st.integers(1, 3), depth=st.integers(1, 9), width=st.integers(1, 9),
       rows=st.sampled_from([1, 2, 5, 33, 512, 700]), masked=st.booleans(), appended=st.booleans(),
       seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1.0, 1e-3, 6.0]))
def test_attention_is_that_of_float64(heads: int, queries: int, depth: int, width: int, rows: int, masked: bool,
                                      appended: bool, seed: int, scale: float) -> None:
    rows = max(rows, 4) if appended else rows
    region = memory_attention(heads, queries, depth, width, rows, masked=masked, appended=appended)
    arguments = arguments_of(region, seed, scale)
    # A score is off by a few roundings of its largest term; exponentials by as much and by one unit.
    slack = 1e-6 * max(1.0, depth * scale**2 * 16)
    got, expected = run(region, arguments), reference(arguments, depth**-0.5)
    assert numpy.allclose(got, expected, rtol=slack, atol=slack * float(numpy.abs(arguments["values"]).max()))


@pytest.mark.parametrize("role", [Role.CACHE, Role.INPUT, Role.BUFFER])
def test_a_softmax_that_is_written_out_is_the_same_over_any_memory(role: Role) -> None:
    region = written_attention(4, 6, 40, role)
    graph = compose(region)
    assert isinstance(graph, StageGraph)
    assert [type(stage).__name__ for stage in graph.stages] == ["Scan", "InnerProduct", "Scan", "WeightedSum", "Store"]
    arguments = arguments_of(region, 3)
    assert numpy.allclose(run(region, arguments), reference(arguments, 1.0), atol=2e-6)


@pytest.mark.parametrize("mask", [None, DType.FLOAT32, DType.BOOL])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_in_one_node_is_the_same(queries: int, mask: DType | None) -> None:
    region = fused_attention(2, queries, 4, 6, 40, mask=mask)
    arguments = arguments_of(region, 5)
    assert numpy.allclose(run(region, arguments), reference(arguments, 0.5), atol=2e-6)
    if mask is not None:
        arguments["mask"][:] = False if mask is DType.BOOL else -math.inf
        assert (run(region, arguments) == 0).all()


@pytest.mark.parametrize("rows", [1, 17])
def test_rows_with_equal_scores_are_averaged(rows: int) -> None:
    region = memory_attention(1, 1, 2, 3, rows, masked=False)
    arguments = arguments_of(region, 1)
    arguments["keys"][:] = 1.5
    expected = arguments["values"].astype(numpy.float64).mean(axis=2)
    assert numpy.allclose(run(region, arguments)[:, :, 0], expected, atol=1e-6)


def test_masked_rows_have_no_weight_and_a_masked_instance_is_nan() -> None:
    region = memory_attention(2, 1, 4, 4, 9)
    arguments = arguments_of(region, 2)
    arguments["mask"][:] = -math.inf
    arguments["mask"][..., 5] = 0
    assert numpy.array_equal(run(region, arguments)[0, :, 0], arguments["values"][0, :, 5])
    arguments["mask"][:] = -math.inf
    assert numpy.isnan(run(region, arguments)).all()


def test_huge_scores_choose_one_row() -> None:
    region = memory_attention(1, 1, 4, 4, 9, masked=False)
    arguments = arguments_of(region, 2)
    arguments["keys"][0, 0, 7] = 1e18 * arguments["query"][0, 0, 0]
    assert numpy.array_equal(run(region, arguments)[0, 0, 0], arguments["values"][0, 0, 7])


def test_query_heads_that_share_a_table_are_lanes_and_read_it_once() -> None:
    b = sample.RegionBuilder()
    groups, repeat, rows, depth = 2, 3, 12, 4
    tables = []
    for name in ("keys", "values"):
        wide = b.view("unsqueeze", b.feed(name, 1, groups, rows, depth, role=Role.CACHE), 1, groups, 1, rows, depth)
        spread = b.view("expand", wide, 1, groups, repeat, rows, depth)
        tables.append(b.view("reshape", spread, 1, groups * repeat, rows, depth))
    shape = (1, groups * repeat, 1, rows)
    turned = b.view("permute", tables[0], 1, groups * repeat, depth, rows, permutation=(0, 1, 3, 2))
    score = b.matmul(b.feed("query", 1, groups * repeat, 1, depth), turned, *shape)
    weights = b.node(OperatorClass.SOFTMAX, (score,), *shape, operator="softmax", attributes={"axis": 3})
    region = b.graph(b.matmul(weights, tables[1], 1, groups * repeat, 1, depth))
    graph = compose(region)
    assert isinstance(graph, StageGraph)
    total = graph.of_kind(WeightedSum)[0]
    assert [axis.extent for axis in graph.instances] == [groups]
    assert [graph.axis(name).extent for name in total.lanes] == [repeat, depth]
    arguments = arguments_of(region, 7)
    spread_out = {name: numpy.repeat(array, repeat, axis=1) if name != "query" else array
                  for name, array in arguments.items()}
    assert numpy.allclose(run(region, arguments), reference(spread_out, 1.0), atol=2e-6)


@pytest.mark.parametrize("use", ["output", "scaled", "parameter"])
def test_softmax_weights_go_nowhere_else(use: str) -> None:
    b = sample.RegionBuilder()
    keys, values = b.feed("keys", 16, 4, role=Role.CACHE), b.feed("values", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", keys, 4, 16, permutation=(1, 0)), 1, 16)
    weights = b.node(OperatorClass.SOFTMAX, (score,), 1, 16, operator="_softmax", attributes={"axis": 1})
    if use == "output":
        region = b.graph(weights)
    elif use == "scaled":
        region = b.graph(b.matmul(b.map("mul", weights, 2.0, shape=(1, 16)), values, 1, 4))
    else:
        region = b.graph(b.matmul(weights, b.feed("more", 16, 4, role=Role.PARAMETER), 1, 4))
    assert isinstance(compose(region), Rejected)


def test_the_exponential_is_within_one_unit_in_the_last_place() -> None:
    random = numpy.random.default_rng(0)
    spread = numpy.concatenate([random.uniform(0, 88, 100_000), 2.0 ** random.uniform(-30, 6.4, 100_000)])
    values = decode((-spread).astype(numpy.float32), DType.FLOAT32).astype(numpy.float32)
    exact = numpy.exp(values.astype(numpy.float64))
    normal = exact >= 2.0**-126
    unit = numpy.exp2(numpy.floor(numpy.log2(exact)) - 23)
    error = numpy.abs(attention.exponential(values) - exact) / unit
    assert error[normal].max() < 0.7
    assert (attention.exponential(values)[exact < 2.0**-126 * (1 - 2.0**-24)] == 0).all()


def test_the_exponential_of_edges() -> None:
    given_values = numpy.array([0.0, -0.0, -math.inf, -1e30, -87.34, math.nan, 1.0, -2.0**-126], numpy.float32)
    found = attention.exponential(given_values)
    assert found[:5].tolist() == [1, 1, 0, 0, 0]
    assert numpy.isnan(found[5:7]).all()
    assert found[7] == 1
