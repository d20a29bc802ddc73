"""What the placer takes an FPGA region to cost, and what the kernel that is emitted for it is estimated to take.

    python benchmarks/fpga/placed_prices.py

A sparse indexer alone in its model, so that the plan lets its kernel keep the keys on chip. The placer prices clusters
from the device profile; of the kernel it is the closed form of a whole run, at the clock kernels are made for. Launches
are in neither. All *predicted* or *estimated*.
"""

from __future__ import annotations

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.emit import stages_of
from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.ir.subgraph import digest_of
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.pipeline import device_set
from hetcc.planning import plan_phase, region_costs
from hetcc.sharing import alone_on_chip, kernels_of
from hetcc.stopwatch import Stopwatch
from hetcc.workloads import capture_workload

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))
HEADS = (1, 16)
POLICIES = ("exact", "quantised:int16", "quantised:int8")


def planned(heads: int, rows: int, baseline: str, policy: str) -> PlannedPhase:
    """The indexer with relevancy and retrieval on the FPGA, in a numeric policy."""
    request = CaptureRequest("workload:sparse-indexer", (Phase.DECODE,), context=rows,
                             overrides=(("heads", str(heads)), ("selected", "64")))
    options = CompileOptions(request, choice=PlacementChoice(forced=FORCED), baseline=baseline,
                             emission=EmissionOptions(policy=policy))
    name, graph = capture_workload(request)
    return plan_phase(name, graph, request, device_set(options), options.choice, Stopwatch())


def placed_s(phase: PlannedPhase) -> float:
    """The placer's price of the FPGA regions, without launches."""
    launch_s = phase.table.problem.launch["fpga"].time_s
    costs = region_costs(phase.table, phase.placement)
    return sum(costs[region.name].time_s - launch_s for region in phase.placement.regions if region.device == "fpga")


def emitted(phase: PlannedPhase, policy: str, *, on_chip: bool) -> tuple[float, bool]:
    """Seconds of the kernel, and whether it keeps its table."""
    program, = (one.program for one in phase.programs if one.device == "fpga")
    graph = stages_of(program, {}, policy, kernels_of([phase]),
                      on_chip=on_chip and digest_of(program) in alone_on_chip([phase]))
    if isinstance(graph, Rejected):
        raise SystemExit(str(graph))
    return kernel_cycles(graph).cycles / DEFAULT_CLOCK_HZ, is_resident(graph)


def main() -> None:
    """A line for every size."""
    print("| heads | rows | policy | placer: from memory | placer: index on chip | kernel: from memory | "
          "kernel as emitted |")
    print("|" + "---|" * 7)
    for heads in HEADS:
        for rows in (1_024, 16_384, 131_072):
            for policy in POLICIES:
                phase = planned(heads, rows, "tuned", policy)
                prices = [placed_s(one) for one in (phase, planned(heads, rows, "as-published", policy))]
                memory_s, _ = emitted(phase, policy, on_chip=False)
                made_s, kept = emitted(phase, policy, on_chip=True)
                print(f"| {heads} | {rows:,} | {policy} | {prices[0] * 1e6:.1f} us | {prices[1] * 1e6:.1f} us | "
                      f"{memory_s * 1e6:.1f} us | {made_s * 1e6:.1f} us, {'on chip' if kept else 'from memory'} |",
                      flush=True)


if __name__ == "__main__":
    main()
