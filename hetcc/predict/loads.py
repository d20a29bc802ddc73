"""What FPGA kernels of a predicted plan cost each other: loads of other xclbins, as ``hetcc.sharing`` counts them."""

from __future__ import annotations

from collections.abc import Mapping

from hetcc import planning
from hetcc.cost_model.profile import Device
from hetcc.ir.subgraph import digest_of, interface_of
from hetcc.options import EmissionOptions
from hetcc.passes.estimate import CostTable
from hetcc.passes.schedule import RegionProgram
from hetcc.plan.placement import Placement
from hetcc.predict.refusals import Key, key_of
from hetcc.predict.whole import WholeModel
from hetcc.sharing import KernelUse, Shared, loaded, packed, strangers


def counted(phase: str, programs: Mapping[Key, RegionProgram], whole: WholeModel, table: CostTable,
            placement: Placement, options: EmissionOptions, card: Device) -> tuple[Placement, Shared | None]:
    """The placement with the loads of a step in its price, and how its kernels are packed.

    Nothing is composed where all regions are run by one kernel, which is the common case: it is loaded once.

    Args:
        phase: name of the phase.
        programs: of the different streaming regions (``refusals.region_programs``).
        whole: the model they are of.
        table: its prices.
        placement: of the whole model.
        options: the numeric policy.
        card: the FPGA.
    """
    digests = {key: digest_of(program.program) for key, program in programs.items()}
    if len(set(digests.values())) < 2:
        return placement, None
    uses = []
    for region in placement.regions:
        key = key_of(region, whole.expansion)
        if key not in programs:
            continue
        program, names = programs[key].program, whole.names_of(region.clusters)
        values = (*interface_of(program), *program.outputs)
        uses.append(KernelUse(phase, region.name, program, digests[key],
                              tuple(names.get(name, f"{name} of {region.name}") for name in values),
                              tuple(names.get(name, name) for name in program.caches)))
    found = packed(uses, {phase: [region.name for region in placement.regions]}, options, {})
    loads = found.packing.loads.get(phase, 0) if found is not None else 0
    return loaded(placement, table.problem.objective, loads, card), found


def kept_apart(phase: str, found: Shared, table: CostTable, placement: Placement,
               card: Device) -> list[tuple[str, str, str]]:
    """(cluster, device, reason) for what would have to leave the FPGA so that nothing is loaded in a step."""
    times = {name: cost.time_s for name, cost in planning.region_costs(table, placement).items()}
    return strangers(phase, placement, times, found, card)


__all__ = ["counted", "kept_apart"]
