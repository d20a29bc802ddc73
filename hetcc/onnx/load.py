"""From an ``.onnx`` file to the Graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import onnx

from hetcc.errors import UserError
from hetcc.ir import (
    Argument,
    CacheUpdate,
    Graph,
    Node,
    Operand,
    OperatorClass,
    Role,
    SourceOperator,
    TensorType,
    Value,
    live_nodes,
)
from hetcc.onnx.caches import pair_caches
from hetcc.onnx.classify import ELEMENTWISE_OPERATORS, Call, classify
from hetcc.onnx.provenance import provenance_of
from hetcc.onnx.read import ModelFile, read_model
from hetcc.onnx.resolve import Resolved, resolve
from hetcc.onnx.states import fuse_cache_updates
from hetcc.onnx.types import SPELT_OUT_ELEMENTS, is_literal, is_uniform, literal_of
from hetcc.onnx.weights import WeightLocation, read_weight

LITERAL_LIMIT_ELEMENTS = SPELT_OUT_ELEMENTS
"""Longest shape, axis or index list that stands in a node's arguments."""

_STATIC_OPERANDS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Slice": (1, 2, 3, 4), "Split": (1,),
    "TopK": (1,), "CumSum": (1,), "Trilu": (1,), "Tile": (1,), "Pad": (1, 2, 3), "ConstantOfShape": (0,),
    "Range": (0, 1, 2), "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,),
    "ReduceProd": (1,), "Clip": (1, 2), "OneHot": (1,), "Resize": (1, 2, 3), "Dropout": (1, 2),
}
"""Operands that say what an operator does rather than what it does it to; they become literals."""

_FILLED_OPERANDS: dict[str, tuple[int, ...]] = {"ScatterElements": (0,), "ScatterND": (0,), "Where": (1, 2)}
"""Operands that exporters store although all their elements are equal; they become a ``CREATE`` node again."""
FILLED_LIMIT_BYTES = 1 << 26
"""Largest stored tensor that is looked into for this."""


@dataclass(frozen=True)
class LoadedOnnx:
    """A model file as the Graph, and where everything the Graph does not hold can be found."""

    path: Path
    graph: Graph
    weights: Mapping[str, WeightLocation]
    """Location of each parameter and constant of the Graph that the file stores."""
    constants: Mapping[str, numpy.ndarray]
    """Payload of each CONSTANT value that was computed while reading or is small."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Value of the Graph that each output of the file is."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Name in the file, its local functions inlined, of each value of the Graph that one of its operators computes."""


def load_graph(path: Path, sizes: Mapping[str, int] | None = None, *, caches: Mapping[str, str] | None = None,
               name: str = "") -> LoadedOnnx:
    """Read ``path`` into the Graph. No weight is read.

    Args:
        path: the model file; external data lies beside it.
        sizes: size of each symbolic input dimension, by its name or as ``input.axis``.
        caches: output that holds the new contents of an input, by input name; pairs that
            :data:`hetcc.onnx.caches.NAME_PAIRS` finds need not be given.
        name: name of the Graph; the file's stem if empty.

    Raises:
        UserError: HET-C003 (sizes), HET-C005 (external data), HET-C008 (broken file), HET-C009 (unknown shapes,
            control flow, element types), HET-C002 (impossible cache pair).
    """
    return assemble(read_model(path, sizes or {}), name or path.stem, caches or {})


def assemble(model: ModelFile, name: str, caches: Mapping[str, str]) -> LoadedOnnx:
    """The Graph of a model that has been read; arguments and errors as in :func:`load_graph`."""
    return _Assembly(model, resolve(model)).run(name, caches)


