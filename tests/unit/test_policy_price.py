"""A numeric policy in the prices: the rate of its format where the FPGA multiplies by it, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.formats import EXACT, POLICIES, with_policy
from hetcc.backends.fpga.samples import attention, retrieval, scans
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import InnerProduct
from hetcc.backends.fpga.support import FpgaSupport
from hetcc.capture.model import CapturedModel, CaptureRequest, Phase
from hetcc.cost_model.device import load_device
from hetcc.cost_model.fpga import estimate_stages
from hetcc.cost_model.parts import MATRIX_CLASSES
from hetcc.cost_model.price import price
from hetcc.cost_model.work import Work
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, OperatorClass
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.pipeline import compile_captured, device_set
from hetcc.planning import plan_phase
from hetcc.predict import predict_sizes
from hetcc.registry import SUPPORTS, load
from hetcc.stopwatch import Stopwatch, silent
from hetcc.workloads import capture_workload

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))
QUANTISED = tuple(policy for policy in POLICIES if policy != EXACT)
TYPES = {"quantised:int8": DType.INT8, "quantised:int16": DType.INT16, "quantised:bf16": DType.BFLOAT16}


def options_of(request: CaptureRequest, policy: str, **choice: object) -> CompileOptions:
    return CompileOptions(request, choice=PlacementChoice(**choice), emission=EmissionOptions(policy=policy),
                          emit="never", robustness_samples=0)


captured = functools.cache(capture_workload)


def planned(workload: str, policy: str, rows: int, dtype: DType = DType.FLOAT32, **settings: int) -> PlannedPhase:
    request = CaptureRequest(f"workload:{workload}", (Phase.DECODE,), context=rows, dtype=dtype,
                             overrides=tuple((key, str(value)) for key, value in settings.items()))
    options = options_of(request, policy)
    return plan_phase(*captured(request), request, device_set(options), options.choice, Stopwatch())


def times(phase: PlannedPhase, device: str) -> dict[str, float]:
    return {name: found.prices[device].time_s for name, found in phase.table.estimates.items()
            if device in found.prices}


@pytest.mark.parametrize("make", [
    scans.single_scan, scans.weighted_scan, scans.score_scan, scans.pooled_scan, scans.block_scan, scans.bound_scan,
    scans.onnx_scan, retrieval.threshold_scan, retrieval.kept_scan, retrieval.flat_scan, retrieval.entry_scan,
    retrieval.bounds_scan, retrieval.fetching_scan, attention.written_attention], ids=lambda make: make.__name__)
@pytest.mark.parametrize("policy", QUANTISED)
def test_what_is_priced_in_a_format_is_what_is_made_in_it(make: Callable[[], Graph], policy: str) -> None:
    region = make()
    kernel = compose(region)
    assert not isinstance(kernel, Rejected)
    made = with_policy(kernel, policy)
    formats = [] if isinstance(made, Rejected) else [stage.format for stage in made.of_kind(InnerProduct)]
    support = FpgaSupport()
    priced = [support.factor_type(region, node, policy) for node in region.nodes]
    assert priced.count(TYPES[policy]) == sum(form is not NumberFormat.FP32 for form in formats)
    assert set(priced) <= {None, TYPES[policy], DType.FLOAT32}
    for node in region.nodes:
        expected = DType.FLOAT32 if node.operator_class in MATRIX_CLASSES else None
        assert support.factor_type(region, node, EXACT) is expected


def test_views_of_a_product_and_attention_in_one_node_are_no_products() -> None:
    for region, expected in ((scans.weighted_scan(2, 1, 4), {OperatorClass.MATMUL}),
                             (attention.fused_attention(), set())):
        support = FpgaSupport()
        assert expected == {node.operator_class for node in region.nodes
                            if support.factor_type(region, node, "quantised:int8") is DType.INT8}


def test_every_back_end_answers_and_an_unknown_policy_is_an_error() -> None:
    region = scans.single_scan()
    for name in ("gpu", "host"):
        support = load(SUPPORTS[name])()
        assert {support.factor_type(region, node, "quantised:int8") for node in region.nodes} == {None}
    with pytest.raises(UserError, match="int3"):
        FpgaSupport().factor_type(region, region.nodes[0], "quantised:int3")


def test_many_heads_are_cheaper_in_a_narrower_format_and_only_on_the_fpga() -> None:
    phases = {policy: planned("sparse-indexer", policy, 16_384, heads=64) for policy in POLICIES}
    exact = times(phases[EXACT], "fpga")
    cheaper = {policy: {name for name, time_s in times(phase, "fpga").items() if time_s < exact[name]}
               for policy, phase in phases.items()}
    for policy in QUANTISED:
        name, = cheaper[policy]
        work, = (work for work, _, _ in phases[policy].table.estimates[name].items
                 if work.factors not in (None, DType.FLOAT32))
        assert work.factors is TYPES[policy] and work == next(
            one for one, _, _ in phases[EXACT].table.estimates[name].items if one.flops == work.flops)
        assert times(phases[policy], "gpu") == times(phases[EXACT], "gpu")
        others = {other: time_s for other, time_s in times(phases[policy], "fpga").items() if other != name}
        assert others == {other: exact[other] for other in others}
    order = ("quantised:int8", "quantised:int16", "quantised:bf16", EXACT)
    found = [sum(times(phases[policy], "fpga").values()) for policy in order]
    assert found == sorted(found) and found[0] < found[1] and found[2] < found[3]


@pytest.mark.parametrize("workload", ["page-bounds", "forward-index"])
def test_a_policy_changes_nothing_where_no_product_reads_a_table(workload: str) -> None:
    exact, asked = (planned(workload, policy, 4096) for policy in (EXACT, "quantised:int8"))
    assert asked.table.problem == exact.table.problem
    assert all(work.factors in (None, DType.FLOAT32)
               for found in asked.table.estimates.values() for work, _, _ in found.items)


def test_a_model_in_bfloat16_is_multiplied_in_binary32_unless_a_policy_says_otherwise() -> None:
    """As its kernels are made: the table stays as it is, and its rows are widened on the way to the multipliers."""
    exact, asked = (planned("sparse-indexer", policy, 16_384, DType.BFLOAT16, heads=64)
                    for policy in (EXACT, "quantised:bf16"))
    types = [{work.factors for found in phase.table.estimates.values() for work, operator_class, _ in found.items
              if operator_class is OperatorClass.MATMUL} for phase in (exact, asked)]
    assert types[0] == {DType.FLOAT32} and DType.BFLOAT16 in types[1]
    found = [sum(times(phase, "fpga").values()) for phase in (exact, asked)]
    assert found[1] < found[0]


def test_the_price_is_that_of_work_computed_in_the_format() -> None:
    """Time, energy and slices; a device that does not stream knows nothing of it."""
    work = Work(2 * 64 * 4096 * 128, 4096 * 512, 64 * 4096 * 4, 4096 * 128)
    fpga, gpu = load_device("u55c"), load_device("mi210")
    for factors in TYPES.values():
        held = (replace(work, factors=factors), OperatorClass.MATMUL, DType.FLOAT32)
        whole = (work, OperatorClass.MATMUL, factors)
        assert price([held], fpga) == price([whole], fpga)
        assert estimate_stages([held], fpga, fpga.baseline()) == estimate_stages([whole], fpga, fpga.baseline())
        assert price([held], gpu) == price([(work, OperatorClass.MATMUL, DType.FLOAT32)], gpu)


def test_a_compile_and_a_prediction_have_the_price_of_the_policy() -> None:
    request = CaptureRequest("workload:sparse-indexer", (Phase.DECODE,), context=16_384, overrides=(("heads", "64"),))
    name, graph = captured(request)
    model = CapturedModel(request, {name: graph})
    found = {}
    for policy in (EXACT, "quantised:int16"):
        options = options_of(request, policy, forced=FORCED)
        made = compile_captured(model, options, None, force=False, watch=Stopwatch())
        predicted, = predict_sizes(options, device_set(options), [1], [16_384], samples=0, progress=silent)
        found[policy] = made.plan.phases[0].prediction.latency_s
        assert predicted.latency_s.likely == pytest.approx(found[policy])
    assert found["quantised:int16"] < found[EXACT]
