"""Timing on a GPU, and the arithmetic on what was timed."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WARM_UP = 3
COPY_BYTES = 4 << 30
MATRIX_EXTENT = 8192
GRAPH_REPEATS_S = 0.5
"""Time after which no further repeat of one contestant starts."""


@dataclass(frozen=True)
class Timing:
    """Times of one contestant on one case."""

    median_s: float
    low_s: float
    """First quartile."""
    high_s: float
    """Third quartile."""
    repeats: int
    graph: bool = True
    """Replayed from a recorded graph; otherwise launched by the host every time, whose gaps then count."""

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.high_s - self.low_s) / self.median_s


@dataclass(frozen=True)
class Ceilings:
    """What the card was measured to do in the same run."""

    copy_bytes_per_s: float
    """Bytes read plus bytes written by a device copy, per second."""
    matrix_flops_per_s: float
    """Of a large square matrix product in bfloat16."""
    empty_s: float
    """A recorded graph with one kernel that does next to nothing: no case can be faster."""


def summarise(times_s: Sequence[float], graph: bool = True) -> Timing:
    """Median and quartiles of repeats.

    Raises:
        ValueError: there is no time, or one is not positive.
    """
    if not times_s or min(times_s) <= 0.0:
        raise ValueError(f"no usable times: {list(times_s)[:5]}")
    if len(times_s) == 1:
        return Timing(times_s[0], times_s[0], times_s[0], 1, graph)
    low, median, high = statistics.quantiles(times_s, n=4, method="inclusive")
    return Timing(median, low, high, len(times_s), graph)


def bound_s(bytes_moved: float, flops: float, ceilings: Ceilings) -> float:
    """The least time of the work: whichever of moving and computing takes longer."""
    return max(bytes_moved / ceilings.copy_bytes_per_s, flops / ceilings.matrix_flops_per_s)


def relative_error(result: Any, expected: Any) -> float:
    """``|result - expected| / |expected|`` in float64; infinities must agree, NaN gives NaN."""
    result, expected = result.double().flatten(), expected.double().flatten()
    same = result == expected
    difference = (result - expected).masked_fill(same, 0.0)
    scale = expected.masked_fill(expected.isinf(), 0.0).norm().item()
    return float(difference.norm().item() / (scale or 1.0))


class Stopwatch:
    """Times calls on the current device with the second-level cache flushed before each."""

    def __init__(self, torch: Any, repeats: int) -> None:
        self.torch, self.repeats = torch, repeats
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
        # Written before every run: larger than the cache, and than the last-level cache that AMD puts behind it.
        self.flushed = torch.empty(max(4 * cache, 512 << 20), dtype=torch.uint8, device="cuda")

    def time(self, call: Callable[[], Any]) -> Timing:
        """Median time of ``call``, from a recorded graph where it can be recorded."""
        for _ in range(WARM_UP):
            call()
        self.torch.cuda.synchronize()
        recorded = self._record(call)
        return summarise(self._repeat(recorded or call), recorded is not None)

    def _record(self, call: Callable[[], Any]) -> Callable[[], None] | None:
        torch = self.torch
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                call()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:  # an operator that waits for the device cannot be recorded
            torch.cuda.synchronize()
            return None
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay

    def _repeat(self, call: Callable[[], Any]) -> list[float]:
        times_s: list[float] = []
        torch = self.torch
        while len(times_s) < self.repeats and sum(times_s) < GRAPH_REPEATS_S:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flushed.zero_()
            start.record()
            call()
            end.record()
            end.synchronize()
            times_s.append(start.elapsed_time(end) * 1e-3)
        return times_s

    def ceilings(self) -> Ceilings:
        """Measures the card."""
        torch = self.torch
        source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
        copied = torch.empty_like(source)
        copy_s = self.time(functools.partial(copied.copy_, source)).median_s
        del source, copied
        left, right = (torch.randn(MATRIX_EXTENT, MATRIX_EXTENT, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty_like(left)
        matrix_s = self.time(lambda: torch.matmul(left, right, out=out)).median_s
        one = torch.ones(1, device="cuda")
        empty_s = self.time(lambda: one.add_(1.0)).median_s
        return Ceilings(2 * COPY_BYTES / copy_s, 2 * MATRIX_EXTENT**3 / matrix_s, empty_s)
