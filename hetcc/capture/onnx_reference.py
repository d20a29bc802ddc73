"""onnxruntime's own answers for an ``.onnx`` file: the file as it is, random inputs, caches carried over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.onnx_door import OnnxModel, load_model
from hetcc.capture.onnx_inputs import StepInputs
from hetcc.capture.reference import ReferenceRun, ReferenceStep, SelectionReference
from hetcc.errors import ToolError, UserError
from hetcc.ir import OperatorClass
from hetcc.onnx.read import read_model
from hetcc.onnx.reference import plain_runtime
from hetcc.onnx.types import type_proto_of

Array = numpy.ndarray


class OnnxReference:
    """The model file a request names, in onnxruntime on the CPU, without graph optimisations.

    Raises:
        ToolError: HET-T001, onnxruntime is not installed; HET-T002, it refuses the model.
    """

    def __init__(self, request: CaptureRequest) -> None:
        self.model: OnnxModel = load_model(request)
        loaded = self.model.loaded
        self.caches = {update.cache: output for output, value in loaded.outputs.items()
                       for update in loaded.graph.updates if update.value == value}
        """Output of the file that holds the new contents of each cache."""
        self.results = {value: output for output, value in reversed(tuple(loaded.outputs.items()))
                        if value in loaded.graph.outputs}
        """Output of the file that each output of the Graph is."""
        self.selections = self._find_selections()
        self._session = _open_session(loaded.path, self._with_selections(), self.model.sizes)

    def run(self, phase: Phase, seed: int, history: int, steps: int) -> ReferenceRun:
        """Random steps from random caches.

        Args:
            phase: which one; prefill starts with empty caches, and only decode takes more than one step.
            seed: equal seeds give equal numbers.
            history: entries the caches hold before the first step.
            steps: decode steps.

        Raises:
            ToolError: HET-T002, onnxruntime refuses the inputs.
        """
        decodes = phase is Phase.DECODE
        inputs = StepInputs(self.model.loaded.graph, self.model.request, seed, history if decodes else 0)
        caches = inputs.caches()
        before = {name: array.copy() for name, array in caches.items()}
        done = []
        for position in range(steps if decodes else 1):
            fed = inputs.step(position)
            found = self._call({**fed, **caches})
            caches = {cache: found[output] for cache, output in self.caches.items()}
            selections = {indices: SelectionReference(found[scores], found[chosen])
                          for indices, (scores, chosen) in self.selections.items()}
            done.append(ReferenceStep(fed, {value: found[output] for value, output in self.results.items()},
                                      selections))
        return ReferenceRun(before, tuple(done))

    def generate(self, ids: Sequence[int], tokens: int) -> list[int]:
        """Not for model files.

        Raises:
            UserError: HET-B005, always: a file does not say which input takes tokens and which output ranks them.
        """
        del ids, tokens
        raise UserError("HET-B005", "an .onnx file has no generation loop to compare with",
                        fix="compare single steps: `hetcc run BUNDLE --verify`")

    def _call(self, fed: Mapping[str, Array]) -> dict[str, Array]:
        names = [output.name for output in self._session.get_outputs()]
        try:
            results = self._session.run(names, dict(fed))
        except (RuntimeError, ValueError) as error:
            raise ToolError("HET-T002", f"onnxruntime: {error}", where=str(self.model.loaded.path)) from error
        return {**fed, **dict(zip(names, map(numpy.asarray, results), strict=True))}

    def _find_selections(self) -> dict[str, tuple[str, str]]:
        """(scores, indices) as the file names them, by the Graph's name of the indices of each top-k."""
        loaded = self.model.loaded
        found = {}
        for node in loaded.graph.nodes:
            if node.operator_class is OperatorClass.TOPK:
                scores, indices = node.operand("input") or "", node.outputs[-1]
                found[indices] = loaded.tensors.get(scores, scores), loaded.tensors.get(indices, indices)
        return found

    def _with_selections(self) -> Any:
        """The program, in memory, with the scores and results of every selection among its outputs."""
        loaded = self.model.loaded
        program = read_model(loaded.path, self.model.sizes).proto
        present = {value.name for value in program.graph.output}
        computed = {name for node in program.graph.node for name in node.output}
        value_of = {tensor: value for value, tensor in loaded.tensors.items()}
        for pair in self.selections.values():
            for tensor in pair:
                if tensor in computed and tensor not in present:
                    kind = type_proto_of(loaded.graph.type_of(value_of[tensor]))
                    program.graph.output.add(name=tensor, type=kind)
                    present.add(tensor)
        return program


def _open_session(path: Path, program: Any, sizes: Mapping[str, int]) -> Any:
    """An onnxruntime session for ``program``, whose external data lies beside ``path``."""
    onnxruntime, options = plain_runtime()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        return onnxruntime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError) as error:
        raise ToolError("HET-T002", f"onnxruntime: {error}", where=str(path)) from error


__all__ = ["OnnxReference"]
