"""Attention that is one operator of a program: what of it becomes a kernel, and that the kernel computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.aten.classify import Call, classify
from hetcc.backends.contract import EmittedRegion
from hetcc.backends.gpu import emit as emission
from hetcc.backends.gpu.emit import emit_many
from hetcc.backends.gpu.kernels.interpreter import interpret
from hetcc.backends.gpu.kernels.operations_attention import DecodeAttention, GatherAttention
from hetcc.backends.gpu.memory import GpuMemory
from hetcc.backends.gpu.partition.matchers import matches_of
from hetcc.backends.gpu.partition.patterns import Match
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.gpu.program_file import KernelCall, ModuleCall, ProgramFile
from hetcc.ir import DType, Graph, Node, Operand, OperatorClass, Role, SourceOperator, TensorType, Value
from hetcc.onnx.load import load_graph
from hetcc.store import Store
from tests.unit.onnx_calls import save_program

pytest.importorskip("triton")
onnx = pytest.importorskip("onnx")

Array = numpy.ndarray
ENTRIES = 40


def arrays(heads: int = 4, cache_heads: int = 2, queries: int = 3, entries: int = ENTRIES) -> list[Array]:
    random = numpy.random.default_rng(heads * 100 + queries)
    shapes = (2, heads, queries, 16), (2, cache_heads, entries, 16), (2, cache_heads, entries, 24)
    return [random.standard_normal(shape).astype(numpy.float32) for shape in shapes]


def mask_of(*shape: int) -> Array:
    """Some entries hidden, never all of a row."""
    random = numpy.random.default_rng(sum(shape))
    mask = numpy.where(random.random(shape) < 0.4, numpy.float32(-numpy.inf), random.standard_normal(shape))
    mask[..., 0] = 0.5
    return mask.astype(numpy.float32)


def loaded(folder: Path, inputs: list[Any], **attributes: Any) -> tuple[Graph, dict[str, Array]]:
    fed = save_program(folder / "program.onnx", [("Attention", inputs, attributes)], 24)
    return load_graph(folder / "program.onnx").graph, fed


def reference(query: Array, keys: Array, values: Array, mask: Array | None = None, scale: float = 0.25,
              causal: bool = False) -> Array:
    """Attention in float64; a query sees as many first entries as its place says if ``causal``."""
    group = query.shape[1] // keys.shape[1]
    query, keys, values = (each.astype(numpy.float64) for each in (query, keys, values))
    scores = scale * query @ numpy.repeat(keys, group, 1).swapaxes(2, 3)
    if causal:
        scores = numpy.where(numpy.tri(*scores.shape[2:], dtype=bool), scores, -numpy.inf)
    if mask is not None:
        scores = scores + mask
    weights = numpy.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ numpy.repeat(values, group, 1)


def computed(match: Match, fed: dict[str, Array]) -> Array:
    bound = dict(match.inputs)
    types = dict(match.operation.inputs)
    feeds = {role: numpy.ascontiguousarray(fed[value]).reshape(types[role].shape) for role, value in bound.items()}
    return interpret(match.operation, feeds)["output"]


CASES: dict[str, tuple[list[Array], dict[str, Any]]] = {
    "plain": (arrays(), {}),
    "one query": (arrays(4, 4, 1), {}),
    "scaled": (arrays(), {"scale": 0.7}),
    "masked": ([*arrays(), mask_of(2, 1, 3, ENTRIES)], {}),
    "a mask by head": ([*arrays(), mask_of(1, 4, 3, ENTRIES)], {}),
    "a mask of two axes": ([*arrays(), mask_of(3, ENTRIES)], {"scale": 0.3}),
    "causal": (arrays(4, 2, ENTRIES), {"is_causal": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_operator_is_one_kernel(tmp_path: Path, name: str) -> None:
    inputs, attributes = CASES[name]
    graph, fed = loaded(tmp_path, inputs, **attributes)
    match, = matches_of(graph, minimum_entries=2)
    assert isinstance(match.operation, DecodeAttention)
    assert set(match.nodes) >= {node.name for node in graph.nodes if node.operator_class is OperatorClass.ATTENTION}
    wanted = reference(*inputs, scale=attributes.get("scale", 0.25), causal=bool(attributes.get("is_causal")))
    numpy.testing.assert_allclose(computed(match, fed), wanted, rtol=2e-5, atol=2e-5)


LEFT_ALONE: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "a mask of booleans": ([*arrays(), mask_of(3, ENTRIES) > -1], {}),
    "one mask row for all queries": ([*arrays(), mask_of(1, ENTRIES)], {}),
    "soft limits": (arrays(), {"softcap": 2.0}),
    "causal, fewer queries than entries": (arrays(), {"is_causal": 1}),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_the_kernel_does_not_do_is_left_alone(tmp_path: Path, name: str) -> None:
    inputs, attributes = LEFT_ALONE[name]
    graph, _ = loaded(tmp_path, inputs, **attributes)
    assert not matches_of(graph, minimum_entries=2)


def test_short_attention_is_left_to_the_compiler(tmp_path: Path) -> None:
    assert not matches_of(loaded(tmp_path, arrays())[0])


def aten_node(graph_inputs: dict[str, TensorType], *arguments: Any, **keywords: Any) -> Graph:
    """torch's fused attention as one node, as a program that was not decomposed has it."""
    output = TensorType((*graph_inputs["q"].shape[:-1], graph_inputs["v"].shape[-1]), graph_inputs["q"].dtype)
    operands = tuple(Operand(place) for place in range(len(graph_inputs)))
    call = Call("scaled_dot_product_attention", (*operands, *arguments), keywords, tuple(graph_inputs.values()),
                (output,))
    operator_class, attributes = classify(call)
    node = Node("attention", SourceOperator("aten", call.name, "default"), operator_class, tuple(graph_inputs), ("y",),
                call.arguments, tuple(keywords.items()), attributes)
    values = {name: Value(name, kind, Role.INPUT) for name, kind in graph_inputs.items()}
    return Graph("g", (node,), {**values, "y": Value("y", output)}, tuple(graph_inputs), ("y",))


