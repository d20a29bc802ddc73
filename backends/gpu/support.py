"""Which nodes the GPU back end takes, from tables alone: no tool is asked, 16,000 nodes take well under a second.

An operator is in a table only if a test compiled it and compared its numbers with torch or onnxruntime; docs/gpu.md
says what was tried and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hetcc.backends.contract import Rejected, Supported, Verdict
from hetcc.ir import DType, Graph, Node, Operand, OperatorClass, TensorType

KERNEL = "iree"
SELECTION_LIMIT = 16_384
"""Largest k of a top-k and largest extent of a sort: what is selected is ranked by comparing all pairs."""
ONNX_SELECTION_LIMIT = 2_048
"""Largest k of an ONNX top-k: rows of up to 2 k are ranked at a time."""
SELECTION_EXTENT_LIMIT = 1 << 22
"""Largest extent a top-k selects from; counts are 32 bits wide and every row is read 32 times."""
RANK_LIMIT = 8
_DTYPES = frozenset({DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.INT64, DType.INT32, DType.INT16, DType.INT8,
                     DType.UINT8, DType.BOOL, DType.FLOAT64})

_VIEWS = (
    "view _unsafe_view reshape expand unsqueeze squeeze alias detach flatten permute transpose t slice select split "
    "split_with_sizes unbind lift_fresh_copy"
)
_ELEMENTWISE = (
    "add sub rsub mul div pow neg relu exp log sqrt rsqrt sigmoid tanh erf gelu silu abs cos sin reciprocal where "
    "masked_fill clamp clamp_min clamp_max minimum maximum le lt ge gt eq ne logical_not logical_and logical_or "
    "logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor floor ceil round sign isinf isnan softplus elu "
    "floor_divide remainder fmod log1p _to_copy hardtanh leaky_relu copy zeros_like ones_like full_like fill expm1"
)
_REDUCTIONS = "sum mean amax amin any all argmax argmin prod var"
_OTHERS = (
    "_softmax _log_softmax softmax native_layer_norm mm bmm addmm baddbmm matmul mv dot embedding index_select gather "
    "index index_put index_copy scatter slice_scatter select_scatter topk sort cat stack cumsum clone repeat "
    "constant_pad_nd full arange empty zeros ones scalar_tensor new_zeros new_empty empty_like histc convolution max "
    "min scaled_dot_product_attention"
)
_ONNX = (
    "Abs Add And ArgMax ArgMin Attention Cast Ceil Clip Concat Cos CumSum Div Equal Erf Exp Expand Flatten Floor "
    "Gather GatherElements Gelu Gemm Greater GreaterOrEqual Identity IndexCopy IsNaN LayerNormalization LeakyRelu "
    "Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pow RMSNormalization Reciprocal ReduceMax ReduceMean "
    "ReduceMin ReduceSum Relu Reshape Round ScatterElements ScatterND Sigmoid Sign Sin Slice Softmax Softplus "
    "Split Sqrt Squeeze Sub Sum Swish Tanh Tile TopK Transpose Unsqueeze Where Xor"
)
ATEN_OPERATORS = frozenset(" ".join((_VIEWS, _ELEMENTWISE, _REDUCTIONS, _OTHERS)).split())
ONNX_OPERATORS = frozenset(_ONNX.split())
"""``IndexCopy`` is hetcc's own, written out as ScatterND."""


@dataclass(frozen=True)
class GpuSupport:
    """The planning half of the GPU back end."""

    name: str = "gpu"
    fault_code: str = "HET-G002"

    def verdict(self, graph: Graph, node: Node) -> Verdict:
        """Whether the importer and IREE take ``node``."""
        table = _TABLES.get(node.operator.domain)
        if table is None:
            return Rejected("the operator's domain has no importer", ", ".join(_TABLES), node.operator.domain)
        if node.operator.name not in table:
            return Rejected("no test has shown that IREE takes the operator", f"{len(table)} operators",
                            str(node.operator))
        types = [graph.type_of(name) for name in (*node.inputs, *node.outputs)]
        rejected = _type_verdict(types)
        if rejected is not None:
            return rejected
        rule = _RULES.get(f"{node.operator.domain}.{node.operator.name}")
        return (rule(node, types) if rule else None) or Supported(KERNEL)

    def factor_type(self, graph: Graph, node: Node, policy: str) -> DType | None:
        """None: policies are about products with tables in the FPGA's kernels."""
        del graph, node, policy
        return None


