"""The placement records, assignments from outside, regions, the scorer, the placers and the registry."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from hetcc.errors import InternalError, UserError
from hetcc.ir import Stage
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.place import (
    BUILTIN_PLACERS,
    bytes_moved,
    finish,
    list_placers,
    load_placer,
    memory_use,
    place_optimal,
    problem_to_dot,
    problem_to_graphml,
    score,
    split_regions,
)
from hetcc.plan.placement import (
    Cluster,
    Cost,
    Objective,
    Placement,
    PlacementProblem,
    Region,
    Tensor,
    assignment_from_json,
    regions_from_json,
)

PAIRS = (("gpu", "fpga"), ("fpga", "gpu"))


def cluster(name, gpu=None, fpga=None, layer="", nodes=None, resident_bytes=0):
    costs = {device: Cost(price, 2 * price) for device, price in (("gpu", gpu), ("fpga", fpga)) if price is not None}
    return Cluster(name, nodes or (f"{name}/node",), costs, layer, resident_bytes)


def tensor(name, producer, *consumers, price=1.0, saving=None):
    return Tensor(name, producer, consumers, 100, {pair: Cost(price) for pair in PAIRS},
                  {device: Cost(saving) for device in ("gpu", "fpga")} if saving else {})


def problem(clusters, tensors, launch=0.0, **changes):
    base = PlacementProblem("tiny", ("gpu", "fpga"), tuple(clusters), tuple(tensors),
                            {"gpu": Cost(launch), "fpga": Cost(launch)}, {}, Objective())
    return replace(base, **changes)


@pytest.fixture
def diamond():
    """a feeds b and c, both feed d; the FPGA takes b and c."""
    return problem(
        [cluster("a", 1.0), cluster("b", 5.0, 1.0, nodes=("b/one", "b/two")), cluster("c", 5.0, 1.0),
         cluster("d", 1.0)],
        [tensor("x", "a", "b", "c"), tensor("y", "b", "d"), tensor("z", "c", "d")])


def test_a_tensor_is_sent_once_per_device(diamond):
    device_of = {"a": "gpu", "b": "fpga", "c": "fpga", "d": "gpu"}
    regions = split_regions(diamond, device_of)
    # a 1 + x 1 + b 1 + c 1 + y 1 + z 1 + d 1
    assert score(diamond, device_of, regions).time_s == pytest.approx(7.0)
    assert bytes_moved(diamond, device_of) == 300
    assert place_optimal(diamond).objective == pytest.approx(7.0)


def test_savings_are_lost_when_a_consumer_is_in_another_region():
    tiny = problem([cluster("a", 1.0), cluster("b", 1.0, 1.0), cluster("c", 1.0)],
                   [tensor("x", "a", "b", "c", saving=0.5), tensor("y", "b", "c")])
    together = {"a": "gpu", "b": "gpu", "c": "gpu"}
    assert score(tiny, together, split_regions(tiny, together)).time_s == pytest.approx(2.5)
    apart = {"a": "gpu", "b": "fpga", "c": "gpu"}
    regions = split_regions(tiny, apart)
    assert [region.clusters for region in regions] == [("a",), ("b",), ("c",)]
    assert score(tiny, apart, regions).time_s == pytest.approx(5.0)


def test_a_launch_between_anchors_is_in_the_bound():
    """The FPGA is cheaper by less than a second GPU launch: a plain cut would go there, the bound must know better."""
    tiny = problem([cluster("a", 1.0), cluster("b", 6.0, 1.0), cluster("c", 1.0)],
                   [tensor("x", "a", "b", price=0.1), tensor("y", "b", "c", price=0.1)], launch=2.5)
    placement = place_optimal(tiny)
    assert set(placement.device_of.values()) == {"gpu"}
    assert placement.objective == pytest.approx(10.5)
    assert placement.gap == pytest.approx(0.0, abs=1e-12)


def test_ties_stay_on_the_first_device():
    tiny = problem([cluster("a", 1.0, 1.0), cluster("b", 1.0, 1.0)], [tensor("x", "a", "b", price=0.0)])
    assert set(place_optimal(tiny).device_of.values()) == {"gpu"}


def test_energy_can_be_the_objective(diamond):
    by_energy = replace(diamond, objective=Objective(0.0, 1.0))
    placement = place_optimal(by_energy)
    assert placement.objective == pytest.approx(placement.cost.energy_j)
    assert placement.device_of["b"] == "fpga"


def test_regions_do_not_cross_layers():
    tiny = problem([cluster("a", 1.0, layer="layers.0"), cluster("b", 1.0, layer="layers.1")], [tensor("x", "a", "b")])
    assert len(split_regions(tiny, {"a": "gpu", "b": "gpu"})) == 2


def test_a_late_source_does_not_split_what_it_joins():
    """s (fpga) feeds d; a is early and reads nothing. a and d may still be one region, after s."""
    tiny = problem([cluster("a", 1.0), cluster("s", None, 1.0), cluster("d", 1.0)],
                   [tensor("x", "a", "d"), tensor("y", "s", "d")])
    regions = split_regions(tiny, {"a": "gpu", "s": "fpga", "d": "gpu"})
    assert [region.clusters for region in regions] == [("s",), ("a", "d")]


def test_memory_use_counts_what_lives_with_clusters():
    tiny = problem([cluster("a", 1.0, resident_bytes=7), cluster("b", 1.0, 1.0, resident_bytes=5)],
                   [tensor("x", "a", "b")])
    assert memory_use(tiny, {"a": "gpu", "b": "fpga"}) == {"gpu": 7, "fpga": 5}


def test_the_published_four_kernels():
    """Artefact of arXiv 2603.29002: measured GPU and modelled FPGA times in us, the copy of 64 indices by its fit."""
    names = ("build", "inner product", "top-k", "attention")
    gpu, fpga = (250.0, 82.5, 36.2, 7.6), (1108.58, 10.94, 10.12, 28.09)
    clusters = [cluster(name, on_gpu * 1e-6, on_fpga * 1e-6)
                for name, on_gpu, on_fpga in zip(names, gpu, fpga, strict=True)]
    # The published search never charges the index; the indices going back take 0.87 us, the scores 32 KiB.
    copies = (0.0, 8e-6, 0.87e-6)
    tensors = [tensor(f"t{index}", names[index], names[index + 1], price=copy) for index, copy in enumerate(copies)]
    published = problem(clusters, tensors)
    placement = place_optimal(published)
    assert dict(placement.device_of) == {"build": "gpu", "inner product": "fpga", "top-k": "fpga", "attention": "gpu"}
    assert placement.objective == pytest.approx(279.5e-6, rel=1e-3)
    assert placement.gap == pytest.approx(0.0, abs=1e-9)

    def time_of(spec):
        return finish(published, load_placer(spec).place(published, ClusterFacts()), spec, 0.0).objective

    assert time_of("gpu-only") == pytest.approx(376.3e-6, rel=1e-3)
    assert time_of("fpga-only") == pytest.approx(1157.7e-6, rel=1e-3)


def test_rules_place_by_stage_and_by_intensity(diamond):
    facts = ClusterFacts({"b": Stage.RELEVANCY, "c": Stage.PREPARE, "d": Stage.RETRIEVAL}, {"b": 50.0, "c": 0.5})
    assert load_placer("stage-rule").place(diamond, facts) == {"a": "gpu", "b": "fpga", "c": "gpu", "d": "gpu"}
    assert load_placer("intensity-threshold").place(diamond, facts)["c"] == "fpga"
    assert load_placer("intensity-threshold").place(diamond, facts)["b"] == "gpu"


def test_a_bound_above_the_objective_is_an_internal_error(diamond):
    device_of = dict(place_optimal(diamond).device_of)
    with pytest.raises(InternalError, match="below the lower bound"):
        finish(diamond, device_of, "wrong", 1e9)


def test_a_placer_that_forgets_a_cluster_is_told_which(diamond):
    with pytest.raises(UserError, match="'d' is not placed"):
        finish(diamond, {"a": "gpu", "b": "gpu", "c": "gpu"}, "mine", 0.0)
    with pytest.raises(UserError, match="'a' cannot run on 'fpga'") as caught:
        finish(diamond, dict.fromkeys("abcd", "fpga"), "mine", 0.0)
    assert caught.value.code == "HET-P005"


def test_the_scorer_refuses_regions_that_do_not_fit(diamond):
    with pytest.raises(InternalError):
        score(diamond, dict.fromkeys("abcd", "gpu"), [Region("r", "gpu", ("a", "b", "c"))])
    with pytest.raises(InternalError):
        score(diamond, dict.fromkeys("abcd", "gpu"), [Region("r", "fpga", ("a", "b", "c", "d"))])


def test_an_outside_assignment_is_completed(diamond):
    assert assignment_from_json({"placement": {"b/one": "fpga"}}, diamond) == {
        "a": "gpu", "b": "fpga", "c": "gpu", "d": "gpu"}


@pytest.mark.parametrize(("document", "code", "message"), [
    ({}, "HET-P001", "expected Mapping"),
    ({"placement": {"e": "gpu"}}, "HET-P001", "'e' is neither a cluster nor a node"),
    ({"placement": {"a": "tpu"}}, "HET-P001", "device 'tpu' is not one of"),
    ({"placement": {"a": "fpga"}}, "HET-P005", "'a' cannot run on 'fpga'"),
    ({"placement": {"b/one": "fpga", "b/two": "gpu"}}, "HET-P001", "both are in cluster 'b'"),
    ({"placement": {}, "regions": [["a"], ["a"]]}, "HET-P001", "'a' is in two regions"),
    ({"placement": {"b": "fpga"}, "regions": [["a", "b"]]}, "HET-P001", "spans the devices"),
    ({"placement": {"b": "fpga"}, "regions": [["a", "d"]]}, "HET-P002", "[a, ...] -(x)-> [c, ...] -(z)-> [a, ...]"),
    ({"placement": {}, "regions": ["a"]}, "HET-P001", "expected a list of names"),
])
def test_outside_assignments_that_are_refused(diamond, document, code, message):
    with pytest.raises(UserError) as caught:
        assignment_from_json(document, diamond)
    assert caught.value.code == code
    assert message in str(caught.value)


def test_outside_regions_come_in_topological_order(diamond):
    document = {"placement": {"b": "fpga"}, "regions": [["c", "d"]]}
    regions = regions_from_json(document, diamond, assignment_from_json(document, diamond))
    assert [region.clusters for region in regions] == [("a",), ("b",), ("c", "d")]


@pytest.mark.parametrize(("change", "message"), [
    ({"devices": ()}, "at least one"),
    ({"launch": {"gpu": Cost()}}, "no launch price for device 'fpga'"),
    ({"clusters": (cluster("a", 1.0), cluster("a", 1.0))}, "two clusters are named 'a'"),
    ({"clusters": (cluster("a"),), "tensors": ()}, "no device is allowed"),
    ({"clusters": (cluster("a", -1.0),), "tensors": ()}, "must be finite and not negative"),
    ({"tensors": (tensor("x", "b", "a"),)}, "does not come after producer"),
    ({"tensors": (tensor("x", "a", "nobody"),)}, "cluster 'nobody' does not exist"),
    ({"tensors": (Tensor("x", "b", ("c",), 1, {}, {}),)}, "no transfer price from 'gpu' to 'fpga'"),
    ({"capacities_bytes": {"tpu": 1}}, "capacity of 1 bytes for device 'tpu'"),
])
def test_invalid_problems_are_refused(diamond, change, message):
    with pytest.raises(UserError, match=message):
        replace(diamond, **change)


def test_objective_weights_are_checked():
    with pytest.raises(UserError):
        Objective(0.0, 0.0)
    with pytest.raises(UserError):
        Objective(-1.0, 1.0)


def test_documents_name_the_field_that_is_wrong(diamond):
    document = diamond.to_json()
    document["clusters"][1]["costs"]["gpu"]["time_s"] = "fast"
    with pytest.raises(UserError, match=r"clusters\[1\].costs.gpu.time_s"):
        PlacementProblem.from_json(document)
    with pytest.raises(UserError, match="expected a document with schema"):
        Placement.from_json({"schema": "other"})
    broken = place_optimal(diamond).to_json()
    broken["regions"][0]["clusters"] = []
    with pytest.raises(UserError, match="every cluster once"):
        Placement.from_json(broken)


@pytest.mark.parametrize("spec", BUILTIN_PLACERS)
def test_built_in_placers_carry_their_name(spec):
    assert load_placer(spec).name == spec


@pytest.mark.parametrize(("spec", "message"), [
    ("best", "no partitioner is called 'best'"),
    ("no.such.module:Placer", "cannot be imported"),
    ("hetcc.passes.place.baselines:Nothing", "has no attribute 'Nothing'"),
    ("hetcc.passes.place.score:score", "class variable `name`"),
    ("missing.py:Placer", "there is no file"),
])
def test_placers_that_cannot_be_loaded(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        load_placer(spec)
    assert caught.value.code == "HET-P004"


def test_a_placer_from_a_file(tmp_path, diamond):
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    name = 'mine'\n\n    def place(self, problem, facts):\n"
                    "        return {cluster.name: next(iter(cluster.costs)) for cluster in problem.clusters}\n")
    placer = load_placer(f"{file}:Mine")
    assert finish(diamond, placer.place(diamond, ClusterFacts()), placer.name, 0.0).partitioner == "mine"


def test_two_packages_claiming_one_name_are_both_named(monkeypatch):
    from importlib.metadata import EntryPoint

    from hetcc.passes.place import load

    claims = [EntryPoint("mincut", "other.package:Cut", load.PLACER_GROUP)]
    monkeypatch.setattr(load, "entry_points", lambda group: claims)
    with pytest.raises(UserError, match=r"'hetcc' .*mincut:MinimumCut.* other.package:Cut|claimed by 'hetcc'"):
        list_placers()


def test_exports_can_be_read_back(diamond):
    device_of = place_optimal(diamond).device_of
    root = ElementTree.fromstring(problem_to_graphml(diamond, device_of))
    assert sum(element.tag.endswith("}node") for element in root.iter()) == 4
    dot = problem_to_dot(diamond, device_of)
    assert dot.count("->") == 4
    assert dot.count("color=red") == 4
    assert 'fillcolor=orange' in dot


def test_forty_thousand_clusters_are_placed_in_time():
    """The goal is 0.5 s; three times that is allowed. Processor time and best of three: others use the machine too."""
    count = 40_000
    costs = {"gpu": Cost(1e-5), "fpga": Cost(2e-5)}
    cheap = {"gpu": Cost(2e-5), "fpga": Cost(1e-6)}
    clusters = tuple(
        Cluster(f"c{index}", (f"n{index}",),
                {"gpu": Cost(1e-5)} if index % 10 == 0 else cheap if 40 <= index % 100 < 60 else costs,
                f"layers.{index // 100}")
        for index in range(count))
    transfer = {pair: Cost(3e-6) for pair in PAIRS}
    tensors = tuple(
        Tensor(f"t{index}", f"c{index}", tuple(f"c{reader}" for reader in {index + 1, min(index + 3, count - 1)}), 4096,
               transfer, {"gpu": Cost(1e-7)})
        for index in range(count - 1))
    place_optimal(problem(clusters[:1], []))  # imports
    times = []
    for _ in range(3):
        large = PlacementProblem("large", ("gpu", "fpga"), clusters, tensors, {"gpu": Cost(6e-6), "fpga": Cost(14e-6)},
                                 {}, Objective())
        start = time.process_time()
        placement = place_optimal(large)
        times.append(time.process_time() - start)
    assert len(placement.device_of) == count
    assert placement.gap < 0.05
    bounded = load_placer("mincut").place_with_bound(large, ClusterFacts())
    assert 0.0 <= bounded.rounding < 1e-9 * bounded.lower_bound
    assert min(times) < 1.5
