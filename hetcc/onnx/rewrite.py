"""Operators that say in one node what the Graph says in several: rewritten while a model is read.

=====================  ======================================================
Gemm with transA/B     Transpose of the operand, then a plain Gemm
Slice of many axes     one Slice per axis
Einsum of two tensors  Transpose, Reshape, MatMul, Reshape, Transpose
=====================  ======================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy
import onnx

from hetcc.ir import TensorType


def rewritten(node: Any, known: Mapping[str, numpy.ndarray], types: Mapping[str, TensorType]) -> list[Any]:
    """Nodes that compute the same as ``node``; empty when it stays as it is.

    Args:
        node: ``NodeProto`` of the default domain.
        known: values known before the program runs.
        types: types of the node's inputs.
    """
    if node.op_type == "Gemm":
        return _plain_gemm(node)
    if node.op_type == "Slice":
        return _single_slices(node, known)
    if node.op_type == "Einsum":
        return _contraction(node, types)
    return []


def _part(node: Any, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    """A node that carries the name and metadata of the one it stands for."""
    made = onnx.helper.make_node(op_type, inputs, outputs, name=node.name, **attributes)
    made.metadata_props.extend(node.metadata_props)
    return made


def _constant(node: Any, name: str, numbers: list[int]) -> Any:
    return _part(node, "Constant", [], [name], value=onnx.numpy_helper.from_array(numpy.array(numbers, numpy.int64)))


def _plain_gemm(node: Any) -> list[Any]:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    flipped = [position for position, name in enumerate(("transA", "transB")) if attributes.get(name, 0)]
    if not flipped:
        return []
    inputs, parts = list(node.input), list[Any]()
    for position in flipped:
        inputs[position] = f"{node.output[0]}/transposed.{position}"
        parts.append(_part(node, "Transpose", [node.input[position]], [inputs[position]], perm=[1, 0]))
    scales = {name: attributes[name] for name in ("alpha", "beta") if name in attributes}
    return [*parts, _part(node, "Gemm", inputs, list(node.output), **scales)]


def _single_slices(node: Any, known: Mapping[str, numpy.ndarray]) -> list[Any]:
    operands = [known.get(name) for name in node.input[1:] if name]
    if len(operands) < 2 or operands[0] is None or operands[0].size < 2 or any(array is None for array in operands):
        return []
    given = {place: known[name] for place, name in enumerate(node.input) if place and name}
    count = operands[0].size
    columns = [given[1], given[2], given.get(3, numpy.arange(count)), given.get(4, numpy.ones(count, numpy.int64))]
    parts: list[Any] = []
    current = node.input[0]
    for entry in range(count):
        stem = f"{node.output[0]}/slice.{entry}"
        names = [f"{stem}.{label}" for label in ("start", "end", "axis", "step")]
        parts.extend(_constant(node, name, [int(column[entry])])
                     for name, column in zip(names, columns, strict=True))
        result = node.output[0] if entry == count - 1 else stem
        parts.append(_part(node, "Slice", [current, *names], [result]))
        current = result
    return parts


def _contraction(node: Any, types: Mapping[str, TensorType]) -> list[Any]:
    """``Einsum`` of two tensors whose summed letters all appear in both: a batched matrix product."""
    equation = next(attribute.s for attribute in node.attribute if attribute.name == "equation").decode()
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or any(len(set(term)) != len(term) or "." in term for term in (*terms, out)):
        return []
    lhs, rhs = terms
    batch = [letter for letter in lhs if letter in rhs and letter in out]
    summed = [letter for letter in lhs if letter in rhs and letter not in out]
    rows = [letter for letter in lhs if letter not in rhs]
    columns = [letter for letter in rhs if letter not in lhs]
    if any(letter not in out for letter in (*rows, *columns)):
        return []
    extents = {**dict(zip(lhs, types[node.input[0]].shape, strict=True)),
               **dict(zip(rhs, types[node.input[1]].shape, strict=True))}
    if any(extents[letter] != extent for letter, extent in zip(lhs, types[node.input[0]].shape, strict=True)):
        return []
    return _product(node, lhs, rhs, out, (batch, rows, columns, summed), extents)


def _product(node: Any, lhs: str, rhs: str, out: str, groups: tuple[list[str], list[str], list[str], list[str]],
             extents: Mapping[str, int]) -> list[Any]:
    batch, rows, columns, summed = groups
    stem = node.output[0]
    parts: list[Any] = []

    def size(letters: list[str]) -> int:
        return math.prod(extents[letter] for letter in letters)

    def reshaped(source: str, label: str, shape: list[int]) -> str:
        parts.append(_constant(node, f"{stem}/{label}.shape", shape))
        parts.append(_part(node, "Reshape", [source, f"{stem}/{label}.shape"], [f"{stem}/{label}"]))
        return f"{stem}/{label}"

    def permuted(source: str, before: str, after: list[str], result: str) -> str:
        if list(before) == after and result != stem:
            return source
        order = [before.index(letter) for letter in after]
        parts.append(_part(node, "Transpose", [source], [result], perm=order))
        return result

    outer = [extents[letter] for letter in batch]
    left = permuted(node.input[0], lhs, [*batch, *rows, *summed], f"{stem}/lhs.order")
    right = permuted(node.input[1], rhs, [*batch, *summed, *columns], f"{stem}/rhs.order")
    left = reshaped(left, "lhs", [*outer, size(rows), size(summed)])
    right = reshaped(right, "rhs", [*outer, size(summed), size(columns)])
    parts.append(_part(node, "MatMul", [left, right], [f"{stem}/product"]))
    order = [*batch, *rows, *columns]
    unfolded = reshaped(f"{stem}/product", "result", [extents[letter] for letter in order])
    permuted(unfolded, "".join(order), list(out), stem)
    return parts
