"""Fitting a profile: what is known is found again, what is predicted stays monotone, and bad data are refused."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc.cost_model.calibrate import Observation, fit_profile, predicted_s
from hetcc.cost_model.device import load_device
from hetcc.cost_model.draft import Draft, device_of, profile_data
from hetcc.cost_model.price import price
from hetcc.cost_model.profile import Device
from hetcc.cost_model.profile_text import profile_text
from hetcc.cost_model.quantity import Provenance
from hetcc.cost_model.roofline import Roofline, fit_roofline
from hetcc.cost_model.work import Work
from hetcc.errors import UserError
from hetcc.ir import DType, OperatorClass

from corpus.made_up_device import FACTS, TRUTH, everything, held_out, moved


def errors(draft: Draft, found: list[Observation]) -> list[float]:
    device = device_of(draft, FACTS)
    return [abs(predicted_s(one, device) / one.time_s - 1.0) for one in found]


@pytest.fixture(scope="module")
def fitted() -> Draft:
    return fit_profile(everything(), FACTS)


def test_a_known_device_is_found_again(fitted: Draft) -> None:
    assert fitted.region_s == pytest.approx(TRUTH.region_s, rel=0.1)
    assert fitted.launch_s == pytest.approx(TRUTH.launch_s, rel=0.1)
    assert fitted.bandwidth == pytest.approx(TRUTH.bandwidth, rel=0.1)
    assert fitted.cache_bandwidth == pytest.approx(TRUTH.cache_bandwidth, rel=0.1)
    assert max(errors(fitted, everything())) < 0.05
    assert max(errors(fitted, held_out())) < 0.1


def test_the_plain_roofline_does_worse(fitted: Draft) -> None:
    roofline = fit_roofline(everything())
    found = held_out()
    plain = sum(abs(roofline.predicted_s(one) / one.time_s - 1.0) for one in found)
    assert sum(errors(fitted, found)) < 0.5 * plain


def test_a_roofline_is_found_again() -> None:
    truth = Roofline(5e-6, 1e10, 2e10)
    known = [replace(one, time_s=truth.predicted_s(one)) for one in everything()]
    found = fit_roofline(known)
    assert (found.launch_s, found.bandwidth, found.peak) == pytest.approx(
        (truth.launch_s, truth.bandwidth, truth.peak), rel=0.02)


def test_noise_is_averaged_out() -> None:
    noise = random.Random(0)
    noisy = [replace(one, time_s=one.time_s * noise.lognormvariate(0.0, 0.03)) for one in everything()]
    draft = fit_profile(noisy, FACTS)
    assert sum(errors(draft, held_out())) / len(held_out()) < 0.06


def test_outliers_move_little() -> None:
    found = everything()
    for place in (2, 11):
        found[place] = replace(found[place], time_s=5.0 * found[place].time_s)
    draft = fit_profile(found, FACTS)
    assert sum(errors(draft, held_out())) / len(held_out()) < 0.1


def test_one_observation_is_enough() -> None:
    one = moved(OperatorClass.GATHER, 1 << 20, 4)
    assert errors(fit_profile([one], FACTS), [one])[0] < 0.1


def test_the_order_of_observations_does_not_matter_much(fitted: Draft) -> None:
    backwards = fit_profile(everything()[::-1], FACTS)
    device, other = device_of(fitted, FACTS), device_of(backwards, FACTS)
    for one in held_out():
        assert predicted_s(one, device) == pytest.approx(predicted_s(one, other), rel=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_predictions_rise_with_bytes_and_flops_whatever_was_measured(seed: int) -> None:
    wild = random.Random(seed)
    found = [replace(one, time_s=one.time_s * wild.lognormvariate(0.0, 1.0), spread=wild.random())
             for one in everything()[::3]]
    device = device_of(fit_profile(found, FACTS), FACTS)
    for kind in (OperatorClass.GATHER, OperatorClass.ELEMENTWISE, OperatorClass.MATMUL):
        found_prices = [price(((Work(size // 3, size, size), kind, DType.FLOAT32),), device)
                        for size in (0, 1, *(int(1.7 ** step) for step in range(2, 45)))]
        for times in ([one.time_s for one in found_prices], [one.low_s for one in found_prices],
                      [one.high_s for one in found_prices]):
            assert times == sorted(times)
        assert all(one.low_s <= one.time_s <= one.high_s for one in found_prices)


def test_numbers_are_measured_with_an_interval_from_the_spread() -> None:
    noisy = [replace(one, spread=0.2) for one in everything() if one.kind != "projection"]
    device = device_of(fit_profile(noisy, FACTS), FACTS)
    gather = device.baseline().achieved["gather"].bandwidth_fraction
    assert gather.kind is Provenance.MEASURED and FACTS.source in gather.source
    assert (gather.low, gather.high) == pytest.approx((gather.value / 1.2, gather.value * 1.2), rel=1e-4)
    lent = device.power.idle_w
    assert lent.kind is Provenance.ASSUMED and "not measured" in lent.source
    assert device.baseline().achieved["default"].bandwidth_fraction.kind is Provenance.ASSUMED
    # Elementwise work has as many flops per byte at every size, so nobody can tell what its arithmetic reaches.
    assert device.baseline().achieved["elementwise"].compute_fraction.kind is Provenance.ASSUMED


def test_the_text_of_a_profile_is_read_as_it_was(fitted: Draft, tmp_path: Path) -> None:
    text = profile_text(profile_data(fitted, FACTS), "one\ntwo")
    assert text.startswith("# one\n# two\n") and text == profile_text(profile_data(fitted, FACTS), "one\ntwo")
    assert Device.model_validate(tomllib.loads(text)) == device_of(fitted, FACTS)
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    assert load_device(str(path)) == device_of(fitted, FACTS)


def test_text_that_needs_escapes(fitted: Draft, tmp_path: Path) -> None:
    odd = replace(FACTS, source='quotes " and \\ and umlaut \u00fc')
    assert Device.model_validate(tomllib.loads(profile_text(profile_data(fitted, odd)))) == device_of(fitted, odd)


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(time_s: float) -> None:
    with pytest.raises(UserError, match="HET-M003"):
        fit_profile([replace(moved(OperatorClass.GATHER, 1024, 1), time_s=time_s)], FACTS)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(UserError, match="HET-M003"):
        fit_profile([], FACTS)
