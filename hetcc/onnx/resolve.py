"""One walk over a model file: concrete types for every value, and the numbers that are known before it runs.

Shape arithmetic (``Shape``, ``Concat`` of extents, ``Range``, ...) is computed here and leaves no node behind; so do
``Identity``, inference-time ``Dropout`` and casts to the same type. What remains is a list of steps whose operands are
tensors or known numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import onnx

from hetcc.errors import UserError
from hetcc.ir import TensorType
from hetcc.onnx.classify import CLASSIFIERS
from hetcc.onnx.definition import definition_of
from hetcc.onnx.evaluate import evaluator_of
from hetcc.onnx.read import EMBEDDED_LIMIT_BYTES, ModelFile, evaluate_dimension
from hetcc.onnx.rewrite import rewritten
from hetcc.onnx.types import dtype_of, numpy_dtype_of, tensor_type_of, type_proto_of

_WALKED = frozenset({"If", "Shape", "Size", "Dropout", "Constant"})
"""Operators without a class that this walk removes itself."""

_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
                     "Multinomial"})


@dataclass(frozen=True)
class Resolved:
    """A model with nothing left to work out."""

    steps: tuple[Any, ...]
    """``NodeProto`` of each operator that has to run, in order; inputs are renamed past what was folded away."""
    types: Mapping[str, TensorType]
    known: Mapping[str, numpy.ndarray]
    """Values known before the program runs."""
    outputs: Mapping[str, str]
    """Value that each output of the model holds."""


def resolve(model: ModelFile) -> Resolved:
    """Walk ``model``.

    Raises:
        UserError: HET-C009 naming the node whose result has no type or no fixed shape, or that chooses between
            programs while running.
    """
    return _Walk(model).run()


class _Walk:
    """Tables of one walk."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model
        self.versions = model.versions
        self.types: dict[str, TensorType] = {
            **model.inputs, **{name: location.type for name, location in model.weights.items()}}
        self.known: dict[str, numpy.ndarray] = dict(model.constants)
        self.alias: dict[str, str] = {}
        self.steps: list[Any] = []
        self.output_names = [value.name for value in model.proto.graph.output]
        self.declared = {value.name: value.type for value in (*model.proto.graph.value_info, *model.proto.graph.output)}

    def run(self) -> Resolved:
        self._visit_all(self.model.proto.graph.node)
        outputs = {name: self.alias.get(name, name) for name in self.output_names}
        for name, value in outputs.items():
            if value not in self.types:
                raise UserError("HET-C008", f"no node computes the output '{name}'", where=str(self.model.path),
                                fix="export the model again")
        return Resolved(tuple(self.steps), self.types, self.known, outputs)

    def _visit_all(self, nodes: Iterable[Any]) -> None:
        pending = deque(nodes)
        while pending:
            node = onnx.NodeProto()
            node.CopyFrom(pending.popleft())
            for position, name in enumerate(node.input):
                node.input[position] = self.alias.get(name, name)
                if name and node.input[position] not in self.types:
                    raise self._unsupported(node, f"its input '{name}' is no tensor computed before it", "HET-C008")
            parts = self._replacement(node)
            if parts:
                pending.extendleft(reversed(parts))
            else:
                self._visit(node)

    def _replacement(self, node: Any) -> list[Any]:
        """Nodes to visit in place of ``node``; empty when it stays."""
        if node.domain not in ("", "ai.onnx"):
            return []
        unclassified = node.op_type not in CLASSIFIERS and node.op_type not in _WALKED
        return rewritten(node, self.known, self.types) or (
            definition_of(node, self.types, self.model.version) if unclassified else [])

    def _visit(self, node: Any) -> None:
        if node.op_type == "If":
            self._choose(node)
        elif any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                 for attribute in node.attribute):
            raise self._unsupported(node, "it runs a program of its own (control flow)")
        elif self._is_no_operation(node):
            self.alias[node.output[0]] = node.input[0]
        elif node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx"):
            self._know(node.output[0], self._extent(node))
        else:
            self._infer(node)
            if not self._fold(node):
                self.steps.append(node)

    def _is_no_operation(self, node: Any) -> bool:
        if node.domain not in ("", "ai.onnx") or node.output[0] in self.output_names:
            return False
        if node.op_type == "Identity":
            return True
        if node.op_type == "Dropout":
            training = self.known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            unused_mask = len(node.output) < 2 or not node.output[1]
            return unused_mask and (len(node.input) < 3 or (training is not None and not training.any()))
        if node.op_type == "Cast":
            target = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            return dtype_of(target, node.name) is self.types[node.input[0]].dtype
        return False

    def _choose(self, node: Any) -> None:
        """Put the branch of an ``If`` with a known condition in its place."""
        condition = self.known.get(node.input[0])
        if condition is None:
            raise self._unsupported(node, "it chooses between two programs while running")
        wanted = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        for tensor in branch.initializer:
            self._know(tensor.name, onnx.numpy_helper.to_array(tensor))
        self._visit_all(branch.node)
        for output, value in zip(node.output, branch.output, strict=True):
            source = self.alias.get(value.name, value.name)
            if output in self.output_names:
                self._visit_all([onnx.helper.make_node("Identity", [source], [output], name=node.name)])
            else:
                self.alias[output] = source

    def _extent(self, node: Any) -> numpy.ndarray:
        shape = self.types[node.input[0]].shape
        if node.op_type == "Size":
            return numpy.array(self.types[node.input[0]].elements, numpy.int64)
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return numpy.array(shape[bounds.get("start", 0):bounds.get("end", len(shape))], numpy.int64)

    def _know(self, name: str, array: numpy.ndarray) -> None:
        self.known[name] = array
        self.types[name] = tensor_type_of(array, name)

    def _infer(self, node: Any) -> None:
        last = max((position for position, name in enumerate(node.output) if name), default=-1)
        for position in range(last):
            if not node.output[position]:
                node.output[position] = f"{node.output[last]}/unused.{position}"
        found = self._infer_by_schema(node)
        for name in filter(None, node.output):
            tensor_type = self._concrete(found.get(name), name) or self._concrete(self.declared.get(name), name)
            if tensor_type is None:
                raise self._unsupported(node, f"the shape of its result '{name}' is not known before it runs")
            self.types[name] = tensor_type

    def _infer_by_schema(self, node: Any) -> Mapping[str, Any]:
        try:
            schema = onnx.defs.get_schema(node.op_type, self.versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return {}
        names = [name for name in node.input if name]
        # onnx identifies inputs by name and forgets a repeated one's data; both are given by name here.
        input_types = {name: type_proto_of(self.types[name]) for name in names}
        input_data = {name: onnx.numpy_helper.from_array(self.known[name], name) for name in names
                      if name in self.known}
        try:
            inferred: Mapping[str, Any] = onnx.shape_inference.infer_node_outputs(
                schema, node, input_types, input_data, opset_imports=list(self.model.proto.opset_import),
                ir_version=self.model.proto.ir_version)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise self._unsupported(node, f"its shapes do not fit ({error})", "HET-C008") from error
        return inferred

    def _concrete(self, type_proto: Any, name: str) -> TensorType | None:
        if type_proto is None or not type_proto.HasField("tensor_type"):
            return None
        tensor = type_proto.tensor_type
        if not tensor.elem_type or not tensor.HasField("shape"):
            return None
        shape = []
        for dimension in tensor.shape.dim:
            extent = dimension.dim_value if dimension.HasField("dim_value") else evaluate_dimension(
                dimension.dim_param, self.model.sizes) if dimension.dim_param else None
            if extent is None or extent < 0:
                return None
            shape.append(extent)
        return TensorType(tuple(shape), dtype_of(tensor.elem_type, name))

    def _fold(self, node: Any) -> bool:
        """Compute ``node`` now if its operands are known and its results small."""
        outputs = [name for name in node.output if name]
        computable = node.domain in ("", "ai.onnx") and node.op_type not in _RANDOM
        small = all(self.types[name].size_bytes <= EMBEDDED_LIMIT_BYTES for name in outputs)
        if (not computable or any(name and name not in self.known for name in node.input)
                or not (small or node.op_type == "Constant")):
            return False
        try:
            evaluator = evaluator_of(_single_node_model(node, self.types, self.model))
            results = evaluator.run(None, {name: self.known[name] for name in node.input if name})
        except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # The reference does not know every operator; a node it cannot compute simply stays in the program.
            return False
        for name, array in zip(outputs, results, strict=True):
            expected = self.types[name]
            folded = numpy.asarray(array).astype(numpy_dtype_of(expected.dtype), copy=False)
            if folded.shape != expected.shape:
                raise self._unsupported(node, f"'{name}' evaluates to shape {folded.shape}, not {expected.shape}",
                                        "HET-C008")
            self.known[name] = folded
        return True

    def _unsupported(self, node: Any, reason: str, code: str = "HET-C009") -> UserError:
        label = node.name or (node.output[0] if node.output else "")
        return UserError(code, f"{node.op_type} '{label}': {reason}", where=f"{self.model.path.name}: {label}",
                         fix="export the model for fixed shapes, or without this operator")


def _single_node_model(node: Any, types: Mapping[str, TensorType], model: ModelFile) -> Any:
    def declare(names: Iterable[str]) -> list[Any]:
        return [onnx.helper.make_value_info(name, type_proto_of(types[name])) for name in dict.fromkeys(names) if name]

    graph = onnx.helper.make_graph([node], "fold", declare(node.input), declare(node.output))
    return onnx.helper.make_model(graph, opset_imports=list(model.proto.opset_import),
                                  ir_version=model.proto.ir_version)
