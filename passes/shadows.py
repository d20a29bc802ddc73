"""Second copies of the caches of a device that may be lost: what keeping them costs, and when they are sent.

The copy is in the memory of the host: it takes nothing from the GPU, and one link leads there. After every step the
rows that the step has appended follow; a cache that changes in another way is sent whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hetcc.cost_model.transfer import transfer
from hetcc.ir import Graph
from hetcc.ir.appends import appends_of
from hetcc.passes.clusters import Clustering
from hetcc.passes.estimate import HOST, CostTable
from hetcc.passes.schedule import RegionProgram
from hetcc.passes.schedule.steps import PricedStep
from hetcc.plan.placement import Cost, PlacementProblem
from hetcc.plan.plan import CommitStep, LaunchStep, TransferStep

SECOND = HOST
"""Where second copies are."""


def stand_in_name(phase: str, device: str) -> str:
    """What the plan of a phase without a device is called."""
    return f"{phase}-without-{device}"


def changed_bytes(graph: Graph) -> dict[str, int]:
    """By cache, the bytes that a step changes: appended rows, or all of it; without those that no step changes."""
    appends = appends_of(graph)
    return {update.cache: appends[update.cache].size_bytes if update.cache in appends
            else graph.type_of(update.cache).size_bytes for update in graph.updates if update.value != update.cache}


def with_shadows(table: CostTable, graph: Graph, clustering: Clustering) -> CostTable:
    """The table where a cluster pays for second copies of the caches it changes, on devices that may be lost."""
    cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
    sizes, extra = changed_bytes(graph), dict[str, dict[str, Cost]]()
    for update in graph.updates:
        writer = graph.producer.get(update.value)
        if writer is None or writer.name not in cluster_of or update.cache not in sizes:
            continue
        paid = extra.setdefault(cluster_of[writer.name], {})
        for device in table.losable:
            paid[device] = paid.get(device, Cost()) + _price(device, sizes[update.cache], table.links)
    return replace(table, problem=_with_more(table.problem, extra), shadowing=extra)


def without_shadows(table: CostTable) -> CostTable:
    """The table where nobody pays for second copies."""
    less = {name: {device: Cost() - cost for device, cost in paid.items()} for name, paid in table.shadowing.items()}
    return replace(table, problem=_with_more(table.problem, less), shadowing={})


def _with_more(problem: PlacementProblem, extra: Mapping[str, Mapping[str, Cost]]) -> PlacementProblem:
    """The problem with these costs added where a cluster may be placed on the device."""
    clusters = tuple(
        replace(one, costs={device: cost + extra.get(one.name, {}).get(device, Cost())
                            for device, cost in one.costs.items()})
        if one.name in extra else one for one in problem.clusters)
    return replace(problem, clusters=clusters)


def shadow_steps(graph: Graph, programs: Sequence[RegionProgram], steps: Sequence[PricedStep],
                 cache_device: Mapping[str, str], table: CostTable) -> tuple[TransferStep, ...]:
    """The transfers that bring second copies of caches on devices that may be lost up to date, after ``steps``."""
    written: dict[str, int] = {}
    updates = {program.name: [update.cache for update in program.program.updates] for program in programs}
    for position, step in enumerate(steps):
        if isinstance(step, LaunchStep):
            written.update(dict.fromkeys(updates[step.region], position))
        elif isinstance(step, CommitStep):
            written[step.cache] = position
    found = []
    for cache, size_bytes in changed_bytes(graph).items():
        home = cache_device[cache]
        if home in table.losable and cache in written:
            price = _price(home, size_bytes, table.links)
            found.append(TransferStep(
                value=cache, source=home, destination=SECOND, size_bytes=size_bytes,
                stream=f"{home}-to-{SECOND}", waits=(written[cache],), variants=("host-staged",),
                predicted_time_s=price.time_s, predicted_energy_j=price.energy_j, shadow=True))
    return tuple(found)


def _price(device: str, size_bytes: int, links: str) -> Cost:
    copy = transfer(device, SECOND, size_bytes, links=links)
    return Cost(copy.time_s, copy.energy_j)


__all__ = ["SECOND", "changed_bytes", "shadow_steps", "stand_in_name", "with_shadows", "without_shadows"]
