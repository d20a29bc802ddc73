"""``hetcc explain`` and ``hetcc export``: answers from a bundle, without any heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hetcc import api
from hetcc.plan.placement import PlacementProblem, assignment_from_json

from corpus.command_line import CommandResult, hetcc

ROOT = Path(__file__).resolve().parents[2]
Bundle = tuple[Path, CommandResult]
TOPK = "model.layers.0.self_attn.indexer/topk"
PROBE = """
import sys
from hetcc.cli import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "transformers", "iree.compiler", "iree.runtime", "ortools", "scipy"} & set(sys.modules))
sys.stderr.write(" ".join(heavy))
sys.exit(code)
"""


def records(bundle: Path) -> dict[str, Any]:
    """The decision records of the bundle's only phase."""
    found: dict[str, Any] = json.loads((bundle / "reports/decode.explain.json").read_text(encoding="utf-8"))
    return found


def test_the_overview_adds_up(plan_bundle: Bundle) -> None:
    answer = hetcc("explain", plan_bundle[0], "--json").document["phases"]["decode"]
    clusters = records(plan_bundle[0])["clusters"]
    assert sum(row["clusters"] for row in answer["stages"]) == len(clusters)
    assert sum(row["flops"] for row in answer["stages"]) == sum(one["work"]["flops"] for one in clusters.values())
    by_stage = {row["stage"]: row for row in answer["stages"]}
    assert by_stage["retrieval"]["placed"].keys() == {"fpga"}
    assert by_stage["retrieval"]["chosen_time_s"] == pytest.approx(by_stage["retrieval"]["time_s"]["fpga"])
    assert by_stage["apply"]["refused"]["fpga"] == by_stage["apply"]["clusters"]
    assert 0 < sum(entry["share"] for entry in answer["largest"]) <= 1.0 + 1e-9
    assert list(answer["devices"]) == ["gpu", "fpga", "host"]
    assert any(entry["applied"] for entry in answer["rewrites"])


def test_the_overview_as_text(plan_bundle: Bundle) -> None:
    done = hetcc("explain", plan_bundle[0], "--phase", "decode")
    assert done.code == 0 and done.err == ""
    for text in ("stages (predicted", "retrieval", "largest clusters", "on the host:", "rewrites:", "lower bound"):
        assert text in done.out


def test_a_node_is_explained(plan_bundle: Bundle) -> None:
    record = records(plan_bundle[0])["clusters"][TOPK]
    answer = hetcc("explain", plan_bundle[0], TOPK, "--json").document
    assert answer["kind"] == "cluster" and answer["device"] == "fpga" and answer["stage"] == "retrieval"
    assert answer["prices"] == record["prices"] and answer["cut"] == record["cut"]
    assert answer["cut_time_s"] == pytest.approx(sum(entry["time_s"] for entry in record["cut"]))
    node = answer["nodes"][0]
    assert node["module_path"] == "model.layers.0.self_attn.indexer" and node["source"].startswith("modeling_")
    plan = api.load(plan_bundle[0]).plan.phase("decode")
    step = plan.steps[answer["launch_step"]]
    assert step.kind == "launch" and step.region == answer["region"]
    text = hetcc("explain", plan_bundle[0], TOPK).out
    for expected in (*record["evidence"], "prices (predicted", "what crosses", "moved alone to the gpu", "interval",
                     record["alternatives"]["gpu"]["flip"]):
        assert expected in text


def test_a_node_inside_a_cluster_leads_to_its_cluster(plan_bundle: Bundle) -> None:
    inner = records(plan_bundle[0])["clusters"][TOPK]["nodes"][-1]
    answer = hetcc("explain", plan_bundle[0], inner, "--json").document
    assert answer["cluster"] == TOPK and answer["asked"] == inner != TOPK
    assert f"{inner} <-" in hetcc("explain", plan_bundle[0], inner).out


def test_a_refusal_is_given_with_its_rule(plan_bundle: Bundle) -> None:
    done = hetcc("explain", plan_bundle[0], "lm_head/mm")
    rule = records(plan_bundle[0])["clusters"]["lm_head/mm"]["rejections"]["fpga"]["rule"]
    assert f"fpga: {rule}" in done.out and "no other accelerator takes it" in done.out


def test_a_region_is_explained(plan_bundle: Bundle) -> None:
    region = records(plan_bundle[0])["clusters"][TOPK]["region"]
    answer = hetcc("explain", plan_bundle[0], region, "--json").document
    assert answer["kind"] == "region" and answer["device"] == "fpga" and answer["code_file"] is None
    assert answer["engine"] == "planned, not emitted" and TOPK in answer["clusters"]
    assert answer["launch"]["region"] == region
    order = [answer["nodes"].index(cluster) for cluster in answer["clusters"] if cluster in answer["nodes"]]
    assert order == sorted(order)
    assert "launched by  step" in hetcc("explain", plan_bundle[0], region).out


def test_a_piece_of_a_name_is_enough_if_one_thing_has_it(plan_bundle: Bundle) -> None:
    assert hetcc("explain", plan_bundle[0], "layers.0.self_attn.indexer/topk", "--json").document["cluster"] == TOPK
    several = hetcc("explain", plan_bundle[0], "indexer/topk", "--json")
    assert several.code == 2 and several.document["error"]["code"] == "HET-B004"
    assert TOPK in several.document["error"]["what"] and "layers.1" in several.document["error"]["what"]


@pytest.mark.parametrize("arguments", [("explain", "{bundle}"), ("explain", "{bundle}", TOPK),
                                       ("export", "{bundle}"), ("export", "--format", "schema"), ("devices",),
                                       ("doctor",), ("--help",)])
def test_questions_load_no_heavy_library(arguments: tuple[str, ...], plan_bundle: Bundle, tmp_path: Path) -> None:
    words = [word.format(bundle=plan_bundle[0]) for word in arguments]
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exported_problem_is_complete(plan_bundle: Bundle) -> None:
    document = json.loads(hetcc("export", plan_bundle[0]).out)
    bundle = api.load(plan_bundle[0])
    problem = PlacementProblem.from_json(document)
    assert problem.to_json() == bundle.problem("decode").to_json()
    assert assignment_from_json(document, problem) == dict(bundle.placement("decode").device_of)


def test_pictures(plan_bundle: Bundle, tmp_path: Path) -> None:
    dot = hetcc("export", plan_bundle[0], "--format", "dot").out
    assert dot.startswith("digraph") and "color=red" in dot and TOPK in dot
    done = hetcc("export", plan_bundle[0], "--format", "graphml", "-o", tmp_path / "plan.graphml")
    assert done.out == "" and "plan.graphml" in done.err
    tree = xml.etree.ElementTree.parse(tmp_path / "plan.graphml")
    assert len(tree.findall(".//{*}node")) == len(records(plan_bundle[0])["clusters"])


def test_the_published_schema_is_current_and_plans_obey_it(plan_bundle: Bundle) -> None:
    printed = hetcc("export", "--format", "schema").out
    published = ROOT / "docs/plan.schema.json"
    assert published.read_text(encoding="utf-8") == printed, \
        "run `hetcc export --format schema -o docs/plan.schema.json`"
    plan = json.loads((plan_bundle[0] / "plan.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(printed)).validate(plan)
    del plan["phases"][0]["regions"][0]["device"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(printed)).validate(plan)
