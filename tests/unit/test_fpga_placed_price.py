"""What the placer takes an FPGA region to cost, against the closed form of the kernel that is emitted for it."""

from __future__ import annotations

import pytest

from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.emit import stages_of
from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.ir.subgraph import digest_of
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.pipeline import device_set
from hetcc.planning import plan_phase, region_costs
from hetcc.sharing import alone_on_chip
from hetcc.stopwatch import Stopwatch
from hetcc.workloads import capture_workload

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))


def planned(heads: int, rows: int, policy: str) -> PlannedPhase:
    """An indexer over so many rows, with its selection on the FPGA."""
    request = CaptureRequest("workload:sparse-indexer", (Phase.DECODE,), context=rows,
                             overrides=(("heads", str(heads)), ("selected", "64")))
    options = CompileOptions(request, choice=PlacementChoice(forced=FORCED), emission=EmissionOptions(policy=policy))
    return plan_phase(*capture_workload(request), request, device_set(options), options.choice, Stopwatch())


@pytest.mark.parametrize(("heads", "rows", "policy", "within"), [
    (1, 16_384, "exact", 0.1), (1, 131_072, "exact", 0.1), (1, 131_072, "quantised:int8", 0.1),
    (16, 16_384, "exact", 0.2), (16, 131_072, "exact", 0.2), (16, 16_384, "quantised:int16", 0.2),
    (16, 131_072, "quantised:int16", 0.2), (16, 131_072, "quantised:bf16", 0.2),
])
def test_the_price_of_a_region_is_that_of_its_kernel_from_memory(heads: int, rows: int, policy: str,
                                                                 within: float) -> None:
    phase = planned(heads, rows, policy)
    region, = (one for one in phase.placement.regions if one.device == "fpga")
    program, = (one.program for one in phase.programs if one.device == "fpga")
    graph = stages_of(program, {}, policy, 1)
    assert isinstance(graph, StageGraph) and not is_resident(graph)
    made_s = kernel_cycles(graph).cycles / DEFAULT_CLOCK_HZ
    launch_s = phase.table.problem.launch["fpga"].time_s
    placed_s = region_costs(phase.table, phase.placement)[region.name].time_s - launch_s
    assert placed_s == pytest.approx(made_s, rel=within)
    assert alone_on_chip([phase]) == {digest_of(program)}
