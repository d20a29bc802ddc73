"""Predictions: sizes that were not captured equal those that were, and ranges hold what they should."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hetcc import pipeline, planning
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.capture.short import ShortCapture, contexts, shortest
from hetcc.copies import processors
from hetcc.errors import UserError
from hetcc.ir import TaggedGraph
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.clusters import form_clusters
from hetcc.passes.estimate import CostTable, estimate
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.predict import figures
from hetcc.predict.figures import predict_sizes
from hetcc.predict.ranges import figure, ratio
from hetcc.predict.sizing import Sizes
from hetcc.predict.template import fit, fit_by, skeleton_of, tells_apart, with_numbers
from hetcc.predict.whole import WholeModel
from hetcc.stopwatch import silent
from hetcc.store import Store
from hetcc.workloads import WORKLOADS

from corpus.command_line import TINY_LLAMA, TINY_SPARSE, hetcc, settings

LAYERS = 6
BATCHES, CONTEXTS = [2, 3, 4], [65536, 98304, 131072]
BETWEEN = (3, 98304)
"""A size that is not captured; the index of six layers is larger than the on-chip memory of a U55C."""
REQUEST = CaptureRequest("deepseek_v32", (Phase.DECODE,), *BETWEEN, overrides=tuple(
    (key, str(LAYERS) if key == "num_hidden_layers" else value)
    for key, value in (pair.split("=") for pair in TINY_SPARSE)))
OPTIONS = CompileOptions(REQUEST, baseline="as-published")


def plain(name: str) -> str:
    """A node's name without the extents some passes write into it."""
    return re.sub(r"\d+(x\d+)+", "#", name)


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    found = Sizes(ShortCapture(REQUEST, silent))
    found.cover(BATCHES, CONTEXTS)
    return found


@pytest.fixture(scope="module")
def compiled() -> CostTable:
    """The prices of all layers, as a compile at the size between finds them."""
    graph, _ = planning.normalize(capture(REQUEST).graphs["decode"])
    tagged, _ = planning.observe_selections(TagMemoryPipeline().run(graph))
    return estimate(tagged.graph, form_clusters(tagged), pipeline.device_set(OPTIONS), OPTIONS.choice.objective)


def test_two_captures_serve_nine_sizes(sizes: Sizes) -> None:
    assert sizes.capture.count == 2
    assert [size for size in ((batch, context) for batch in BATCHES for context in CONTEXTS)
            if sizes.at(size).captured] == [(BATCHES[0], CONTEXTS[0]), (BATCHES[-1], CONTEXTS[-1])]


def test_a_size_that_follows_equals_its_capture(sizes: Sizes) -> None:
    """The graph of the short model, node for node."""
    model = sizes.at(BETWEEN)
    again = ShortCapture(REQUEST, silent).at(*BETWEEN)
    graph, _ = planning.normalize(again.graph)
    tagged, _ = planning.observe_selections(TagMemoryPipeline().run(graph))
    assert len(again.layer_of) == LAYERS
    assert skeleton_of(model.tagged) == skeleton_of(tagged)
    for ours, theirs in zip(model.tagged.graph.nodes, tagged.graph.nodes, strict=True):
        assert (plain(ours.name), ours.arguments, ours.attributes) == (
            plain(theirs.name), theirs.arguments, theirs.attributes)


def test_all_costs_of_the_whole_model_are_those_of_a_compile(sizes: Sizes, compiled: CostTable) -> None:
    """By name: clusters on every device, transfers, savings, weights and caches, and the work that was priced."""
    devices = pipeline.device_set(OPTIONS)
    model = sizes.at(BETWEEN)
    table = WholeModel(sizes.at((BATCHES[0], CONTEXTS[0])), devices, OPTIONS.choice.objective).table(model)
    found, expected = table.problem, compiled.problem
    assert found.cluster_by_name.keys() == expected.cluster_by_name.keys()
    for cluster in expected.clusters:
        same = found.cluster_by_name[cluster.name]
        assert (same.layer, same.resident_bytes) == (cluster.layer, cluster.resident_bytes)
        assert sorted(map(plain, same.nodes)) == sorted(map(plain, cluster.nodes))
        assert same.costs.keys() == cluster.costs.keys()
        for device, cost in cluster.costs.items():
            assert same.costs[device].time_s == pytest.approx(cost.time_s, rel=1e-6), cluster.name
        ours, theirs = (one.estimates[cluster.name].items for one in (table, compiled))
        assert [(work, work.resident) for work, _, _ in ours] == [(work, work.resident) for work, _, _ in theirs]
        # Clusters that do not need each other may stand in another order in a compile: distances differ by those.
        assert [[size for size, _ in work.recent] for work, _, _ in ours] == [
            [size for size, _ in work.recent] for work, _, _ in theirs]
    ours, theirs = (sorted((
        dataclasses.replace(tensor, name=plain(tensor.name), consumers=tuple(sorted(tensor.consumers)),
                            fusion_saving={})
        for tensor in problem.tensors), key=repr) for problem in (found, expected))
    assert ours == theirs
    assert found.launch == expected.launch


def test_the_index_of_the_first_layers_stays_on_chip(compiled: CostTable) -> None:
    """What the comparison above says of residency is not empty: the memory runs out on the way through the layers."""
    kept = [max(sum(work.resident) for work, _, _ in found.items) for found in compiled.estimates.values()
            if found.group.stage is not None and any(any(work.resident) for work, _, _ in found.items)]
    assert 0 < len(kept) < LAYERS and min(kept) < max(kept)


