"""From an .onnx file to a captured model: sizes, phases, where weights lie, what inputs mean, what can be built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import onnx
import pytest

from hetcc.capture import CaptureRequest, Phase, capture
from hetcc.capture.onnx_inputs import Meaning, StepInputs, meaning_of
from hetcc.capture.onnx_reference import OnnxReference
from hetcc.errors import HetccError
from hetcc.ir import DType, Graph, OperatorClass, Provenance, TensorType, Value
from hetcc.ir.proof import CheckRequest
from hetcc.ir.subgraph import interface_of
from hetcc.onnx import evaluate_region, load_graph, run_reference, to_model
from hetcc.onnx.build import builder_of
from hetcc.onnx.check import check_on_random_inputs
from hetcc.planning import normalize
from hetcc.runtime.weights import WeightFiles
from tests.unit.onnx_models import corpus_module, text_model

DECODER = """(int64[batch, 1] ids, int64[1] position, int64[batch, context] attention_mask,
              float[batch, context, 4] memory_cache) => (float[batch, 1, context] out, float[batch, context, 4] present)
    <float[6, 4] table = {1, 1, 1, 1, 1, 0.5, 1, 1, 0.5, 1, 1, 1, 1, 1, 0.5, 1, 1, 1, 1, 0.5, 1, 0.5, 0.5, 1},
     int64[1] one = {1}, int64[2] shape = {1, 1}, float hidden = {-1000.0}, float zero = {0.0}> {
        row = Gather(table, ids)
        place = Unsqueeze(position, one)
        moved = Transpose <perm = [1, 0, 2]> (memory_cache)
        rows = Transpose <perm = [1, 0, 2]> (row)
        written = ScatterND(moved, place, rows)
        present = Transpose <perm = [1, 0, 2]> (written)
        turned = Transpose <perm = [0, 2, 1]> (present)
        scores = MatMul(row, turned)
        seen = Cast <to = 9> (attention_mask)
        wide = Unsqueeze(seen, one)
        masked = Where(wide, zero, hidden)
        sum = Add(scores, masked)
        out = Softmax <axis = -1> (sum)
    }"""


@pytest.fixture
def decoder(tmp_path: Path) -> str:
    """A decode step with open sizes; its cache is called so that the pair is found by name."""
    text = DECODER.replace("present", "memory_cache_out")
    return str(text_model(tmp_path / "decoder.onnx", text))


def graph_of(source: str, **options: object) -> Graph:
    captured = capture(CaptureRequest(source, **options))  # type: ignore[arg-type]
    return next(iter(captured.graphs.values()))


def test_sizes_follow_their_names_unless_set(decoder: str) -> None:
    graph = graph_of(decoder, batch=2, context=16)
    assert graph.type_of("memory_cache").shape == (2, 16, 4)
    captured = capture(CaptureRequest(decoder, batch=2, context=16, overrides=(("context", "5"),)))
    assert captured.graphs["decode"].type_of("memory_cache").shape == (2, 5, 4)
    assert (captured.request.batch, captured.request.context, captured.request.dtype) == (2, 5, DType.FLOAT32)
    assert captured.has_weights
    assert captured.description["sizes"] == "batch=2 context=5"


@pytest.mark.parametrize(("options", "code"), [
    ({"overrides": (("width", "3"),)}, "HET-C002"),
    ({"overrides": (("context", "-3"),)}, "HET-C002"),
    ({"overrides": (("context", "many"),)}, "HET-C002"),
    ({"phases": (Phase.PREFILL, Phase.DECODE)}, "HET-C007"),
    ({"weights": "random:0"}, "HET-C005"),
])
def test_impossible_requests_are_refused(decoder: str, options: dict[str, object], code: str) -> None:
    with pytest.raises(HetccError) as caught:
        graph_of(decoder, **options)
    assert caught.value.code == code


def test_a_missing_file_and_a_size_nobody_can_guess(tmp_path: Path) -> None:
    with pytest.raises(HetccError) as missing:
        graph_of(str(tmp_path / "nowhere.onnx"))
    path = text_model(tmp_path / "odd.onnx", "(float[wibble] x) => (float[wibble] y) { y = Relu(x) }")
    with pytest.raises(HetccError) as unknown:
        graph_of(str(path))
    assert (missing.value.code, unknown.value.code) == ("HET-C001", "HET-C003")
    assert "wibble" in str(unknown.value)


def test_phase_and_tokens(tmp_path: Path) -> None:
    path = text_model(tmp_path / "encoder.onnx", """(float[batch, seq_len, 4] x) => (float[batch, seq_len, 4] y) {
        y = Softmax <axis = -1> (x) }""")
    captured = capture(CaptureRequest(str(path), context=12, batch=3))
    assert list(captured.graphs) == ["encode"]
    assert captured.graphs["encode"].type_of("x").shape == (3, 12, 4)
    prefill = capture(CaptureRequest(str(path), (Phase.PREFILL,), context=64, prompt=7))
    assert prefill.graphs["prefill"].type_of("x").shape == (1, 7, 4)


def test_names_inside_expressions_are_sizes(tmp_path: Path) -> None:
    path = text_model(tmp_path / "grown.onnx", "(float[past_len] x, float[other] y) => (float[o] z) { z = Relu(y) }")
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "past_len + fresh_tokens"
    onnx.save(model, path)
    graph = graph_of(str(path), context=10, overrides=(("fresh_tokens", "3"),))
    assert graph.type_of("y").shape == (13,)


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_where_they_lie(tmp_path: Path, external: bool) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[2, 3] x) => (float[2, 2] y) { y = MatMul(x, w) }")
    first, second = (numpy.arange(count, dtype=numpy.float32).reshape(-1, 2) for count in (100, 6))
    model = onnx.load(path)
    model.graph.initializer.extend([onnx.numpy_helper.from_array(first, "unused"),
                                    onnx.numpy_helper.from_array(second, "w")])
    onnx.save(model, path, save_as_external_data=external, location="m.data", size_threshold=0)
    captured = capture(CaptureRequest(str(path)))
    reference = captured.weights["w"]
    assert reference.format == ("raw" if external else "onnx")
    assert (reference.offset > 0) == external
    entries = {"w": {"file": reference.file, "tensor": reference.tensor, "shape": [3, 2], "dtype": reference.dtype,
                     "format": reference.format, "offset": reference.offset}}
    files = SimpleNamespace(folder=tmp_path, read=lambda _: onnx_json(entries))
    weights = WeightFiles(files)  # type: ignore[arg-type]
    numpy.testing.assert_array_equal(weights.read("w", captured.graphs["encode"]), second)
    Path(reference.file).write_bytes(b"")
    with pytest.raises(HetccError) as caught:
        WeightFiles(files).read("w", captured.graphs["encode"])  # type: ignore[arg-type]
    assert caught.value.code == "HET-C005"


def onnx_json(entries: object) -> bytes:
    import json

    return json.dumps(entries).encode()


def test_meaning_is_read_off_the_uses(decoder: str) -> None:
    graph = graph_of(decoder, context=8)
    assert {name: meaning_of(graph, name) for name in graph.inputs} == {
        "ids": Meaning.ROWS, "position": Meaning.POSITIONS, "attention_mask": Meaning.MASK}
    renamed = replace(graph, inputs=(*graph.inputs[:2], "bits"), values={
        **{name: value for name, value in graph.values.items() if name != "attention_mask"},
        "bits": replace(graph.values["attention_mask"], name="bits")},
        nodes=tuple(replace(node, inputs=tuple("bits" if name == "attention_mask" else name for name in node.inputs))
                    for node in graph.nodes))
    assert meaning_of(renamed, "bits") is Meaning.MASK


def test_steps_continue_each_other(decoder: str) -> None:
    captured = capture(CaptureRequest(decoder, context=8))
    inputs = StepInputs(captured.graphs["decode"], captured.request, 0, 3)
    caches = inputs.caches()
    assert caches["memory_cache"][0, :3].all()
    assert not caches["memory_cache"][0, 3:].any()
    steps = [inputs.step(position) for position in range(2)]
    assert [int(step["position"][0]) for step in steps] == [3, 4]
    assert [step["attention_mask"].tolist() for step in steps] == [[[1] * 4 + [0] * 4], [[1] * 5 + [0] * 3]]
    assert all(step["ids"].min() >= 0 and step["ids"].max() < 6 for step in steps)


def test_the_reference_carries_the_caches(decoder: str) -> None:
    request = CaptureRequest(decoder, context=8)
    run = OnnxReference(request).run(Phase.DECODE, 5, 3, 2)
    assert set(run.caches) == {"memory_cache"}
    first = run_reference(Path(decoder), {**run.steps[0].inputs, **run.caches})
    second = run_reference(Path(decoder), {**run.steps[1].inputs, "memory_cache": first["memory_cache_out"]})
    forgetful = run_reference(Path(decoder), {**run.steps[1].inputs, **run.caches})
    numpy.testing.assert_array_equal(run.steps[1].outputs["out"], second["out"])
    assert numpy.abs(run.steps[1].outputs["out"] - forgetful["out"]).max() > 1e-3


def test_the_reference_records_what_was_selected(tmp_path: Path) -> None:
    path = text_model(tmp_path / "select.onnx", """(float[1, 4] query, float[9, 4] memory_cache)
        => (float[1, 2] best, float[9, 4] memory_cache_out) <int64[1] k = {2}, float zero = {0.0}> {
        turned = Transpose <perm = [1, 0]> (memory_cache)
        scores = MatMul(query, turned)
        best, places = TopK(scores, k)
        memory_cache_out = Add(memory_cache, memory_cache)
    }""")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, path)
    reference = OnnxReference(CaptureRequest(str(path)))
    run = reference.run(Phase.DECODE, 0, 4, 2)
    for step in run.steps:
        (name, chosen), = step.selections.items()
        assert name == "TopK:1"
        assert chosen.scores.shape == (1, 9)
        expected = numpy.argsort(-chosen.scores[0], kind="stable")[:2]
        numpy.testing.assert_array_equal(chosen.indices[0], expected)
        numpy.testing.assert_array_equal(step.outputs["best"][0], chosen.scores[0][expected])


@pytest.fixture(scope="module", params=[13, 18, 21])
def sparse_graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    from tests.unit.onnx_models import export

    corpus = corpus_module("sparse_block")
    block, tensors = corpus.example()
    inputs = {name: tensor.numpy() for name, tensor in zip(corpus.INPUT_NAMES, tensors, strict=True)}
    # LayerNormalization is an operator from version 17 on; older files spell it out.
    path = tmp_path_factory.mktemp("versions") / f"{request.param}.onnx"
    exported = export(block, inputs, path, dynamo=False, outputs=list(corpus.OUTPUT_NAMES), opset_version=request.param)
    return load_graph(exported.path).graph


def test_narrowing_keeps_the_operator_set(sparse_graph: Graph) -> None:
    narrowed, rewrites = normalize(sparse_graph)
    assert [rewrite.applied for rewrite in rewrites] == [True]
    versions = {node.operator.overload.rpartition(":")[2] for node in narrowed.nodes}
    assert versions == {node.operator.overload.rpartition(":")[2] for node in sparse_graph.nodes}
    assert len(versions) == 1
    assert [entry.version for entry in to_model(narrowed).opset_import] == [int(versions.pop())]
    added = [node for node in narrowed.nodes if node.name not in sparse_graph.node_by_name]
    assert {node.operator_class for node in added} >= {OperatorClass.GATHER, OperatorClass.CREATE, OperatorClass.VIEW}


def test_narrowing_keeps_the_numbers(sparse_graph: Graph) -> None:
    narrowed, _ = normalize(sparse_graph)
    random = numpy.random.default_rng(3)
    arguments = {name: random.standard_normal(kind.shape).astype(numpy.float32) if kind.dtype.is_floating else
                 numpy.full(kind.shape, 40) for name in interface_of(sparse_graph)
                 if (kind := sparse_graph.type_of(name))}
    constants = {name: numpy.arange(64) for name in arguments if sparse_graph.type_of(name).shape == (64,)}
    expected = evaluate_region(sparse_graph, {**arguments, **constants})
    found = evaluate_region(narrowed, {**arguments, **constants})
    for name, array in expected.items():
        numpy.testing.assert_allclose(found[name], array, atol=1e-5)


def test_each_constructor_builds_what_it_says(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", """(float[2, 6] x, int64[3] rows, int64[2, 3] places) => (float[2, 6] y)
        { y = Relu(x) }""")
    graph = load_graph(path).graph
    builder, where = builder_of(graph), Provenance("layers.0")
    made = {
        "fill": builder.fill("fill", _value("fill", 2, 3), -2, where),
        "reshape": builder.reshape("reshape", "x", _value("reshape", 3, 4), where),
        "expand": builder.expand("expand", "fill", _value("expand", 5, 2, 3), where),
        "rows": builder.gather_rows("taken", "x", "rows", 1, _value("taken", 2, 3), where),
        "along": builder.gather_along("along", "x", "places", 1, _value("along", 2, 3), where),
        "concat": builder.concat("joined", ("x", "taken", "x"), 1, _value("joined", 2, 15), where),
    }
    values = {**graph.values, **{name: _value(name, *shape) for name, shape in (
        ("fill", (2, 3)), ("reshape", (3, 4)), ("expand", (5, 2, 3)), ("taken", (2, 3)), ("along", (2, 3)),
        ("joined", (2, 15)))}}
    program = replace(graph, nodes=tuple(made.values()), values=values,
                      outputs=("fill", "reshape", "expand", "taken", "along", "joined"))
    x = numpy.random.default_rng(0).standard_normal((2, 6)).astype(numpy.float32)
    rows, places = numpy.array([5, 0, 2]), numpy.array([[1, 0, 5], [2, 2, 3]])
    found = evaluate_region(program, {"x": x, "rows": rows, "places": places})
    numpy.testing.assert_array_equal(found["fill"], numpy.full((2, 3), -2, numpy.float32))
    numpy.testing.assert_array_equal(found["reshape"], x.reshape(3, 4))
    assert found["expand"].shape == (5, 2, 3)
    numpy.testing.assert_array_equal(found["taken"], x[:, rows])
    numpy.testing.assert_array_equal(found["along"], numpy.take_along_axis(x, places, 1))
    numpy.testing.assert_array_equal(found["joined"], numpy.concatenate((x, x[:, rows], x), 1))
    assert (made["rows"].attribute("mode"), made["along"].attribute("mode")) == ("rows", "along")


def _value(name: str, *shape: int) -> Value:
    return Value(name, TensorType(shape, DType.FLOAT32))


def test_the_checker_tells_programs_apart(tmp_path: Path) -> None:
    text = "(float[4, 6] x, int64[3] rows) => (float[4, 3] y) { g = Gather <axis = 1> (x, rows) y = OP(g) }"
    before, same, other = (load_graph(text_model(tmp_path / f"{number}.onnx", text.replace("OP", name))).graph
                           for number, name in enumerate(("Relu", "Relu", "Abs")))
    agrees = check_on_random_inputs(CheckRequest(before, same, ("y",), "rows", 6, frozenset()))
    differs = check_on_random_inputs(CheckRequest(before, other, ("y",), "rows", 6, frozenset()))
    assert agrees.agrees
    assert not differs.agrees
    assert differs.relative_error > 0.1
