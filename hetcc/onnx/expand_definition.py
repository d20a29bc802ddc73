"""Operators of newer versions, written out by their definition because code generators do not know them yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from hetcc.ir import Node, Operand
from hetcc.ir.types import TensorType
from hetcc.onnx.definition import definition_of
from hetcc.onnx.expand import Emitter
from hetcc.onnx.load import assemble
from hetcc.onnx.read import ModelFile
from hetcc.onnx.types import array_of, is_literal

DEFINED = frozenset({"Attention", "RMSNormalization", "Swish"})
"""Not taken by the pinned torch-mlir. ``Gelu`` with ``approximate="tanh"`` is lowered with an error of 5e-5 and
therefore written out too."""


def expand_by_definition(emitter: Emitter, node: Node, call: Any, to_model: Callable[..., Any]) -> bool:
    """Write the definition of ``node``; False, with nothing written, when it has none for these operands.

    Args:
        emitter: takes the nodes.
        node: the node.
        call: ``node`` as a ``NodeProto``.
        to_model: :func:`hetcc.onnx.rebuild.to_model`.
    """
    if node.operator.name not in DEFINED and ("approximate", "tanh") not in node.keywords:
        return False
    version = int(node.operator.overload)
    types: dict[str, TensorType] = {name: emitter.region.type_of(name) for name in node.inputs}
    known = {}
    for name, argument in zip(call.input, node.arguments, strict=False):
        if is_literal(argument) and not isinstance(argument, Operand):
            known[name] = array_of(argument)
            types[name] = TensorType(argument[1], argument[0])
    parts = definition_of(call, types, version)
    if not parts:
        return False
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.outputs]
    proto = onnx.helper.make_model(onnx.helper.make_graph(parts, node.name, [], outputs), ir_version=10,
                                   opset_imports=[onnx.helper.make_opsetid("", version)])
    inputs = {name: types[name] for name in node.inputs}
    loaded = assemble(ModelFile(Path(node.name), proto, inputs, {}, {}, known), "definition", {})
    _merge(emitter, node, to_model(loaded.graph, loaded.constants).graph)
    return True


def _merge(emitter: Emitter, node: Node, graph: Any) -> None:
    """Add the nodes of ``graph`` under names that belong to ``node``."""
    kept = {*node.inputs, *node.outputs}
    stem = f"{node.name}/definition."

    def label(name: str) -> str:
        return name if not name or name in kept else stem + name

    for part in graph.node:
        made = onnx.NodeProto()
        made.CopyFrom(part)
        made.name = stem + part.name
        made.input[:] = [label(name) for name in part.input]
        made.output[:] = [label(name) for name in part.output]
        emitter.nodes.append(made)
    for collected, added in ((emitter.literals, graph.initializer), (emitter.intermediates, graph.value_info)):
        for entry in added:
            copy = type(entry)()
            copy.CopyFrom(entry)
            copy.name = label(entry.name)
            collected.append(copy)
