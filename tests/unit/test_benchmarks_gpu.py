"""The GPU benchmark's arithmetic, table, cases and what it does without a GPU. No GPU is needed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hetcc.backends.gpu.kernels.interpreter import interpret, interpret_plan
from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Scalar, Tensor
from hetcc.ir import DType

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
SCRIPTS = ("baselines", "cases", "launch", "measure", "table", "run")
CEILINGS = {"copy_bytes_per_s": 4e12, "matrix_flops_per_s": 8e14, "empty_s": 2e-6}


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The scripts as modules. They are no package: they import each other by their bare names."""
    sys.path.insert(0, str(FOLDER))
    try:
        found: dict[str, ModuleType] = {name: importlib.import_module(name) for name in SCRIPTS}
        assert all(Path(str(module.__file__)).parent == FOLDER for module in found.values())
        yield SimpleNamespace(**found)
    finally:
        sys.path.remove(str(FOLDER))
        for name in SCRIPTS:
            sys.modules.pop(name, None)


def test_statistics(scripts: Any) -> None:
    timing = scripts.measure.summarise([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (timing.low_s, timing.median_s, timing.high_s, timing.repeats) == (2.0, 3.0, 4.0, 5)
    assert timing.spread == pytest.approx(2 / 3)
    assert scripts.measure.summarise([2.0]).spread == 0.0
    for useless in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="no usable times"):
            scripts.measure.summarise(useless)


def test_the_longer_of_moving_and_computing_bounds(scripts: Any) -> None:
    ceilings = scripts.measure.Ceilings(**CEILINGS)
    assert scripts.measure.bound_s(4e12, 0.0, ceilings) == 1.0
    assert scripts.measure.bound_s(4e9, 8e14, ceilings) == 1.0
    assert scripts.measure.bound_s(0, 0, ceilings) == 0.0


def test_the_error_is_relative_and_nan_never_passes(scripts: Any) -> None:
    error = scripts.measure.relative_error
    expected = torch.tensor([3.0, 4.0])
    assert error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert error(torch.tensor([3.0, float("-inf")]), torch.tensor([3.0, float("-inf")])) == 0.0
    assert np.isnan(error(torch.tensor([3.0, float("nan")]), expected))
    assert error(torch.tensor([7]), torch.tensor([7])) == 0.0


def row(**change: Any) -> dict[str, Any]:
    """A measured row: 10 us, bound 8 us, eager 30 us, compiled 15 us."""
    def timing(median_s: float) -> dict[str, Any]:
        return {"median_s": median_s, "low_s": median_s * 0.9, "high_s": median_s * 1.1, "repeats": 9, "graph": True}

    return {"group": "top-k", "size": "2048 of 131072", "tolerance": 1e-2, "error": 1e-3, "bound_s": 8e-6,
            "goal": {"share": 0.7, "over_best": 1.0, "over_compiled": 2.0},
            "times": {"triton": timing(10e-6), "eager": timing(30e-6), "compiled": timing(15e-6)}, "failures": {},
            **change}


def test_verdicts(scripts: Any) -> None:
    verdict = scripts.table.verdict
    assert verdict(row()) == "70 % of roofline: met, 1x best: met, 2x compiled: missed"
    assert verdict(row(bound_s=6.9e-6)).startswith("70 % of roofline: missed")
    assert verdict(row(error=float("nan"))) == "WRONG"
    assert verdict(row(error=0.011)) == "WRONG"


def test_the_page(scripts: Any) -> None:
    unrecorded = row(group="threshold", failures={"sdpa": "RuntimeError: too large"})
    unrecorded["times"]["eager"]["graph"] = False
    failed = {**row(), "failure": "TritonError: out of resources"}
    report = {"machine": {"device": "H200", "runtime": "CUDA 13.0", "torch": "2", "triton": "3"}, "target": "sm_90",
              "ceilings": CEILINGS, "date": "2026-01-02", "command": "python run.py",
              "rows": [row(), unrecorded, failed]}
    page = scripts.table.render(report)
    assert "device copy 4.00 TB/s" in page
    assert "800 Tflop/s" in page
    assert "CUDA 13.0" in page
    assert ("| top-k | 2048 of 131072 | 10.0 us | 20 % | 8.0 us | 80 % | 30.0 us | 15.0 us |  | 1.50x | 1.0e-03 |"
            in page)
    assert "30.0 us* | 15.0 us | failed: RuntimeError: too large |" in page
    assert "failed: TritonError: out of resources" in page
    assert "0 of 3 rows meet all their goals; 0 are wrong." in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(scripts.table.COLUMNS) + 1}
    assert scripts.table.render(json.loads(json.dumps(report))) == page


