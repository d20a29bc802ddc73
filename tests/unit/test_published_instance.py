"""The four kernels of the artefact of arXiv 2603.29002: its own numbers, and hetcc's prices of the same work."""

from __future__ import annotations

import pytest

from hetcc.cost_model.device import load_device
from hetcc.cost_model.price import price, region_launch
from hetcc.cost_model.transfer import link_between, transfer
from hetcc.cost_model.work import Work
from hetcc.ir import DType, OperatorClass
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.place import finish, load_placer, place_optimal
from hetcc.plan.placement import Cluster, Cost, Objective, PlacementProblem, Tensor

NAMES = ("build", "inner product", "top-k", "attention")
GPU_S, FPGA_S = (250e-6, 82.5e-6, 36.2e-6, 7.6e-6), (1108.58e-6, 10.94e-6, 10.12e-6, 28.09e-6)
FUSED_S = 10.73e-6
"""Inner product and top-k as one FPGA kernel."""
SIZES = (4_194_304, 32_768, 256)
"""Bytes between neighbours: index, scores, the 64 chosen."""
PAIRS = (("gpu", "fpga"), ("fpga", "gpu"))
SPLIT = {"build": "gpu", "inner product": "fpga", "top-k": "fpga", "attention": "gpu"}
WORK = ((Work(1_667_000_000, 205_900_000, 0, 8192), OperatorClass.REDUCTION),
        (Work(2_100_000, 4_194_816, 32_768, 8192), OperatorClass.MATMUL),
        (Work(0, 32_768, 512, 8192, selected=64), OperatorClass.TOPK),
        (Work(1_580_000, 3_150_000, 0, 8192), OperatorClass.ATTENTION))


def instance(gpu_s, fpga_s, copies, fused_saving_s=0.0, launch_s=(0.0, 0.0)):
    """The published search: additive times, the index is never charged, a copy once per direction."""
    clusters = tuple(Cluster(name, (name,), {"gpu": Cost(on_gpu), "fpga": Cost(on_fpga)})
                     for name, on_gpu, on_fpga in zip(NAMES, gpu_s, fpga_s, strict=True))
    tensors = tuple(
        Tensor(f"t{index}", NAMES[index], (NAMES[index + 1],), SIZES[index],
               {pair: Cost(copies(pair, SIZES[index]) if index else 0.0) for pair in PAIRS},
               {"fpga": Cost(fused_saving_s)} if index == 1 and fused_saving_s else {})
        for index in range(3))
    launch = {"gpu": Cost(launch_s[0]), "fpga": Cost(launch_s[1])}
    return PlacementProblem("published", ("gpu", "fpga"), clusters, tensors, launch, {}, Objective())


def published_copy(pair, size_bytes):
    """Seconds by the published fit alone, as the published search takes it."""
    return link_between(*pair).fitted_time_s(size_bytes)


def on_one(problem, device):
    spec = f"{device}-only"
    return finish(problem, load_placer(spec).place(problem, ClusterFacts()), spec, 0.0).objective


@pytest.mark.parametrize(("saving_s", "expected_s"), [(0.0, 279.5e-6), (10.94e-6 + 10.12e-6 - FUSED_S, 269.2e-6)],
                         ids=["apart", "fused"])
def test_the_published_numbers_give_the_published_placement(saving_s, expected_s):
    problem = instance(GPU_S, FPGA_S, published_copy, saving_s)
    placement = place_optimal(problem)
    assert dict(placement.device_of) == SPLIT
    assert placement.objective == pytest.approx(expected_s, rel=1e-3)
    assert placement.gap == pytest.approx(0.0, abs=1e-9)
    assert on_one(problem, "gpu") == pytest.approx(376.3e-6, rel=1e-3)
    assert on_one(problem, "fpga") == pytest.approx(1157.7e-6 - saving_s, rel=1e-3)


@pytest.mark.parametrize(("name", "is_split"), [("as-published", True), ("tuned", False)])
def test_our_prices_of_the_same_work_split_it_only_against_the_published_kernels(name, is_split):
    """A tuned inner product takes 7 us on the GPU, less than a launch of the FPGA; against 82 us one pays.

    Where attention goes is left open: 20 of its 28 us on the FPGA are no result of the published formula.
    """
    gpu, fpga = load_device("mi210"), load_device("u55c")
    times = [[price([(work, kind, DType.FLOAT32)], device, baseline).time_s for work, kind in WORK]
             for device, baseline in ((gpu, name), (fpga, "as-published"))]
    launches = (region_launch(gpu, name).time_s, region_launch(fpga).time_s)
    problem = instance(*times, lambda pair, size_bytes: transfer(*pair, size_bytes).time_s,
                       min(times[1][1], times[1][2]), launches)
    placement = place_optimal(problem)
    where = [placement.device_of[kernel] for kernel in NAMES[:3]]
    assert where == (["gpu", "fpga", "fpga"] if is_split else ["gpu", "gpu", "gpu"])
    if is_split:
        assert on_one(problem, "gpu") - launches[0] == pytest.approx(376.3e-6, rel=0.05)
        assert placement.objective - sum(launches) == pytest.approx(269.2e-6, rel=0.05)
