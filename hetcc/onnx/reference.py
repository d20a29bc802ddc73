"""Running ONNX programs to have something to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from hetcc.errors import ToolError
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of
from hetcc.onnx.evaluate import evaluator_of
from hetcc.onnx.rebuild import to_model


def plain_runtime() -> tuple[Any, Any]:
    """The onnxruntime module and options under which it computes a file as it is: no optimisation, one thread.

    Raises:
        ToolError: HET-T001, onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolError("HET-T001", "onnxruntime is not installed", fix="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime, options


def run_reference(path: Path, inputs: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Outputs of the model file by name, computed by onnxruntime on the CPU without graph optimisations.

    Raises:
        ToolError: HET-T001, onnxruntime is not installed; HET-T002, it refuses the model or the inputs.
    """
    onnxruntime, options = plain_runtime()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        results = session.run(names, dict(inputs))
    except (RuntimeError, ValueError) as error:
        raise ToolError("HET-T002", f"onnxruntime: {error}", where=str(path)) from error
    return dict(zip(names, results, strict=True))


def evaluate_region(region: Graph, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Results of a region, computed by ``onnx.reference``: slow, and needs nothing but onnx.

    Args:
        region: a Graph of ONNX nodes.
        arguments: array for each name of ``interface_of(region)``.

    Returns:
        array for each output and each updated cache's new value, by value name.
    """
    evaluator = evaluator_of(to_model(region))
    found = evaluator.run(None, {name: arguments[name] for name in interface_of(region)})
    names = dict.fromkeys((*region.outputs, *(update.value for update in region.updates)))
    return {name: numpy.asarray(array) for name, array in zip(names, found, strict=True)}
