"""Comparing two aten programs on random inputs, so that a rewrite is believed only after it was seen to hold."""

from __future__ import annotations

from typing import Any

from hetcc.ir import DType, Graph
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of

_TRIALS = 3
_TOLERANCE = {DType.FLOAT64: 1e-9, DType.FLOAT32: 1e-4}
_COARSE_TOLERANCE = 4e-2


def check_on_random_inputs(request: CheckRequest) -> CheckResult:
    """Run both programs on the same random inputs and compare every output.

    The last trial also makes half of the mask entries very negative, never all the selected ones of a query: a query
    that may look at nothing has no defined result in either program.
    """
    import torch

    worst = 0.0
    for trial in range(_TRIALS):
        generator = torch.Generator().manual_seed(trial)
        arguments = _arguments(request, generator, masked=trial == _TRIALS - 1)
        expected = _run(request.before, arguments)
        actual = _run(request.after, arguments)
        for name in request.compared:
            reference = expected[name]
            error = _relative_error(actual[name], reference)
            tolerance = _TOLERANCE.get(request.before.type_of(name).dtype, _COARSE_TOLERANCE)
            worst = max(worst, error)
            if not error <= tolerance:
                return CheckResult(False, error, f"'{name}' differs by {error:.1e}, more than {tolerance:.0e}")
    return CheckResult(True, worst)


def _relative_error(actual: Any, reference: Any) -> float:
    scale = float(reference.abs().max()) or 1.0
    return float((actual - reference).abs().max()) / scale


def _arguments(request: CheckRequest, generator: Any, *, masked: bool) -> dict[str, Any]:
    import torch

    graph = request.before
    found: dict[str, Any] = {}
    chosen = _distinct_indices(request, generator)
    for name in dict.fromkeys((*interface_of(graph), *interface_of(request.after))):
        tensor_type = (graph if name in graph.values else request.after).type_of(name)
        shape = tensor_type.shape
        torch_dtype = getattr(torch, tensor_type.dtype.value)
        if name == request.indices:
            found[name] = chosen.to(torch_dtype)
        elif tensor_type.dtype is DType.BOOL:
            found[name] = torch.rand(shape, generator=generator) < 0.5
        elif tensor_type.dtype.is_floating:
            found[name] = torch.randn(shape, generator=generator).to(torch_dtype)
            if masked and name in request.mask_inputs:
                hidden = torch.rand(shape, generator=generator) < 0.5
                hidden[..., chosen.flatten()[0]] = False
                found[name] = found[name].masked_fill(hidden, torch.finfo(torch_dtype).min)
        else:
            found[name] = torch.zeros(shape, dtype=torch_dtype)
    return found


def _distinct_indices(request: CheckRequest, generator: Any) -> Any:
    """Distinct positions below the memory's extent, drawn anew for each batch entry."""
    import torch

    shape = request.before.type_of(request.indices).shape
    axis = max(range(len(shape)), key=lambda place: (shape[place] > 1, place))
    rows = []
    for _ in range(request.before.type_of(request.indices).elements // shape[axis]):
        rows.append(torch.randperm(request.extent, generator=generator)[:shape[axis]])
    stacked = torch.stack(rows).reshape([extent for place, extent in enumerate(shape) if place != axis] + [shape[axis]])
    return stacked.movedim(-1, axis)


def _run(graph: Graph, arguments: dict[str, Any]) -> dict[str, Any]:
    import torch

    from hetcc.aten.rebuild import rebuild, result_names_of

    with torch.no_grad():
        results = rebuild(graph)(*(arguments[name] for name in interface_of(graph)))
    named = results if isinstance(results, (tuple, list)) else (results,)
    return {name: result.float() for name, result in zip(result_names_of(graph), named, strict=True)}
