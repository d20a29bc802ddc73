"""Joules: published ranges of draw, prices per byte and per class, idle power, requests."""

from __future__ import annotations

import pytest

from hetcc.cost_model.device import list_devices, load_device
from hetcc.cost_model.energy import idle_energy_j, request_energy_j
from hetcc.cost_model.price import price, reconfiguration, region_launch
from hetcc.cost_model.quantity import Corner
from hetcc.cost_model.transfer import transfer
from hetcc.cost_model.work import Product, Work
from hetcc.ir import DType, OperatorClass

F32 = DType.FLOAT32
COPY = (Work(0, 10**9, 10**9, 10**6), OperatorClass.COPY, F32)
SCAN = (Work(2 * 10**9, 2 * 10**9, 0, 10**6), OperatorClass.MATMUL, DType.INT8)


def draw_w(item, device):
    found = price([item], device)
    return found.energy_j / found.time_s


@pytest.mark.parametrize("name", list_devices())
def test_what_memory_bound_kernels_draw_lies_in_the_range_that_was_seen(name):
    """Published: 45 to 106 W on the MI210, 25 to 45 W on the U55C, both above idle."""
    device = load_device(name)
    assert device.power.memory_bound_w.low <= draw_w(COPY, device) <= device.power.memory_bound_w.high
    if name in ("mi210", "u55c"):
        assert draw_w(COPY, device) == pytest.approx(device.power.memory_bound_w.value, rel=0.1)
        assert device.power.memory_bound_w.kind.value == "published"


@pytest.mark.parametrize("name", list_devices())
def test_what_compute_bound_kernels_draw_lies_in_the_range_that_was_seen(name):
    device = load_device(name)
    side = 8192
    square = (Work(2 * side**3, 3 * 2 * side**2, 0, side**2, Product(1, side, side, side)), OperatorClass.MATMUL,
              F32 if device.streaming is not None or name in ("host", "epyc9654") else DType.FLOAT16)
    assert device.power.compute_bound_w.low <= draw_w(square, device) <= device.power.compute_bound_w.high


def test_the_published_kernels_of_experts_draw_what_was_published():
    """150 to 171 W with idle: memory-bound rows of experts on the MI210 in two formats."""
    device = load_device("mi210")
    for item in (COPY, SCAN):
        found = price([item], device)
        low, high = found.low_j / found.high_s, found.high_j / found.low_s
        assert low + device.power.idle_w.low < 171 and high + device.power.idle_w.high > 150


def test_bytes_flops_and_time_each_have_a_price():
    device = load_device("mi210")
    base = price([(Work(0, 10**6, 0, 1), OperatorClass.ELEMENTWISE, F32)], device)
    bytes_more = price([(Work(0, 2 * 10**6, 0, 1), OperatorClass.ELEMENTWISE, F32)], device)
    saved_s = bytes_more.time_s - base.time_s
    assert bytes_more.energy_j - base.energy_j == pytest.approx(10**6 * 3.8e-11 + 25.0 * saved_s)
    vector = price([(Work(10**9, 8, 0, 1), OperatorClass.ELEMENTWISE, F32)], device)
    matrix = price([(Work(10**9, 8, 0, 1), OperatorClass.MATMUL, F32)], device)
    assert vector.energy_j - vector.time_s * 25.0 == pytest.approx(10**9 / 22.6e12 * 60.0 + 8 * 3.8e-11)
    assert matrix.energy_j - matrix.time_s * 25.0 == pytest.approx(10**9 / 45.3e12 * 225.0 + 8 * 3.8e-11)


def test_a_byte_from_the_cache_is_cheaper_than_one_from_memory():
    device = load_device("mi210")
    cold, warm = (price([(Work(0, 10**6, 0, 1, recent=recent), OperatorClass.COPY, F32)], device)
                  for recent in ((), ((10**6, 0),)))
    assert warm.energy_j < cold.energy_j


def test_launches_loads_and_transfers_cost_energy():
    card = load_device("u55c")
    assert region_launch(card).energy_j == pytest.approx(14e-6 * 12.0)
    assert reconfiguration(card).energy_j == pytest.approx(2.0 * 12.0)
    assert transfer("gpu", "fpga", 10**6).energy_j == pytest.approx(10**6 * 1e-10)


def test_idle_power_is_paid_by_the_box_and_shared_by_requests():
    box = [load_device(name) for name in ("mi210", "u55c", "host")]
    assert idle_energy_j(box, 0.1) == pytest.approx(0.1 * (40 + 20 + 90))
    assert idle_energy_j(box, 0.1, Corner.FAST) < idle_energy_j(box, 0.1) < idle_energy_j(box, 0.1, Corner.SLOW)
    alone = request_energy_j(2.0, 0.1, 128, box)
    assert (alone.dynamic_j, alone.idle_j) == pytest.approx((256.0, 128 * 15.0))
    assert alone.total_j == alone.dynamic_j + alone.idle_j
    assert request_energy_j(2.0, 0.1, 128, box, requests_at_once=4).total_j == pytest.approx(alone.total_j / 4)
