"""Reads the operands of element-wise and reduction nodes in one order, whatever the source operator's signature is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy

from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import Argument, DType, Node, Operand

# Signatures that list the operands of their function in another order.
_ORDER: Mapping[tuple[str, str], tuple[int, ...]] = {("aten", "rsub"): (1, 0), ("aten", "masked_fill"): (1, 2, 0)}
# Keyword arguments that change the result unless they have this value.
_NEUTRAL: Mapping[str, Argument] = {"alpha": 1, "rounding_mode": None, "dtype": None, "inplace": False}
# Reductions are taken only from operators that mean just that (several fused ones share a function name).
_PLAIN_REDUCTIONS: Mapping[tuple[str, str], str] = {
    ("aten", "sum"): "sum", ("aten", "mean"): "mean", ("aten", "amax"): "max", ("aten", "amin"): "min",
    ("aten", "max"): "max", ("aten", "min"): "min", ("onnx", "ReduceSum"): "sum", ("onnx", "ReduceMean"): "mean",
    ("onnx", "ReduceMax"): "max", ("onnx", "ReduceMin"): "min",
}


def ordered_operands(node: Node, constants: Mapping[str, Array]) -> tuple[str, tuple[str | float, ...]]:
    """Function and operands of an element-wise node: value names and numbers.

    Raises:
        Unstreamable: arguments that no stage honours.
    """
    function = str(node.attribute("function", ""))
    listed: list[str | float] = []
    if not node.arguments:
        listed = [_number_or_name(name, constants) for name in node.inputs]
    for argument in node.arguments:
        number = _number_of(argument)
        if isinstance(argument, Operand):
            listed.append(_number_or_name(node.inputs[argument.index], constants))
        elif number is not None:
            listed.append(number)
        elif not (argument is None or isinstance(argument, DType)):
            raise Unstreamable("an argument has no meaning to a stage", "", argument)
    if function == "cast":
        return function, tuple(listed[:1])
    for key, value in node.keywords:
        if key not in _NEUTRAL or (value != _NEUTRAL[key]):
            raise Unstreamable("an option of the operator has no stage", "", f"{key}={value}")
    order = _ORDER.get((node.operator.domain, node.operator.name))
    if order is not None and len(order) == len(listed):
        listed = [listed[position] for position in order]
    return _divide_by_power_of_two(function, listed)


def reduction_function(node: Node) -> str:
    """sum, mean, max or min.

    Raises:
        Unstreamable: another reduction, or one fused with something else.
    """
    function = _PLAIN_REDUCTIONS.get((node.operator.domain, node.operator.name))
    if function is None:
        raise Unstreamable("no stage reduces like this", "sum, mean, max, min", node.operator)
    return function


def filled_number(node: Node) -> float | None:
    """The number that a tensor is filled with, or None when the node makes something else."""
    if node.attribute("function") != "full":
        return None
    fixed = {"zeros": 0.0, "new_zeros": 0.0, "ones": 1.0}.get(node.operator.name)
    if fixed is not None:
        return fixed
    place = 0 if node.operator.name == "scalar_tensor" else 1
    return _number_of(node.arguments[place]) if len(node.arguments) > place else None


def _number_of(argument: Argument) -> float | None:
    """The number an argument is: a plain one, or ONNX's ``(type, shape, values)`` with a single element."""
    if isinstance(argument, (bool, int, float)):
        return float(argument)
    if not (isinstance(argument, tuple) and len(argument) == 3 and isinstance(argument[0], DType)):
        return None
    _, shape, values = argument
    one = isinstance(shape, tuple) and all(extent == 1 for extent in shape)
    if one and isinstance(values, tuple) and len(values) == 1 and isinstance(values[0], (bool, int, float)):
        return float(values[0])
    return None


def _number_or_name(name: str, constants: Mapping[str, Array]) -> str | float:
    content = constants.get(name)
    if content is None or content.size != 1 or content.dtype.kind not in "fiu":
        return name
    return float(numpy.asarray(content).reshape(-1)[0])


def _divide_by_power_of_two(function: str, listed: list[str | float]) -> tuple[str, tuple[str | float, ...]]:
    if function != "div":
        return function, tuple(listed)
    divisor = listed[1] if len(listed) == 2 else ""
    if isinstance(divisor, float) and math.isfinite(divisor) and abs(math.frexp(divisor)[0]) == 0.5:
        return "mul", (listed[0], 1.0 / divisor)
    raise Unstreamable("there is no divider among the stages", "division by a power of two", divisor)
