"""The GPU back end's verdicts: from tables, with the rule, the limit and the actual value."""

from __future__ import annotations

import time

import pytest

from hetcc.backends.contract import Rejected, Supported
from hetcc.backends.gpu.support import ATEN_OPERATORS, ONNX_OPERATORS, GpuSupport
from hetcc.ir import DType, Graph, Node, Operand, OperatorClass, Role, SourceOperator, TensorType, Value

FLOATS = TensorType((2, 8), DType.FLOAT32)


def node_graph(operator: str, kind: TensorType = FLOATS, *, overload: str = "default", domain: str = "aten",
               operator_class: OperatorClass = OperatorClass.ELEMENTWISE, attributes: dict | None = None,
               arguments: tuple = (Operand(0),), others: tuple[TensorType, ...] = ()) -> tuple[Graph, Node]:
    names = tuple(f"x{position}" for position in range(1 + len(others)))
    node = Node("n", SourceOperator(domain, operator, overload), operator_class, names, ("y",), arguments, (),
                tuple(sorted((attributes or {}).items())))
    values = {name: Value(name, entry, Role.INPUT) for name, entry in zip(names, (kind, *others), strict=True)}
    return Graph("g", (node,), {**values, "y": Value("y", kind)}, names, ("y",)), node


def verdict(operator: str, *arguments, **options):
    return GpuSupport().verdict(*node_graph(operator, *arguments, **options))


@pytest.mark.parametrize("operator", sorted(ATEN_OPERATORS - {"topk", "sort", "scatter", "index_put"}))
def test_operators_of_the_table_are_taken(operator: str) -> None:
    assert verdict(operator) == Supported("iree")


@pytest.mark.parametrize("operator", sorted(ONNX_OPERATORS - {"TopK"}))
def test_onnx_operators_of_the_table_are_taken(operator: str) -> None:
    assert verdict(operator, domain="onnx", overload="18") == Supported("iree")


@pytest.mark.parametrize(("operator", "options", "rule", "limit", "actual"), [
    ("fft_fft", {}, "no test", "operators", "aten.fft_fft.default"),
    ("anything", {"domain": "torchvision"}, "domain", "aten, onnx", "torchvision"),
    ("add", {"kind": TensorType((2,), DType.FLOAT8_E4M3FN)}, "element type", "float32", "float8_e4m3fn"),
    ("add", {"kind": TensorType((1,) * 9, DType.FLOAT32)}, "rank", "8", "9"),
    ("add", {"kind": TensorType((0,), DType.FLOAT32)}, "no elements", "1", "0"),
    ("topk", {"attributes": {"k": 16_385, "axis": 1}}, "k of a top-k", "16384", "16385"),
    ("topk", {"attributes": {"k": 1, "axis": 0}, "kind": TensorType((1 << 23,), DType.FLOAT32)}, "extent", "4194304",
     "8388608"),
    ("topk", {"attributes": {"k": 1, "axis": 0}, "kind": TensorType((8,), DType.FLOAT64)}, "element type", "float32",
     "float64"),
    ("sort", {"attributes": {"axis": 0}, "kind": TensorType((16_385,), DType.FLOAT32)}, "extent of a sort", "16384",
     "16385"),
    ("scatter", {"overload": "reduce"}, "overload of scatter", "value, src", "reduce"),
    ("index_put", {"arguments": (Operand(0), (), Operand(0), True)}, "accumulates", "False", "accumulate=True"),
    ("index", {"others": (TensorType((2,), DType.BOOL),)}, "mask", "integer indices", "bool"),
    ("TopK", {"domain": "onnx"}, "k of a top-k", "a literal", "computed"),
    ("ScatterND", {"domain": "onnx"}, "", "", ""),
])
def test_rejections_say_rule_limit_and_actual(operator: str, options: dict, rule: str, limit: str, actual: str) -> None:
    found = verdict(operator, **options)
    if not rule:
        assert isinstance(found, Supported)
        return
    assert isinstance(found, Rejected)
    assert rule in found.rule
    assert limit in found.limit
    assert found.actual == actual


@pytest.mark.parametrize(("operator", "options"), [
    ("topk", {"attributes": {"k": 16_384, "axis": 0}, "kind": TensorType((1 << 22,), DType.FLOAT32)}),
    ("sort", {"attributes": {"axis": 0}, "kind": TensorType((16_384,), DType.FLOAT32)}),
    ("add", {"kind": TensorType((1,) * 8, DType.BFLOAT16)}),
])
def test_limits_themselves_are_inside(operator: str, options: dict) -> None:
    assert isinstance(verdict(operator, **options), Supported)


def test_sixteen_thousand_verdicts_take_less_than_a_second() -> None:
    graph, node = node_graph("topk", attributes={"k": 4, "axis": 1})
    support = GpuSupport()
    started = time.perf_counter()
    for _ in range(16_000):
        support.verdict(graph, node)
    assert time.perf_counter() - started < 1.0
