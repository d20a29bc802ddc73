"""How sure a placement is: many points at once equal one after the other, and proofs claim no more than is true."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy
import pytest

from hetcc.cost_model.device import load_device
from hetcc.cost_model.elementwise import ceiling, exponential, floor, larger, logarithm, logarithm_above_one, smaller
from hetcc.cost_model.gpu import flops_in_waves
from hetcc.cost_model.parts import power_mean
from hetcc.cost_model.price import price
from hetcc.cost_model.quantity import Corner
from hetcc.cost_model.work import Product
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.clusters import form_clusters
from hetcc.passes.estimate import HOST, CostTable, DeviceSet, estimate
from hetcc.passes.place import place_optimal
from hetcc.passes.place.finish import finish
from hetcc.passes.robustness import _Judge, robustness, wilson
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.passes.uncertain import quantities, with_values
from hetcc.pipeline import device_set
from hetcc.plan.placement import Objective, Placement
from hetcc.planning import choose_placement

from corpus.graphs import sparse_selection
from corpus.tiny import tiny

POINTS = 8


def judged(context: int = 4096, baseline: str = "as-published", energy_weight: float = 0.0,
           forced: tuple[tuple[str, str], ...] = ()) -> tuple[CostTable, Placement, DeviceSet]:
    tagged = TagMemoryPipeline().run(sparse_selection(context=context, width=64, selected=32))
    devices = device_set(CompileOptions(tiny("llama"), baseline=baseline))
    objective = Objective(1.0, energy_weight)
    table = estimate(tagged.graph, form_clusters(tagged), devices, objective)
    return table, choose_placement(table, PlacementChoice(forced=forced, objective=objective)), devices


def drawn(judge: _Judge, points: int = POINTS) -> dict[tuple[str, ...], Any]:
    shares = numpy.random.default_rng(3).uniform(size=(points, len(judge.numbers())))
    return {path: one.low + (one.high - one.low) * shares[:, place]
            for place, (path, one) in enumerate(judge.numbers())}


def moved(devices: DeviceSet, values: dict[tuple[str, ...], Any], point: int) -> DeviceSet:
    profiles = {name: with_values(profile, {path[1:]: float(column[point]) for path, column in values.items()
                                            if path[0] == name}) for name, profile in devices.profiles.items()}
    return DeviceSet(profiles, devices.supports, devices.baseline, devices.links)


@pytest.mark.parametrize("energy_weight", [0.0, 0.5])
@pytest.mark.parametrize("forced", [(), (("relevancy", "fpga"), ("retrieval", "fpga"))])
def test_many_points_at_once_are_what_each_alone_gives(energy_weight: float, forced: Any) -> None:
    """Prices, launches and verdicts; links at their likely values, which are global."""
    table, placement, devices = judged(energy_weight=energy_weight, forced=forced)
    judge = _Judge(table, placement, devices)
    values = {path: column for path, column in drawn(judge).items() if path[0] != "links"}
    assert len(values) > 10
    prices = judge._priced(values, POINTS)
    stays = judge.stays(values, POINTS)
    tagged = TagMemoryPipeline().run(sparse_selection(context=4096, width=64, selected=32))
    for point in range(POINTS):
        alone = estimate(tagged.graph, form_clusters(tagged), moved(devices, values, point), table.problem.objective)
        for place, cluster in enumerate(judge.clusters):
            for device, cost in alone.problem.cluster_by_name[cluster.name].costs.items():
                expected = table.problem.objective.value(cost)
                assert prices.price[place, judge.number[device], point] == pytest.approx(expected, rel=1e-9)
        for place, tensor in enumerate(judge.tensors):
            same, = (one for one in alone.problem.tensors if one.name == tensor.name)
            for device, cost in same.fusion_saving.items():
                assert prices.saving[place, judge.number[device], point] == pytest.approx(
                    table.problem.objective.value(cost), rel=1e-9)
            for (source, target), cost in same.transfer.items():
                if HOST not in (source, target):
                    assert prices.transfer[place, judge.number[source], judge.number[target], point] == pytest.approx(
                        table.problem.objective.value(cost), rel=1e-9)
        own = finish(alone.problem, dict(placement.device_of), "plan", -math.inf).objective
        assert bool(stays[point]) == (own <= place_optimal(alone.problem).objective * (1 + 1e-9))


def test_links_are_drawn_too() -> None:
    judge = _Judge(*judged(forced=(("relevancy", "fpga"),)))
    values = {path: column for path, column in drawn(judge).items() if path[0] == "links"}
    assert values
    transfer = judge._priced(values, POINTS).transfer
    assert (transfer.max(axis=-1) > transfer.min(axis=-1)).any()


@pytest.mark.parametrize("seed", range(4))
def test_prices_of_draws_lie_between_the_ends(seed: int) -> None:
    """What the proof rests on: the ends of a price hold for all values of the numbers, tiles among them."""
    judge = _Judge(*judged(context=512 << seed, baseline=("tuned", "as-published")[seed % 2]))
    prices, ends = judge._priced(drawn(judge, 50), 50), judge._ends()
    for name in ("price", "transfer", "saving", "launch"):
        found, low, high = getattr(prices, name), getattr(ends, name)[..., :1], getattr(ends, name)[..., 1:]
        assert (found >= low * (1 - 1e-9)).all() and (found <= high * (1 + 1e-9)).all(), name


def test_no_tile_takes_more_than_the_bound() -> None:
    profile = load_device("mi210")
    tiles = profile.baseline("tuned").tiles
    assert tiles is not None
    names = ("rows", "columns", "granule", "split_depth", "ramp")
    for shape in ((1, 1, 128, 7168), (1, 7, 5000, 64), (3, 300, 257, 1000), (1, 1, 1, 1), (2, 64, 4096, 200)):
        product = Product(shape[0], *shape[1:])
        most = flops_in_waves(product, tiles, 104.0, Corner.SLOW)
        assert flops_in_waves(product, tiles, 104.0, Corner.FAST) == 0.0
        for ends in itertools.product(("low", "value", "high"), repeat=len(names)):
            chosen = with_values(tiles, {(name,): getattr(getattr(tiles, name), end)
                                         for name, end in zip(names, ends, strict=True)})
            assert flops_in_waves(product, chosen, 104.0) <= most


def test_a_proof_is_told_from_draws() -> None:
    """Where one device is better whatever the numbers, it is proved (so many rows are more than the FPGA takes); a
    placement nobody would choose is neither.
    """
    table, placement, devices = judged(context=1 << 26, baseline="tuned")
    sure = robustness(table, placement, devices, 4)
    assert sure.proved and sure.samples == 0 and (sure.stays_optimal, sure.low, sure.high) == (1.0, 1.0, 1.0)
    assert _Judge(table, placement, devices).stays(drawn(_Judge(table, placement, devices)), POINTS).all()
    table, placement, devices = judged(context=1 << 16, baseline="tuned", forced=(("retrieval", "fpga"),))
    worse = robustness(table, placement, devices, 6)
    assert not worse.proved and worse.samples == 6 and worse.stays_optimal < 1 and worse.high < 1
    assert worse == robustness(table, placement, devices, 6)
    table, placement, devices = judged(context=1 << 26, baseline="tuned", energy_weight=1e-9)
    assert not robustness(table, placement, devices, 4).proved, "the ends of energies are not proved to be such"


def test_numbers_that_flip_alone_are_named() -> None:
    """A placement in the balance: moved to the fast end alone, some number must tip it."""
    for context in (1024, 4096, 16384, 65536, 262144):
        found = robustness(*judged(context=context), samples=16)
        if found.flips:
            assert found.stays_optimal < 1
            assert all(share in (0.5, 1.0) for _, share in found.flips)
            return
    pytest.fail("no context was in the balance")


def test_wilson_interval() -> None:
    assert wilson(64, 64) == (pytest.approx(0.9434, abs=1e-4), 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))


def test_numbers_of_a_profile_are_moved_by_path() -> None:
    profile = load_device("mi210")
    paths = dict(quantities(profile))
    path = ("memory", "bandwidth_bytes_per_s")
    changed = with_values(profile, {path: 1.0})
    assert dict(quantities(changed))[path].value == 1.0 and paths[path].value != 1.0
    assert changed.baselines is profile.baselines
    for place in paths:
        assert dict(quantities(with_values(profile, {place: 0.5})))[place].value == 0.5


def test_formulas_take_arrays() -> None:
    numbers = numpy.array([0.0, 0.3, 2.0, 7.5])
    assert larger(numbers, 1.0).tolist() == [max(one, 1.0) for one in numbers]  # type: ignore[attr-defined]
    assert smaller(1.0, numbers).tolist() == [min(one, 1.0) for one in numbers]  # type: ignore[attr-defined]
    for ours, theirs in ((ceiling, math.ceil), (floor, math.floor), (exponential, math.exp),
                         (logarithm_above_one, math.log1p)):
        assert ours(numbers).tolist() == pytest.approx([theirs(one) for one in numbers])  # type: ignore[attr-defined]
        assert ours(1.5) == theirs(1.5)
    assert logarithm(numbers[1:])[0] == pytest.approx(math.log(0.3))  # type: ignore[index]
    for exponent in (1.0, 4.0, math.inf):
        found = power_mean(numbers, numbers[::-1], exponent)
        assert found.tolist() == pytest.approx([  # type: ignore[attr-defined]
            power_mean(float(a), float(b), exponent) for a, b in zip(numbers, numbers[::-1], strict=True)])


def test_no_work_costs_nothing_at_all_points() -> None:
    assert price((), load_device("mi210")).time_s == 0.0
