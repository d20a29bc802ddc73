"""What work costs on a device that runs kernels: a GPU, or a host.

For the operators of one cluster, run as one kernel::

    time    = launch + latency + (memory^p + compute^p)^(1/p)
    memory  = sum((bytes from memory / bandwidth + bytes from cache / cache bandwidth) / fraction(class, bytes, rows))
    compute = sum(flops, rounded up to whole waves of tiles / (peak(type) x fraction(class, flops)))

so a kernel is launch-bound, latency-bound, bandwidth-bound or compute-bound by whichever is largest, and passes from
one to the next without a step. A fixed part and a linear part are Hockney's model of a transfer; the p-norm is a smooth
form of the roofline (Williams, Waterman, Patterson, CACM 2009), with p for the overlap. Every parameter is in the
profile; every formula is monotone in bytes, in flops and in each rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from hetcc.cost_model.elementwise import ceiling, exponential, floor, larger, logarithm, smaller
from hetcc.cost_model.parts import MATRIX_CLASSES, Parts, WorkItem
from hetcc.cost_model.profile import Achieved, Baseline, Device, SizePoint, Tiles
from hetcc.cost_model.quantity import Corner, Quantity
from hetcc.cost_model.work import Product, Work
from hetcc.ir import DType, OperatorClass

_STAND_IN = {
    DType.FLOAT8_E4M3FN: DType.FLOAT16, DType.FLOAT8_E5M2: DType.FLOAT16, DType.UINT8: DType.INT8,
    DType.BFLOAT16: DType.FLOAT16, DType.FLOAT16: DType.FLOAT32, DType.FLOAT64: DType.FLOAT32,
    DType.INT8: DType.INT16, DType.BOOL: DType.INT8,
}
"""The type a device without rates for a type computes in, tried in turn; for all others float32."""


def kernel_parts(works: Sequence[WorkItem], device: Device, baseline: Baseline, corner: Corner) -> Parts:
    """The times of one kernel at one end of all ranges.

    Args:
        works: operators that do something, each with its class and the type it computes in.
        device: a device with matrix and vector peaks.
        baseline: one of its baselines.
        corner: which end of every range.
    """
    memory_s = compute_s = overhead_s = latency_s = 0.0
    for work, operator_class, dtype in works:
        achieved = achieved_for(baseline, work, operator_class)
        memory_s += memory_time_s(work, device, achieved, corner)
        compute_s += compute_time_s(work, operator_class, dtype, device, baseline, corner)
        overhead_s += achieved.overhead_s.delay(corner) if achieved.overhead_s is not None else 0.0
        latency_s = larger(latency_s, achieved.latency_s.delay(corner) if achieved.latency_s is not None else 0.0)
    exponent = baseline.overlap_exponent.rate(corner) if baseline.overlap_exponent is not None else math.inf
    return Parts(baseline.launch_s.delay(corner), latency_s + overhead_s, memory_s, compute_s, exponent)


def kernel_numbers(works: Sequence[WorkItem], device: Device, baseline: Baseline) -> dict[str, list[Quantity]]:
    """The numbers each part of the time rests on: ``launch``, ``latency``, ``memory`` and ``compute``."""
    found: dict[str, list[Quantity]] = {
        "launch": [baseline.launch_s], "latency": [], "memory": [device.memory.bandwidth_bytes_per_s], "compute": []}
    for work, operator_class, dtype in works:
        achieved = achieved_for(baseline, work, operator_class)
        found["latency"] += [number for number in (achieved.overhead_s, achieved.latency_s) if number is not None]
        found["memory"].append(achieved.bandwidth_fraction)
        found["memory"] += [point.factor for point in achieved.bandwidth_by_size]
        if achieved.cache_share is not None and work.recent:
            found["memory"].append(achieved.cache_share)
        if achieved.skinny is not None and work.product is not None:
            found["memory"].append(achieved.skinny.bandwidth_fraction)
        if work.flops:
            found["compute"] += [peak_of(device, operator_class, dtype), achieved.compute_fraction]
            found["compute"] += [point.factor for point in achieved.compute_by_size]
    return found


def achieved_for(baseline: Baseline, work: Work, operator_class: OperatorClass) -> Achieved:
    """The fractions of an operator: those of projections for a product with a weight, else those of its class."""
    return baseline.achieved_by(operator_class, is_projection=work.product is not None and work.product.is_projection)


def memory_time_s(work: Work, device: Device, achieved: Achieved, corner: Corner) -> float:
    """Time of the traffic of one operator: what the last-level cache still holds is read at its bandwidth, or nearer to
    that of memory as far as the class has only a share in it.
    """
    if not work.bytes_moved:
        return 0.0
    memory = device.memory
    cached = cached_bytes(work, device, corner)
    seconds = (work.bytes_moved - cached) / memory.bandwidth_bytes_per_s.rate(corner)
    if memory.on_chip_bandwidth_bytes_per_s is not None:
        far, near = memory.bandwidth_bytes_per_s.rate(corner), memory.on_chip_bandwidth_bytes_per_s.rate(corner)
        share = smaller(achieved.cache_share.rate(corner), 1.0) if achieved.cache_share is not None else 1.0
        seconds += cached * (share / near + (1.0 - share) / far)
    fraction = bandwidth_fraction(work.product, achieved, corner)
    return seconds / (fraction * factor_at(achieved.bandwidth_by_size, work.bytes_moved, corner))


def cached_bytes(work: Work, device: Device, corner: Corner) -> float:
    """Bytes of the reads that the last-level cache still holds.

    A value that was touched ``distance`` bytes of traffic ago is held as far as ``usable size - distance`` reaches:
    the stack distance of Mattson et al. (IBM Systems Journal, 1970) with everything in between counted as distinct.
    A weight of a step larger than the cache is therefore read from memory in every step.
    """
    memory = device.memory
    if memory.on_chip_bandwidth_bytes_per_s is None or memory.on_chip_usable_fraction is None or not work.recent:
        return 0.0
    size = memory.on_chip_bytes.rate(corner) * memory.on_chip_usable_fraction.rate(corner)
    return sum(smaller(larger(size - distance, 0.0), length) for length, distance in work.recent)


def bandwidth_fraction(product: Product | None, achieved: Achieved, corner: Corner) -> float:
    """The share of the bandwidth: products with few rows or columns pass from their own share to that of the others."""
    share = achieved.bandwidth_fraction.rate(corner)
    if product is None or achieved.skinny is None:
        return share
    beyond = (product.narrow - 1) / larger(achieved.skinny.rows.rate(corner), 1.0)
    return share + (achieved.skinny.bandwidth_fraction.rate(corner) - share) / (1.0 + beyond * beyond)


def factor_at(points: Sequence[SizePoint], amount: float, corner: Corner) -> float:
    """How much of a fraction is reached at a size: times between two points follow a power law of the size."""
    if not points or amount <= points[0].at:
        return points[0].factor.rate(corner) if points else 1.0
    for lower, upper in pairwise(points):
        if amount <= upper.at:
            low_s, high_s = lower.at / lower.factor.rate(corner), upper.at / upper.factor.rate(corner)
            exponent = logarithm(high_s / low_s) / math.log(upper.at / lower.at)
            return amount / (low_s * exponential(exponent * math.log(amount / lower.at)))
    return points[-1].factor.rate(corner)


def compute_time_s(work: Work, operator_class: OperatorClass, dtype: DType, device: Device, baseline: Baseline,
                   corner: Corner) -> float:
    """Time of the arithmetic of one operator, in whole waves of tiles if it is a matrix product."""
    if not work.flops:
        return 0.0
    achieved = achieved_for(baseline, work, operator_class)
    flops = float(work.flops)
    if work.product is not None and baseline.tiles is not None:
        units = device.compute_units.value if device.compute_units is not None else 1.0
        flops = larger(flops, flops_in_waves(work.product, baseline.tiles, units, corner))
    rate = peak_of(device, operator_class, dtype).rate(corner) * achieved.compute_fraction.rate(corner)
    return flops / (rate * factor_at(achieved.compute_by_size, work.flops, corner))


def flops_in_waves(product: Product, tiles: Tiles, units: float, corner: Corner = Corner.LIKELY) -> float:
    """Flops of a product after padding to tiles, and tiles to waves of one tile per compute unit.

    A side shorter than a tile is padded to the granule. Long sums are split into pieces. ``waves`` rises from one whole
    number to the next over the first ``ramp`` of a wave; the first wave always costs a whole one. Neither larger nor
    smaller tiles are always faster. So where their size is uncertain, the fast end is no padding, and the slow end a
    bound for all tiles: every side padded by the largest tile, and one wave of the largest tiles more.
    """
    numbers = (tiles.rows, tiles.columns, tiles.granule, tiles.split_depth, tiles.ramp)
    if corner is not Corner.LIKELY and any(number.low < number.high for number in numbers):
        return _most_flops(product, tiles, units) if corner is Corner.SLOW else 0.0
    granule = tiles.granule.value
    height, rows = _tiled(product.rows, tiles.rows.value, granule)
    width, columns = _tiled(product.columns, tiles.columns.value, granule)
    pieces = larger(product.depth / tiles.split_depth.value, 1.0)
    depth = smaller(product.depth, tiles.split_depth.value)
    waves = product.batch * rows * columns * pieces / units
    started = floor(waves)
    ramp = larger(tiles.ramp.value, 1e-9)
    cost = larger(1.0, started + smaller(1.0, (waves - started) / ramp))
    return cost * units * 2.0 * height * width * depth


def _most_flops(product: Product, tiles: Tiles, units: float) -> float:
    """At least ``flops_in_waves`` for all tiles in the ranges.

    A side is padded by less than the granule if no tile is shorter, else by less than the tile. ``waves`` is raised by
    at most what is left of a wave after the ramp.
    """
    padded, sides = 2.0 * product.batch * product.depth, 1.0
    for length, tile in ((product.rows, tiles.rows), (product.columns, tiles.columns)):
        step = tiles.granule.high if length + tiles.granule.high <= tile.low else tile.high
        padded *= length + step
        sides *= min(tile.high, length + tiles.granule.high)
    wave = units * 2.0 * sides * min(product.depth, tiles.split_depth.high)
    return max(wave, padded + (1.0 - min(tiles.ramp.low, 1.0)) * wave)


def _tiled(length: int, tile: float, granule: float) -> tuple[float, float]:
    """The side of a tile and how many cover ``length``."""
    side = smaller(tile, ceiling(length / granule) * granule)
    return side, ceiling(length / side)


def peak_of(device: Device, operator_class: OperatorClass, dtype: DType) -> Quantity:
    """The arithmetic peak: of matrix units for matrix products, attention and convolution, else of vector units."""
    matrix = operator_class in MATRIX_CLASSES
    return lookup(device.matrix_flops_per_s if matrix else device.vector_flops_per_s, dtype)


def lookup(rates: dict[DType, Quantity], dtype: DType) -> Quantity:
    """The rate of a type, or of the type that stands in for it."""
    while dtype not in rates:
        dtype = _STAND_IN.get(dtype, DType.FLOAT32)
    return rates[dtype]
