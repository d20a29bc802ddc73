"""Regions back to ONNX: every operator as it was, and the ones that are written as several."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.errors import InternalError
from hetcc.ir import CacheUpdate, DType, Graph, Node, Operand, OperatorClass, Role, SourceOperator, TensorType, Value
from hetcc.ir.subgraph import extract, interface_of
from hetcc.onnx import evaluate_region, load_graph, run_reference, to_model
from tests.unit.onnx_models import arguments_of, text_model

PROGRAMS = {
    "trilu": "(float[4,6] x) => (float[4,6] y) { k = Constant<value = int64 {1}>() y = Trilu<upper=0>(x, k) }",
    "gather elements": "(float[4,6] x, int64[2,3] i) => (float[2,3] y) { y = GatherElements<axis=1>(x, i) }",
    "gather points": "(float[4,6] x, int64[5,2] i) => (float[5] y) { y = GatherND(x, i) }",
    "gather rows": "(float[4,6] x, int64[5,1] i) => (float[4,5,1] y) { y = Gather<axis=1>(x, i) }",
    "scatter elements": "(float[4,6] x, int64[2,1] i, float[2,1] u) => (float[4,6] y) "
                        "{ y = ScatterElements<axis=1>(x, i, u) }",
    "scatter rows": "(float[4,6] x, int64[1,1] i, float[1,6] u) => (float[4,6] y) { y = ScatterND(x, i, u) }",
    "cumulative": "(float[2,6] x) => (float[2,6] y) { k = Constant<value = int64 {1}>() y = CumSum<reverse=1>(x, k) }",
    "top-k": "(float[64,2] x) => (float[3,2] y, int64[3,2] z) { k = Constant<value = int64[1] {3}>() "
             "y, z = TopK<axis=0, largest=0>(x, k) }",
    "transposed gemm": "(float[6,2] x, float[5,6] w, float[5] b) => (float[2,5] y) "
                       "{ y = Gemm<transA=1, transB=1, alpha=0.5>(x, w, b) }",
    "slices": "(float[8,6] x) => (float[3,2] y) { a = Constant<value = int64[2] {1,-3}>() "
              "b = Constant<value = int64[2] {7,5}>() c = Constant<value = int64[2] {0,1}>() "
              "d = Constant<value = int64[2] {2,1}>() y = Slice(x, a, b, c, d) }",
    "reversed slice": "(float[8] x) => (float[8] y) { a = Constant<value = int64[1] {-1}>() "
                      "b = Constant<value = int64[1] {-9}>() c = Constant<value = int64[1] {0}>() "
                      "y = Slice(x, a, b, c, a) }",
    "contraction": '(float[2,4,3,5] x, float[2,7,3,5] w) => (float[3,2,7,4] y) '
                   '{ y = Einsum<equation="bthd,bshd->hbst">(x, w) }',
    "outer product": '(float[4] x, float[7] w) => (float[7,4] y) { y = Einsum<equation="a,b->ba">(x, w) }',
    "diagonal": '(float[4,4] x, float[4] w) => (float[4] y) { y = Einsum<equation="aa,a->a">(x, w) }',
    "clip": "(float[8,6] x) => (float[8,6] y) { a = Constant<value = float {-0.5}>() y = Clip(x, a) }",
    "clip above": "(float[8,6] x) => (float[8,6] y) { b = Constant<value = float {0.5}>() y = Clip(x, , b) }",
    "one hot": "(int64[4] x) => (float[4,6] y) { d = Constant<value = int64[1] {6}>() "
               "v = Constant<value = float[2] {0.0,1.0}>() y = OneHot(x, d, v) }",
    "large constant": "(float[300] x) => (float[300,300] y) { s = Constant<value = int64[2] {300,300}>() "
                      "c = ConstantOfShape<value = float[1] {2.5}>(s) y = Add(c, x) }",
    "handed through": "(float[3] x) => (float[3] y, float[3] z) { y = Identity(x) z = Relu(x) }",
}
DEFINED = {
    "root mean square": "(float[8,6] x, float[6] w) => (float[8,6] y) { y = RMSNormalization(x, w) }",
    "attention": "(float[1,4,8,16] x, float[1,2,8,16] k, float[1,2,8,16] v, float[8,8] m) => (float[1,4,8,16] y) "
                 "{ y = Attention<scale=0.3>(x, k, v, m) }",
    "causal attention": "(float[1,4,8,16] x, float[1,2,8,16] k, float[1,2,8,16] v) => (float[1,4,8,16] y) "
                        "{ y = Attention<is_causal=1>(x, k, v) }",
    "rotary": "(float[1,4,8,16] x, float[1,8,8] c, float[1,8,8] s) => (float[1,4,8,16] y) "
              "{ y = RotaryEmbedding(x, c, s) }",
    "gelu": '(float[8,6] x) => (float[8,6] y) { y = Gelu<approximate="tanh">(x) }',
    "hard swish": "(float[8,6] x) => (float[8,6] y) { y = HardSwish(x) }",
    "log softmax": "(float[8,6] x) => (float[8,6] y) { y = LogSoftmax<axis=0>(x) }",
}


def random_inputs(graph: Graph) -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(7)
    return {name: generator.integers(0, 2, graph.type_of(name).shape) if not graph.type_of(name).dtype.is_floating
            else generator.standard_normal(graph.type_of(name).shape).astype(numpy.float32) for name in graph.inputs}


@pytest.mark.parametrize(("text", "version"), [
    *((pytest.param(text, 20, id=name)) for name, text in PROGRAMS.items()),
    *((pytest.param(text, 23, id=name)) for name, text in DEFINED.items()),
])
def test_rebuilt_programs_compute_the_same(tmp_path: Path, text: str, version: int) -> None:
    path = text_model(tmp_path / "m.onnx", text, version)
    loaded = load_graph(path)
    inputs = random_inputs(loaded.graph)
    expected = run_reference(path, inputs)
    rebuilt = tmp_path / "rebuilt.onnx"
    onnx.save(to_model(loaded.graph, loaded.constants), rebuilt)
    for found in (run_reference(rebuilt, inputs), evaluate_region(loaded.graph, arguments_of(loaded, inputs))):
        for mine, right in zip(found.values(), expected.values(), strict=True):
            numpy.testing.assert_allclose(mine, right, atol=1e-5)


def test_inputs_stand_in_the_order_of_the_interface(tmp_path: Path) -> None:
    path = text_model(tmp_path / "m.onnx", "(float[4] late, float[4] early) => (float[4] y) "
                      "{ a = Exp(early) b = Neg(a) y = Mul(b, late) }")
    graph = load_graph(path).graph
    region = extract(graph, [node.name for node in graph.nodes[1:]], "region")
    model = to_model(region)
    assert tuple(value.name for value in model.graph.input) == interface_of(region) == ("Exp", "late")
    assert [value.name for value in model.graph.output] == ["y"]
    assert [value.name for value in model.graph.value_info] == ["Neg"]
    assert to_model(region).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_nodes_of_another_domain_are_refused() -> None:
    tensor = TensorType((2,), DType.FLOAT32)
    node = Node("relu", SourceOperator("aten", "relu", "default"), OperatorClass.ELEMENTWISE, ("x",), ("y",),
                (Operand(0),))
    graph = Graph("g", (node,), {"x": Value("x", tensor, Role.INPUT), "y": Value("y", tensor)}, ("x",), ("y",))
    with pytest.raises(InternalError, match=r"HET-I001.*no ONNX operator"):
        to_model(graph)


def selection(shape: tuple[int, ...], axis: int, k: int, largest: bool, dtype: DType) -> Graph:
    result = (*shape[:axis], k, *shape[axis + 1:])
    node = Node("select", SourceOperator("onnx", "TopK", "20"), OperatorClass.TOPK, ("x",), ("v", "i"),
                (Operand(0), (DType.INT64, (1,), (k,))), (("axis", axis), ("largest", int(largest))),
                (("axis", axis), ("input", 0), ("k", k), ("largest", largest)))
    values = {"x": Value("x", TensorType(shape, dtype), Role.INPUT), "v": Value("v", TensorType(result, dtype)),
              "i": Value("i", TensorType(result, DType.INT64))}
    return Graph("g", (node,), values, ("x",), ("v", "i"))


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(257, 1500), st.integers(1, 140), st.booleans(), st.booleans(), st.booleans(),
       st.integers(0, 2**31))
def test_long_selections_in_rounds_keep_values_and_indices(
    rows: int, extent: int, k: int, last: bool, largest: bool, whole: bool, seed: int,
) -> None:
    shape, axis = ((rows, extent), 1) if last else ((extent, rows), 0)
    graph = selection(shape, axis, k, largest, DType.INT64 if whole else DType.FLOAT32)
    generator = numpy.random.default_rng(seed)
    entries = generator.integers(-4, 4, shape) if whole else generator.integers(-4, 4, shape).astype(numpy.float32)
    if not whole:
        entries[generator.random(shape) < 0.5] = -numpy.inf
    sign = -1.0 if largest else 1.0
    order = numpy.argsort(sign * entries, axis=axis, kind="stable")
    expected = numpy.take(order, numpy.arange(k), axis)
    found = evaluate_region(graph, {"x": entries})
    numpy.testing.assert_array_equal(found["i"], expected)
    numpy.testing.assert_array_equal(found["v"], numpy.take_along_axis(entries, expected, axis))


def test_only_long_selections_take_several_rounds() -> None:
    def rounds(extent: int, k: int) -> int:
        model = to_model(selection((1, extent), 1, k, True, DType.FLOAT32))
        return sum(node.op_type == "TopK" for node in model.graph.node)

    assert (rounds(256, 8), rounds(512, 300), rounds(300, 8), rounds(131072, 64)) == (1, 1, 2, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [DType.INT64, DType.INT32])
def test_rows_are_written_along_any_axis(axis: int, dtype: DType) -> None:
    generator = numpy.random.default_rng(axis)
    cache = generator.standard_normal((3, 5, 4)).astype(numpy.float32)
    new = numpy.take(generator.standard_normal((3, 5, 4)).astype(numpy.float32), [0, 1], axis)
    indices = numpy.array([2, -3], dtype.value)
    node = Node("write", SourceOperator("onnx", "IndexCopy", "hetcc:18"), OperatorClass.CACHE_UPDATE,
                ("cache", "indices", "new"), ("next",), (Operand(0), Operand(1), Operand(2)), (("axis", axis),),
                (("axis", axis), ("data", 0), ("indices", 1), ("updates", 2)))
    values = {"cache": Value("cache", TensorType(cache.shape, DType.FLOAT32), Role.CACHE),
              "indices": Value("indices", TensorType((2,), dtype), Role.INPUT),
              "new": Value("new", TensorType(new.shape, DType.FLOAT32), Role.INPUT),
              "next": Value("next", TensorType(cache.shape, DType.FLOAT32))}
    graph = Graph("g", (node,), values, ("indices", "new"), (), ("cache",), (CacheUpdate("cache", "next"),))
    found = evaluate_region(graph, {"cache": cache, "indices": indices, "new": new})["next"]
    expected = numpy.moveaxis(cache.copy(), axis, 0)
    expected[indices] = numpy.moveaxis(new, axis, 0)
    numpy.testing.assert_array_equal(found, numpy.moveaxis(expected, 0, axis))
