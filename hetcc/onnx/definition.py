"""Operators that the ONNX standard defines by other operators, written out as those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx.inliner

from hetcc.ir import TensorType
from hetcc.onnx.types import type_proto_of

_DOMAIN = "hetcc.definition"
_WIDENED_SINCE = {
    **dict.fromkeys(("Cast", "CastLike", "Constant", "ConstantOfShape", "Equal", "Flatten", "Identity", "ReduceSum",
                     "Reshape", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"), 13),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin"), 18),
}
"""Version from which on later ones only add element types, or attributes with a neutral default."""


def definition_of(node: Any, types: Mapping[str, TensorType], version: int) -> list[Any]:
    """Nodes of the default domain that compute what ``node`` does; empty when the standard gives no usable definition.

    Args:
        node: ``NodeProto`` of the default domain.
        types: types of its inputs; the definition may depend on them.
        version: version of the operator set the model uses.
    """
    function = _function(node, types, version)
    if function is None:
        return []
    call = _call(node, version)
    given = [name for name in dict.fromkeys(node.input) if name]
    produced = [name for name in node.output if name]
    inputs = [onnx.helper.make_value_info(name, type_proto_of(types[name])) for name in given]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in produced]
    versions = [onnx.helper.make_opsetid("", version), onnx.helper.make_opsetid(_DOMAIN, 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([call], "definition", inputs, outputs),
                                   functions=[function], opset_imports=versions, ir_version=10)
    inlined = onnx.inliner.inline_local_functions(model)
    return [_relabelled(part, node, {*given, *produced}) for part in inlined.graph.node]


def _call(node: Any, version: int) -> Any:
    """``node`` as a call of its definition, with the attributes it leaves to their defaults written out."""
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.domain = _DOMAIN
    del call.metadata_props[:]
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, version, "").attributes.items():
        if name not in given and attribute.default_value.name:
            call.attribute.append(attribute.default_value)
    return call


def _function(node: Any, types: Mapping[str, TensorType], version: int) -> Any:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    function = onnx.FunctionProto()
    if schema.has_function:
        usable = [number for number in schema.function_opset_versions if number <= version]
        if not usable:
            return None
        function.ParseFromString(schema.get_function_with_opset_version(max(usable)))
    elif schema.has_context_dependent_function:
        input_types = [type_proto_of(types[name]).SerializeToString() if name else b"" for name in node.input]
        usable = [number for number in schema.context_dependent_function_opset_versions if number <= version]
        if not usable:
            return None
        function.ParseFromString(schema.get_context_dependent_function_with_opset_version(
            max(usable), node.SerializeToString(), input_types))
    written_for = {entry.domain: entry.version for entry in function.opset_import}.get("", version)
    if not function.node or not all(_means_the_same(part, written_for, version) for part in function.node):
        return None
    function.domain, function.name = _DOMAIN, node.op_type
    del function.opset_import[:], function.attribute[:], function.attribute_proto[:]
    function.attribute.extend(schema.attributes)
    function.opset_import.append(onnx.helper.make_opsetid("", version))
    return function


def _means_the_same(part: Any, written_for: int, version: int) -> bool:
    """Whether a node of a definition is plain and did not change between two versions of the operator set."""
    if part.domain or any(attribute.HasField("g") for attribute in part.attribute):
        return False
    old, new = (onnx.defs.get_schema(part.op_type, number, "") for number in (written_for, version))
    only_widened = written_for >= _WIDENED_SINCE.get(part.op_type, version)
    return bool(old.since_version == new.since_version) or only_widened


def _relabelled(part: Any, node: Any, kept: set[str]) -> Any:
    """``part`` with the provenance of ``node`` and intermediate names that belong to ``node`` alone."""
    made = onnx.NodeProto()
    made.CopyFrom(part)
    made.name = node.name
    del made.metadata_props[:]
    made.metadata_props.extend(node.metadata_props)
    for names in (made.input, made.output):
        for position, name in enumerate(names):
            if name and name not in kept:
                names[position] = f"{node.output[0]}/definition.{name}"
    return made
