"""The plain roofline that a calibrated profile is compared with: one bandwidth, one peak, one launch.

``time = launches x launch + sum over kernels of max(bytes / bandwidth, flops / peak)`` (Williams, Waterman, Patterson,
CACM 2009, with a fixed cost per kernel), fitted to the same times by the same loss as the profile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from hetcc.cost_model.calibrate import Observation


@dataclass(frozen=True, slots=True)
class Roofline:
    """Three numbers for everything."""

    launch_s: float
    bandwidth: float
    peak: float

    def predicted_s(self, observation: Observation) -> float:
        """What the roofline says the observation takes."""
        total = observation.launches * self.launch_s
        for cluster, count in observation.counted:
            moved = sum(work.bytes_moved for work, _, _ in cluster)
            flops = sum(work.flops for work, _, _ in cluster)
            total += count * max(moved / self.bandwidth, flops / self.peak)
        return total


def fit_roofline(observations: Sequence[Observation]) -> Roofline:
    """The roofline with the least error on the logarithms of the times."""
    from scipy.optimize import least_squares

    measured = numpy.log([one.time_s for one in observations])

    def residuals(numbers: numpy.ndarray) -> numpy.ndarray:
        roof = Roofline(*(math.exp(number) for number in numbers))
        return numpy.log([roof.predicted_s(one) for one in observations]) - measured

    start = [math.log(min(one.time_s / max(one.launches, 1) for one in observations)),
             math.log(max(1.0, *(one.bytes_moved / one.time_s for one in observations))),
             math.log(max(1.0, *(one.flops / one.time_s for one in observations)))]
    solution = least_squares(residuals, start, loss="soft_l1", f_scale=0.1, max_nfev=200)
    return Roofline(*(math.exp(float(number)) for number in solution.x))


__all__ = ["Roofline", "fit_roofline"]
