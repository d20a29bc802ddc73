"""More work never takes less, faster devices never longer, parts add up, and intervals hold what they are about."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.cost_model.device import list_devices, load_device
from hetcc.cost_model.parts import power_mean
from hetcc.cost_model.price import FREE, Bound, parts_of, price
from hetcc.cost_model.profile import SizePoint
from hetcc.cost_model.quantity import Corner
from hetcc.cost_model.transfer import list_link_sets, load_links, transfer_time_s
from hetcc.cost_model.work import Product, Work
from hetcc.ir import DType, OperatorClass

from corpus.scaled_devices import faster, speed_numbers

AMOUNT = st.integers(0, 10**13)
SIDE = st.integers(1, 5000)
PRODUCT = st.none() | st.builds(Product, st.integers(1, 100), SIDE, SIDE, SIDE, st.booleans())
LINKS = [(name, link) for name in list_link_sets() for link in load_links(name)]
ALMOST = 1 + 1e-9


@st.composite
def works(draw):
    """Work with everything that may be known about it; what is recent or resident is part of what is read."""
    read = draw(AMOUNT)
    recent = tuple((draw(st.integers(0, read // 2)), draw(AMOUNT)) for _ in range(draw(st.integers(0, 2))))
    resident = draw(st.sampled_from([(0, 0), (min(read, 3 << 20), 0), (min(read, 1 << 20), min(read >> 1, 9 << 20))]))
    if sum(resident) > read:
        resident = (0, 0)
    return Work(draw(AMOUNT), read, draw(AMOUNT), draw(st.integers(0, 10**9)), draw(PRODUCT),
                draw(st.integers(0, 4096)), (), recent, resident)


ITEM = st.tuples(works(), st.sampled_from(OperatorClass), st.sampled_from(DType))


@cache
def numbers_of(name):
    return speed_numbers(load_device(name))


@given(st.lists(ITEM, max_size=4), ITEM, st.sampled_from(list_devices()))
def test_prices_rise_with_work(items, more, name):
    device = load_device(name)
    for baseline in device.baselines:
        less, all_of_it = price(items, device, baseline), price([*items, more], device, baseline)
        assert less.time_s <= all_of_it.time_s * ALMOST
        for found in (less, all_of_it):
            assert 0.0 <= found.low_s <= found.time_s * ALMOST <= found.high_s * ALMOST**2
            assert 0.0 <= found.low_j <= found.energy_j * ALMOST <= found.high_j * ALMOST**2
            assert (found.time_s == 0.0) == (found.bound is Bound.FREE)
            assert bool(found.sources) == (found.bound is not Bound.FREE)


@given(ITEM, st.sampled_from(["flops", "bytes_read", "bytes_written", "elements", "selected"]), st.integers(1, 10**12),
       st.sampled_from(list_devices()))
def test_one_operator_never_gets_cheaper_by_doing_more(item, field, more, name):
    device = load_device(name)
    larger = (replace(item[0], **{field: getattr(item[0], field) + more}), *item[1:])
    for baseline in device.baselines.values():
        for corner in Corner:
            before, after = (parts_of([tried], device, baseline, corner) for tried in (item, larger))
            assert before.time_s <= after.time_s * ALMOST


@given(ITEM, st.sampled_from(["batch", "rows", "columns", "depth"]), st.integers(1, 10_000),
       st.sampled_from(["mi210", "h100", "mi300x"]))
def test_a_larger_product_never_takes_less(item, side, more, name):
    """Flops and bytes follow from the sides, as they do in a graph."""
    device, shape = load_device(name), item[0].product or Product(1, 7, 7, 7)

    def of(product):
        traffic = product.batch * (product.rows * product.depth + product.depth * product.columns)
        return [(Work(2 * product.batch * product.rows * product.columns * product.depth, 2 * traffic,
                      2 * product.batch * product.rows * product.columns, 1, product), OperatorClass.MATMUL, item[2])]

    larger = replace(shape, **{side: getattr(shape, side) + more})
    assert price(of(shape), device).time_s <= price(of(larger), device).time_s * ALMOST


@given(st.lists(ITEM, min_size=1, max_size=3), st.sampled_from(["mi210", "h200", "host", "u55c"]), st.data(),
       st.floats(1.0, 16.0))
@settings(max_examples=200)
def test_a_faster_device_never_takes_longer(items, name, data, factor):
    """Curves are scaled as a whole: a single better point may not even be a valid curve."""
    device = load_device(name)
    path, more = data.draw(st.sampled_from([entry for entry in numbers_of(name) if "factor" not in entry[0]]))
    better = faster(device, path, more, factor)
    for baseline in device.baselines:
        for corner in Corner:
            before = parts_of(items, device, device.baseline(baseline), corner).time_s
            assert parts_of(items, better, better.baseline(baseline), corner).time_s <= before * ALMOST


@given(st.lists(ITEM, max_size=4), st.sampled_from(list_devices()))
def test_parts_add_up_to_the_whole_without_overlap(items, name):
    """One kernel spends on memory and arithmetic what its operators would spend one by one."""
    device = load_device(name)
    for baseline in device.baselines.values():
        whole = parts_of(items, device, baseline, Corner.LIKELY)
        assert whole.time_s == whole.launch_s + whole.latency_s + whole.busy_s
        serial_s = whole.launch_s + whole.latency_s + whole.memory_s + whole.compute_s
        assert replace(whole, overlap=1.0).time_s == pytest.approx(serial_s, rel=1e-9, abs=0.0)
        assert whole.time_s <= serial_s * ALMOST
        if device.streaming is None:
            alone = [parts_of([item], device, baseline, Corner.LIKELY) for item in items]
            assert whole.memory_s == pytest.approx(sum(part.memory_s for part in alone))
            assert whole.compute_s == pytest.approx(sum(part.compute_s for part in alone))


@given(works(), st.sampled_from(OperatorClass), st.sampled_from(DType), st.sampled_from(list_devices()))
def test_work_without_flops_or_without_bytes_is_priced(work, operator_class, dtype, name):
    device = load_device(name)
    no_flops = replace(work, flops=0, product=None)
    no_bytes = replace(work, bytes_read=0, bytes_written=0, recent=(), resident=(0, 0))
    for tried in (no_flops, no_bytes):
        found = price([(tried, operator_class, dtype)], device)
        assert (found == FREE) is tried.is_nothing
    if not no_flops.is_nothing and device.streaming is None:
        assert price([(no_flops, operator_class, dtype)], device).parts.compute_s == 0.0
    if not no_bytes.is_nothing:
        assert price([(no_bytes, operator_class, dtype)], device).parts.memory_s == 0.0


@given(st.floats(0, 1e30), st.floats(0, 1e30), st.floats(0, 1e30), st.floats(1, 64), st.floats(1, 8))
def test_a_power_mean_rises_with_both_and_falls_with_the_exponent(one, other, more, exponent, factor):
    found = power_mean(one, other, exponent)
    assert max(one, other) <= found * ALMOST and found <= (one + other) * ALMOST
    assert found <= power_mean(one, other + more, exponent) * ALMOST
    assert power_mean(one, other, exponent * factor) <= found * ALMOST


@given(st.integers(0, 1 << 34), st.integers(0, 1 << 34))
def test_transfers_rise_with_size(one, other):
    small, large = sorted((one, other))
    for _, link in LINKS:
        for corner in Corner:
            assert link.time_s(small, corner) <= link.time_s(large, corner)
    for name in list_link_sets():
        assert transfer_time_s("gpu", "fpga", small, name) <= transfer_time_s("gpu", "fpga", large, name)


@pytest.mark.parametrize("link", [link for _, link in LINKS],
                         ids=[f"{name}-{link.source.value}-{link.destination.value}" for name, link in LINKS])
def test_transfers_rise_across_the_joints_of_the_fit(link):
    for piece in link.pieces:
        if piece.up_to_bytes is not None:
            sizes = [piece.up_to_bytes + step for step in (-1, 0, 1, 4096)]
            times = [link.time_s(size) for size in sizes]
            assert times == sorted(times)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-3, 1e3)), min_size=1, max_size=5), st.data())
def test_curves_that_are_accepted_are_monotone(rows, data):
    """Whatever a calibration writes: if the profile takes it, more bytes never take less."""
    from hetcc.cost_model.gpu import factor_at

    base = load_device("mi210").baseline().achieved["gather"]
    points = []
    time = 0.0
    for at, step in sorted(dict(rows).items()):
        time += step
        quantity = base.bandwidth_fraction.model_copy(update=dict.fromkeys(("value", "low", "high"), at / time))
        points.append(SizePoint(at=at, factor=quantity))
    curve = [point.model_dump() for point in points]
    made = type(base).model_validate({**base.model_dump(), "bandwidth_by_size": curve})
    one, other = sorted((data.draw(st.integers(1, 10**10)), data.draw(st.integers(1, 10**10))))
    times = [size / factor_at(made.bandwidth_by_size, size, Corner.LIKELY) for size in (one, other)]
    assert times[0] <= times[1] * ALMOST