def test_ranges_hold_the_likely_figure_and_ratios_move_together(sizes: Sizes, monkeypatch: Any) -> None:
    options = dataclasses.replace(OPTIONS, choice=PlacementChoice(forced=(("relevancy", "fpga"),)))
    monkeypatch.setattr(figures, "Sizes", lambda *arguments: sizes)
    found, = predict_sizes(options, pipeline.device_set(options), [BETWEEN[0]], [BETWEEN[1]], samples=64,
                           progress=silent)
    for name in ("latency_s", "gpu_only_latency_s", "speedup", "memory_speedup", "memory_share", "energy_j",
                 "energy_ratio"):
        one = getattr(found, name)
        assert 0 < one.low <= one.likely <= one.high < float("inf"), name
        assert one.low < one.high, name
    assert found.robustness is None, "somebody forced it"
    assert found.link_bytes > 0 and found.stages["relevancy"] == {"fpga": 1.0}
    independent = found.gpu_only_latency_s.high / found.latency_s.low
    assert found.speedup.high < independent
    assert found.memory_share.high <= 1
    assert found.speedup.likely <= 1 / (1 - found.memory_share.likely) + 1e-9


def test_the_template_refuses_what_it_cannot_know(sizes: Sizes) -> None:
    graph = sizes.at((BATCHES[0], CONTEXTS[0])).tagged.graph
    tagged = TaggedGraph(graph, {})
    base = skeleton_of(tagged)

    def sample(size: tuple[int, int], value: int) -> Any:
        return size, dataclasses.replace(base, numbers=(*base.numbers[:1], value))

    assert with_numbers(tagged, base.numbers) == tagged
    ends = ((2, 64), (8, 1024))
    for three in (ends, (ends[0], (4, 128), ends[1])):
        line = [sample(size, 3 + 2 * size[1]) for size in three]
        template = fit(line)
        assert template is not None and template.numbers_at((3, 100)) == (base.numbers[0], 203)
        both = fit([sample(size, size[0] * size[1]) for size in three])
        assert both is not None and both.numbers_at((3, 100)) == (base.numbers[0], 300)
        window = fit([sample(size, size[1] - 32) for size in three])
        assert window is not None and window.numbers_at((2, 100)) == (base.numbers[0], 68)
        for crooked in (lambda size: min(100, size[1]), lambda size: max(100, size[1]), lambda size: size[1] ** 2,
                        lambda size: size[0] + size[1] ** 2, lambda size: min(4096, size[0] * size[1]),
                            lambda size: min(256, size[1]), lambda size: max(256, size[1])):
            assert fit([sample(size, crooked(size)) for size in three]) is None
        assert fit([line[0], (line[1][0], dataclasses.replace(line[1][1], structure="other"))]) is None
    assert fit([sample((1, size), size // 2 + 1) for size in (2, 8)]) is None, "half a number needs a third capture"
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


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_predicted(name: str) -> None:
    done = hetcc("predict", f"workload:{name}", "--context", "2048", "--robustness", "4", "--json")
    assert done.code == 0, done.err
    found, = done.document["predictions"]
    assert found["kind"] == "predicted" and found["latency_s"]["low"] > 0
    assert found["memory_share"]["likely"] > 0.5
    assert "retrieval" in found["stages"] or name == "memory-attention"
    assert found["robustness"]["samples"] == 4 or found["robustness"]["proved"]
    assert done.document["baseline"] == "tuned"


def test_command() -> None:
    done = hetcc("predict", "llama", *settings(TINY_LLAMA), "--batch", "2,4", "--context", "32,64")
    assert done.code == 0, done.err
    assert "predicted" in done.out and all(size in done.out for size in ("2 x 32", "2 x 64", "4 x 32", "4 x 64"))
    assert max(map(len, done.out.splitlines())) <= 80
    listed = hetcc("predict", "--list")
    assert listed.code == 0 and all(name in listed.out for name in WORKLOADS)


@pytest.mark.parametrize(("words", "code"), [
    (("llama", "--batch", "1,x"), "HET-U001"), (("llama", "--context", "0"), "HET-C003"), ((), "HET-U001"),
    (("llama", "--no-rewrite", "none"), "HET-U001"), (("workload:none",), "HET-C001"),
    (("workload:flat-inner-product", "--set", "depth=3"), "HET-C002")])
def test_wrong_requests_are_named(words: tuple[str, ...], code: str) -> None:
    done = hetcc("predict", *words)
    assert code in done.err and done.code == 2, done.err


def test_unknown_sizes_are_errors() -> None:
    with pytest.raises(UserError, match="HET-C003"):
        ShortCapture(REQUEST, silent).at(0, 64)


def test_a_process_of_its_own_captures_side_by_side_and_the_next_not_at_all(tmp_path: Path) -> None:
    """What copies captured, and what was kept, gives the numbers of captures made one by one in this process."""
    words = ["predict", "llama", *settings(TINY_LLAMA), "--batch", "2,3", "--context", "64,96", "--json"]
    environment = {**os.environ, "HETCC_CACHE": str(tmp_path)}
    first, second = (subprocess.run([sys.executable, "-m", "hetcc", *words], capture_output=True, text=True, check=True,
                                    env=environment) for _ in range(2))
    if processors() > 1:
        assert "capturing 2 sizes" in first.stderr
    assert "captur" in first.stderr and "captur" not in second.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout) == hetcc(*words).document


def test_a_process_that_had_torch_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ShortCapture(REQUEST, silent, store).prepare([(2, 64), (3, 96)])
    assert not list(tmp_path.iterdir())
