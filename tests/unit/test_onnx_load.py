"""Reading model files: sizes, shapes, folding, caches, weights, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import onnx
import pytest

from hetcc.errors import ToolError, UserError
from hetcc.ir import DType, OperatorClass, Provenance, Role, TensorType
from hetcc.onnx import load_graph, read_weight, run_reference
from hetcc.onnx.caches import pair_caches
from hetcc.onnx.provenance import provenance_of
from hetcc.onnx.read import evaluate_dimension
from tests.unit.onnx_models import arguments_of, text_model


def weighted(path: Path, *, external: bool) -> Path:
    """A model with one weight of 16 kB, embedded or beside it."""
    weight = numpy.arange(4096, dtype=numpy.float32).reshape(64, 64)
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["":20]> g (float[2,64] x) => (float[2,64] y) '
                                    "{ y = MatMul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def refused(code: str, path: Path, sizes: dict[str, int] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load_graph(path, sizes)
    assert caught.value.code == code
    return caught.value


def test_symbolic_dimensions_without_a_size_are_named(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[batch, context] x, float[N, 4] z) => (float[batch, context] y) "
                      "{ y = Relu(x) }")
    error = refused("HET-C003", path, {"batch": 1})
    assert "'context' (axis 1 of input 'x')" in error.what
    assert "'N' (axis 0 of input 'z')" in error.what
    assert error.fix == "--set context=SIZE --set N=SIZE"


def test_unknown_and_impossible_sizes_are_refused(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }")
    assert "no input has a dimension called 'sequence'" in refused("HET-C003", path, {"batch": 1, "sequence": 2}).what
    assert "batch=0" in refused("HET-C003", path, {"batch": 0}).what


def test_sizes_reach_every_value(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[batch, later] x) => (float[N, M] y) { s = Shape(x) "
                      "one = Constant<value = int64[1] {-1}>() n = Concat<axis=0>(one, s) z = Reshape(x, n) "
                      "a = Constant<value = int64[1] {0}>() y = Squeeze(z, a) }")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "past + 1"
    onnx.save(model, path)
    graph = load_graph(path, {"batch": 3, "past": 6}).graph
    assert graph.type_of("x") == graph.type_of("y") == TensorType((3, 7), DType.FLOAT32)
    assert [node.operator.name for node in graph.nodes] == ["Reshape", "Squeeze"]
    assert graph.nodes[0].arguments[1] == (DType.INT64, (3,), (1, 3, 7))


@pytest.mark.parametrize(("text", "extent"), [
    ("a", 2), ("a + 1", 3), ("a*b - 1", 9), ("(a + b)//2", 3), ("c", None), ("a +", None), ("f(a)", None),
    ("a/b", None), ("b // (a - 2)", None),
])
def test_dimension_expressions(text: str, extent: int | None) -> None:
    assert evaluate_dimension(text, {"a": 2, "b": 5}) == extent


def test_broken_files_are_refused(tmp_path: Path) -> None:
    whole = weighted(tmp_path / "m.onnx", external=False).read_bytes()
    for name, data in (("empty", b""), ("text", b"not a model"), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        assert str(path) in refused("HET-C008", path).where
    refused("HET-C008", tmp_path / "absent.onnx")


def test_a_value_nobody_computes_is_refused(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[2] x) => (float[2] y) { y = Add(x, nobody) }")
    assert "'nobody'" in refused("HET-C008", path).what
    path = text_model(tmp_path / "n.onnx", "(float[2] x) => (float[2] y) { z = Relu(x) }")
    assert "'y'" in refused("HET-C008", path).what


def test_shapes_that_depend_on_data_are_refused_with_their_node(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[4] x) => (int64[1, N] y) { y = NonZero(x) }")
    assert "NonZero" in refused("HET-C009", path).what
    path = text_model(tmp_path / "n.onnx", "(float[4] x, int64[2] s) => (float[N, M] y) { y = Reshape(x, s) }")
    assert "Reshape" in refused("HET-C009", path).what


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[2, 4] x, float[5, 3] z) => (float[2, 3] y) { y = MatMul(x, z) }")
    assert "MatMul" in refused("HET-C008", path).what


def test_element_types_hetcc_lacks_are_refused(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(string[2] x) => (string[2] y) { y = Identity(x) }")
    assert "STRING" in refused("HET-C009", path).what


CONDITIONAL = ("(float[{extent}] x, bool run) => (float[N] y) {{ s = Size(x) two = Constant<value = int64 {{2}}>() "
               "small = Equal(s, two) c = Identity({condition}) y = If (c) <then_branch = a () => (float[N] p) "
               "{{ p = Neg(x) }}, else_branch = b () => (float[N] q) {{ r = Exp(x) q = Relu(r) }}> }}")


def test_a_known_condition_chooses_its_branch(tmp_path: Path) -> None:
    for extent, expected in ((2, ["Neg"]), (3, ["Exp", "Relu"])):
        path = text_model(tmp_path / "m.onnx", CONDITIONAL.format(extent=extent, condition="small"))
        names = [node.operator.name for node in load_graph(path).graph.nodes]
        assert [name for name in names if name != "Identity"] == expected


def test_a_condition_computed_while_running_is_refused(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", CONDITIONAL.format(extent=2, condition="run"))
    assert "while running" in refused("HET-C009", path).what


def test_external_data_is_located_and_mapped(tmp_path: Path) -> None:
    loaded = load_graph(weighted(tmp_path / "m.onnx", external=True))
    location = loaded.weights["w"]
    assert (location.file, location.offset, location.length) == ("weights.bin", 0, 16384)
    assert isinstance(read_weight(location, tmp_path).base, numpy.memmap | numpy.ndarray)
    numpy.testing.assert_array_equal(read_weight(location, tmp_path).reshape(-1), numpy.arange(4096))
    assert loaded.graph.values["w"].role is Role.PARAMETER


def test_embedded_weights_are_looked_up_by_name(tmp_path: Path) -> None:
    location = load_graph(weighted(tmp_path / "m.onnx", external=False)).weights["w"]
    assert (location.file, location.offset) == ("m.onnx", None)
    numpy.testing.assert_array_equal(read_weight(location, tmp_path).reshape(-1), numpy.arange(4096))


def test_external_data_that_is_missing_short_or_elsewhere(tmp_path: Path) -> None:
    path = weighted(tmp_path / "m.onnx", external=True)
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    assert "16383" in refused("HET-C005", path).what
    data.unlink()
    assert "missing" in refused("HET-C005", path).what
    for elsewhere in ("../weights.bin", "/etc/hostname"):
        model = onnx.load(path, load_external_data=False)
        next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = elsewhere
        path.write_bytes(model.SerializeToString())
        assert "outside the folder" in refused("HET-C008", path).what


def test_small_numbers_stand_in_arguments_and_integers_are_constants(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[4, 4] x) => (float[2, 4] y) { h = Constant<value = float {0.5}>() "
                      "z = Mul(h, x) i = Constant<value = int64[2] {3, 1}>() y = Gather(z, i) }")
    loaded = load_graph(path)
    scaled, gathered = loaded.graph.nodes
    assert scaled.arguments[0] == (DType.FLOAT32, (), (0.5,))
    assert scaled.inputs == ("x",)
    assert gathered.operator_class is OperatorClass.GATHER
    constant = gathered.operand("indices") or ""
    assert loaded.graph.values[constant].role is Role.CONSTANT
    assert loaded.constants[constant].tolist() == [3, 1]


def test_operators_of_other_domains_are_opaque_and_need_declared_shapes(tmp_path: Path) -> None:
    text = "(float[4] x) => (float[{extent}] y) {{ z = com.example.Odd(x) y = Relu(z) }}"
    path = text_model(tmp_path / "m.onnx", text.format(extent=4))
    model = onnx.load(path)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 3))
    onnx.save(model, path)
    assert "Odd" in refused("HET-C009", path).what
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4]))
    onnx.save(model, path)
    odd = load_graph(path).graph.nodes[0]
    assert (odd.operator_class, str(odd.operator)) == (OperatorClass.OPAQUE, "onnx.Odd.com.example:3")


def test_operators_defined_by_others_are_written_out(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[3, 5] x) => (float[3, 5] y) { y = LogSoftmax(x) }")
    loaded = load_graph(path)
    assert all(node.operator_class is not OperatorClass.OPAQUE for node in loaded.graph.nodes)
    assert OperatorClass.REDUCTION in {node.operator_class for node in loaded.graph.nodes}


CACHE = TensorType((1, 8, 4), DType.FLOAT32)
GROWN = TensorType((1, 9, 4), DType.FLOAT32)


@pytest.mark.parametrize(("name", "output"), [
    ("past_key_values.0.key", "present.0.key"), ("past_key_3", "present_key_3"), ("cache_k", "cache_k_out"),
    ("key_cache", "key_cache_out"), ("kv_cache.1", "new_kv_cache.1"), ("past_value_0", "present_value_0"),
])
def test_caches_are_paired_by_name_type_and_dataflow(name: str, output: str) -> None:
    derived = {output: frozenset((name,))}
    assert pair_caches({name: CACHE}, {output: CACHE}, derived, {}) == {name: output}
    assert pair_caches({name: CACHE}, {output: GROWN}, derived, {}) == {}
    assert pair_caches({name: CACHE}, {output: CACHE}, {output: frozenset()}, {}) == {}


def test_pairs_may_be_given_and_must_be_possible() -> None:
    inputs, derived = {"state": CACHE}, {"next": frozenset(("state",))}
    assert pair_caches(inputs, {"next": CACHE}, derived, {}) == {}
    assert pair_caches(inputs, {"next": CACHE}, derived, {"state": "next"}) == {"state": "next"}
    for given, outputs in (({"state": "next"}, {"next": GROWN}), ({"other": "next"}, {"next": CACHE})):
        with pytest.raises(UserError) as caught:
            pair_caches(inputs, outputs, derived, given)
        assert caught.value.code == "HET-C002"


def test_provenance_of_both_exporters() -> None:
    newer = {"pkg.torch.onnx.name_scopes": "['', 'model', 'model.layers.3', 'add']",
             "pkg.torch.onnx.class_hierarchy": "['M', 'a.Model', 'a.b.Layer', 'aten.add.Tensor']",
             "pkg.torch.onnx.stack_trace": 'File "/x/y/m.py", line 4, in forward\n  File "/x/layer.py", line 7, in f'}
    found = provenance_of("node_add", newer)
    assert found == Provenance("model.layers.3", "Layer", "layer.py:7")
    assert found.layer == "model.layers.3"
    assert provenance_of("/model/layers.0/self_attn/MatMul_1", {}).module_path == "model.layers.0.self_attn"
    assert provenance_of("/stack/stack.1/Relu", {}).module_path == "stack.1"
    assert provenance_of("MatMul_7", {"pkg.torch.onnx.name_scopes": "[broken"}) == Provenance()


def test_one_program_reads_the_same_twice(tmp_path: Path) -> None:
    path = weighted(tmp_path / "m.onnx", external=True)
    first, second = load_graph(path), load_graph(path)
    assert first.graph == second.graph
    inputs = {"x": numpy.ones((2, 64), numpy.float32)}
    assert set(arguments_of(first, inputs)) == {"x", "w"}
    assert run_reference(path, inputs)["y"].shape == (2, 64)


def test_the_reference_engine_says_when_it_is_missing_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(ToolError, match="HET-T002"):
        run_reference(path, {"other": numpy.ones(2, numpy.float32)})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ToolError, match="HET-T001"):
        run_reference(path, {"x": numpy.ones(2, numpy.float32)})
