"""Running a region on the host: torch eager for the aten domain, onnxruntime or ONNX's reference for onnx."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from hetcc.aten.rebuild import result_names_of
from hetcc.aten.stable import stable_sort, stable_topk
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of

TORCH_ENGINE = "torch eager (host)"


@dataclass
class TorchUse:
    """How often torch computed while a guard was up."""

    operators: dict[str, int] = field(default_factory=dict)
    """Calls by operator name."""
    count: int = 0
    """Calls in all."""


def torch_guard() -> contextlib.AbstractContextManager[TorchUse]:
    """Counts every torch operator of this thread while it is up; where torch was never imported there is none."""
    return _counting_mode()() if "torch" in sys.modules else contextlib.nullcontext(TorchUse())


@functools.cache
def _counting_mode() -> type[contextlib.AbstractContextManager[TorchUse]]:
    """Made once: a guard is put up around every run."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.use = TorchUse()

        def __enter__(self) -> TorchUse:
            super().__enter__()
            return self.use

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del types
            self.use.count += 1
            self.use.operators[str(func)] = self.use.operators.get(str(func), 0) + 1
            return func(*args, **(kwargs or {}))

    return Counting


class TorchProgram:
    """A region of the aten domain, run by torch eager.

    Selections take the lowest index among equal values and uninitialised tensors are zero, as on every other engine of
    hetcc; torch itself leaves both open.
    """

    engine = TORCH_ENGINE

    def __init__(self, region: Graph) -> None:
        from hetcc.aten.rebuild import rebuild

        self.region = region
        self._module = _with_defined_results(rebuild(region))
        self._arguments = interface_of(region)
        self._results = result_names_of(region)

    def run(self, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """Runs once; no argument is changed.

        Raises:
            UserError: HET-R002, an argument is missing.
        """
        import torch

        missing = [name for name in self._arguments if name not in arguments]
        if missing:
            raise UserError("HET-R002", f"no value for '{missing[0]}'", where=self.region.name)
        with torch.no_grad():
            results = self._module(*(tensor_of(arguments[name]) for name in self._arguments))
        return {name: array_of(tensor) for name, tensor in zip(self._results, results, strict=True)}


def tensor_of(array: numpy.ndarray) -> Any:
    """A torch tensor over the memory of ``array``; the short floats of ml_dtypes keep their bits."""
    import torch

    dense = numpy.ascontiguousarray(array).reshape(array.shape)
    if not dense.flags.writeable:
        dense = dense.copy()
    if dense.dtype.name in _BIT_TYPES:
        bits = torch.from_numpy(dense.view(_BIT_TYPES[dense.dtype.name]))
        return bits.view(getattr(torch, dense.dtype.name))
    return torch.from_numpy(dense)


def array_of(tensor: Any) -> numpy.ndarray:
    """The array of a torch tensor, dense; the reverse of :func:`tensor_of`."""
    name = str(tensor.dtype).removeprefix("torch.")
    dense = tensor.detach().contiguous()
    if name in _BIT_TYPES:
        import ml_dtypes
        import torch

        bits: numpy.ndarray = dense.view(getattr(torch, _BIT_TYPES[name])).numpy()
        return bits.view(getattr(ml_dtypes, name))
    array: numpy.ndarray = dense.numpy()
    return array


_BIT_TYPES: Mapping[str, str] = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


def _with_defined_results(module: Any) -> Any:
    """What torch leaves open is fixed: equal values are ordered by index, and what is uninitialised is zero."""
    import torch

    aten = torch.ops.aten
    defined = {aten.topk.default: stable_topk, aten.sort.default: stable_sort, aten.empty.memory_format: torch.zeros,
               aten.empty_like.default: torch.zeros_like, aten.new_empty.default: aten.new_zeros.default}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in defined:
            node.target = defined[node.target]
    module.recompile()
    return module


class OnnxProgram:
    """A region of the onnx domain, run by onnxruntime, or by the ONNX reference where that is not installed."""

    def __init__(self, region: Graph) -> None:
        from hetcc.onnx.rebuild import to_model

        self.region = region
        model = to_model(region)
        self._results = result_names_of(region)
        self._session: Any
        try:
            import onnxruntime
        except ImportError:
            from hetcc.onnx.evaluate import evaluator_of

            self.engine = "onnx reference (host)"
            self._session = evaluator_of(model)
            self._input_names = [entry.name for entry in model.graph.input]
        else:
            self.engine = "onnxruntime (host)"
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            self._input_names = [entry.name for entry in self._session.get_inputs()]

    def run(self, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """Runs once; model inputs stand in the order of ``interface_of(region)``."""
        given = zip(self._input_names, interface_of(self.region), strict=True)
        results = self._session.run(None, {model_name: arguments[name] for model_name, name in given})
        return dict(zip(self._results, map(numpy.asarray, results), strict=True))


def load_host_program(region: Graph) -> TorchProgram | OnnxProgram:
    """The program that runs ``region`` on the host."""
    if any(node.operator.domain == "onnx" for node in region.nodes):
        return OnnxProgram(region)
    return TorchProgram(region)
