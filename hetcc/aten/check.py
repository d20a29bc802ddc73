"""Comparing two aten programs on random inputs, so that a rewrite is believed only after it was seen to hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy

from hetcc.ir import Graph
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of
from hetcc.ir.trials import check_by_trials


def check_on_random_inputs(request: CheckRequest) -> CheckResult:
    """Compare both programs as torch eager runs them; see :func:`hetcc.ir.trials.check_by_trials`."""
    return check_by_trials(request, _run)


def _run(graph: Graph, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    import torch

    from hetcc.aten.rebuild import rebuild, result_names_of, torch_dtype_of

    tensors = (torch.tensor(arguments[name]).to(torch_dtype_of(graph.type_of(name).dtype))
               for name in interface_of(graph))
    with torch.no_grad():
        results = rebuild(graph)(*tensors)
    named = results if isinstance(results, (tuple, list)) else (results,)
    return {name: result.double().numpy() for name, result in zip(result_names_of(graph), named, strict=True)}