def test_without_a_gpu_the_table_stays(scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text("as it was", encoding="utf-8")
    monkeypatch.setattr(scripts.run, "PAGE", page)
    monkeypatch.setattr(scripts.run, "RESULTS", results)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given in ([], ["--quick"], ["--out", str(tmp_path)]):
        assert scripts.run.main(given) == 3
    assert "no GPU" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "as it was"
    assert not results.exists()


def test_cases_cover_what_was_promised(scripts: Any) -> None:
    found = scripts.cases.all_cases()
    names = [case.name for case in found]
    assert len(set(names)) == len(names)
    groups = {"index scoring": 2, "top-k": 6, "threshold": 2, "scoring + top-k": 2, "gather, latent": 3,
              "gather, grouped": 3, "block-sparse": 3, "dense decode": 1, "page pooling": 2, "page bounds": 1,
              "whole region": 1}
    assert {group: sum(case.group == group for case in found) for group in groups} == groups
    assert len(found) == sum(groups.values())
    assert {case.group for case in found if case.quick} >= {"index scoring", "top-k", "scoring + top-k", "block-sparse"}
    for case in found:
        for target in ("gfx90a", "gfx942", "sm_80", "sm_90"):
            assert all(step.operation.plan(target).launches for step in case.steps)


def small_cases(cases: Any) -> list[Any]:
    """The table's cases at sizes that the interpreter can do."""
    return [*cases.scoring(300, heads=3, size=16), cases.page_scores(50, heads=2, size=16), cases.selection(600, 20),
            cases.compaction(4000), cases.score_selection(500, 30, heads=2),
            cases.latent_gather(2, 60, 20, heads=4, latent=32, rope=16),
            cases.grouped_gather(2, 60, 20, heads=4, cache_heads=2, size=16),
            cases.block_sparse(2, 64, 16, 3, heads=4, cache_heads=2, size=16),
            cases.dense(70, heads=4, cache_heads=2, size=16),
            *(cases.pooling(64, 16, kind, heads=2, size=16) for kind in ("mean", "bounds")),
            cases.region(300, 16, index_heads=2, heads=4, latent=32, rope=16)]


def as_array(tensor: torch.Tensor) -> Any:
    """A tensor as numpy has it."""
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def test_kernels_and_baselines_compute_the_same(scripts: Any) -> None:
    """Every case: operation on the interpreter, eager PyTorch and its fused form, against PyTorch in float32."""
    pytest.importorskip("triton", reason="the gpu extra is not installed")
    for case in small_cases(scripts.cases):
        tensors = scripts.cases.make_inputs(case, torch, "cpu", seed=3)
        assert set(tensors) == set(case.inputs)
        expected = scripts.run.expected(case, tensors, torch)
        arrays = {name: as_array(tensor) for name, tensor in tensors.items()}
        for step in case.steps:
            given = {role: arrays[step.name(role)] for role, _ in step.operation.inputs}
            arrays |= {step.name(role): array for role, array in interpret(step.operation, given).items()}
        result = torch.from_numpy(np.asarray(arrays[case.result], np.float64))
        assert scripts.measure.relative_error(result, expected) < 1e-2, case.name
        for rival in (case.eager, case.fused):
            if rival is not None:
                error = scripts.measure.relative_error(rival(tensors)[case.result], expected)
                assert error < 3e-2, (case.name, rival)


class Clock:
    """Calls what it is given once; every call takes a microsecond longer than the one before."""

    def __init__(self, measure: Any) -> None:
        self.measure, self.calls = measure, 0

    def time(self, call: Any) -> Any:
        call()
        self.calls += 1
        return self.measure.summarise([self.calls * 1e-6])


def measured(scripts: Any, case: Any) -> dict[str, Any]:
    ceilings = scripts.measure.Ceilings(**CEILINGS)
    found: dict[str, Any] = scripts.run.measure_case(
        case, torch, Clock(scripts.measure), ceilings, "interpreter", False, "cpu")
    return found


def test_a_row_holds_times_error_and_failures(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the gpu extra is not installed")
    monkeypatch.setattr(scripts.launch, "bind", lambda plan, tensors: lambda: interpret_plan(
        plan, {name: as_array(tensor) for name, tensor in tensors.items()}))
    case = scripts.cases.latent_gather(1, 60, 20, heads=4, latent=32, rope=16)
    found = measured(scripts, case)
    assert [found["times"][name]["median_s"] for name in ("triton", "eager", "sdpa")] == [1e-6, 2e-6, 3e-6]
    assert 0 < found["error"] < 1e-2
    assert found["bound_s"] == pytest.approx(found["bytes"] / CEILINGS["copy_bytes_per_s"])
    assert scripts.table.verdict(found) == "1x best: met"

    def broken(tensors: Any) -> Any:
        raise NotImplementedError("no such | operator")

    found = measured(scripts, dataclasses.replace(case, fused=broken))
    assert found["failures"] == {"sdpa": "NotImplementedError: no such / operator"}
    found = measured(scripts, dataclasses.replace(case, eager=broken))
    assert found["failure"].startswith("NotImplementedError")


def test_kernels_that_write_nothing_are_wrong(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.launch, "bind", lambda plan, tensors: lambda: None)
    for case in (scripts.cases.dense(70, heads=4, cache_heads=2, size=16), scripts.cases.compaction(4000)):
        assert scripts.table.verdict(measured(scripts, case)) == "WRONG"


def test_inputs_are_the_same_every_time_and_indices_differ(scripts: Any) -> None:
    case = scripts.cases.block_sparse(3, 64, 16, 4, heads=2, cache_heads=2, size=16)
    first, second = (scripts.cases.make_inputs(case, torch, "cpu", seed=1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(len(set(indices.tolist())) == 4 for indices in first["indices"].reshape(-1, 4))


def test_least_bytes_count_selected_rows_once(scripts: Any) -> None:
    case = scripts.cases.latent_gather(2, 60, 3, heads=4, latent=32, rope=16)
    indices = torch.tensor([[[1, 2, 3], [3, 2, 7]]])
    query, output, cache = 2 * 4 * (32 + 16) * 2, 2 * 4 * 32 * 2, 4 * (32 + 16) * 2
    assert scripts.cases.least_bytes(case, {"indices": indices}) == query + output + cache + indices.numel() * 8
    blocks = scripts.cases.block_sparse(1, 64, 16, 2, heads=4, cache_heads=2, size=16)
    indices = torch.tensor([[[[0, 3]], [[1, 1]]]])
    cache = (2 + 1) * 16 * 16 * 2 * 2
    assert scripts.cases.least_bytes(blocks, {"indices": indices}) == cache + 2 * 4 * 16 * 2 + indices.numel() * 8
    region = scripts.cases.region(300, 16, index_heads=2, heads=4, latent=32, rope=16)
    index = (2 * 128 + 300 * 128 + 2) * 2
    attend = 4 * (32 + 16) * 2 + 16 * (32 + 16) * 2 + 4 * 32 * 2
    assert scripts.cases.least_bytes(region, {}) == index + attend + 16 * 4  # and the chosen values, in float32


def test_launches_get_their_tensors_constants_and_options(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, dict[str, Any]]] = []

    class Function:
        def __getitem__(self, grid: Any) -> Any:
            return lambda **given: seen.append((grid, given))

    monkeypatch.setattr(scripts.launch.importlib, "import_module", lambda name: SimpleNamespace(attend=Function()))
    launches = tuple(Launch("attention", "attend", (("keys", Tensor("cache", DType.FLOAT16)), ("count", Scalar(4))),
                            (("BLOCK", 16),), (number, 1, 1), 8, 3) for number in (1, 2))
    start = scripts.launch.bind(LaunchPlan(launches), {"cache": "memory"})
    assert seen == []
    start()
    expected = {"keys": "memory", "count": 4, "BLOCK": 16, "num_warps": 8, "num_stages": 3}
    assert seen == [((1, 1, 1), expected), ((2, 1, 1), expected)]


@pytest.mark.parametrize(("capability", "target"), [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90")])
def test_the_target_of_a_card(scripts: Any, capability: tuple[int, int], target: str) -> None:
    assert scripts.launch.target_of(card(capability)) == target


def card(capability: tuple[int, int] = (9, 0), architecture: str = "") -> Any:
    properties = SimpleNamespace(gcnArchName=architecture)
    return SimpleNamespace(
        version=SimpleNamespace(hip="6.4" if architecture else None),
        cuda=SimpleNamespace(get_device_capability=lambda _: capability, get_device_properties=lambda _: properties))


def test_the_target_of_an_amd_card_and_of_none(scripts: Any) -> None:
    assert scripts.launch.target_of(card(architecture="gfx90a:sramecc+:xnack-")) == "gfx90a"
    for unknown in (card((7, 0)), card(architecture="gfx1100")):
        with pytest.raises(LookupError, match="no kernels"):
            scripts.launch.target_of(unknown)
