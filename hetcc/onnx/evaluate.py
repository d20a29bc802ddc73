"""``onnx.reference`` with the operators that it computes wrongly replaced."""

from __future__ import annotations

from typing import Any

import numpy


def evaluator_of(model: Any) -> Any:
    """An ``onnx.reference.ReferenceEvaluator`` for ``model``."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):
        """The original fails when data and indices differ in an extent beside ``axis``."""

        op_domain = ""

        def _run(self, data: numpy.ndarray, indices: numpy.ndarray, axis: int | None = None) -> tuple[numpy.ndarray]:
            along = (axis or 0) % data.ndim
            trimmed = data[tuple(slice(None) if position == along else slice(extent)
                                 for position, extent in enumerate(indices.shape))]
            positive = numpy.where(indices < 0, indices + data.shape[along], indices)
            return (numpy.take_along_axis(trimmed, positive, along),)

    class OneHot(OpRun):
        """The original takes no depth of shape ``[1]``."""

        op_domain = ""

        def _run(self, indices: numpy.ndarray, depth: numpy.ndarray, values: numpy.ndarray,
                 axis: int | None = None) -> tuple[numpy.ndarray]:
            count = int(depth.reshape(-1)[0])
            inside = (indices >= -count) & (indices < count)
            wrapped = numpy.where(inside, indices % count, -1)
            place = -1 if axis is None else axis
            hits = numpy.expand_dims(wrapped, place) == numpy.arange(count).reshape(
                [-1 if at == place % (indices.ndim + 1) else 1 for at in range(indices.ndim + 1)])
            return (numpy.where(hits, values[1], values[0]),)

    return ReferenceEvaluator(model, new_ops=[GatherElements, OneHot])
