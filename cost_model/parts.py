"""The times a price is made of, and how they make one: shared by devices that run kernels and devices that stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.cost_model.elementwise import exponential, is_plain, larger, logarithm_above_one, smaller
from hetcc.cost_model.work import Work
from hetcc.ir import DType, OperatorClass

WorkItem = tuple[Work, OperatorClass, DType]
_TINY = 1e-300
MATRIX_CLASSES = frozenset({OperatorClass.MATMUL, OperatorClass.ATTENTION, OperatorClass.CONVOLUTION})


@dataclass(frozen=True, slots=True)
class Parts:
    """What one kernel spends time on, in seconds."""

    launch_s: float
    """Until it starts."""
    latency_s: float
    """Dependent trips to memory, passes that wait for each other, filling and draining a pipeline."""
    memory_s: float
    compute_s: float
    overlap: float = math.inf
    """p of ``(memory^p + compute^p)^(1/p)``; infinite is the larger of the two."""

    @property
    def busy_s(self) -> float:
        """Memory and compute together."""
        return power_mean(self.memory_s, self.compute_s, self.overlap)

    @property
    def time_s(self) -> float:
        """The whole."""
        return self.launch_s + self.latency_s + self.busy_s


def power_mean(first: float, second: float, exponent: float) -> float:
    """``(first^p + second^p)^(1/p)``: smooth, never below the larger, never above the sum, monotone in both and in p.

    ``exponent`` is at least 1; infinite gives the larger.
    """
    most, least = larger(first, second), smaller(first, second)
    if is_plain(most, exponent):
        if most <= 0.0 or math.isinf(exponent):
            return most
        share = least / most
    else:
        share = least / larger(most, _TINY)
    return most * exponential(logarithm_above_one(share**exponent) / exponent)
