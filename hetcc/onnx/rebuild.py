"""From a region of the Graph back to an ONNX program that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import onnx

from hetcc.errors import InternalError, UserError
from hetcc.ir import Argument, Graph, Node, Operand, OperatorClass
from hetcc.ir.subgraph import interface_of
from hetcc.onnx.expand import Emitter, expand_index_copy
from hetcc.onnx.expand_definition import expand_by_definition
from hetcc.onnx.expand_topk import expand_topk
from hetcc.onnx.states import INDEX_COPY_DOMAIN
from hetcc.onnx.types import array_of, is_literal, type_proto_of

IR_VERSION = 10
"""File format version written; what onnxruntime, torch-mlir and ``onnx.reference`` of the pinned versions read."""


def to_model(region: Graph, constants: Mapping[str, numpy.ndarray] | None = None) -> Any:
    """The ONNX program of ``region``.

    Args:
        region: a Graph whose nodes came from ONNX, as made by ``hetcc.ir.subgraph.extract``.
        constants: arrays for CONSTANT values to embed; these are then no inputs of the program. Without it the
            inputs are exactly ``interface_of(region)``, in that order.

    Returns:
        ``onnx.ModelProto``, checked; its outputs are the region's outputs and then the new contents of its updated
        caches. Numbers that stand in node arguments (shapes, axes, scalars) are initialisers.

    Raises:
        InternalError: the region holds nodes of another domain or of two operator set versions.
    """
    embedded = constants or {}
    writer = _Writer(region)
    for node in region.nodes:
        writer.write(node)
    inputs = [_declare(region, name) for name in interface_of(region) if name not in embedded]
    initializers = [onnx.numpy_helper.from_array(embedded[name], name) for name in interface_of(region)
                    if name in embedded]
    results = dict.fromkeys((*region.outputs, *(update.value for update in region.updates)))
    nodes, outputs = _with_passed_results(region, writer.emitter.nodes, tuple(results))
    produced = [name for node in region.nodes for name in node.outputs if name not in results]
    graph = onnx.helper.make_graph(
        nodes, region.name, inputs, outputs, [*initializers, *writer.emitter.literals],
        value_info=[*(_declare(region, name) for name in produced), *writer.emitter.intermediates])
    model = onnx.helper.make_model(graph, opset_imports=writer.operator_sets(), ir_version=IR_VERSION,
                                   producer_name="hetcc")
    _check(model, region)
    return model


def _check(model: Any, region: Graph) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InternalError("HET-I001", f"the rebuilt program is not valid ONNX: {error}", where=region.name) from error


def _declare(region: Graph, name: str, label: str = "") -> Any:
    return onnx.helper.make_value_info(label or name, type_proto_of(region.type_of(name)))


def _with_passed_results(region: Graph, nodes: list[Any], results: tuple[str, ...]) -> tuple[list[Any], list[Any]]:
    """Outputs of the program; a result no node computes (an input handed through) goes through an ``Identity``."""
    outputs = []
    for name in results:
        if name in region.producer:
            outputs.append(_declare(region, name))
            continue
        label = f"{name}/passed"
        nodes = [*nodes, onnx.helper.make_node("Identity", [name], [label], name=label)]
        outputs.append(_declare(region, name, label))
    return nodes, outputs


class _Writer:
    """Writes nodes one after another."""

    def __init__(self, region: Graph) -> None:
        self.region = region
        self.emitter = Emitter(region)
        self.versions: dict[str, int] = {}

    def write(self, node: Node) -> None:
        """Add ``node``, or what it expands to."""
        if node.operator.domain != "onnx":
            raise InternalError("HET-I001", f"{node.operator} is no ONNX operator", where=node.name)
        domain, _, version = node.operator.overload.rpartition(":")
        domain = "" if domain == INDEX_COPY_DOMAIN else domain
        if self.versions.setdefault(domain, int(version)) != int(version):
            raise InternalError("HET-I001", f"operator sets {self.versions[domain]} and {version} in one region",
                                where=node.name)
        if _expanded(self.emitter, node):
            return
        inputs = [self._input(node, argument) for argument in node.arguments]
        while inputs and not inputs[-1]:
            inputs.pop()
        made = onnx.helper.make_node(node.operator.name, inputs, list(node.outputs), name=node.name, domain=domain)
        kinds = _attribute_kinds(node.operator.name, int(version), domain)
        made.attribute.extend(_attribute(key, value, kinds.get(key)) for key, value in node.keywords)
        if not expand_by_definition(self.emitter, node, made, to_model):
            self.emitter.nodes.append(made)

    def operator_sets(self) -> list[Any]:
        """The operator sets the nodes were written for; a program of none of them says the newest known."""
        versions = self.versions if "" in self.versions else {**self.versions, "": onnx.defs.onnx_opset_version()}
        return [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]

    def _input(self, node: Node, argument: Argument) -> str:
        if argument is None:
            return ""
        if isinstance(argument, Operand):
            return node.inputs[argument.index]
        if not is_literal(argument):
            raise InternalError("HET-I001", f"argument {argument!r} of {node.operator} is no tensor", where=node.name)
        return self.emitter.literal(argument)


def _expanded(emitter: Emitter, node: Node) -> bool:
    """Write what ``node`` expands to; False when it stays one operator.

    These are operators hetcc formed itself and operators no code generator lowers well; what is written computes the
    same numbers in every ONNX engine.
    """
    if node.operator_class is OperatorClass.CACHE_UPDATE:
        return expand_index_copy(emitter, node)
    if node.operator_class is OperatorClass.TOPK:
        return expand_topk(emitter, node)
    return False


def _attribute_kinds(op_type: str, version: int, domain: str) -> dict[str, int]:
    """``AttributeProto.AttributeType`` of each attribute: an empty list or a whole float does not tell by itself."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: int(attribute.type.value) for name, attribute in schema.attributes.items()}


def _attribute(key: str, value: Argument, kind: int | None) -> Any:
    if is_literal(value):
        return onnx.helper.make_attribute(key, onnx.numpy_helper.from_array(array_of(value)))
    if value is None or isinstance(value, Operand):
        raise UserError("HET-C009", f"attribute '{key}' has no value", fix="export the model again")
    return onnx.helper.make_attribute(key, list(value) if isinstance(value, tuple) else value, attr_type=kind)


__all__ = ["IR_VERSION", "to_model"]
