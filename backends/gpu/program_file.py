"""The file that says how a region runs on one target: modules and kernels in order, and what they are called with.

Nothing in it is named after one region: operators are given by their place in the region and values by number, so
equal regions share the file. Value numbers count ``interface_of(region)`` first, then the outputs of all operators.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Scalar, Tensor
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, TensorType
from hetcc.ir.subgraph import interface_of

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """A compiled module of general operators."""

    file: str
    nodes: tuple[int, ...]
    """Places of the operators whose result it is there for."""
    program: tuple[int, ...]
    """Places of all operators of its program: the views it makes for itself too."""
    outputs: tuple[int, ...]
    """Values it returns, before the new contents of caches."""


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel operation."""

    operation: str
    nodes: tuple[int, ...]
    plan: LaunchPlan
    files: tuple[str, ...]
    """Code object of each launch; empty where the interpreter runs the source."""
    bindings: tuple[tuple[str, int], ...]
    """(role, value)."""
    code: tuple[Mapping[str, Any], ...] = ()
    """What a launch needs to know of each code object."""


Call = ModuleCall | KernelCall


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """How a region runs on one target."""

    target: str
    calls: tuple[Call, ...]
    left_out: tuple[str, ...] = field(default=())
    """Kernels that did not compile, each with the reason; general operators run in their place."""

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        calls = [{"module": _module_to_plain(call)} if isinstance(call, ModuleCall) else
                 {"kernel": _kernel_to_plain(call)} for call in self.calls]
        document = {"version": FORMAT_VERSION, "target": self.target, "calls": calls, "left_out": list(self.left_out)}
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, where: str) -> ProgramFile:
        """What :meth:`to_bytes` gave.

        Raises:
            UserError: HET-B003, it is not such a file.
        """
        try:
            document = json.loads(data)
            if document["version"] != FORMAT_VERSION:
                raise ValueError(f"version {document['version']}, not {FORMAT_VERSION}")
            calls = tuple(_module(call["module"]) if "module" in call else _kernel(call["kernel"])
                          for call in document["calls"])
            return ProgramFile(document["target"], calls, tuple(document["left_out"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError("HET-B003", f"not a GPU program: {type(error).__name__}: {error}", where=where,
                            fix="compile the model again") from error


def value_numbers(region: Graph) -> dict[str, int]:
    """Number by value name."""
    names = dict.fromkeys((*interface_of(region), *(value for node in region.nodes for value in node.outputs)))
    return {name: number for number, name in enumerate(names)}


def _module_to_plain(call: ModuleCall) -> dict[str, Any]:
    return {"file": call.file, "nodes": list(call.nodes), "program": list(call.program), "outputs": list(call.outputs)}


def _module(plain: Mapping[str, Any]) -> ModuleCall:
    return ModuleCall(str(plain["file"]), tuple(plain["nodes"]), tuple(plain["program"]), tuple(plain["outputs"]))


def _kernel_to_plain(call: KernelCall) -> dict[str, Any]:
    scratch = [[name, list(kind.shape), kind.dtype.value] for name, kind in call.plan.scratch]
    return {"operation": call.operation, "nodes": list(call.nodes), "scratch": scratch,
            "launches": [_launch_to_plain(launch) for launch in call.plan.launches], "files": list(call.files),
            "bindings": [list(pair) for pair in call.bindings], "code": [dict(facts) for facts in call.code]}


def _kernel(plain: Mapping[str, Any]) -> KernelCall:
    scratch = tuple((name, TensorType(tuple(shape), DType(dtype))) for name, shape, dtype in plain["scratch"])
    plan = LaunchPlan(tuple(_launch(launch) for launch in plain["launches"]), scratch)
    return KernelCall(plain["operation"], tuple(plain["nodes"]), plan, tuple(plain["files"]),
                      tuple((role, number) for role, number in plain["bindings"]), tuple(plain["code"]))


def _launch_to_plain(launch: Launch) -> dict[str, Any]:
    arguments = [
        [parameter, {"tensor": passed.name, "dtype": passed.dtype.value, "written": passed.written}
         if isinstance(passed, Tensor) else {"scalar": passed.value, "type": passed.triton_type}]
        for parameter, passed in launch.arguments]
    return {"module": launch.module, "function": launch.function, "arguments": arguments,
            "constants": [list(pair) for pair in launch.constants], "grid": list(launch.grid),
            "warps": launch.warps, "stages": launch.stages}


def _launch(plain: Mapping[str, Any]) -> Launch:
    arguments = tuple(
        (parameter, Tensor(passed["tensor"], DType(passed["dtype"]), passed["written"]) if "tensor" in passed
         else Scalar(passed["scalar"], passed["type"])) for parameter, passed in plain["arguments"])
    grid = plain["grid"]
    return Launch(plain["module"], plain["function"], arguments,
                  tuple((name, value) for name, value in plain["constants"]), (grid[0], grid[1], grid[2]),
                  plain["warps"], plain["stages"])
