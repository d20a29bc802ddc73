"""What a plan's FPGA kernels cost each other: those that share no xclbin load one after the other, in every step.

Placement prices kernels one by one, so this comes after it: the kernels are packed as the build will pack them, and the
price of the loads is added to the plan's objective. Where the placer was free to choose, what does not share an xclbin
with the most used kernels is kept from the FPGA and the phase is placed anew, as long as that makes the objective
smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy

from hetcc import planning
from hetcc.backends.contract import Rejected
from hetcc.cost_model.price import reconfiguration
from hetcc.cost_model.profile import Device
from hetcc.ir.subgraph import digest_of, interface_of, weights_of
from hetcc.options import EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.plan.placement import Cost
from hetcc.plan.plan import LaunchStep
from hetcc.stopwatch import Stopwatch

if TYPE_CHECKING:
    from hetcc.backends.fpga.vendor.packing import Packing

_ROUNDS = 8


@dataclass(frozen=True)
class Shared:
    """The kernels of planned phases, packed."""

    packing: Packing
    kernel_of: Mapping[tuple[str, str], str]
    """By phase and region."""


def kernels_of(phases: Sequence[PlannedPhase]) -> int:
    """How many different kernels a phase has at most; each is made for its part of the card."""
    return max(max((len({digest_of(program.program) for program in phase.programs if program.device == "fpga"})
                    for phase in phases), default=1), 1)


def alone_on_chip(phases: Sequence[PlannedPhase]) -> frozenset[str]:
    """Digests of the FPGA programs that may keep their table on chip between runs.

    Each serves one region, and no other FPGA program works on its caches: a kernel that several layers use would read
    its table anew in every run, and what another kernel appends would not be on its chip.
    """
    programs = [program.program for phase in phases for program in phase.programs if program.device == "fpga"]
    digests = [digest_of(one) for one in programs]
    caches = [name for one in programs for name in one.caches]
    return frozenset(digest for digest, one in zip(digests, programs, strict=True) if digests.count(digest) == 1
                     and all(caches.count(name) == 1 for name in one.caches))


def shared(phases: Sequence[PlannedPhase], options: EmissionOptions,
           constants: Mapping[str, numpy.ndarray]) -> Shared | None:
    """The packing of the kernels that will be emitted; None without any."""
    from hetcc.backends.fpga.emit import kernel_name, stages_of
    from hetcc.backends.fpga.formats import EXACT
    from hetcc.backends.fpga.vendor.packing import demand_of, pack

    kernel_of: dict[tuple[str, str], str] = {}
    made, uses, named = {}, dict[str, list[Sequence[str]]](), {}
    count, alone = kernels_of(phases), alone_on_chip(phases)
    for phase in phases:
        for program in phase.programs:
            if program.device != "fpga":
                continue
            digest = digest_of(program.program)
            if digest not in made:
                numbers = {name: constants[name] for name in weights_of(program.program) if name in constants}
                on_chip = digest in alone
                graph = stages_of(program.program, numbers, options.policy, count, on_chip=on_chip)
                if isinstance(graph, Rejected):
                    graph = stages_of(program.program, numbers, EXACT, count, on_chip=on_chip)
                made[digest] = graph
            graph = made[digest]
            if not isinstance(graph, Rejected):
                name = kernel_of[phase.name, program.name] = kernel_name(graph)
                named[name] = graph
                uses.setdefault(name, []).append((*interface_of(program.program), *program.program.outputs))
    if not named:
        return None
    sequences = {phase.name: [kernel_of[phase.name, step.region] for step in phase.steps if isinstance(step, LaunchStep)
                              and (phase.name, step.region) in kernel_of] for phase in phases}
    return Shared(pack([demand_of(name, named[name], uses[name]) for name in sorted(named)], sequences), kernel_of)


def settle(phases: tuple[PlannedPhase, ...], choices: Mapping[str, PlacementChoice], options: EmissionOptions,
           constants: Mapping[str, numpy.ndarray], card: Device, watch: Stopwatch) -> tuple[PlannedPhase, ...]:
    """The phases with loads in their price, placed anew where that pays; see the module."""
    phases, found = _priced(phases, options, constants, card)
    for _ in range(_ROUNDS):
        loading = next((phase for phase in phases if phase.placement.reconfiguration.time_s
                        and not choices[phase.name].forced and choices[phase.name].file is None), None)
        refused = _strangers(loading, found, card) if loading is not None and found is not None else []
        if loading is None or not refused:
            break
        again = planning.replan(loading, refused, choices[loading.name], watch)
        tried, packed = _priced(tuple(again if phase is loading else phase for phase in phases), options, constants,
                                card)
        if _total(tried) >= _total(phases):
            break
        phases, found = tried, packed
    for phase in phases:
        spent_s = phase.placement.reconfiguration.time_s
        if spent_s:
            watch.progress(f"warning: {phase.name}: its FPGA kernels do not share an xclbin; loading others takes "
                           f"{spent_s:.3g} s of every step (assumed)")
    return phases


def with_loads(phase: PlannedPhase, loads: int, card: Device) -> PlannedPhase:
    """The phase with the price of so many loads per step in its cost and objective."""
    load = reconfiguration(card)
    placement, spent = phase.placement, Cost(load.time_s, load.energy_j).scaled(loads)
    if spent == placement.reconfiguration:
        return phase
    problem = phase.table.problem
    before = placement.cost - placement.reconfiguration
    rest = placement.objective - problem.objective.value(placement.reconfiguration)
    return replace(phase, placement=replace(placement, cost=before + spent, reconfiguration=spent,
                                            objective=rest + problem.objective.value(spent)))


def _priced(phases: tuple[PlannedPhase, ...], options: EmissionOptions, constants: Mapping[str, numpy.ndarray],
            card: Device) -> tuple[tuple[PlannedPhase, ...], Shared | None]:
    found = shared(phases, options, constants)
    loads = found.packing.loads if found is not None else {}
    return tuple(with_loads(phase, loads.get(phase.name, 0), card) for phase in phases), found


def _total(phases: Sequence[PlannedPhase]) -> float:
    return sum(phase.placement.objective for phase in phases)


def _strangers(phase: PlannedPhase, found: Shared, card: Device) -> list[tuple[str, str, str]]:
    """(cluster, device, reason) for what shares no xclbin with the kernels that take most of the phase's time."""
    pack_of = {placed.demand.kernel: one.name for one in found.packing.packs for placed in one.kernels}
    home = {region: pack_of[kernel] for (name, region), kernel in found.kernel_of.items() if name == phase.name}
    spent: dict[str, float] = {}
    for step in phase.steps:
        if isinstance(step, LaunchStep) and step.region in home:
            spent[home[step.region]] = spent.get(home[step.region], 0.0) + step.predicted_time_s
    most = max(sorted(spent), key=lambda name: spent[name])
    load_s = reconfiguration(card).time_s
    reason = f"its kernel shares no xclbin with the others, and loading one takes {load_s:.3g} s (assumed)"
    return [(cluster, "fpga", reason) for region in phase.placement.regions
            if home.get(region.name, most) != most for cluster in region.clusters]


__all__ = ["Shared", "alone_on_chip", "kernels_of", "settle", "shared", "with_loads"]
