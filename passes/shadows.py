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
from hetcc.plan.placement import Cost
from hetcc.plan.plan import CommitStep, LaunchStep, TransferStep

LOSABLE = "fpga"
"""The device whose loss a plan can survive: everything also runs on the first one."""
SECOND = HOST


def changed_bytes(graph: Graph) -> dict[str, int]:
    """By cache, the bytes that a step changes: appended rows, or all of it; without those that no step changes."""
    appends = appends_of(graph)
    return {update.cache: appends[update.cache].size_bytes if update.cache in appends
            else graph.type_of(update.cache).size_bytes for update in graph.updates if update.value != update.cache}


def with_shadows(table: CostTable, graph: Graph, clustering: Clustering) -> CostTable:
    """The table where a cluster pays for second copies of the caches it changes, on the device that may be lost."""
    cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
    sizes, extra = changed_bytes(graph), dict[str, Cost]()
    for update in graph.updates:
        writer = graph.producer.get(update.value)
        if writer is None or writer.name not in cluster_of or update.cache not in sizes:
            continue
        name = cluster_of[writer.name]
        extra[name] = extra.get(name, Cost()) + _price(sizes[update.cache], table.links)
    clusters = tuple(
        replace(one, costs={**one.costs, LOSABLE: one.costs[LOSABLE] + extra[one.name]})
        if one.name in extra and LOSABLE in one.costs else one for one in table.problem.clusters)
    return replace(table, problem=replace(table.problem, clusters=clusters), shadowing=extra)


def shadow_steps(graph: Graph, programs: Sequence[RegionProgram], steps: Sequence[PricedStep],
                 cache_device: Mapping[str, str], links: str) -> tuple[TransferStep, ...]:
    """The transfers that bring second copies up to date, to be done after ``steps``."""
    written: dict[str, int] = {}
    updates = {program.name: [update.cache for update in program.program.updates] for program in programs}
    for position, step in enumerate(steps):
        if isinstance(step, LaunchStep):
            written.update(dict.fromkeys(updates[step.region], position))
        elif isinstance(step, CommitStep):
            written[step.cache] = position
    found = []
    for cache, size_bytes in changed_bytes(graph).items():
        if cache_device[cache] == LOSABLE and cache in written:
            price = _price(size_bytes, links)
            found.append(TransferStep(
                value=cache, source=LOSABLE, destination=SECOND, size_bytes=size_bytes,
                stream=f"{LOSABLE}-to-{SECOND}", waits=(written[cache],), variants=("host-staged",),
                predicted_time_s=price.time_s, predicted_energy_j=price.energy_j, shadow=True))
    return tuple(found)


def _price(size_bytes: int, links: str) -> Cost:
    copy = transfer(LOSABLE, SECOND, size_bytes, links=links)
    return Cost(copy.time_s, copy.energy_j)


__all__ = ["LOSABLE", "SECOND", "changed_bytes", "shadow_steps", "with_shadows"]