TYPES = {"q": TensorType((2, 4, 3, 16), DType.FLOAT32), "k": TensorType((2, 2, ENTRIES, 16), DType.FLOAT32),
         "v": TensorType((2, 2, ENTRIES, 24), DType.FLOAT32)}


@pytest.mark.parametrize("hidden", [False, True])
def test_the_operator_of_torch_is_one_kernel(hidden: bool) -> None:
    """A query that may look at nothing gives zeros, as torch's does."""
    query, keys, values = arrays()
    mask = mask_of(1, 1, 3, ENTRIES)
    graph = aten_node({**TYPES, "m": TensorType(mask.shape, DType.FLOAT32)}, scale=0.4, enable_gqa=True)
    match, = matches_of(graph, minimum_entries=2)
    wanted = reference(query, keys, values, mask, 0.4)
    if hidden:
        mask[:, :, 1] = -numpy.inf
        wanted[:, :, 1] = 0.0
    actual = computed(match, {"q": query, "k": keys, "v": values, "m": mask})
    numpy.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=2e-5)


def test_dropout_and_other_attentions_of_torch_are_left_alone() -> None:
    assert matches_of(aten_node(TYPES), minimum_entries=2)
    assert not matches_of(aten_node(TYPES, None, 0.1), minimum_entries=2)
    assert not matches_of(aten_node(TYPES, None, 0.0, True), minimum_entries=2), "queries counted from the first entry"
    graph = aten_node(TYPES)
    unknown = replace(graph.nodes[0], attributes=(("key", 1), ("query", 0), ("value", 2)))
    assert not matches_of(replace(graph, nodes=(unknown,)), minimum_entries=2)
    double = {name: TensorType(kind.shape, DType.FLOAT64) for name, kind in TYPES.items()}
    assert not matches_of(aten_node(double), minimum_entries=2)


