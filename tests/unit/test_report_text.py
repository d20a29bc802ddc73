"""Tables, summaries and answers as text and as data."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from hetcc.errors import UserError
from hetcc.ir import Graph, TaggedGraph
from hetcc.plan.placement import Cluster, Cost, Objective, Placement, PlacementProblem, Region
from hetcc.plan.plan import LaunchStep, PartitionSpec, PhasePlan, Prediction, RegionSpec
from hetcc.report.explanation import Explained, find_name, main_phase, overview, region_answer
from hetcc.report.explanation_text import overview_text, region_text
from hetcc.report.export import placement_document
from hetcc.report.summary import summary_lines
from hetcc.report.tables import label_lines, text_table
from hetcc.report.verification import shares_text


def test_a_table_is_aligned_and_has_no_trailing_space() -> None:
    text = text_table(["name", "size"], [["a", "1"], ["longer", "1000"]], right=(1,))
    assert text == ("name    size\n"
                    "------  ----\n"
                    "a          1\n"
                    "longer  1000")
    assert text_table(["one", "two"], [["x", ""]]) == "one  two\n---  ---\nx"
    assert text_table(["alone"], []) == "alone\n-----"


def test_labels_are_aligned() -> None:
    assert label_lines([("a", "1"), ("long", "2"), ("b", "")]) == "  a     1\n  long  2\n  b"
    assert label_lines([]) == ""


def test_shares_are_sorted() -> None:
    assert shares_text({"host": 0.0005, "fpga": 0.25, "gpu": 0.7495}) == "gpu 75 %, fpga 25 %, host 0.05 %"
    assert shares_text({}) == "-"


def price(time_s: float) -> dict[str, Any]:
    return {"time_s": time_s, "low_s": time_s / 2, "high_s": time_s * 2, "energy_j": 0.0, "bound": "launch",
            "source": "assumed"}


def record(device: str, nodes: list[str], stage: str | None = None, **prices: float) -> dict[str, Any]:
    """A decision record."""
    refused = {name: {"node": nodes[0], "rule": "no such stage"} for name in ("fpga", "gpu") if name not in prices}
    return {"device": device, "region": f"r0_{device}", "nodes": nodes, "stage": stage, "pipeline": None,
            "evidence": [], "layer": "", "work": {"flops": 10, "bytes_read": 3, "bytes_written": 1},
            "rejections": refused, "cut": [], "alternatives": {},
            "prices": {name: price(time_s) for name, time_s in prices.items()},
            "intensity_flops_per_byte": 2.5}


def explained(clusters: dict[str, Any], steps: tuple[LaunchStep, ...] = (), regions: tuple[RegionSpec, ...] = (),
              ) -> Explained:
    """A phase with the given records and nothing else."""
    plan = PhasePlan(
        phase="decode", batch=1, tokens=1, context=4, inputs=(), outputs=(), regions=regions, steps=steps, buffers=(),
        caches=(), memory_bytes={}, partition=PartitionSpec(partitioner="p", objective=1.0, lower_bound=1.0, gap=0.0),
        prediction=Prediction(baseline="tuned", latency_s=1.0, energy_j=1.0, gpu_only_latency_s=2.0,
                              gpu_only_energy_j=1.0))
    records = {"clusters": clusters, "baseline": "tuned", "rewrites": [],
               "devices": {"fpga": "u55c", "gpu": "mi210", "host": "host"}}
    return Explained(plan, records, TaggedGraph(Graph("g", (), {}, (), ()), {}))


CLUSTERS = {
    "a/topk": record("fpga", ["a/topk", "a/cast"], "retrieval", gpu=4.0, fpga=1.0),
    "a/mm": record("gpu", ["a/mm", "a/mm.view"], gpu=2.0, host=8.0),
    "b/mm": record("gpu", ["b/mm", "b/mm.view"], gpu=2.0, host=8.0),
    "b/odd": record("host", ["b/odd"], "apply", host=1.0),
}
REGION = RegionSpec(name="r0_fpga", device="fpga", engine="stream-interpreter (emulated fpga)", entry="fpga/x/k.xclbin",
                    digest="ab" * 32, nodes=("a/topk", "a/cast"), flops=10, bytes_read=3, bytes_written=1)
LAUNCH = LaunchStep(region="r0_fpga", stream="fpga", inputs=("x",), outputs=("y",), predicted_time_s=1e-3, waits=(0,))


def test_the_overview_sums_prices_only_where_they_exist() -> None:
    answer = overview(explained(CLUSTERS))
    stages = {row["stage"]: row for row in answer["stages"]}
    assert stages["retrieval"]["time_s"] == {"gpu": 4.0, "fpga": 1.0} and stages["retrieval"]["chosen_time_s"] == 1.0
    assert stages[None]["time_s"] == {"gpu": 4.0, "host": 16.0} and stages[None]["refused"] == {"fpga": 2}
    assert stages["apply"]["refused"] == {"gpu": 1, "fpga": 1} and stages["prepare"]["clusters"] == 0
    assert [(entry["cluster"], entry["alike"]) for entry in answer["largest"]] == [("a/mm", 2), ("a/topk", 1),
                                                                                  ("b/odd", 1)]
    assert answer["host"] == [{"cluster": "b/odd", "nodes": ["b/odd"], "reasons": CLUSTERS["b/odd"]["rejections"]}]
    text = overview_text(answer)
    assert "on the host: 1 nodes in 1 clusters" in text and "gpu: no such stage (b/odd)" in text
    assert "rewrites: none" in text and "x2" in text


@pytest.mark.parametrize(("asked", "found"), [
    ("a/topk", ("cluster", "a/topk")), ("a/cast", ("cluster", "a/topk")), ("cast", ("cluster", "a/topk")),
    ("a/mm", ("cluster", "a/mm")), ("a/mm.v", ("cluster", "a/mm")),
    ("r0_fpga", ("region", "r0_fpga")), ("r0", ("region", "r0_fpga")), ("odd", ("cluster", "b/odd")),
])
def test_names_are_found(asked: str, found: tuple[str, str]) -> None:
    assert find_name(asked, explained(CLUSTERS, regions=(REGION,))) == found


@pytest.mark.parametrize(("asked", "what", "fix"), [
    ("mm", "'mm' is in the names of 2 clusters and regions: a/mm, b/mm", "give more of the name"),
    ("a/topkk", "no node, cluster or region of decode is called 'a/topkk'", "did you mean a/topk"),
    ("@@", "is called '@@'", "`hetcc explain BUNDLE` lists the largest"),
])
def test_names_that_are_not_found(asked: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        find_name(asked, explained(CLUSTERS, regions=(REGION,)))
    assert caught.value.code == "HET-B004" and what in caught.value.what and fix in caught.value.fix


def test_many_matches_are_cut_short() -> None:
    many = {f"layer.{index}/mm": record("gpu", [f"layer.{index}/mm"], gpu=1.0) for index in range(9)}
    with pytest.raises(UserError, match=r"layer\.5/mm and 3 more"):
        find_name("mm", explained(many))


def test_a_region_names_its_code_and_launch() -> None:
    answer = region_answer("r0_fpga", explained(CLUSTERS, (LAUNCH,), (REGION,)))
    assert answer["clusters"] == ["a/topk"] and answer["launch_step"] == 0 and answer["code_file"] == "fpga/x/k.xclbin"
    text = region_text(answer)
    assert "launched by  step 0 on stream fpga after steps 0" in text and "takes        1 ms (predicted)" in text
    assert "engine       stream-interpreter (emulated fpga)" in text


def test_the_main_phase() -> None:
    assert main_phase(("prefill", "decode"), ("decode", "encode")) == "decode"
    assert main_phase(("mixed", "other"), ("decode", "encode")) == "mixed"


def summary(latency_s: float) -> dict[str, Any]:
    return {
        "nodes": 3, "stages": {"prepare": 1}, "pipelines": 1, "retrieval_pipelines": 0,
        "regions": {"total": 1, "gpu": 1},
        "predicted": {"latency_s": latency_s, "gpu_only_latency_s": 2e-3, "energy_j": 1.0, "gpu_only_energy_j": 1.0},
        "partition": {"partitioner": "optimal", "objective": 1.0, "lower_bound": 0.5, "gap": 1.0}, "baseline": "tuned",
        "memory_bytes": {"gpu": 1024, "host": 8}, "capacity_bytes": {"gpu": 2048}, "fits": False,
        "coverage": {"host_nodes": ["x", "y"], "flops": {"host": 0.25}, "bytes": {"host": 0.5}}}


def test_a_summary_names_the_baseline_and_the_direction() -> None:
    rows = dict(summary_lines(summary(1e-3)))
    assert rows["predicted step"] == "1 ms, 2.00x better than the GPU alone (2 ms, 'tuned' baseline)"
    assert rows["predicted energy"] == "1 J (the GPU alone, 'tuned' baseline)"
    assert dict(summary_lines(summary(4e-3)))["predicted step"].startswith("4 ms, 2.00x worse")
    assert rows["memory"].endswith("DOES NOT FIT")
    assert rows["on the host"] == "2 nodes, first x: 25.00% of the flops, 50.00% of the bytes"


def test_an_exported_problem_carries_its_placement_and_no_regions() -> None:
    cluster = Cluster("a", ("a",), MappingProxyType({"gpu": Cost(1.0, 1.0)}))
    problem = PlacementProblem("p", ("gpu",), (cluster,), (), {"gpu": Cost()}, {}, Objective())
    placement = Placement({"a": "gpu"}, (Region("r", "gpu", ("a",)),), Cost(1.0, 1.0), 1.0, 1.0, "optimal")
    document = placement_document(problem, placement)
    assert document["placement"] == {"a": "gpu"} and "regions" not in document
    assert PlacementProblem.from_json(document) == problem
