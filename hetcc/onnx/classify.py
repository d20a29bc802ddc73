"""What each ONNX operator is, in the vocabulary of ``hetcc.ir.operators``.

Only calls whose meaning the class states exactly get that class; an unusual variant of a known operator (a reversed
cumulative sum, a scaled Gemm) is ``OPAQUE`` like an unknown one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hetcc.ir import Argument, Attribute, Operand, OperatorClass, TensorType
from hetcc.onnx.types import array_of, is_literal

Attributes = dict[str, Attribute]
Class = tuple[OperatorClass, Attributes]

OPAQUE: Class = (OperatorClass.OPAQUE, {})


@dataclass(frozen=True)
class Call:
    """One ONNX call, as far as classification needs it."""

    name: str
    version: int
    """Version of the operator set of the default domain."""
    arguments: tuple[Argument, ...]
    keywords: Mapping[str, Argument]
    input_types: tuple[TensorType, ...]
    output_types: tuple[TensorType, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first input, or of the output when there is no input."""
        return (self.input_types or self.output_types)[0].shape

    @property
    def rank(self) -> int:
        """Rank of the first input."""
        return len(self.shape)

    def operand(self, position: int) -> int | None:
        """Position in the node's inputs of the tensor passed at ``position``; None for a literal or nothing."""
        value = self.arguments[position] if position < len(self.arguments) else None
        return value.index if isinstance(value, Operand) else None

    def given(self, position: int) -> bool:
        """Whether something is passed at ``position``."""
        return position < len(self.arguments) and self.arguments[position] is not None

    def integers(self, keyword: str, position: int | None = None) -> tuple[int, ...] | None:
        """Integers of an attribute or, since later versions pass them as inputs, of the literal at ``position``."""
        value = self.keywords.get(keyword)
        if value is None and position is not None and position < len(self.arguments):
            argument = self.arguments[position]
            value = tuple(array_of(argument).reshape(-1).tolist()) if is_literal(argument) else None
        if isinstance(value, int):
            return (int(value),)
        if isinstance(value, tuple):
            return tuple(int(entry) for entry in value if isinstance(entry, int))
        return None

    def integer(self, keyword: str, default: int) -> int:
        """An integer attribute."""
        value = self.keywords.get(keyword, default)
        return value if isinstance(value, int) else default

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute ``axis``, made non-negative."""
        return self.integer("axis", default) % max(self.rank if rank is None else rank, 1)


Classifier = Callable[[Call], Class]


def _elementwise(function: str) -> Classifier:
    return lambda call: (OperatorClass.ELEMENTWISE, {"function": function})


def _variadic(function: str) -> Classifier:
    return lambda call: (OperatorClass.ELEMENTWISE, {"function": function}) if len(call.arguments) == 2 else OPAQUE


def _trilu(call: Call) -> Class:
    return OperatorClass.ELEMENTWISE, {"function": "triu" if call.integer("upper", 1) else "tril"}


def _view(kind: str) -> Classifier:
    return lambda call: (OperatorClass.VIEW, {"kind": kind})


def _shaped_view(kind: str) -> Classifier:
    """A view whose target is the second argument, which must be known."""
    return lambda call: OPAQUE if call.operand(1) is not None else (OperatorClass.VIEW, {"kind": kind})


def _transpose(call: Call) -> Class:
    permutation = call.integers("perm") or tuple(reversed(range(call.rank)))
    return OperatorClass.VIEW, {"kind": "permute", "permutation": permutation}


def _slice(call: Call) -> Class:
    starts, stops = call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or stops is None or len(starts) != 1 or any(call.operand(place) is not None for place in (3, 4)):
        return OPAQUE
    axis = (call.integers("axes", 3) or (0,))[0] % call.rank
    step = (call.integers("steps", 4) or (1,))[0]
    if step < 1:
        return OPAQUE
    extent = call.shape[axis]
    start, stop = (max(0, min(extent, bound + extent if bound < 0 else bound)) for bound in (starts[0], stops[0]))
    return OperatorClass.VIEW, {"kind": "slice", "axis": axis, "start": start, "stop": max(start, stop), "step": step}


def _split(call: Call) -> Class:
    return OPAQUE if call.operand(1) is not None else (OperatorClass.VIEW, {"kind": "split", "axis": call.axis(0)})


def _gather(call: Call) -> Class:
    data, indices, axis = call.operand(0), call.operand(1), call.axis(0)
    if data is not None and indices is not None:
        return OperatorClass.GATHER, {"data": data, "indices": indices, "axis": axis, "mode": "rows"}
    literal = call.arguments[1]
    if not is_literal(literal) or literal[1] not in ((), (1,)):
        return OPAQUE
    index = int(literal[2][0]) % max(call.shape[axis], 1)
    if literal[1] == ():
        return OperatorClass.VIEW, {"kind": "select", "axis": axis, "index": index}
    return OperatorClass.VIEW, {"kind": "slice", "axis": axis, "start": index, "stop": index + 1, "step": 1}


def _operands(call: Call, **positions: int) -> Attributes | None:
    """Input positions by name; None when one of them is a literal or absent."""
    found = {name: call.operand(position) for name, position in positions.items()}
    present = {name: position for name, position in found.items() if position is not None}
    return dict(present) if len(present) == len(found) else None


def _gather_elements(call: Call) -> Class:
    found = _operands(call, data=0, indices=1)
    return OPAQUE if found is None else (OperatorClass.GATHER, {**found, "axis": call.axis(0), "mode": "along"})


def _gather_nd(call: Call) -> Class:
    found = _operands(call, data=0, indices=1)
    if found is None or call.integer("batch_dims", 0) != 0:
        return OPAQUE
    return OperatorClass.GATHER, {**found, "axis": 0, "mode": _index_mode(call)}


def _index_mode(call: Call) -> str:
    """``rows`` when index tuples have one component, else ``points`` (one element or slice per tuple)."""
    position = call.operand(1)
    shape = call.input_types[position].shape if position is not None else ()
    return "rows" if shape and shape[-1] == 1 else "points"


def _scatter_elements(call: Call) -> Class:
    found = _operands(call, data=0, indices=1)
    if found is None or call.keywords.get("reduction", "none") != "none":
        return OPAQUE
    attributes: Attributes = {**found, "axis": call.axis(0), "mode": "along"}
    updates, literal = call.operand(2), call.arguments[2]
    if updates is not None:
        attributes["updates"] = updates
    elif is_literal(literal):
        attributes["value"] = literal[2][0]
    return OperatorClass.SCATTER, attributes


def _scatter_nd(call: Call) -> Class:
    found = _operands(call, data=0, indices=1, updates=2)
    if found is None or call.keywords.get("reduction", "none") != "none":
        return OPAQUE
    return OperatorClass.SCATTER, {**found, "axis": 0, "mode": _index_mode(call)}


def _tensor_scatter(call: Call) -> Class:
    """Opset 24: writes rows from ``write_indices`` on, one start per batch entry; one row of one entry is plain."""
    found, axis = _operands(call, data=0, updates=1, indices=2), call.axis(-2)
    one_row = call.shape[0] == 1 and call.input_types[1].shape[axis] == 1
    if found is None or not one_row:
        return OPAQUE
    return OperatorClass.CACHE_UPDATE, {**found, "axis": axis}


def _reduction(function: str) -> Classifier:
    def classify_call(call: Call) -> Class:
        if call.operand(1) is not None:
            return OPAQUE
        axes = call.integers("axes", 1)
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return OPAQUE
            axes = tuple(range(call.rank))
        return OperatorClass.REDUCTION, {
            "function": function, "axes": tuple(sorted(axis % max(call.rank, 1) for axis in axes)),
            "keepdims": bool(call.integer("keepdims", 1))}
    return classify_call


def _arg_reduction(function: str) -> Classifier:
    def classify_call(call: Call) -> Class:
        if call.integer("select_last_index", 0):
            return OPAQUE
        return OperatorClass.REDUCTION, {
            "function": function, "axes": (call.axis(0),), "keepdims": bool(call.integer("keepdims", 1))}
    return classify_call


def _softmax(call: Call) -> Class:
    # Before version 13 the operator flattened everything from ``axis`` on into one axis.
    axis = call.axis(-1 if call.version >= 13 else 1)
    return OPAQUE if call.version < 13 and axis != call.rank - 1 else (OperatorClass.SOFTMAX, {"axis": axis})


def _normalization(call: Call) -> Class:
    return OperatorClass.NORMALIZATION, {"axes": tuple(range(call.axis(-1), call.rank))}


def _matmul(call: Call) -> Class:
    found = _operands(call, lhs=0, rhs=1)
    if found is None or any(len(tensor.shape) < 2 for tensor in call.input_types):
        return OPAQUE
    return OperatorClass.MATMUL, found


def _gemm(call: Call) -> Class:
    found = _operands(call, lhs=0, rhs=1, **({"bias": 2} if call.given(2) else {}))
    scaled = call.keywords.get("alpha", 1.0) != 1.0 or call.keywords.get("beta", 1.0) != 1.0
    if found is None or scaled or call.integer("transA", 0) or call.integer("transB", 0):
        return OPAQUE
    return OperatorClass.MATMUL, found


def _attention(call: Call) -> Class:
    """Opset 23, without its own cache handling: ``query, key, value`` of rank 4."""
    found = _operands(call, query=0, key=1, value=2)
    own_cache = call.given(4) or call.given(5) or len(call.output_types) > 1
    if found is None or own_cache or call.rank != 4:
        return OPAQUE
    mask, scale = call.operand(3), call.keywords.get("scale")
    plain = not call.keywords.get("softcap") and not call.given(6) and call.given(3) == (mask is not None)
    if plain and call.keywords.get("softmax_precision") is None:
        found |= {"masked_rows": "nan", "causal": bool(call.integer("is_causal", 0))}
        found |= {"scale": float(scale)} if isinstance(scale, int | float) else {}
        found |= {"mask": mask} if mask is not None else {}
    return OperatorClass.ATTENTION, found


def _topk(call: Call) -> Class:
    counts = call.integers("k", 1)
    if counts is None or call.operand(0) is None:
        return OPAQUE
    return OperatorClass.TOPK, {"input": 0, "axis": call.axis(-1), "k": counts[0],
                                "largest": bool(call.integer("largest", 1))}


def _cumsum(call: Call) -> Class:
    axes = call.integers("axis", 1)
    if axes is None or call.integer("exclusive", 0) or call.integer("reverse", 0):
        return OPAQUE
    return OperatorClass.CUMULATIVE, {"axis": axes[0] % max(call.rank, 1), "function": "sum"}


def _concat(call: Call) -> Class:
    return OperatorClass.CONCAT, {"axis": call.axis(0, len(call.output_types[0].shape))}


def _create(function: str) -> Classifier:
    return lambda call: OPAQUE if call.input_types else (OperatorClass.CREATE, {"function": function})


def _plain(operator_class: OperatorClass) -> Classifier:
    return lambda call: (operator_class, {})


_ELEMENTWISE = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Neg": "neg", "Relu": "relu", "Exp": "exp",
    "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf",
    "Gelu": "gelu", "Swish": "silu", "Abs": "abs", "Cos": "cos", "Sin": "sin", "Where": "where", "Clip": "clamp",
    "LessOrEqual": "le", "Less": "lt", "GreaterOrEqual": "ge", "Greater": "gt", "Equal": "eq", "Not": "not",
    "And": "and", "Or": "or", "Xor": "xor", "BitwiseNot": "not", "BitwiseAnd": "and", "BitwiseOr": "or",
    "BitwiseXor": "xor", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign", "IsInf": "isinf",
    "IsNaN": "isnan", "Softplus": "softplus", "Elu": "elu", "LeakyRelu": "leaky_relu", "Cast": "cast",
    "CastLike": "cast", "Mod": "remainder",
}
_VARIADIC = {"Min": "min", "Max": "max", "Sum": "add"}
_REDUCTIONS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}

ELEMENTWISE_OPERATORS = frozenset({*_ELEMENTWISE, *_VARIADIC})
"""Operators that broadcast their operands and may therefore hold a scalar in their arguments."""

CLASSIFIERS: dict[str, Classifier] = {
    **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    **{name: _variadic(function) for name, function in _VARIADIC.items()},
    **{name: _reduction(function) for name, function in _REDUCTIONS.items()},
    "ArgMax": _arg_reduction("argmax"), "ArgMin": _arg_reduction("argmin"), "Trilu": _trilu,
    "Reshape": _shaped_view("reshape"), "Flatten": _view("reshape"), "Expand": _shaped_view("expand"),
    "Unsqueeze": _shaped_view("unsqueeze"), "Squeeze": _shaped_view("squeeze"), "Identity": _view("alias"),
    "Transpose": _transpose, "Slice": _slice, "Split": _split, "Gather": _gather,
    "GatherElements": _gather_elements, "GatherND": _gather_nd, "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd, "TensorScatter": _tensor_scatter, "Softmax": _softmax,
    "LayerNormalization": _normalization, "RMSNormalization": _normalization, "MatMul": _matmul, "Gemm": _gemm,
    "Attention": _attention, "TopK": _topk, "CumSum": _cumsum, "Concat": _concat,
    "ConstantOfShape": _create("full"), "Range": _create("arange"), "Conv": _plain(OperatorClass.CONVOLUTION),
    "Tile": _plain(OperatorClass.COPY), "Pad": _plain(OperatorClass.COPY),
}


def classify(call: Call) -> tuple[OperatorClass, tuple[tuple[str, Attribute], ...]]:
    """Class and sorted attributes of an ONNX call of the default domain; ``OPAQUE`` when no class states it exactly."""
    classifier = CLASSIFIERS.get(call.name)
    if classifier is None:
        return OPAQUE[0], ()
    operator_class, attributes = classifier(call)
    return operator_class, tuple(sorted(attributes.items()))


def known_operators() -> Sequence[str]:
    """Names of all operators of the default domain that can have a class."""
    return sorted(CLASSIFIERS)
