"""From a torch ExportedProgram to the Graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hetcc.aten.classify import Call, classify
from hetcc.aten.complex import without_complex
from hetcc.aten.numbers import without_numbers
from hetcc.aten.rewriting import extent_of
from hetcc.errors import UserError
from hetcc.ir import (
    Argument,
    CacheUpdate,
    DType,
    Graph,
    Node,
    Operand,
    Provenance,
    Role,
    SourceOperator,
    TensorType,
    Value,
    live_nodes,
)

_DROPPED_KEYWORDS = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})
DATA_DEPENDENT_FIX = ("write that part of the model with tensors alone (torch.where, index_select), then name it as "
                      "path.py:factory; or --set an option that avoids it")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class InputNames:
    """How the placeholders of an exported program are called in the Graph."""

    inputs: Mapping[str, str]
    """User input placeholder -> name of a step input."""
    caches: Mapping[str, str]
    """User input placeholder -> name of a cache."""
    prefix: str = ""
    """Module prefix (with its dot) that the capturing wrapper added to every path."""


def dtype_of(torch_dtype: Any) -> DType:
    """The DType of a torch dtype.

    Raises:
        UserError: HET-C009, the element type is not supported (complex numbers, for example).
    """
    name = str(torch_dtype).removeprefix("torch.")
    try:
        return DType(name)
    except ValueError:
        raise UserError("HET-C009", f"element type {name} is not supported",
                        fix="use --dtype with one of " + ", ".join(kind.value for kind in DType)) from None


def tensor_type_of(tensor: Any) -> TensorType:
    """The TensorType of a (fake) tensor.

    Raises:
        UserError: HET-C004, an extent has no fixed value; HET-C009, the element type is not supported.
    """
    extents = tuple(extent_of(extent) for extent in tensor.shape)
    if None in extents:
        raise UserError("HET-C004", f"a tensor of shape {tuple(tensor.shape)} has no fixed size",
                        fix=DATA_DEPENDENT_FIX)
    return TensorType(tuple(extent for extent in extents if extent is not None), dtype_of(tensor.dtype))


def _is_fixed(produced: Any) -> bool:
    """Whether a result is a tensor of known shape; Python numbers taken from tensors and what they size are not."""
    extents = getattr(produced, "shape", None)
    return extents is not None and all(extent_of(extent) is not None for extent in extents)


def convert(program: Any, names: InputNames, graph_name: str, output_names: tuple[str, ...] = ()) -> Graph:
    """The Graph of an exported, decomposed program (functional: no in-place operators left).

    Args:
        program: ``torch.export.ExportedProgram`` after ``run_decompositions``.
        names: names of its user inputs.
        graph_name: name of the Graph.
        output_names: names for the program's outputs in place of their node names.

    Raises:
        UserError: HET-C009 for element types or arguments the Graph cannot hold; HET-C004, a result needs a Python
            number that is taken from a tensor.
    """
    without_complex(program)
    without_numbers(program)
    return _Converter(program, names, graph_name).run(output_names)


class _Converter:
    """Holds the tables of one conversion."""

    def __init__(self, program: Any, names: InputNames, graph_name: str) -> None:
        self.program = program
        self.names = names
        self.graph_name = graph_name
        self.values: dict[str, Value] = {}
        self.value_of: dict[str, str | tuple[str, ...]] = {}
        self.counters: Counter[str] = Counter()
        self.nodes: list[Node] = []
        self.unfixed: dict[str, str] = {}
        """Where what has no fixed value comes from; an error only if a result needs it."""

    def run(self, output_names: tuple[str, ...]) -> Graph:
        self._bind_placeholders()
        output_arguments: tuple[Any, ...] = ()
        for fx_node in self.program.graph.nodes:
            if fx_node.op == "call_function":
                self._convert_call(fx_node)
            elif fx_node.op == "output":
                output_arguments = fx_node.args[0]
        return self._assemble(output_arguments, output_names)

    def _bind_placeholders(self) -> None:
        signature = self.program.graph_signature
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                   **signature.inputs_to_lifted_tensor_constants}
        for fx_node in self.program.graph.nodes:
            if fx_node.op != "placeholder":
                continue
            tensor = fx_node.meta["val"]
            if fx_node.name in weights:
                role = Role.PARAMETER if fx_node.name in signature.inputs_to_parameters else (
                    Role.BUFFER if fx_node.name in signature.inputs_to_buffers else Role.CONSTANT)
                name = weights[fx_node.name].removeprefix(self.names.prefix)
            elif fx_node.name in self.names.caches:
                role, name = Role.CACHE, self.names.caches[fx_node.name]
            else:
                role, name = Role.INPUT, self.names.inputs.get(fx_node.name, fx_node.name)
            self.values[name] = Value(name, tensor_type_of(tensor), role)
            self.value_of[fx_node.name] = name

    def _convert_call(self, fx_node: Any) -> None:
        target = fx_node.target
        if getattr(target, "__name__", "") == "getitem" and fx_node.args[0].name not in self.unfixed:
            parts = self.value_of[fx_node.args[0].name]
            self.value_of[fx_node.name] = parts[fx_node.args[1]] if isinstance(parts, tuple) else parts
            return
        schema_name = target._schema.name if hasattr(target, "_schema") else str(target)
        domain, _, operator_name = schema_name.partition("::")
        if operator_name.startswith("_assert") or self._lacks_value(fx_node, operator_name):
            return
        inputs: list[str] = []
        arguments = tuple(self._argument(part, inputs, fx_node) for part in fx_node.args)
        keywords = tuple(sorted((key, self._argument(part, inputs, fx_node)) for key, part in fx_node.kwargs.items()
                                if key not in _DROPPED_KEYWORDS))
        provenance = self._provenance(fx_node)
        name = self._unique(provenance.module_path, operator_name)
        outputs = self._declare_outputs(fx_node, name)
        call = Call(operator_name, arguments, dict(keywords), tuple(self.values[value].type for value in inputs),
                    tuple(self.values[value].type for value in outputs))
        operator_class, attributes = classify(call)
        overload = getattr(target, "_overloadname", "")
        self.nodes.append(Node(name, SourceOperator(domain or "aten", operator_name, overload), operator_class,
                               tuple(inputs), outputs, arguments, keywords, attributes, provenance))

    def _lacks_value(self, fx_node: Any, operator_name: str) -> bool:
        """Whether a call makes or needs what only running the model can tell; such calls have no Node."""
        produced = fx_node.meta.get("val")
        parts = produced if isinstance(produced, (tuple, list)) else (produced,)
        causes = [self.unfixed[needed.name] for needed in fx_node.all_input_nodes if needed.name in self.unfixed]
        if not causes and all(part is None or _is_fixed(part) for part in parts) and produced is not None:
            return False
        place = self._provenance(fx_node)
        self.unfixed[fx_node.name] = causes[0] if causes else " ".join(
            filter(None, (operator_name, place.source and f"at {place.source}", place.module_path)))
        return True

    def _declare_outputs(self, fx_node: Any, name: str) -> tuple[str, ...]:
        produced = fx_node.meta["val"]
        if not isinstance(produced, (tuple, list)):
            self.values[name] = Value(name, tensor_type_of(produced))
            self.value_of[fx_node.name] = name
            return (name,)
        names = tuple(f"{name}:{position}" for position in range(len(produced)))
        kept = []
        for part_name, part in zip(names, produced, strict=True):
            if part is not None:
                self.values[part_name] = Value(part_name, tensor_type_of(part))
                kept.append(part_name)
        self.value_of[fx_node.name] = names
        return tuple(kept)

    def _argument(self, part: Any, inputs: list[str], fx_node: Any) -> Argument:
        if hasattr(part, "op") and hasattr(part, "meta"):
            value = self.value_of[part.name]
            if isinstance(value, tuple):
                raise UserError("HET-C009", f"{fx_node.target} takes a list result as one argument",
                                where=self._provenance(fx_node).module_path, fix="report the model to hetcc")
            if value not in inputs:
                inputs.append(value)
            return Operand(inputs.index(value))
        if isinstance(part, (list, tuple)):
            return tuple(self._argument(entry, inputs, fx_node) for entry in part)
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        kind = type(part).__name__
        if kind == "dtype":
            return dtype_of(part)
        if kind in ("device", "layout", "memory_format"):
            return None
        raise UserError("HET-C009", f"argument {part!r} of {fx_node.target} has no fixed value",
                        where=self._provenance(fx_node).module_path,
                        fix="fix the size with --batch/--context, or --set the option that makes it depend on data")

    def _provenance(self, fx_node: Any) -> Provenance:
        stack = fx_node.meta.get("nn_module_stack") or {}
        path, module_class = "", ""
        for entry_path, entry_class in stack.values():
            path = entry_path
            module_class = entry_class if isinstance(entry_class, str) else entry_class.__name__
        path = (path + ".").removeprefix(self.names.prefix).rstrip(".") if self.names.prefix else path
        frames = _FRAME.findall(fx_node.meta.get("stack_trace") or "")
        source = f"{PurePath(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""
        return Provenance(path, module_class.rsplit(".", 1)[-1], source)

    def _unique(self, module_path: str, operator_name: str) -> str:
        base = f"{module_path}/{operator_name}" if module_path else operator_name
        count = self.counters[base]
        self.counters[base] += 1
        return base if count == 0 else f"{base}.{count}"

    def _assemble(self, output_arguments: tuple[Any, ...], output_names: tuple[str, ...]) -> Graph:
        signature = self.program.graph_signature
        updates: list[CacheUpdate] = []
        outputs: list[str] = []
        for spec, argument in zip(signature.output_specs, output_arguments, strict=True):
            if getattr(argument, "name", "") in self.unfixed:
                raise UserError("HET-C004", "a result depends on a Python number that the model takes from a tensor",
                                where=self.unfixed[argument.name], fix=DATA_DEPENDENT_FIX)
            value = None if argument is None else self.value_of.get(getattr(argument, "name", ""))
            if not isinstance(value, str):
                continue
            if spec.kind.name == "USER_OUTPUT":
                outputs.append(value)
            elif spec.kind.name == "USER_INPUT_MUTATION" and spec.target in self.names.caches:
                updates.append(CacheUpdate(self.names.caches[spec.target], value))
        renames = dict(zip(outputs, output_names, strict=False))
        nodes = live_nodes(self.nodes, (*outputs, *(update.value for update in updates)))
        return _renamed(self.graph_name, nodes, self.values, self._used_inputs(), tuple(outputs),
                        tuple(self.names.caches.values()), tuple(updates), renames)

    def _used_inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.values.values() if value.role is Role.INPUT)


def _renamed(
    name: str, nodes: tuple[Node, ...], values: Mapping[str, Value], inputs: tuple[str, ...], outputs: tuple[str, ...],
    caches: tuple[str, ...], updates: tuple[CacheUpdate, ...], renames: Mapping[str, str],
) -> Graph:
    """The Graph with outputs renamed and values nobody uses dropped."""
    from dataclasses import replace

    def new(value: str) -> str:
        return renames.get(value, value)

    nodes = tuple(replace(node, inputs=tuple(map(new, node.inputs)), outputs=tuple(map(new, node.outputs)))
                  for node in nodes)
    used = dict.fromkeys((*inputs, *caches, *(value for node in nodes for value in (*node.inputs, *node.outputs)),
                          *map(new, outputs), *(new(update.value) for update in updates)))
    by_new_name = {new(value.name): replace(value, name=new(value.name)) for value in values.values()}
    return Graph(name, nodes, {value: by_new_name[value] for value in used}, inputs, tuple(map(new, outputs)), caches,
                 tuple(CacheUpdate(update.cache, new(update.value)) for update in updates))
