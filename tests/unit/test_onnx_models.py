"""Whole exported models: same program, same classes, from either of torch's exporters."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy
import pytest

from hetcc.ir import DType, OperatorClass, Role
from hetcc.ir.subgraph import digest_of, extract
from hetcc.onnx import LoadedOnnx, evaluate_region, load_graph, run_reference
from tests.unit.onnx_models import Exported, arguments_of, corpus_module, export, export_ids, tiny_bert, tiny_llama

SIZES = {"batch": 1, "sequence": 8}
CASES = [
    pytest.param(("llama", True, True), id="llama-dynamo-symbolic", marks=pytest.mark.slow),
    pytest.param(("llama", True, False), id="llama-dynamo"),
    pytest.param(("llama", False, True), id="llama-classic-symbolic"),
    pytest.param(("bert", True, False), id="bert-dynamo", marks=pytest.mark.slow),
    pytest.param(("bert", False, True), id="bert-classic-symbolic"),
    pytest.param(("bert", False, False), id="bert-classic"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module", params=CASES)
def hugging_face(request: pytest.FixtureRequest, folder: Path) -> tuple[Exported, LoadedOnnx]:
    name, dynamo, symbolic = request.param
    module = tiny_llama() if name == "llama" else tiny_bert()
    exported = export_ids(module, folder / f"{name}-{dynamo}-{symbolic}.onnx", dynamo=dynamo, symbolic=symbolic)
    return exported, load_graph(exported.path, SIZES if symbolic else {})


@pytest.fixture(scope="module", params=[True, False], ids=["dynamo", "classic"])
def sparse(request: pytest.FixtureRequest, folder: Path) -> tuple[Exported, LoadedOnnx]:
    corpus = corpus_module("sparse_block")
    block, tensors = corpus.example()
    inputs = {name: tensor.numpy() for name, tensor in zip(corpus.INPUT_NAMES, tensors, strict=True)}
    options = {"external_data": False} if request.param else {}
    exported = export(block, inputs, folder / f"sparse-{request.param}.onnx", dynamo=request.param,
                      outputs=list(corpus.OUTPUT_NAMES), **options)
    return exported, load_graph(exported.path)


def in_pieces(loaded: LoadedOnnx, inputs: dict[str, numpy.ndarray], pieces: int) -> dict[str, numpy.ndarray]:
    """All results of the Graph, computed by ``pieces`` regions one after another."""
    graph = loaded.graph
    available = dict(inputs)
    bounds = [len(graph.nodes) * piece // pieces for piece in range(pieces + 1)]
    for start, stop in pairwise(bounds):
        region = extract(graph, [node.name for node in graph.nodes[start:stop]], f"piece{start}")
        available.update(evaluate_region(region, arguments_of(loaded, available, region)))
    return available


def test_three_regions_compute_what_onnxruntime_does(hugging_face: tuple[Exported, LoadedOnnx]) -> None:
    exported, loaded = hugging_face
    expected = run_reference(exported.path, exported.inputs)["out"]
    found = in_pieces(loaded, exported.inputs, 3)["out"]
    numpy.testing.assert_allclose(found, expected, atol=2e-6)
    numpy.testing.assert_allclose(found, exported.eager()[0], atol=2e-5)


def test_nothing_of_a_transformer_is_opaque(hugging_face: tuple[Exported, LoadedOnnx]) -> None:
    _, loaded = hugging_face
    classes = Counter(node.operator_class for node in loaded.graph.nodes)
    assert OperatorClass.OPAQUE not in classes
    assert classes[OperatorClass.SOFTMAX] == 2
    assert classes[OperatorClass.MATMUL] in (16, 19)


def test_layers_are_found_and_alike(hugging_face: tuple[Exported, LoadedOnnx]) -> None:
    _, loaded = hugging_face
    layers: dict[str, list[str]] = {}
    for node in loaded.graph.nodes:
        if node.provenance.layer:
            layers.setdefault(node.provenance.layer, []).append(node.name)
    assert [name[-2:] for name in layers] == [".0", ".1"]
    softmax = [node.name for node in loaded.graph.nodes if node.operator_class is OperatorClass.SOFTMAX]
    assert len({digest_of(extract(loaded.graph, [name], "softmax")) for name in softmax}) == 1
    attention = [node.provenance for node in loaded.graph.nodes if node.name in softmax]
    assert all(entry.module_path.endswith((".self_attn", ".self")) for entry in attention)


def test_weights_are_parameters_that_are_located_but_not_held(hugging_face: tuple[Exported, LoadedOnnx]) -> None:
    _, loaded = hugging_face
    parameters = [value for value in loaded.graph.values.values() if value.role is Role.PARAMETER]
    assert len(parameters) > 15
    assert all(value.name in loaded.weights and value.name not in loaded.constants for value in parameters)
    assert all(loaded.weights[value.name].type == value.type for value in parameters)


def test_sparse_block_has_the_memory_pipeline(sparse: tuple[Exported, LoadedOnnx]) -> None:
    _, loaded = sparse
    graph = loaded.graph
    assert graph.caches == ("key_cache", "value_cache", "index_cache")
    assert graph.inputs == ("hidden", "position")
    assert graph.outputs == ("output",)
    assert {update.cache: update.value for update in graph.updates} == {
        name: f"{name}_out" for name in graph.caches}
    selection = next(node for node in graph.nodes if node.operator_class is OperatorClass.TOPK)
    assert (selection.integer("k"), selection.integer("axis"), selection.attribute("largest")) == (8, 2, True)
    mask = next(node for node in graph.nodes if node.operator_class is OperatorClass.SCATTER)
    assert (mask.attribute("mode"), mask.attribute("value"), mask.operand("indices")) == (
        "along", 0.0, selection.outputs[1])
    filled = graph.producer[mask.operand("data") or ""]
    assert filled.operator_class is OperatorClass.CREATE
    assert dict(filled.keywords)["value"] == (DType.FLOAT32, (1,), (-numpy.inf,))


def test_cache_writes_are_one_node_on_the_cache_itself(sparse: tuple[Exported, LoadedOnnx]) -> None:
    _, loaded = sparse
    graph = loaded.graph
    writes = [node for node in graph.nodes if node.operator_class is OperatorClass.CACHE_UPDATE]
    assert {(node.operand("data"), node.operand("indices"), node.integer("axis"), node.outputs[0])
            for node in writes} == {("index_cache", "position", 1, "index_cache_out"),
                                    ("key_cache", "position", 2, "key_cache_out"),
                                    ("value_cache", "position", 2, "value_cache_out")}
    updates = {node.operand("updates") or "" for node in writes}
    assert {graph.type_of(name).shape for name in updates} == {(1, 1, 16), (1, 4, 1, 8)}


@pytest.mark.parametrize("position", [0, 31, 63])
def test_sparse_block_computes_what_torch_does(sparse: tuple[Exported, LoadedOnnx], position: int) -> None:
    exported, loaded = sparse
    step = Exported(exported.path, exported.module, {**exported.inputs, "position": numpy.array([position])})
    found = in_pieces(loaded, step.inputs, 3)
    names = ("output", "key_cache_out", "value_cache_out", "index_cache_out")
    for name, expected in zip(names, step.eager(), strict=True):
        numpy.testing.assert_allclose(found[name], expected, atol=2e-6)
