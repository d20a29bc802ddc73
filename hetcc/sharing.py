"""What a plan's FPGA kernels cost each other: those that share no xclbin load one after the other, in every step.

Placement prices kernels one by one, so this comes after it: the kernels are packed as the build will pack them, and the
price of the loads is added to the plan's objective. Where the placer was free to choose, what does not share an xclbin
with the most used kernels is kept from the FPGA and the phase is placed anew, as long as that makes the objective
smaller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy

from hetcc import planning
from hetcc.backends.contract import Rejected
from hetcc.cost_model.price import reconfiguration
from hetcc.cost_model.profile import Device
from hetcc.ir import Graph
from hetcc.ir.subgraph import digest_of, interface_of, weights_of
from hetcc.options import EmissionOptions, PlacementChoice
from hetcc.passes.phase import PlannedPhase
from hetcc.plan.placement import Cost, Objective, Placement
from hetcc.plan.plan import LaunchStep
from hetcc.stopwatch import Stopwatch

if TYPE_CHECKING:
    from hetcc.backends.fpga.vendor.packing import Packing

_ROUNDS = 8


@dataclass(frozen=True)
class KernelUse:
    """A region that an FPGA kernel is made for."""

    phase: str
    region: str
    program: Graph
    digest: str
    """Of the program; regions of equal digest are run by one kernel."""
    values: tuple[str, ...]
    """What it works on, in the order of ``interface_of`` and then the outputs; one name is one value in all uses."""
    caches: tuple[str, ...]
    """Those of them that are its caches."""


@dataclass(frozen=True)
class Shared:
    """The kernels of planned phases, packed."""

    packing: Packing
    kernel_of: Mapping[tuple[str, str], str]
    """By phase and region."""


def uses_of(phases: Sequence[PlannedPhase]) -> tuple[KernelUse, ...]:
    """The FPGA regions of planned phases."""
    return tuple(KernelUse(phase.name, one.name, one.program, digest_of(one.program),
                           (*interface_of(one.program), *one.program.outputs), one.program.caches)
                 for phase in phases for one in phase.programs if one.device == "fpga")


def kernels_of(phases: Sequence[PlannedPhase]) -> int:
    """How many different kernels a phase has at most; each is made for its part of the card."""
    return _at_once(uses_of(phases))


def _at_once(uses: Sequence[KernelUse]) -> int:
    made: dict[str, set[str]] = {}
    for use in uses:
        made.setdefault(use.phase, set()).add(use.digest)
    return max(map(len, made.values()), default=1)


def alone_on_chip(phases: Sequence[PlannedPhase]) -> frozenset[str]:
    """Digests of the FPGA programs that may keep their table on chip between runs.

    Each serves one region, and no other FPGA program works on its caches: a kernel that several layers use would read
    its table anew in every run, and what another kernel appends would not be on its chip.
    """
    return _alone(uses_of(phases))


def _alone(uses: Sequence[KernelUse]) -> frozenset[str]:
    digests, caches = Counter(use.digest for use in uses), Counter(name for use in uses for name in use.caches)
    return frozenset(use.digest for use in uses
                     if digests[use.digest] == 1 and all(caches[name] == 1 for name in use.caches))


def shared(phases: Sequence[PlannedPhase], options: EmissionOptions,
           constants: Mapping[str, numpy.ndarray]) -> Shared | None:
    """The packing of the kernels that will be emitted; None without any."""
    order = {phase.name: [step.region for step in phase.steps if isinstance(step, LaunchStep)] for phase in phases}
    return packed(uses_of(phases), order, options, constants)


def packed(uses: Sequence[KernelUse], order: Mapping[str, Sequence[str]], options: EmissionOptions,
           constants: Mapping[str, numpy.ndarray]) -> Shared | None:
    """The packing of the kernels of regions; None where no kernel can be made.

    Args:
        uses: all FPGA regions of a plan.
        order: by phase, its regions as a step launches them, those of other devices too or not.
        options: the numeric policy.
        constants: contents of constants, where known.
    """
    from hetcc.backends.fpga.emit import kernel_name, stages_of
    from hetcc.backends.fpga.formats import EXACT
    from hetcc.backends.fpga.vendor.packing import demand_of, pack

    kernel_of: dict[tuple[str, str], str] = {}
    made, bound, named = {}, dict[str, list[Sequence[str]]](), {}
    count, alone = _at_once(uses), _alone(uses)
    for use in uses:
        if use.digest not in made:
            numbers = {name: constants[name] for name in weights_of(use.program) if name in constants}
            on_chip = use.digest in alone
            graph = stages_of(use.program, numbers, options.policy, count, on_chip=on_chip)
            if isinstance(graph, Rejected):
                graph = stages_of(use.program, numbers, EXACT, count, on_chip=on_chip)
            made[use.digest] = None if isinstance(graph, Rejected) else (kernel_name(graph), graph)
        found = made[use.digest]
        if found is not None:
            name = kernel_of[use.phase, use.region] = found[0]
            named[name] = found[1]
            bound.setdefault(name, []).append(use.values)
    if not named:
        return None
    sequences = {phase: [kernel_of[phase, region] for region in regions if (phase, region) in kernel_of]
                 for phase, regions in order.items()}
    return Shared(pack([demand_of(name, named[name], bound[name]) for name in sorted(named)], sequences), kernel_of)


def settle(phases: tuple[PlannedPhase, ...], choices: Mapping[str, PlacementChoice], options: EmissionOptions,
           constants: Mapping[str, numpy.ndarray], card: Device, watch: Stopwatch) -> tuple[PlannedPhase, ...]:
    """The phases with loads in their price, placed anew where that pays; see the module."""
    phases, found = _priced(phases, options, constants, card)
    for _ in range(_ROUNDS):
        loading = next((phase for phase in phases if phase.placement.reconfiguration.time_s
                        and not choices[phase.name].forced and choices[phase.name].file is None), None)
        refused = _strangers_of(loading, found, card) if loading is not None and found is not None else []
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
    placement = loaded(phase.placement, phase.table.problem.objective, loads, card)
    return phase if placement is phase.placement else replace(phase, placement=placement)


def loaded(placement: Placement, objective: Objective, loads: int, card: Device) -> Placement:
    """The placement with the price of so many loads per step in its cost and objective."""
    load = reconfiguration(card)
    spent = Cost(load.time_s, load.energy_j).scaled(loads)
    if spent == placement.reconfiguration:
        return placement
    before = placement.cost - placement.reconfiguration
    rest = placement.objective - objective.value(placement.reconfiguration)
    return replace(placement, cost=before + spent, reconfiguration=spent, objective=rest + objective.value(spent))


def _priced(phases: tuple[PlannedPhase, ...], options: EmissionOptions, constants: Mapping[str, numpy.ndarray],
            card: Device) -> tuple[tuple[PlannedPhase, ...], Shared | None]:
    found = shared(phases, options, constants)
    loads = found.packing.loads if found is not None else {}
    return tuple(with_loads(phase, loads.get(phase.name, 0), card) for phase in phases), found


def _total(phases: Sequence[PlannedPhase]) -> float:
    return sum(phase.placement.objective for phase in phases)


def _strangers_of(phase: PlannedPhase, found: Shared, card: Device) -> list[tuple[str, str, str]]:
    times = {step.region: step.predicted_time_s for step in phase.steps if isinstance(step, LaunchStep)}
    return strangers(phase.name, phase.placement, times, found, card)


def strangers(phase: str, placement: Placement, time_s: Mapping[str, float], found: Shared,
              card: Device) -> list[tuple[str, str, str]]:
    """(cluster, device, reason) for what shares no xclbin with the kernels that take most of a phase's time.

    Args:
        phase: its name.
        placement: of the phase.
        time_s: predicted time of each region.
        found: the packing.
        card: the FPGA.
    """
    pack_of = {placed.demand.kernel: one.name for one in found.packing.packs for placed in one.kernels}
    home = {region: pack_of[kernel] for (name, region), kernel in found.kernel_of.items() if name == phase}
    spent: dict[str, float] = {}
    for region, at in home.items():
        spent[at] = spent.get(at, 0.0) + time_s[region]
    most = max(sorted(spent), key=lambda name: spent[name])
    load_s = reconfiguration(card).time_s
    reason = f"its kernel shares no xclbin with the others, and loading one takes {load_s:.3g} s (assumed)"
    return [(cluster, "fpga", reason) for region in placement.regions
            if home.get(region.name, most) != most for cluster in region.clusters]


__all__ = ["KernelUse", "Shared", "alone_on_chip", "kernels_of", "loaded", "packed", "settle", "shared", "strangers",
           "with_loads"]