def _type_verdict(types: list[TensorType]) -> Rejected | None:
    for kind in types:
        if kind.dtype not in _DTYPES:
            return Rejected("element type", ", ".join(sorted(dtype.value for dtype in _DTYPES)), kind.dtype.value)
        if len(kind.shape) > RANK_LIMIT:
            return Rejected("rank", str(RANK_LIMIT), str(len(kind.shape)))
        if kind.elements == 0:
            return Rejected("a tensor has no elements", "1", "0")
    return None


def _topk(node: Node, types: list[TensorType]) -> Rejected | None:
    if types[0].dtype is DType.FLOAT64:
        return Rejected("element type of a selection", "float32", "float64")
    count = node.integer("k")
    extent = types[0].shape[node.integer("axis")] if types[0].shape else 1
    if count > SELECTION_LIMIT:
        return Rejected("k of a top-k", str(SELECTION_LIMIT), str(count))
    if extent > SELECTION_EXTENT_LIMIT:
        return Rejected("extent of a top-k", str(SELECTION_EXTENT_LIMIT), str(extent))
    return None


def _sort(node: Node, types: list[TensorType]) -> Rejected | None:
    if types[0].dtype is DType.FLOAT64:
        return Rejected("element type of a selection", "float32", "float64")
    extent = types[0].shape[node.integer("axis")] if types[0].shape else 1
    return Rejected("extent of a sort", str(SELECTION_LIMIT), str(extent)) if extent > SELECTION_LIMIT else None


def _scatter(node: Node, types: list[TensorType]) -> Rejected | None:
    del types
    overload = node.operator.overload
    return None if overload in ("value", "src") else Rejected("overload of scatter", "value, src", overload)


def _index(node: Node, types: list[TensorType]) -> Rejected | None:
    """Masks as indices give results whose size depends on the data."""
    for kind in types[1:len(node.inputs)]:
        if kind.dtype is DType.BOOL:
            return Rejected("an index is a mask", "integer indices", "bool")
    return None


def _index_put(node: Node, types: list[TensorType]) -> Rejected | None:
    accumulate = node.arguments[3] if len(node.arguments) > 3 else dict(node.keywords).get("accumulate", False)
    if accumulate:
        return Rejected("index_put that accumulates", "accumulate=False", "accumulate=True")
    indices = node.arguments[1] if len(node.arguments) > 1 else ()
    given = [part for part in indices if isinstance(part, Operand)] if isinstance(indices, tuple) else []
    for part in given:
        if types[part.index].dtype is DType.BOOL:
            return Rejected("an index is a mask", "integer indices", "bool")
    return None


def _onnx_topk(node: Node, types: list[TensorType]) -> Rejected | None:
    if node.operator_class is not OperatorClass.TOPK:
        return Rejected("k of a top-k", "a literal", "computed")
    count = node.integer("k")
    if count > ONNX_SELECTION_LIMIT:
        return Rejected("k of a top-k in ONNX", str(ONNX_SELECTION_LIMIT), str(count))
    return _topk(node, types)


def _onnx_scatter(node: Node, types: list[TensorType]) -> Rejected | None:
    del types
    reduction = dict(node.keywords).get("reduction", "none")
    return None if reduction == "none" else Rejected("reduction of a scatter", "none", str(reduction))


def _maximum(node: Node, types: list[TensorType]) -> Rejected | None:
    del types
    if node.operator.overload in ("dim", "", "default", "other"):
        return None
    return Rejected(f"overload of {node.operator.name}", "default, dim, other", node.operator.overload)


_TABLES: Mapping[str, frozenset[str]] = {"aten": ATEN_OPERATORS, "onnx": ONNX_OPERATORS}
_RULES: Mapping[str, Callable[[Node, list[TensorType]], Rejected | None]] = {
    "aten.topk": _topk, "aten.sort": _sort, "aten.scatter": _scatter, "aten.index": _index,
    "aten.index_put": _index_put, "aten.max": _maximum, "aten.min": _maximum,
    "onnx.TopK": _onnx_topk, "onnx.ScatterElements": _onnx_scatter, "onnx.ScatterND": _onnx_scatter,
}
