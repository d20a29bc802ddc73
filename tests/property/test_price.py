"""More work never takes less time, more bytes never travel faster, and intervals hold what they are about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetcc.cost_model.device import list_devices, load_device
from hetcc.cost_model.price import Bound, price
from hetcc.cost_model.transfer import load_links
from hetcc.cost_model.work import Work
from hetcc.ir import DType, OperatorClass

AMOUNT = st.integers(0, 10**13)
WORK = st.builds(Work, AMOUNT, AMOUNT, AMOUNT, st.integers(0, 10**9))
ITEM = st.tuples(WORK, st.sampled_from(OperatorClass), st.sampled_from(DType))


@given(st.lists(ITEM, max_size=4), ITEM, st.sampled_from(list_devices()))
def test_prices_rise_with_work(items, more, name):
    device = load_device(name)
    for baseline in device.baselines:
        less, all_of_it = price(items, device, baseline), price([*items, more], device, baseline)
        assert less.time_s <= all_of_it.time_s * (1 + 1e-12)
        for found in (less, all_of_it):
            assert 0.0 <= found.low_s <= found.time_s * (1 + 1e-12) <= found.high_s * (1 + 1e-9)
            assert found.energy_j >= 0.0
            assert (found.time_s == 0.0) == (found.bound is Bound.FREE)


@given(st.integers(0, 1 << 34), st.integers(0, 1 << 34))
def test_transfers_rise_with_size(one, other):
    small, large = sorted((one, other))
    for link in load_links():
        assert link.time_s(small) <= link.time_s(large)


@pytest.mark.parametrize("link", load_links(), ids=lambda link: f"{link.source.value}-{link.destination.value}")
def test_transfers_rise_across_the_joints_of_the_fit(link):
    for piece in link.pieces:
        if piece.up_to_bytes is not None:
            sizes = [piece.up_to_bytes + step for step in (-1, 0, 1, 4096)]
            times = [link.time_s(size) for size in sizes]
            assert times == sorted(times)
