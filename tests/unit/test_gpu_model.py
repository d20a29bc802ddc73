"""Kernels: which regime they are in, waves of tiles, few rows, sizes, and what the last-level cache still holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from hetcc.cost_model.device import load_device
from hetcc.cost_model.gpu import cached_bytes, factor_at, flops_in_waves, memory_time_s
from hetcc.cost_model.parts import power_mean
from hetcc.cost_model.price import Bound, price
from hetcc.cost_model.profile import Achieved, SizePoint, Skinny
from hetcc.cost_model.quantity import Corner, Quantity
from hetcc.cost_model.work import Product, Work
from hetcc.ir import DType, OperatorClass

F32, BF16 = DType.FLOAT32, DType.BFLOAT16
MI210 = load_device("mi210")
TILES = MI210.baseline().tiles


def number(value, low=None, high=None, unit="1"):
    return Quantity(value=value, unit=unit, low=value if low is None else low, high=value if high is None else high,
                    kind="assumed", source="a reason", date="2026-11-21")


def product(batch, rows, columns, depth, *, bytes_per=2, is_projection=True):
    """A matrix product that reads both operands and writes the result."""
    moved = bytes_per * batch * (rows * depth + depth * columns)
    return (Work(2 * batch * rows * columns * depth, moved, bytes_per * batch * rows * columns, rows * columns,
                 Product(batch, rows, columns, depth, is_projection)), OperatorClass.MATMUL, BF16)


def test_the_four_regimes():
    tiny = (Work(1, 4, 4, 1), OperatorClass.ELEMENTWISE, F32)
    selection = (Work(0, 32_768, 768, 8192), OperatorClass.TOPK, F32)
    row, square = product(1, 1, 8192, 8192), product(1, 8192, 8192, 8192)
    found = [price([item], MI210).bound for item in (tiny, selection, row, square)]
    assert found == [Bound.LAUNCH, Bound.LATENCY, Bound.MEMORY, Bound.COMPUTE]


def test_a_replayed_launch_is_cheaper_and_is_what_tuned_kernels_pay():
    tuned, published = MI210.baseline("tuned"), MI210.baseline("as-published")
    assert tuned.launch_s.value < tuned.kernel_launch_s.value == published.launch_s.value
    assert price([(Work(1, 4, 4, 1), OperatorClass.COPY, F32)], MI210).parts.launch_s == tuned.launch_s.value


def test_one_wave_costs_a_whole_wave_and_one_tile_more_costs_another():
    whole = 104 * 2 * 128 * 128 * 512
    assert flops_in_waves(Product(1, 128, 128, 512), TILES, 104) == whole
    assert flops_in_waves(Product(104, 128, 128, 512), TILES, 104) == pytest.approx(whole)
    assert flops_in_waves(Product(104 + 52, 128, 128, 512), TILES, 104) == pytest.approx(2 * whole)
    assert flops_in_waves(Product(104 + 26, 128, 128, 512), TILES, 104) == pytest.approx(1.5 * whole)
    assert flops_in_waves(Product(1, 1, 128, 512), TILES, 104) == whole / 8, "16 of 128 rows"


def test_long_sums_are_split_so_that_few_tiles_fill_the_device():
    short, long = Product(1, 128, 128, 512), Product(1, 128, 128, 512 * 104)
    assert flops_in_waves(long, TILES, 104) == pytest.approx(flops_in_waves(short, TILES, 104))


@pytest.mark.parametrize("axis", ["batch", "rows", "columns", "depth"])
def test_a_larger_product_never_takes_less(axis):
    base = Product(3, 100, 300, 700)
    sizes = [*range(1, 400), *range(400, 40_000, 97)]
    flops = [flops_in_waves(replace(base, **{axis: size}), TILES, 104) for size in sizes]
    assert all(first <= second * (1 + 1e-12) for first, second in pairwise(flops))
    assert all(flops_in_waves(replace(base, **{axis: size}), TILES, 104)
               >= 2 * (base.batch * base.rows * base.columns * base.depth / getattr(base, axis)) * size * (1 - 1e-12)
               for size in sizes)


def test_few_rows_read_a_matrix_nearly_as_fast_as_a_copy():
    one, many = product(1, 1, 16384, 16384), product(1, 64, 16384, 16384)
    fractions = [item[0].bytes_moved / 1.6384e12 / price([item], MI210).parts.memory_s for item in (one, many)]
    assert fractions[0] == pytest.approx(0.85)
    assert 0.8 < fractions[1] < 0.81
    assert price([one], MI210).time_s < price([many], MI210).time_s


def test_projections_have_their_own_fractions_where_a_baseline_says_so():
    inner, projection = product(1, 1, 8192, 8192, is_projection=False), product(1, 1, 8192, 8192)
    published = [price([item], MI210, "as-published").time_s for item in (inner, projection)]
    assert published[0] > 20 * published[1], "the published inner product is no library kernel"
    assert price([inner], MI210).time_s == price([projection], MI210).time_s


def test_factors_follow_a_power_law_between_sizes_and_are_constant_beyond():
    points = (SizePoint(at=100, factor=number(0.1)), SizePoint(at=10_000, factor=number(1.0)))
    found = [factor_at(points, amount, Corner.LIKELY) for amount in (1, 100, 1000, 10_000, 10**9)]
    assert found == pytest.approx([0.1, 0.1, 10**-0.5, 1.0, 1.0])
    assert factor_at((), 5, Corner.SLOW) == 1.0


def test_curves_that_would_make_more_bytes_faster_are_refused():
    def achieved(**fields):
        return Achieved(bandwidth_fraction=number(0.5), compute_fraction=number(0.5), **fields)

    with pytest.raises(ValueError, match="sizes must rise, and time with them"):
        achieved(bandwidth_by_size=(SizePoint(at=100, factor=number(0.1)), SizePoint(at=200, factor=number(0.9))))
    with pytest.raises(ValueError, match="at the slow end"):
        achieved(compute_by_size=(SizePoint(at=100, factor=number(0.5, 0.01, 0.5)),
                                  SizePoint(at=200, factor=number(0.9))))
    with pytest.raises(ValueError, match="skinny products reach less"):
        achieved(skinny=Skinny(rows=number(16), bandwidth_fraction=number(0.4)))


@pytest.mark.parametrize(("distance", "held"), [(0, 3_000_000), (3_000_000, 2_033_164), (10**8, 0)])
def test_the_cache_holds_what_was_touched_last(distance, held):
    """60% of 8 MiB are 5,033,164 bytes."""
    work = Work(0, 3_000_000, 0, 1, recent=((3_000_000, distance),))
    assert cached_bytes(work, MI210, Corner.LIKELY) == pytest.approx(held, abs=1)
    cold = price([(replace(work, recent=()), OperatorClass.COPY, F32)], MI210)
    warm = price([(work, OperatorClass.COPY, F32)], MI210)
    assert warm.time_s < cold.time_s if held else warm.time_s == cold.time_s
    assert warm.energy_j <= cold.energy_j


def test_a_class_has_its_share_in_what_the_cache_gains():
    work = replace(Work(bytes_read=1 << 20), recent=((1 << 20, 0),))
    def seconds(share, recent=work):
        achieved = Achieved(bandwidth_fraction=number(1.0), compute_fraction=number(1.0),
                            cache_share=None if share is None else number(share))
        return memory_time_s(recent, MI210, achieved, Corner.LIKELY)

    far = seconds(None, replace(work, recent=()))
    assert seconds(None) == seconds(1.0) < seconds(0.5) < seconds(0.0) == pytest.approx(far)
    assert seconds(0.5) == pytest.approx((seconds(0.0) + seconds(1.0)) / 2)
    assert seconds(3.0) == seconds(1.0), "no more than the whole gain"


def test_a_power_mean_lies_between_the_larger_and_the_sum():
    assert power_mean(3.0, 4.0, 1.0) == pytest.approx(7.0)
    assert power_mean(3.0, 4.0, 2.0) == pytest.approx(5.0)
    assert power_mean(3.0, 4.0, float("inf")) == 4.0
    assert power_mean(0.0, 0.0, 4.0) == 0.0 and power_mean(1e-300, 1e300, 4.0) == 1e300


def test_every_price_says_where_its_deciding_numbers_come_from():
    found = price([product(1, 1, 8192, 8192)], MI210)
    assert "AMD Instinct MI210 data sheet" in found.sources
    assert found.low_s < found.time_s < found.high_s and found.low_j < found.energy_j < found.high_j
