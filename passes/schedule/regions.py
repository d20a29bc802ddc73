"""From placed regions to programs: which nodes each one holds, and which caches it may update in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hetcc.ir import Graph, Node, Role
from hetcc.ir.subgraph import extract
from hetcc.passes.clusters import Clustering
from hetcc.plan.placement import Placement


@dataclass(frozen=True)
class RegionProgram:
    """One region as a program of its own."""

    name: str
    device: str
    program: Graph
    nodes: tuple[str, ...]
    """Placed nodes, without the free ones it makes for itself."""


@dataclass(frozen=True)
class Commits:
    """Caches that several regions read: their new contents replace the old ones when the step is over."""

    deferred: Mapping[str, str]
    """New value by cache."""


def build_regions(
    graph: Graph, clustering: Clustering, placement: Placement,
) -> tuple[tuple[RegionProgram, ...], Commits]:
    """The program of every region, in launch order, and the cache updates that must wait."""
    nodes_of = {group.name: group.nodes for group in clustering.groups}
    region_of_node = {node.name: region for region in placement.regions for cluster in region.clusters
                      for node in nodes_of[cluster]}
    deferred = _deferred_updates(graph, clustering, {node: region.name for node, region in region_of_node.items()})
    staged = replace(graph, updates=tuple(update for update in graph.updates if update.cache not in deferred),
                     outputs=(*graph.outputs, *(value for value in deferred.values() if value not in graph.outputs)))
    device_of_node = {node: region.device for node, region in region_of_node.items()}
    cut = _Cutter(staged, clustering, frozenset(deferred) | _lent_caches(graph, clustering, device_of_node))
    programs = []
    for region in placement.regions:
        placed = [node for cluster in region.clusters for node in nodes_of[cluster]]
        programs.append(RegionProgram(region.name, region.device, cut.program(region.name, placed),
                                      tuple(node.name for node in placed)))
    return tuple(programs), Commits(deferred)


def _deferred_updates(graph: Graph, clustering: Clustering, region_of_node: Mapping[str, str]) -> dict[str, str]:
    """Updates of caches whose old contents are read outside the region that computes the new ones."""
    found: dict[str, str] = {}
    for update in graph.updates:
        writer = graph.producer.get(update.value)
        if writer is None:
            if update.value != update.cache:
                found[update.cache] = update.value
            continue
        readers = placed_readers(graph, clustering, update.cache)
        regions = {region_of_node[reader] for reader in readers} | {region_of_node[writer.name]}
        if len(regions) > 1:
            found[update.cache] = update.value
    return found


def _lent_caches(graph: Graph, clustering: Clustering, device_of_node: Mapping[str, str]) -> frozenset[str]:
    """Caches that nothing updates and that several devices read: one holds them, the others are sent a copy."""
    updated = {update.cache for update in graph.updates if update.value != update.cache}
    return frozenset(
        cache for cache in graph.caches if cache not in updated
        and len({device_of_node[reader] for reader in placed_readers(graph, clustering, cache)}) > 1)


def placed_readers(graph: Graph, clustering: Clustering, value: str) -> set[str]:
    """Names of the placed nodes that read ``value``, directly or through free views of it."""
    found: set[str] = set()
    stack = [value]
    while stack:
        for node in graph.consumers_of(stack.pop()):
            if node.name in clustering.free:
                stack.extend(node.outputs)
            else:
                found.add(node.name)
    return found


class _Cutter:
    """Cuts programs out of a graph, with the free nodes each one needs."""

    def __init__(self, graph: Graph, clustering: Clustering, as_inputs: frozenset[str]) -> None:
        self.graph = graph
        self.free = clustering.free
        self.free_of = {output: node for node in clustering.free.values() for output in node.outputs}
        self.as_inputs = as_inputs

    def program(self, name: str, placed: list[Node]) -> Graph:
        names = {node.name for node in placed}
        stack = [value for node in placed for value in node.inputs]
        while stack:
            node = self.free_of.get(stack.pop())
            if node is not None and node.name not in names:
                names.add(node.name)
                stack.extend(node.inputs)
        program = extract(self.graph, names, name)
        free_outputs = {output for name in names.intersection(self.free) for output in self.free[name].outputs}
        outputs = tuple(value for value in program.outputs if value not in free_outputs)
        return _read_as_inputs(replace(program, outputs=outputs), self.as_inputs)


def _read_as_inputs(program: Graph, caches: frozenset[str]) -> Graph:
    """A cache that is only read during the step is an input like any other."""
    chosen = [name for name in program.caches if name in caches]
    if not chosen:
        return program
    values = {name: replace(value, role=Role.INPUT) if name in chosen else value
              for name, value in program.values.items()}
    return replace(program, values=values, inputs=(*program.inputs, *chosen),
                   caches=tuple(name for name in program.caches if name not in chosen))
