"""Reading a model file: its program without its weights, and sizes for its symbolic dimensions."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from hetcc.errors import UserError
from hetcc.ir import TensorType
from hetcc.onnx.types import dtype_of
from hetcc.onnx.weights import WeightLocation, locate

EMBEDDED_LIMIT_BYTES = 1 << 16
"""Initialisers up to this size may be read as constants; larger ones stay where they are."""


@dataclass(frozen=True)
class ModelFile:
    """A model file, read and checked, with concrete input types."""

    path: Path
    proto: Any
    """The ``ModelProto``; local functions are inlined."""
    inputs: Mapping[str, TensorType]
    """Inputs that are not initialisers, in order."""
    sizes: Mapping[str, int]
    """Size of each symbolic dimension."""
    weights: Mapping[str, WeightLocation]
    constants: Mapping[str, numpy.ndarray]
    """Small integers and scalars among the initialisers."""

    @property
    def version(self) -> int:
        """Version of the operator set of the default domain; 1 when the model uses none of it."""
        return self.versions.get("", 1)

    @property
    def versions(self) -> dict[str, int]:
        """Version of each operator set, by domain (the default one is empty)."""
        return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in self.proto.opset_import}


def read_model(path: Path, sizes: Mapping[str, int]) -> ModelFile:
    """Read ``path`` and give every symbolic input dimension its size.

    Raises:
        UserError: HET-C008 for a file that is no ONNX model, HET-C005 for missing data, HET-C003 for sizes that are
            missing, unknown or below 1, HET-C009 for element types hetcc does not have.
    """
    proto = _parse(path)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    if proto.graph.sparse_initializer:
        raise UserError("HET-C009", "sparse initialisers are not supported", where=str(path),
                        fix="save the initialisers as dense tensors")
    weights = {tensor.name: locate(tensor, path) for tensor in proto.graph.initializer}
    constants = {tensor.name: _constant(tensor, path) for tensor in proto.graph.initializer
                 if _is_constant(weights[tensor.name].type)}
    fed = [value for value in proto.graph.input if value.name not in weights]
    inputs = _input_types(fed, sizes, path)
    return ModelFile(path, proto, inputs, dict(sizes), weights, constants)


@dataclass(frozen=True)
class FileInterface:
    """What a model file takes and gives, before its sizes are known."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: tuple[str, ...]
    """Names of the symbolic dimensions of the inputs, those inside expressions too, in order of first use; a dimension
    without a name is called ``input.axis``."""


def read_interface(path: Path) -> FileInterface:
    """The interface of a model file.

    Raises:
        UserError: HET-C008, the file is no ONNX model.
    """
    graph = _parse(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in stored]
    found: dict[str, None] = {}
    for value in fed:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                found.update(dict.fromkeys(_names_in(dimension.dim_param or f"{value.name}.{axis}")))
    return FileInterface(tuple(value.name for value in fed), tuple(value.name for value in graph.output), tuple(found))


def _names_in(text: str) -> tuple[str, ...]:
    """The names a dimension is computed from; the text itself when it is no sum or product of names."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return (text,)
    parts = list(ast.walk(tree))
    plain = (ast.Name, ast.Constant, ast.BinOp, ast.operator, ast.expr_context)
    if not all(isinstance(part, plain) for part in parts):
        return (text,)
    return tuple(part.id for part in parts if isinstance(part, ast.Name))


def _parse(path: Path) -> Any:
    if not path.is_file():
        raise UserError("HET-C008", "there is no such file", where=str(path), fix="give the path of an .onnx file")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UserError("HET-C008", f"the file is no ONNX model, or it was cut off ({error})", where=str(path),
                        fix="export it again, or check that it was copied whole") from error
    if not proto.opset_import or not proto.graph.output:
        raise UserError("HET-C008", "the file holds no program: no operator set or no outputs", where=str(path),
                        fix="export it again, or check that it was copied whole")
    return proto


def _is_constant(tensor_type: TensorType) -> bool:
    small = tensor_type.size_bytes <= EMBEDDED_LIMIT_BYTES
    return small and (not tensor_type.dtype.is_floating or tensor_type.elements == 1)


def _constant(tensor: Any, path: Path) -> numpy.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        onnx.external_data_helper.load_external_data_for_tensor(copy, str(path.parent))
        tensor = copy
    try:
        array: numpy.ndarray = onnx.numpy_helper.to_array(tensor)
    except ValueError as error:
        raise UserError("HET-C008", f"initialiser '{tensor.name}' cannot be read ({error})", where=str(path),
                        fix="export the model again") from error
    return array


def _input_types(fed: list[Any], sizes: Mapping[str, int], path: Path) -> dict[str, TensorType]:
    for name, size in sizes.items():
        if size < 1:
            raise UserError("HET-C003", f"size {name}={size} is below 1", where=str(path), fix=f"--set {name}=1")
    types: dict[str, TensorType] = {}
    missing: dict[str, str] = {}
    used: set[str] = set()
    for value in fed:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise UserError("HET-C009", f"input '{value.name}' is no tensor with a known rank", where=str(path),
                            fix="export the model with tensor inputs of fixed rank")
        shape = []
        for axis, dimension in enumerate(tensor.shape.dim):
            name = dimension.dim_param or f"{value.name}.{axis}"
            extent = dimension.dim_value if dimension.HasField("dim_value") else evaluate_dimension(name, sizes, used)
            if extent is None:
                missing.setdefault(name, f"axis {axis} of input '{value.name}'")
            shape.append(extent or 0)
        types[value.name] = TensorType(tuple(shape), dtype_of(tensor.elem_type, value.name))
    if missing:
        raise UserError("HET-C003", "no size is set for " + ", ".join(f"'{name}' ({at})" for name, at in
                        missing.items()), where=str(path), fix=" ".join(f"--set {name}=SIZE" for name in missing))
    unknown = [name for name in sizes if name not in used]
    if unknown:
        raise UserError("HET-C003", f"no input has a dimension called '{unknown[0]}'", where=str(path),
                        fix="the model's symbolic dimensions are: " + (", ".join(sorted(_symbols(fed))) or "none"))
    return types


def _symbols(fed: list[Any]) -> set[str]:
    return {dimension.dim_param for value in fed for dimension in value.type.tensor_type.shape.dim
            if dimension.dim_param}


def evaluate_dimension(text: str, sizes: Mapping[str, int], used: set[str] | None = None) -> int | None:
    """The extent a symbolic dimension stands for, None when a size is missing or the text is no sum or product.

    Exporters write plain names and expressions such as ``past_length + 1``.
    """
    if text in sizes:
        if used is not None:
            used.add(text)
        return sizes[text]
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return _evaluate(tree, sizes, used)


def _evaluate(tree: ast.expr, sizes: Mapping[str, int], used: set[str] | None) -> int | None:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name) and tree.id in sizes:
        if used is not None:
            used.add(tree.id)
        return sizes[tree.id]
    if not isinstance(tree, ast.BinOp):
        return None
    left, right = _evaluate(tree.left, sizes, used), _evaluate(tree.right, sizes, used)
    if left is None or right is None:
        return None
    if isinstance(tree.op, ast.Add):
        return left + right
    if isinstance(tree.op, ast.Sub):
        return left - right
    if isinstance(tree.op, ast.Mult):
        return left * right
    return left // right if isinstance(tree.op, ast.FloorDiv) and right else None
