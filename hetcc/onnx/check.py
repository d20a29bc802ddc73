"""Comparing two ONNX programs on random inputs, so that a rewrite is believed only after it was seen to hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy

from hetcc.ir import Graph
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of
from hetcc.ir.trials import check_by_trials
from hetcc.onnx.reference import evaluate_region
from hetcc.onnx.types import numpy_dtype_of


def check_on_random_inputs(request: CheckRequest) -> CheckResult:
    """Compare both programs as ``onnx.reference`` runs them; see :func:`hetcc.ir.trials.check_by_trials`."""
    return check_by_trials(request, _run)


def _run(graph: Graph, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    converted = {name: arguments[name].astype(numpy_dtype_of(graph.type_of(name).dtype))
                 for name in interface_of(graph)}
    return evaluate_region(graph, converted)
