"""Accesses as element numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.stages.stage_graph import Access, Axis


def addresses(access: Access, axes: Sequence[Axis], fixed: Mapping[str, int] | None = None) -> NDArray[numpy.int64]:
    """Element numbers of an access for every point of some loops, broadcastable to their extents.

    Args:
        access: the pattern.
        axes: loops that run.
        fixed: loops that stand still, by name.
    """
    strides = dict(access.strides)
    base = access.offset + sum(strides.get(name, 0) * index for name, index in (fixed or {}).items())
    offsets = numpy.full((1,) * len(axes), base, numpy.int64)
    for position, axis in enumerate(axes):
        if strides.get(axis.name):
            shape = [1] * len(axes)
            shape[position] = axis.extent
            offsets = offsets + (numpy.arange(axis.extent) * strides[axis.name]).reshape(shape)
    return offsets


__all__ = ["addresses"]
