"""Predictions: sizes that were not captured equal those that were, ranges hold what they should, robustness counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hetcc import pipeline, planning
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.short import ShortCapture, contexts, shortest
from hetcc.cost_model.device import load_device
from hetcc.errors import UserError
from hetcc.ir import TaggedGraph
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.robustness import quantities, robustness, wilson, with_values
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.predict.figures import predict_sizes
from hetcc.predict.ranges import figure, ratio
from hetcc.predict.sizing import Sizes
from hetcc.predict.template import fit, fit_by, skeleton_of, tells_apart, with_numbers
from hetcc.stopwatch import Stopwatch, silent
from hetcc.workloads import WORKLOADS

from corpus.command_line import TINY_LLAMA, hetcc, settings

LAYERS = 5
REQUEST = CaptureRequest("llama", (Phase.DECODE,), 1, 64, overrides=tuple(
    (key, str(LAYERS) if key == "num_hidden_layers" else value)
    for key, value in (pair.split("=") for pair in TINY_LLAMA)))


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    found = Sizes(ShortCapture(REQUEST, silent))
    found.cover([2, 4, 8], [64, 96, 512])
    return found


def captured_at(batch: int, context: int) -> Any:
    return capture(dataclasses.replace(REQUEST, batch=batch, context=context)).graphs["decode"]


def test_three_captures_serve_nine_sizes(sizes: Sizes) -> None:
    assert sizes.capture.count == 3
    assert sum(sizes.at((batch, context)).captured for batch in (2, 4, 8) for context in (64, 96, 512)) == 3


def test_a_size_that_follows_equals_its_capture(sizes: Sizes) -> None:
    """The graph of the short model is the one a capture at that size gives, and so are all prices of the whole one."""
    size = (2, 512)
    model = sizes.at(size)
    assert not model.captured
    again = ShortCapture(REQUEST, silent).at(*size)
    graph, _ = planning.normalize(again.graph)
    tagged, _ = planning.observe_selections(TagMemoryPipeline().run(graph))
    assert skeleton_of(model.tagged) == skeleton_of(tagged)
    assert dict(model.tagged.graph.values) == dict(tagged.graph.values)
    assert model.tagged.graph.nodes == tagged.graph.nodes


def test_prices_of_the_whole_model_follow_from_few_layers() -> None:
    size = (4, 96)
    options = CompileOptions(dataclasses.replace(REQUEST, batch=size[0], context=size[1]))
    devices = pipeline.device_set(options)
    found, = predict_sizes(options, devices, [size[0]], [size[1]], samples=0, progress=silent)
    planned = planning.plan_phase("decode", captured_at(*size), options.request, devices, options.choice, Stopwatch())
    assert found.latency_s.likely == pytest.approx(planned.placement.cost.time_s, rel=1e-9)
    assert found.gpu_only_latency_s.likely == pytest.approx(planned.gpu_only.cost.time_s, rel=1e-9)
    assert found.energy_j.likely == pytest.approx(planned.placement.cost.energy_j, rel=1e-9)
    assert found.placement.device_of == planned.placement.device_of


def test_ranges_hold_the_likely_figure_and_ratios_move_together() -> None:
    options = CompileOptions(REQUEST, choice=PlacementChoice(forced=(("relevancy", "fpga"),)))
    found, = predict_sizes(options, pipeline.device_set(options), [1], [64], samples=0, progress=silent)
    for name in ("latency_s", "gpu_only_latency_s", "speedup", "memory_speedup", "memory_share", "energy_j",
                 "energy_ratio"):
        one = getattr(found, name)
        assert one.low <= one.likely <= one.high, name
    assert found.link_bytes > 0 and found.stages["relevancy"] == {"fpga": 1.0}
    independent = found.gpu_only_latency_s.high / found.latency_s.low
    assert found.speedup.high < independent
    assert found.speedup.likely <= 1 / (1 - found.memory_share.likely) + 1e-9


def test_the_template_refuses_what_it_cannot_know() -> None:
    graph = captured_at(2, 64)
    tagged = TaggedGraph(graph, {})
    base = skeleton_of(tagged)

    def sample(size: tuple[int, int], value: int) -> Any:
        return size, dataclasses.replace(base, numbers=(*base.numbers[:1], value))

    assert with_numbers(tagged, base.numbers) == tagged
    line = [sample(size, 3 + 2 * size[1]) for size in ((2, 64), (4, 128), (8, 1024))]
    template = fit(line)
    assert template is not None and template.numbers_at((3, 100)) == (base.numbers[0], 203)
    kinked = [sample(size, min(100, size[1])) for size in ((2, 64), (4, 128), (8, 1024))]
    assert fit(kinked) is None
    assert fit([line[0], (line[1][0], dataclasses.replace(line[1][1], structure="other"))]) is None
    uneven = fit([sample((1, size), size // 2 + 1) for size in (2, 4, 8)])
    assert uneven is not None and uneven.numbers_at((1, 5)) is None
    assert fit_by(template.along_contexts(1), (1, 64), line[0][1]) is not None
    assert fit_by(template.along_contexts(1), (1, 64), sample((1, 64), 7)[1]) is None
    assert not tells_apart(((1, 2), (2, 4), (3, 6))) and tells_apart(((1, 2), (2, 4), (3, 8)))


def test_the_short_model_has_every_neighbourhood() -> None:
    kinds = "DDDMMMMMM"
    length, stand_in = shortest(kinds)
    assert length == 6 and len(stand_in) == len(kinds)
    for place, context in enumerate(contexts(kinds)):
        assert contexts(kinds[:length])[stand_in[place]] == context
    assert shortest("A") == (1, (0,)) and shortest("ABABAB")[0] == 4


def test_figures_move_devices_together() -> None:
    plan, alone = {"gpu": (1.0, 2.0, 4.0), "fpga": (1.0, 1.0, 2.0)}, {"gpu": (2.0, 4.0, 8.0)}
    found = figure(lambda at: ratio(at(alone), at(plan)), plan, alone)
    assert (found.likely, found.low, found.high) == (pytest.approx(4 / 3), pytest.approx(2 / 3), pytest.approx(8 / 5))
    assert ratio(0.0, 0.0) == 1.0 and ratio(1.0, 0.0) == float("inf")


def test_wilson_interval() -> None:
    assert wilson(64, 64) == (pytest.approx(0.9434, abs=1e-4), 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))


def test_numbers_of_a_profile_are_moved_by_path() -> None:
    profile = load_device("mi210")
    paths = dict(quantities(profile))
    path = ("memory", "bandwidth_bytes_per_s")
    moved = with_values(profile, {path: 1.0})
    assert dict(quantities(moved))[path].value == 1.0 and paths[path].value != 1.0
    assert moved.baselines is profile.baselines
    for place in paths:
        assert dict(quantities(with_values(profile, {place: 0.5})))[place].value == 0.5


def test_robustness_is_repeatable_and_finds_what_flips() -> None:
    """A placement nobody would choose never stays; the best one stays in some draws at least."""
    graph = captured_at(1, 4096)
    options = CompileOptions(REQUEST)
    devices = pipeline.device_set(options)
    planned = planning.plan_phase("decode", graph, REQUEST, devices, options.choice, Stopwatch())
    found = robustness(planned.table, planned.placement, devices, 6)
    assert found == robustness(planned.table, planned.placement, devices, 6)
    assert found.parameters > 10 and found.low <= found.stays_optimal <= found.high
    assert found.stays_optimal > 0
    forced = dataclasses.replace(options.choice, partitioner="fpga-only")
    bad = planning.plan_phase("decode", graph, REQUEST, devices, forced, Stopwatch())
    worse = robustness(bad.table, bad.placement, devices, 4)
    assert worse.stays_optimal < 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_predicted(name: str) -> None:
    done = hetcc("predict", f"workload:{name}", "--context", "2048", "--json")
    assert done.code == 0, done.err
    found, = done.document["predictions"]
    assert found["kind"] == "predicted" and found["latency_s"]["low"] > 0
    assert done.document["baseline"] == "tuned"


def test_command() -> None:
    done = hetcc("predict", "llama", *settings(TINY_LLAMA), "--batch", "2,4", "--context", "32,64")
    assert done.code == 0, done.err
    assert "predicted" in done.out and len(done.out.splitlines()) == 3 + 4
    listed = hetcc("predict", "--list")
    assert listed.code == 0 and all(name in listed.out for name in WORKLOADS)


@pytest.mark.parametrize(("words", "code"), [
    (("llama", "--batch", "1,x"), "HET-U001"), (("llama", "--context", "0"), "HET-C003"), ((), "HET-U001"),
    (("workload:none",), "HET-C001"), (("workload:flat-inner-product", "--set", "depth=3"), "HET-C002")])
def test_wrong_requests_are_named(words: tuple[str, ...], code: str) -> None:
    done = hetcc("predict", *words)
    assert code in done.err and done.code == 2, done.err


def test_unknown_sizes_are_errors() -> None:
    with pytest.raises(UserError, match="HET-C003"):
        ShortCapture(REQUEST, silent).at(0, 64)
