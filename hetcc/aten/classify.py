"""What each aten operator is, in the vocabulary of ``hetcc.ir.operators``. No torch is needed to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hetcc.ir import Argument, Attribute, Operand, OperatorClass, TensorType

Attributes = dict[str, Attribute]


@dataclass(frozen=True)
class Call:
    """One aten call, as far as classification needs it."""

    name: str
    arguments: tuple[Argument, ...]
    keywords: dict[str, Argument]
    input_types: tuple[TensorType, ...]
    output_types: tuple[TensorType, ...]

    def argument(self, position: int, keyword: str = "", default: Argument = None) -> Argument:
        """The argument at ``position`` or under ``keyword``."""
        if position < len(self.arguments):
            return self.arguments[position]
        return self.keywords.get(keyword, default)

    def integer(self, position: int, keyword: str = "", default: int = 0) -> int:
        """An integer argument; anything else gives ``default``."""
        value = self.argument(position, keyword, default)
        return value if isinstance(value, int) else default

    def operand(self, position: int, keyword: str = "") -> int | None:
        """Position in the node's inputs of the tensor passed at ``position``."""
        value = self.argument(position, keyword)
        return value.index if isinstance(value, Operand) else None

    @property
    def rank(self) -> int:
        """Rank of the first input (of the output when there is no input)."""
        types = self.input_types or self.output_types
        return len(types[0].shape)

    def axis(self, position: int, keyword: str = "dim", default: int = -1, rank: int | None = None) -> int:
        """A non-negative axis argument."""
        size = self.rank if rank is None else rank
        return self.integer(position, keyword, default) % max(size, 1)

    def axes(self, position: int, keyword: str = "dim") -> tuple[int, ...]:
        """A tuple of non-negative axes; all axes when absent."""
        value = self.argument(position, keyword)
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value,)
        if not isinstance(value, tuple) or not value:
            return tuple(range(self.rank))
        return tuple(sorted(axis % max(self.rank, 1) for axis in value if isinstance(axis, int)))


Classifier = Callable[[Call], tuple[OperatorClass, Attributes]]


def _elementwise(function: str) -> Classifier:
    return lambda call: (OperatorClass.ELEMENTWISE, {"function": function})


def _view(kind: str) -> Classifier:
    return lambda call: (OperatorClass.VIEW, {"kind": kind})


def _permute(call: Call) -> tuple[OperatorClass, Attributes]:
    order = call.argument(1, "dims")
    axes = order if isinstance(order, tuple) else ()
    permutation = tuple(axis % call.rank for axis in axes if isinstance(axis, int))
    return OperatorClass.VIEW, {"kind": "permute", "permutation": permutation}


def _transpose(call: Call) -> tuple[OperatorClass, Attributes]:
    order = list(range(call.rank))
    first, second = call.axis(1), call.axis(2)
    order[first], order[second] = order[second], order[first]
    return OperatorClass.VIEW, {"kind": "permute", "permutation": tuple(order)}


def _matrix_transpose(call: Call) -> tuple[OperatorClass, Attributes]:
    """``aten.t`` names no axes; it leaves anything below a matrix alone."""
    return OperatorClass.VIEW, {"kind": "permute", "permutation": tuple(reversed(range(call.rank)))}


def _slice(call: Call) -> tuple[OperatorClass, Attributes]:
    axis = call.axis(1, "dim", 0)
    extent = call.input_types[0].shape[axis]
    start, stop = call.integer(2, "start", 0), call.integer(3, "end", extent)
    start = max(0, start + extent if start < 0 else min(start, extent))
    stop = max(start, stop + extent if stop < 0 else min(stop, extent))
    return OperatorClass.VIEW, {"kind": "slice", "axis": axis, "start": start, "stop": stop,
                                "step": call.integer(4, "step", 1)}


def _select(call: Call) -> tuple[OperatorClass, Attributes]:
    axis = call.axis(1, "dim", 0)
    return OperatorClass.VIEW, {"kind": "select", "axis": axis,
                                "index": call.integer(2, "index") % call.input_types[0].shape[axis]}