def test_the_operator_over_gathered_entries_reads_the_memory() -> None:
    graph = aten_node({"q": TensorType((2, 4, 1, 16), DType.FLOAT32), "k": TYPES["k"], "v": TYPES["k"]})
    kind = TensorType((2, 2, 8, 16), DType.FLOAT32)
    index = Node("index", SourceOperator("aten", "expand", "default"), OperatorClass.VIEW, ("i",), ("i2",),
                 (Operand(0), kind.shape), (), (("kind", "expand"),))
    gathers = tuple(
        Node(f"gather.{name}", SourceOperator("aten", "gather", "default"), OperatorClass.GATHER, (name, "i2"),
             (f"{name}2",), (Operand(0), 2, Operand(1)), (),
             (("axis", 2), ("data", 0), ("indices", 1), ("mode", "along"))) for name in ("k", "v"))
    node = replace(graph.nodes[0], inputs=("q", "k2", "v2"))
    types = {"i2": TensorType(kind.shape, DType.INT64), "k2": kind, "v2": kind,
             "y": TensorType((2, 4, 1, 16), DType.FLOAT32)}
    values = {**graph.values, **{name: Value(name, each) for name, each in types.items()},
              "i": Value("i", TensorType((2, 1, 8, 1), DType.INT64), Role.INPUT)}
    match, = matches_of(Graph("g", (index, *gathers, node), values, ("q", "k", "v", "i"), ("y",)), minimum_entries=2)
    assert isinstance(match.operation, GatherAttention)
    query, keys, _ = arrays(4, 2, 1)
    memory = numpy.random.default_rng(9).standard_normal(keys.shape).astype(numpy.float32)
    places = numpy.array([[0, 39, 7, 7, 2, 1, 30, 12], [5, 6, 7, 8, 9, 10, 11, 0]])
    listed = [numpy.stack([each[row][:, places[row]] for row in range(2)]) for each in (keys, memory)]
    wanted = reference(query, *listed)
    actual = computed(match, {"q": query, "k": keys, "v": memory, "i": places})
    numpy.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=2e-5)


def test_a_program_with_the_operator_runs_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """General operators before and behind it, the kernel between, as a GPU would run them."""
    pytest.importorskip("iree.runtime")
    query, keys, values = arrays()
    fed = {"q": query, "k": keys, "v": values, "m": mask_of(2, 1, 3, ENTRIES)}
    declare = onnx.helper.make_tensor_value_info
    program = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["q"], ["positive"]),
         onnx.helper.make_node("Attention", ["positive", "k", "v", "m"], ["y"], scale=0.3),
         onnx.helper.make_node("Tanh", ["y"], ["z"])], "program",
        [declare(name, onnx.TensorProto.FLOAT, array.shape) for name, array in fed.items()],
        [declare("z", onnx.TensorProto.FLOAT, (2, 4, 3, 24))])
    opset = onnx.helper.make_opsetid("", 24)
    onnx.save(onnx.helper.make_model(program, ir_version=10, opset_imports=[opset]), tmp_path / "program.onnx")
    graph = load_graph(tmp_path / "program.onnx").graph
    monkeypatch.setattr(emission, "matches_of", lambda region: matches_of(region, minimum_entries=2))
    emitted = emit_many({"program": graph}, ("interpreter",), store=Store(tmp_path / "store"))["program"]
    assert isinstance(emitted, EmittedRegion)
    calls = ProgramFile.from_bytes(emitted.files[emitted.entry], "here").calls
    assert [type(call) for call in calls] == [ModuleCall, KernelCall, ModuleCall]
    results = GpuProgram(graph, emitted.files, emitted.entry, GpuMemory("local-sync")).run(fed)
    wanted = numpy.tanh(reference(numpy.maximum(query, 0), keys, values, fed["m"], 0.3))
    numpy.testing.assert_allclose(results[graph.outputs[0]], wanted, rtol=2e-5, atol=2e-5)
