"""Graphs made from torch functions and from single aten calls, for the tests of rooms that read Graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from hetcc.aten.classify import Call, classify
from hetcc.aten.convert import InputNames, convert, tensor_type_of
from hetcc.backends.host.program import array_of
from hetcc.ir import Argument, Graph, Node, Operand, Role, SourceOperator, Value
from hetcc.ir.subgraph import interface_of

AtenCall = tuple[str, tuple[Any, ...]] | tuple[str, tuple[Any, ...], dict[str, Any]]
"""``("topk.default", arguments)``, and keywords without tensors if it needs any."""


def capture(function: Callable[..., Any], examples: Sequence[Any], caches: Sequence[int] = ()) -> Graph:
    """The Graph of ``function``; arguments at positions ``caches`` are caches that it writes in place."""
    import torch

    class Program(torch.nn.Module):
        def forward(self, *arguments: Any) -> Any:
            return function(*arguments)

    with torch.no_grad():
        program = torch.export.export(Program(), tuple(examples), strict=False).run_decompositions()
    names = list(program.graph_signature.user_inputs)
    inputs = {name: f"x{position}" for position, name in enumerate(names) if position not in caches}
    return convert(program, InputNames(inputs, {names[position]: f"cache{position}" for position in caches}), "program")


def arrays_for(region: Graph, examples: Sequence[Any]) -> dict[str, numpy.ndarray]:
    """The example tensors as arrays, under the names :func:`capture` gave them."""
    found = {}
    for position, example in enumerate(examples):
        for name in (f"x{position}", f"cache{position}"):
            if name in region.values:
                found[name] = array_of(example).copy()
    assert set(found) == set(interface_of(region))
    return found


def graph_of_calls(calls: Sequence[AtenCall]) -> tuple[Graph, dict[str, numpy.ndarray]]:
    """One program that makes every call on inputs of its own and returns all results, and those inputs."""
    import torch

    values: dict[str, Value] = {}
    arrays: dict[str, numpy.ndarray] = {}
    nodes = []
    for position, (label, arguments, *rest) in enumerate(calls):
        keywords = rest[0] if rest else {}
        name, _, overload = label.partition(".")
        inputs: list[str] = []

        def convert_argument(part: Any, inputs: list[str] = inputs, position: int = position) -> Argument:
            if isinstance(part, torch.Tensor):
                key = f"in{position}.{len(inputs)}"
                inputs.append(key)
                arrays[key] = array_of(part).copy()
                values[key] = Value(key, tensor_type_of(part), Role.INPUT)
                return Operand(len(inputs) - 1)
            return tuple(map(convert_argument, part)) if isinstance(part, (list, tuple)) else part

        converted = tuple(map(convert_argument, arguments))
        returned = getattr(getattr(torch.ops.aten, name), overload)(*arguments, **keywords)
        parts = [returned] if isinstance(returned, torch.Tensor) else list(returned)
        outputs = tuple(f"{label}#{position}:{index}" for index in range(len(parts)))
        values.update((key, Value(key, tensor_type_of(part))) for key, part in zip(outputs, parts, strict=True))
        call = Call(name, converted, keywords, tuple(values[key].type for key in inputs),
                    tuple(values[key].type for key in outputs))
        operator_class, attributes = classify(call)
        nodes.append(Node(f"n{position}", SourceOperator("aten", name, overload), operator_class, tuple(inputs),
                          outputs, converted, tuple(sorted(keywords.items())), attributes))
    results = tuple(name for node in nodes for name in node.outputs)
    return Graph("calls", tuple(nodes), values, tuple(arrays), results), arrays