def _split(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.VIEW, {"kind": "split", "axis": call.axis(2, "dim", 0)}


def _reduction(function: str) -> Classifier:
    def classify(call: Call) -> tuple[OperatorClass, Attributes]:
        keepdims = call.argument(2, "keepdim", False)
        return OperatorClass.REDUCTION, {"function": function, "axes": call.axes(1), "keepdims": bool(keepdims)}
    return classify


def _softmax(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.SOFTMAX, {"axis": call.axis(1)}


def _layer_norm(call: Call) -> tuple[OperatorClass, Attributes]:
    shape = call.argument(1)
    count = len(shape) if isinstance(shape, tuple) else 1
    return OperatorClass.NORMALIZATION, {"axes": tuple(range(call.rank - count, call.rank))}


def _matmul(lhs: int, rhs: int, bias: int | None = None) -> Classifier:
    def classify(call: Call) -> tuple[OperatorClass, Attributes]:
        attributes: Attributes = {}
        for name, position in (("lhs", lhs), ("rhs", rhs), ("bias", bias)):
            operand = None if position is None else call.operand(position)
            if operand is not None:
                attributes[name] = operand
        return OperatorClass.MATMUL, attributes
    return classify


def _attention(call: Call) -> tuple[OperatorClass, Attributes]:
    attributes: Attributes = {"query": 0, "key": 1, "value": 2}
    scale, mask = call.argument(6, "scale"), call.operand(3, "attn_mask")
    if call.name == "scaled_dot_product_attention" and not call.argument(4, "dropout_p", 0.0):
        attributes |= {"masked_rows": "zero", "causal": bool(call.argument(5, "is_causal", False))}
        attributes |= {"scale": float(scale)} if isinstance(scale, int | float) else {}
        attributes |= {"mask": mask} if mask is not None else {}
    return OperatorClass.ATTENTION, attributes


def _operands(call: Call, **positions: int) -> Attributes:
    found = {name: call.operand(position) for name, position in positions.items()}
    return {name: position for name, position in found.items() if position is not None}


def _embedding(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.GATHER, {**_operands(call, data=0, indices=1), "axis": 0, "mode": "rows"}


def _index_select(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.GATHER, {**_operands(call, data=0, indices=2), "axis": call.axis(1), "mode": "rows"}


def _gather(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.GATHER, {**_operands(call, data=0, indices=2), "axis": call.axis(1), "mode": "along"}


def _single_index(call: Call) -> tuple[int, int] | None:
    """(axis, operand) of an index list that holds exactly one tensor; None for anything richer."""
    indices = call.argument(1)
    if not isinstance(indices, tuple):
        return None
    tensors = [(axis, entry.index) for axis, entry in enumerate(indices) if isinstance(entry, Operand)]
    return tensors[0] if len(tensors) == 1 else None


def _index(call: Call) -> tuple[OperatorClass, Attributes]:
    found = _single_index(call)
    if found is None:
        return OperatorClass.GATHER, {"data": 0, "indices": 1, "axis": 0, "mode": "points"}
    return OperatorClass.GATHER, {"data": 0, "indices": found[1], "axis": found[0], "mode": "rows"}


def _index_put(call: Call) -> tuple[OperatorClass, Attributes]:
    found = _single_index(call)
    accumulate = bool(call.argument(3, "accumulate", False))
    if found is None or accumulate:
        return OperatorClass.SCATTER, {"data": 0, "axis": 0, "mode": "points"}
    attributes = {**_operands(call, data=0, updates=2), "indices": found[1], "axis": found[0]}
    return OperatorClass.CACHE_UPDATE, attributes


def _index_copy(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.CACHE_UPDATE, {**_operands(call, data=0, indices=2, updates=3), "axis": call.axis(1)}


def _scatter(call: Call) -> tuple[OperatorClass, Attributes]:
    attributes: Attributes = {**_operands(call, data=0, indices=2, updates=3), "axis": call.axis(1), "mode": "along"}
    value = call.argument(3, "value")
    if isinstance(value, (bool, int, float)):
        attributes["value"] = value
    return OperatorClass.SCATTER, attributes


def _slice_scatter(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.COPY, {"kind": "slice_scatter", "axis": call.axis(2, "dim", 0)}


def _topk(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.TOPK, {"input": 0, "k": call.integer(1), "axis": call.axis(2, "dim", -1),
                                "largest": bool(call.argument(3, "largest", True))}


def _sort(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.SORT, {"input": 0, "axis": call.axis(1, "dim", -1),
                                "descending": bool(call.argument(2, "descending", False))}


def _compaction(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.COMPACTION, {"input": 0, "capacity": call.integer(1, "size"),
                                      "fill": call.integer(2, "fill_value", -1)}


def _concat(call: Call) -> tuple[OperatorClass, Attributes]:
    return OperatorClass.CONCAT, {"axis": call.axis(1, "dim", 0)}


def _stack(call: Call) -> tuple[OperatorClass, Attributes]:
    """The axis is one of the result, which no input has; so this is no concatenation."""
    return OperatorClass.COPY, {"kind": "stack", "axis": call.axis(1, "dim", 0, rank=call.rank + 1)}


def _cumulative(function: str) -> Classifier:
    return lambda call: (OperatorClass.CUMULATIVE, {"axis": call.axis(1), "function": function})


def _create(function: str) -> Classifier:
    return lambda call: (OperatorClass.CREATE, {"function": function})


def _plain(operator_class: OperatorClass) -> Classifier:
    return lambda call: (operator_class, {})


_ELEMENTWISE = {
    "add": "add", "sub": "sub", "rsub": "sub", "mul": "mul", "div": "div", "pow": "pow", "neg": "neg", "relu": "relu",
    "exp": "exp", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "sigmoid": "sigmoid", "tanh": "tanh", "erf": "erf",
    "gelu": "gelu", "silu": "silu", "abs": "abs", "cos": "cos", "sin": "sin", "reciprocal": "reciprocal",
    "where": "where", "masked_fill": "where", "clamp": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "minimum": "min", "maximum": "max", "le": "le", "lt": "lt", "ge": "ge", "gt": "gt", "eq": "eq", "ne": "ne",
    "logical_not": "not", "logical_and": "and", "logical_or": "or", "logical_xor": "xor", "bitwise_not": "not",
    "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor", "floor": "floor", "ceil": "ceil",
    "round": "round", "sign": "sign", "isinf": "isinf", "isnan": "isnan", "softplus": "softplus", "elu": "elu",
    "floor_divide": "floor_divide", "remainder": "remainder", "fmod": "remainder", "log1p": "log1p",
    "_to_copy": "cast", "hardtanh": "clamp", "leaky_relu": "leaky_relu", "copy": "copy", "atan2": "atan2",
    "zeros_like": "fill", "ones_like": "fill", "full_like": "fill", "fill": "fill", "expm1": "expm1",
}
_REDUCTIONS = {"sum": "sum", "mean": "mean", "amax": "max", "amin": "min", "max": "max", "min": "min", "any": "any",
               "all": "all", "argmax": "argmax", "argmin": "argmin", "prod": "prod", "var": "var"}
_VIEWS = {"view": "reshape", "_unsafe_view": "reshape", "reshape": "reshape", "expand": "expand",
          "unsqueeze": "unsqueeze", "squeeze": "squeeze", "alias": "alias", "detach": "alias", "flatten": "reshape"}
_CREATES = {"full": "full", "arange": "arange", "empty": "empty", "zeros": "full", "ones": "full",
            "scalar_tensor": "full", "eye": "constant", "new_empty": "empty", "new_zeros": "full"}

CLASSIFIERS: dict[str, Classifier] = {
    **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    **{name: _reduction(function) for name, function in _REDUCTIONS.items()},
    **{name: _view(kind) for name, kind in _VIEWS.items()},
    **{name: _create(function) for name, function in _CREATES.items()},
    "permute": _permute, "transpose": _transpose, "t": _matrix_transpose, "slice": _slice, "select": _select,
    "split_with_sizes": _split, "split": _split, "unbind": _split,
    "_softmax": _softmax, "softmax": _softmax, "_safe_softmax": _softmax,
    "native_layer_norm": _layer_norm, "native_group_norm": _plain(OperatorClass.NORMALIZATION),
    "mm": _matmul(0, 1), "bmm": _matmul(0, 1), "matmul": _matmul(0, 1), "addmm": _matmul(1, 2, 0),
    "baddbmm": _matmul(1, 2, 0), "mv": _matmul(0, 1), "dot": _matmul(0, 1),
    "scaled_dot_product_attention": _attention, "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "embedding": _embedding, "index_select": _index_select, "gather": _gather, "index": _index,
    "index_put": _index_put, "index_copy": _index_copy, "scatter": _scatter, "slice_scatter": _slice_scatter,
    "select_scatter": _slice_scatter, "scatter_add": _plain(OperatorClass.SCATTER),
    "topk": _topk, "sort": _sort, "nonzero_static": _compaction,
    "cat": _concat, "stack": _stack, "cumsum": _cumulative("sum"),
    "cumprod": _cumulative("prod"), "clone": _plain(OperatorClass.COPY), "repeat": _plain(OperatorClass.COPY),
    "convolution": _plain(OperatorClass.CONVOLUTION), "constant_pad_nd": _plain(OperatorClass.COPY),
    "lift_fresh_copy": _view("alias"),
}


def classify(call: Call) -> tuple[OperatorClass, tuple[tuple[str, Attribute], ...]]:
    """Class and sorted attributes of an aten call; an unknown operator is ``OPAQUE``, never guessed."""
    classifier = CLASSIFIERS.get(call.name)
    if classifier is None:
        return OperatorClass.OPAQUE, ()
    operator_class, attributes = classifier(call)
    return operator_class, tuple(sorted(attributes.items()))


def known_operators() -> Sequence[str]:
    """Names of all aten operators with a class."""
    return sorted(CLASSIFIERS)
