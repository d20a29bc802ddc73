"""Modules and exported programs that are not transformers models: ``path.py:factory`` and ``.pt2`` files.

A factory takes ``--set key=value`` pairs as keyword arguments and returns ``(module, inputs)`` or
``(module, inputs, caches)``: ``inputs`` maps argument names of ``module.forward`` to example tensors, ``caches`` maps
the names of those that live across steps to the position of their new contents among the module's outputs. Inputs that
the module writes in place are caches without being named.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy

from hetcc.aten.convert import InputNames, convert
from hetcc.aten.simplify import tidy
from hetcc.capture.model import CapturedModel, CaptureRequest, Phase, source_file
from hetcc.capture.weights import to_numpy
from hetcc.errors import UserError
from hetcc.ir import CacheUpdate, Graph, Role
from hetcc.ir.subgraph import weights_of


@dataclass(frozen=True)
class TorchProgram:
    """A module with example inputs, wherever it came from."""

    module: Any
    inputs: Mapping[str, Any]
    caches: Mapping[str, int] = field(default_factory=dict)
    """Output position of the new contents of each returned cache."""


def load_program(request: CaptureRequest) -> TorchProgram:
    """The program a request names.

    Raises:
        UserError: HET-C001, HET-C002 or HET-C008 when there is no such program or its factory fails.
    """
    file = source_file(request.model, ".pt2")
    return _load_exported(file) if file is not None else _call_factory(request)


def graph_of(program: TorchProgram, request: CaptureRequest) -> Graph:
    """The tidied graph of a module with its example inputs, which may be fake tensors."""
    return tidy(_convert(_export(program, request), program, request))


def capture_program(request: CaptureRequest) -> CapturedModel:
    """Capture a factory's module or an exported program; its weights come with it."""
    import torch

    program = load_program(request)
    exported = _export(program, request)
    phase = request.phases[0] if request.phases else None
    graph = tidy(_convert(exported, program, request))
    phase = phase or (Phase.DECODE if graph.caches else Phase.ENCODE)
    graph = replace(graph, name=f"{request.model}:{phase.value}")
    tensors = {**exported.state_dict, **exported.constants}
    generated: dict[str, numpy.ndarray] = {}
    constants: dict[str, numpy.ndarray] = {}
    for name in weights_of(graph):
        target = constants if graph.values[name].role is Role.CONSTANT else generated
        target[name] = to_numpy(tensors[name])
    return CapturedModel(request, {phase.value: graph}, constants, {}, generated,
                         {"model_class": type(program.module).__name__, "torch": torch.__version__})


def _export(program: TorchProgram, request: CaptureRequest) -> Any:
    import torch

    if isinstance(program.module, torch.export.ExportedProgram):
        with torch.no_grad():
            return program.module.run_decompositions()
    from hetcc.capture.export import export_program

    try:
        return export_program(program.module, (), dict(program.inputs))
    except UserError as error:
        raise UserError(error.code, error.what, where=request.model, fix=error.fix) from error


def _convert(exported: Any, program: TorchProgram, request: CaptureRequest) -> Graph:
    signature = exported.graph_signature
    placeholders = [spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]
    named = dict(zip(placeholders, program.inputs or placeholders, strict=False))
    mutated = set(signature.user_inputs_to_mutate.values())
    caches = {placeholder: name for placeholder, name in named.items()
              if placeholder in mutated or name in program.caches}
    inputs = {placeholder: name for placeholder, name in named.items() if placeholder not in caches}
    graph = convert(exported, InputNames(inputs, caches), request.model)
    if not program.caches:
        return graph
    returned = {position: cache for cache, position in program.caches.items()}
    if max(returned) >= len(graph.outputs):
        raise UserError("HET-C001", f"the factory names output {max(returned)} as a cache, but the module returns "
                        f"{len(graph.outputs)} tensors", where=request.model)
    updates = tuple(CacheUpdate(returned[position], value) for position, value in enumerate(graph.outputs)
                    if position in returned)
    outputs = tuple(value for position, value in enumerate(graph.outputs) if position not in returned)
    return replace(graph, outputs=outputs, updates=(*graph.updates, *updates))


