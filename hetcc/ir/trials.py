"""Random arguments for comparing two programs, and the comparison itself; how a program is run is up to its domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy

from hetcc.ir.graph import Graph
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of
from hetcc.ir.types import DType, TensorType

Array = numpy.ndarray
Run = Callable[[Graph, Mapping[str, Array]], Mapping[str, Array]]
"""Runs a program on an array for each name of its interface; results by value name."""

TRIALS = 3
_TOLERANCE = {DType.FLOAT64: 1e-9, DType.FLOAT32: 1e-4}
_COARSE_TOLERANCE = 4e-2
_LOWEST = {DType.FLOAT64: -1.7976931348623157e308, DType.FLOAT32: -3.4028234663852886e38, DType.FLOAT16: -65504.0,
           DType.BFLOAT16: -3.3895313892515355e38, DType.FLOAT8_E4M3FN: -448.0, DType.FLOAT8_E5M2: -57344.0}
"""Most negative finite number of each floating-point type."""


def check_by_trials(request: CheckRequest, run: Run) -> CheckResult:
    """Run both programs on the same random arguments and compare what has to agree.

    The last trial also makes half of the mask entries very negative, never all the selected ones of a query: a query
    that may look at nothing has no defined result in either program.

    Args:
        request: the programs.
        run: runs one; it gets booleans, whole numbers as int64 and real numbers in single precision (in double where
            the value is of that type), and converts them to the types of the values.
    """
    worst = 0.0
    for trial in range(TRIALS):
        arguments = trial_arguments(request, trial)
        expected, actual = run(request.before, arguments), run(request.after, arguments)
        for name in request.compared:
            error = _relative_error(actual[name], expected[name])
            tolerance = _TOLERANCE.get(request.before.type_of(name).dtype, _COARSE_TOLERANCE)
            worst = max(worst, error)
            if not error <= tolerance:
                return CheckResult(False, error, f"'{name}' differs by {error:.1e}, more than {tolerance:.0e}")
    return CheckResult(True, worst)


def trial_arguments(request: CheckRequest, trial: int) -> dict[str, Array]:
    """Arguments of both programs for one trial; equal trials get equal numbers."""
    generator = numpy.random.default_rng(trial)
    chosen = _distinct_indices(request, generator) if request.indices else numpy.zeros(1, numpy.int64)
    masked = trial == TRIALS - 1
    found: dict[str, Array] = {}
    for name in dict.fromkeys((*interface_of(request.before), *interface_of(request.after))):
        graph = request.before if name in request.before.values else request.after
        if name == request.indices:
            found[name] = chosen
            continue
        found[name] = _random(graph.type_of(name), generator)
        if masked and name in request.mask_inputs and graph.type_of(name).dtype.is_floating:
            hidden = generator.random(found[name].shape) < 0.5
            hidden[..., _one_of_each(request, chosen)] = False
            found[name][hidden] = _LOWEST[graph.type_of(name).dtype]
    return found


def _random(tensor_type: TensorType, generator: numpy.random.Generator) -> Array:
    """Normal numbers, coin flips, or zeros (the one whole number that is valid as an index anywhere)."""
    if tensor_type.dtype is DType.BOOL:
        return generator.random(tensor_type.shape) < 0.5
    if not tensor_type.dtype.is_floating:
        return numpy.zeros(tensor_type.shape, numpy.int64)
    exact = numpy.float64 if tensor_type.dtype is DType.FLOAT64 else numpy.float32
    return numpy.asarray(generator.standard_normal(tensor_type.shape), exact)


def _distinct_indices(request: CheckRequest, generator: numpy.random.Generator) -> Array:
    """Distinct positions below the memory's extent, drawn anew for each batch entry."""
    shape = request.before.type_of(request.indices).shape
    axis = _selected_axis(request)
    count = request.before.type_of(request.indices).elements // shape[axis]
    rows = numpy.stack([generator.permutation(request.extent)[:shape[axis]] for _ in range(count)])
    others = [extent for place, extent in enumerate(shape) if place != axis]
    return numpy.moveaxis(rows.reshape([*others, shape[axis]]), -1, axis)


def _one_of_each(request: CheckRequest, chosen: Array) -> Array:
    """One position that each query selected, so that hiding others leaves it something to look at."""
    return numpy.unique(numpy.take(chosen, 0, _selected_axis(request))) if request.indices else chosen


def _selected_axis(request: CheckRequest) -> int:
    """Axis of the indices along which one query's selection lies: the last that is longer than one."""
    shape = request.before.type_of(request.indices).shape
    return max(range(len(shape)), key=lambda place: (shape[place] > 1, place))


def _relative_error(actual: Array, reference: Array) -> float:
    """Largest difference over the largest magnitude of the reference."""
    first, second = actual.astype(numpy.float64), reference.astype(numpy.float64)
    scale = float(numpy.abs(second).max(initial=0.0)) or 1.0
    with numpy.errstate(invalid="ignore"):
        return float(numpy.abs(first - second).max(initial=0.0)) / scale