class _Assembly:
    """Tables of one Graph in the making."""

    def __init__(self, model: ModelFile, resolved: Resolved) -> None:
        self.model = model
        self.resolved = resolved
        self.counters: Counter[str] = Counter()
        self.values: dict[str, Value] = {
            name: Value(name, tensor_type, Role.INPUT) for name, tensor_type in model.inputs.items()}
        self.name_of: dict[str, str] = {}
        """Name in the Graph of each value that a step computes."""
        self.taken = {*model.inputs, *model.weights, *resolved.known, *resolved.outputs}
        self.output_of = {value: output for output, value in reversed(tuple(resolved.outputs.items()))}
        self.nodes: list[Node] = []

    def run(self, name: str, given_caches: Mapping[str, str]) -> LoadedOnnx:
        for step in self.resolved.steps:
            self._add(step)
        outputs = {output: self._use(value) for output, value in self.resolved.outputs.items()}
        pairs = pair_caches(self.model.inputs, {output: self.values[value].type for output, value in outputs.items()},
                            self._derived(outputs), given_caches)
        for cache in pairs:
            self.values[cache] = Value(cache, self.values[cache].type, Role.CACHE)
        updates = tuple(CacheUpdate(cache, outputs[output]) for cache, output in pairs.items())
        plain = tuple(value for output, value in outputs.items() if output not in pairs.values())
        results = (*plain, *(update.value for update in updates))
        nodes = fuse_cache_updates(live_nodes(self.nodes, results), updates, self.values, results)
        return self._finish(name, nodes, plain, tuple(pairs), updates, outputs)

    def _finish(self, name: str, nodes: tuple[Node, ...], outputs: tuple[str, ...], caches: tuple[str, ...],
                updates: tuple[CacheUpdate, ...], named: Mapping[str, str]) -> LoadedOnnx:
        inputs = tuple(value for value in self.model.inputs if value not in caches)
        used = dict.fromkeys((*inputs, *caches, *(value for node in nodes for value in (*node.inputs, *node.outputs)),
                              *outputs, *(update.value for update in updates)))
        graph = Graph(name, nodes, {value: self.values[value] for value in used}, inputs, outputs, caches, updates)
        weights = {value: self.model.weights[value] for value in used if value in self.model.weights}
        constants = {value: self.resolved.known[value] for value in used if value in self.resolved.known}
        tensors = {value: tensor for tensor, value in self.name_of.items() if value in used}
        return LoadedOnnx(self.model.path, graph, MappingProxyType(weights), MappingProxyType(constants),
                          MappingProxyType(dict(named)), MappingProxyType(tensors))

    def _add(self, step: Any) -> None:
        inputs: list[str] = []
        arguments = tuple(self._argument(step, position, inputs) for position in range(len(step.input)))
        keywords = tuple(sorted((attribute.name, self._attribute(step, attribute)) for attribute in step.attribute))
        metadata = {entry.key: entry.value for entry in step.metadata_props}
        provenance = provenance_of(step.name, metadata)
        name = self._unique(provenance.module_path, step.op_type)
        outputs = self._declare(step, name)
        input_types = tuple(self.values[value].type for value in inputs)
        output_types = tuple(self.values[value].type for value in outputs)
        domain = "" if step.domain == "ai.onnx" else step.domain
        operator_class, attributes = (OperatorClass.OPAQUE, ()) if domain else classify(
            Call(step.op_type, self.model.version, arguments, dict(keywords), input_types, output_types))
        self.nodes.append(Node(name, SourceOperator("onnx", step.op_type, _overload(domain, self.model.versions)),
                               operator_class, tuple(inputs), outputs, _settled(step, arguments, output_types),
                               keywords, attributes, provenance))

    def _argument(self, step: Any, position: int, inputs: list[str]) -> Argument:
        name = step.input[position]
        if not name:
            return None
        array = self.resolved.known.get(name)
        if array is not None and _stands_as_literal(step, position, array):
            return literal_of(array, name)
        value = self._filled(step, position) or self._use(name)
        if value not in inputs:
            inputs.append(value)
        return Operand(inputs.index(value))

    def _filled(self, step: Any, position: int) -> str | None:
        """A new ``CREATE`` node's output in place of a stored operand whose elements are all equal."""
        name = step.input[position]
        if position not in _FILLED_OPERANDS.get(step.op_type, ()) or name in self.name_of or step.domain:
            return None
        array, location = self.resolved.known.get(name), self.model.weights.get(name)
        if array is None and location is not None and location.length <= FILLED_LIMIT_BYTES:
            array = read_weight(location, self.model.path.parent)
        if array is None or array.size < 2 or not is_uniform(array):
            return None
        provenance = provenance_of(step.name, {entry.key: entry.value for entry in step.metadata_props})
        label = self._free(self._unique(provenance.module_path, "ConstantOfShape"))
        shape = literal_of(numpy.array(array.shape, numpy.int64), name)
        self.values[label] = Value(label, self.resolved.types[name])
        self.nodes.append(Node(
            label, SourceOperator("onnx", "ConstantOfShape", _overload("", self.model.versions)), OperatorClass.CREATE,
            (), (label,), (shape,), (("value", literal_of(array.reshape(-1)[:1], name)),), (("function", "full"),),
            provenance))
        return label

    def _use(self, name: str) -> str:
        """The Graph's name of a value of the file, declaring weights and constants on their first use."""
        value = self.name_of.get(name, name)
        if value not in self.values:
            constant = name in self.resolved.known or not self.resolved.types[name].dtype.is_floating
            role = Role.CONSTANT if constant else Role.PARAMETER
            self.values[value] = Value(value, self.resolved.types[name], role)
        return value

    def _declare(self, step: Any, name: str) -> tuple[str, ...]:
        present = [output for output in step.output if output]
        for position, output in enumerate(present):
            label = self.output_of.get(output) or self._free(name if len(present) == 1 else f"{name}:{position}")
            self.name_of[output] = label
            self.values[label] = Value(label, self.resolved.types[output])
        return tuple(self.name_of[output] for output in present)

    def _free(self, label: str) -> str:
        while label in self.taken:
            label += "'"
        self.taken.add(label)
        return label

    def _unique(self, module_path: str, operator_name: str) -> str:
        base = f"{module_path}/{operator_name}" if module_path else operator_name
        count = self.counters[base]
        self.counters[base] += 1
        return base if count == 0 else f"{base}.{count}"

    def _attribute(self, step: Any, attribute: Any) -> Argument:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            array = onnx.numpy_helper.to_array(value)
            if array.size <= LITERAL_LIMIT_ELEMENTS:
                return literal_of(array, step.name)
        elif isinstance(value, (int, float)):
            return value
        elif isinstance(value, bytes):
            return value.decode()
        elif isinstance(value, (list, tuple)) and all(isinstance(entry, (int, float, bytes)) for entry in value):
            return tuple(entry.decode() if isinstance(entry, bytes) else entry for entry in value)
        raise UserError("HET-C009", f"attribute '{attribute.name}' of {step.op_type} is neither a number, a text nor "
                        f"a tensor of up to {LITERAL_LIMIT_ELEMENTS} elements", where=step.name,
                        fix="pass it as an input instead")

    def _derived(self, outputs: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """The inputs each output is computed from (an output that is an input is computed from none)."""
        reach: dict[str, frozenset[str]] = {name: frozenset((name,)) for name in self.model.inputs}
        produced: dict[str, frozenset[str]] = {}
        for node in self.nodes:
            found = frozenset[str]().union(*(reach.get(value, frozenset()) for value in node.inputs))
            produced.update((value, found) for value in node.outputs)
            reach.update((value, found) for value in node.outputs)
        return {output: produced.get(value, frozenset()) for output, value in outputs.items()}


def _overload(domain: str, versions: Mapping[str, int]) -> str:
    """Operator set version, after its domain when that is not the default one."""
    version = versions.get(domain, 1)
    return f"{domain}:{version}" if domain else str(version)


def _stands_as_literal(step: Any, position: int, array: numpy.ndarray) -> bool:
    if step.domain not in ("", "ai.onnx"):
        return False
    if step.op_type in _STATIC_OPERANDS:
        return position in _STATIC_OPERANDS[step.op_type] and array.size <= LITERAL_LIMIT_ELEMENTS
    if step.op_type == "Gather":
        return position == 1 and array.size == 1 and array.ndim <= 1
    if step.op_type == "ScatterElements":
        return position == 2 and is_uniform(array)
    return array.size == 1 and step.op_type in ELEMENTWISE_OPERATORS


def _settled(step: Any, arguments: tuple[Argument, ...], output_types: tuple[TensorType, ...]) -> tuple[Argument, ...]:
    """``Reshape`` with its target spelt out, so that equal programs have equal arguments."""
    if step.op_type == "Reshape" and is_literal(arguments[1]) and 0 not in output_types[0].shape:
        shape = numpy.array(output_types[0].shape, numpy.int64)
        return (arguments[0], literal_of(shape, step.name), *arguments[2:])
    return arguments