def _load_exported(file: Path) -> TorchProgram:
    import torch

    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no whole archive")
        exported = torch.export.load(str(file))
    except (RuntimeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError("HET-C008", f"'{file.name}' is not an exported program: {str(error).splitlines()[0]}",
                        where=str(file), fix="write it with torch.export.save, with the torch version hetcc uses"
                        ) from error
    arguments, keywords = exported.example_inputs or ((), {})
    names = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]
    return TorchProgram(exported, dict(zip(names, leaves, strict=False)))


def _call_factory(request: CaptureRequest) -> TorchProgram:
    path, _, name = request.model.rpartition(":")
    file = source_file(path, ".py")
    if file is None or not name:
        raise UserError("HET-C001", f"'{request.model}' is not of the form path.py:factory",
                        fix="write the file, a colon and the name of a function")
    factory = getattr(_module_of(file), name, None)
    if not callable(factory):
        raise UserError("HET-C001", f"'{file.name}' has no function '{name}'", where=str(file))
    try:
        made = factory(**{key: _parsed(text) for key, text in request.overrides})
    except TypeError as error:
        raise UserError("HET-C002", f"the factory does not take these settings: {error}", where=request.model,
                        fix="--set pairs are passed to it as keyword arguments") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[1], Mapping):
        raise UserError("HET-C001", "the factory has to return (module, inputs) or (module, inputs, caches)",
                        where=request.model, fix="inputs is a dict of example tensors by argument name")
    module, inputs, *rest = made
    return TorchProgram(module.eval().requires_grad_(False), dict(inputs), dict(rest[0]) if rest else {})


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _module_of(file: Path) -> Any:
    name = "hetcc_user_" + hashlib.sha256(str(file).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError("HET-C008", f"'{file.name}' cannot be imported: {type(error).__name__}: {error}",
                        where=str(file)) from error
    return module


class ProgramReference:
    """The module itself, run eagerly on its example inputs with fresh random numbers in the floating-point ones."""

    def __init__(self, request: CaptureRequest) -> None:
        self.request = request
        self.program = load_program(request)
        self.captured = capture_program(request)

    def run(self, phase: Phase, seed: int, history: int, steps: int) -> Any:
        """``steps`` steps from random caches; ``history`` is up to the module's own inputs."""
        import torch

        from hetcc.capture.reference import ReferenceRun, ReferenceStep, record_selections

        del history
        graph = self.captured.graphs[phase.value]
        generator = torch.Generator().manual_seed(seed)
        module = self.program.module
        module = module.module() if isinstance(module, torch.export.ExportedProgram) else module
        caches = {name: _fresh(self.program.inputs[name], generator) for name in graph.caches}
        before = {name: to_numpy(tensor).copy() for name, tensor in caches.items()}
        done = []
        for _ in range(steps):
            fed = {name: _fresh(self.program.inputs[name], generator) for name in graph.inputs}
            with record_selections(module) as selections, torch.no_grad():
                results = module(**{name: {**fed, **caches}[name].clone() if name in fed else caches[name]
                                    for name in self.program.inputs})
            listed = list(results) if isinstance(results, (tuple, list)) else [results]
            for name, position in self.program.caches.items():
                caches[name] = listed[position]
            kept = [value for position, value in enumerate(listed) if position not in self.program.caches.values()]
            outputs = {name: to_numpy(value) for name, value in zip(graph.outputs, kept, strict=True)}
            done.append(ReferenceStep({name: to_numpy(value) for name, value in fed.items()}, outputs,
                                      dict(selections)))
        return ReferenceRun(before, tuple(done))


def _fresh(example: Any, generator: Any) -> Any:
    import torch

    if not example.dtype.is_floating_point:
        return example.clone()
    return torch.randn(example.shape, generator=generator, dtype=torch.float32).to(example.dtype)


__all__ = ["ProgramReference", "TorchProgram", "capture_program", "load_program"]
