"""Schedules of random programs on random devices: nothing is read before it is there, no storage is used twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.aten.simplify import copy_passed_through
from hetcc.ir import Graph, Role, TaggedGraph, live_nodes
from hetcc.ir.subgraph import interface_of
from hetcc.passes.clusters import Clustering, form_clusters
from hetcc.passes.estimate import cache_devices
from hetcc.passes.place import finish
from hetcc.passes.schedule import PricedStep, RegionProgram, allocate, build_regions, build_steps
from hetcc.passes.schedule.buffers import ALIGNMENT_BYTES, memory_bytes
from hetcc.passes.schedule.regions import Commits
from hetcc.passes.schedule.steps import StepPrices
from hetcc.plan.placement import Cluster, Cost, Objective, PlacementProblem, Tensor
from hetcc.plan.plan import BufferSpec, CommitStep, LaunchStep, TransferStep

from corpus.graphs import GraphBuilder
from corpus.random_graphs import graphs

DEVICES = ("gpu", "fpga", "host")
_PAIRS = {(source, target): Cost() for source in DEVICES for target in DEVICES if source != target}


def problem_of(graph: Graph, clustering: Clustering) -> PlacementProblem:
    """The placement problem in which everything may run anywhere for nothing."""
    cluster_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
    clusters = tuple(Cluster(group.name, tuple(node.name for node in group.nodes), dict.fromkeys(DEVICES, Cost()),
                             group.layer) for group in clustering.groups)
    tensors = []
    for group in clustering.groups:
        for value in (value for node in group.nodes for value in node.outputs):
            users = dict.fromkeys(cluster_of[node.name] for node in graph.consumers_of(value)
                                  if cluster_of.get(node.name, group.name) != group.name)
            if users:
                tensors.append(Tensor(value, group.name, tuple(users), 64, _PAIRS, {}))
    return PlacementProblem("random", DEVICES, clusters, tuple(tensors), dict.fromkeys(DEVICES, Cost()), {},
                            Objective())


@st.composite
def schedules(draw: Any) -> tuple[Graph, tuple[RegionProgram, ...], Commits, tuple[PricedStep, ...], dict[str, str]]:
    graph = draw(graphs())
    graph = copy_passed_through(replace(graph, nodes=live_nodes(graph.nodes, graph.results)))
    clustering = form_clusters(TaggedGraph(graph, {}))
    problem = problem_of(graph, clustering)
    device_of = {cluster.name: draw(st.sampled_from(DEVICES)) for cluster in problem.clusters}
    placement = finish(problem, device_of, "random", 0.0)
    programs, commits = build_regions(graph, clustering, placement)
    cache_device = cache_devices(graph, clustering, device_of)
    steps = build_steps(graph, programs, commits, StepPrices({}, lambda source, target, size: 1e-6), cache_device)
    return graph, programs, commits, steps, cache_device


@given(schedules())
@settings(max_examples=120)
def test_everything_is_there_when_it_is_read(schedule: Any) -> None:
    graph, programs, commits, steps, cache_device = schedule
    by_name = {program.name: program for program in programs}
    made_by: dict[tuple[str, str], int | None] = {(name, "host"): None for name in graph.inputs}
    made_by.update(dict.fromkeys(cache_device.items()))
    launched = []
    for position, step in enumerate(steps):
        assert all(0 <= wait < position for wait in step.waits)

        def needs(value: str, device: str, position: int = position, waits: tuple[int, ...] = step.waits) -> None:
            assert (value, device) in made_by, f"step {position} reads {value} on the {device}, where it is not"
            maker = made_by[(value, device)]
            assert maker is None or maker in waits, f"step {position} does not wait for {value}"

        if isinstance(step, LaunchStep):
            region = by_name[step.region]
            launched.append(step.region)
            assert (step.inputs, step.outputs) == (region.program.inputs, region.program.outputs)
            for value in (*region.program.inputs, *region.program.caches):
                needs(value, region.device)
            made_by.update({(value, region.device): position for value in
                            (*step.outputs, *(update.cache for update in region.program.updates),
                             *(update.value for update in region.program.updates))})
        elif isinstance(step, TransferStep):
            needs(step.value, step.source)
            assert step.source != step.destination and (step.value, step.destination) not in made_by
            made_by[(step.value, step.destination)] = position
        else:
            needs(step.value, step.device)
    assert sorted(launched) == sorted(by_name), "every region runs once"
    first_commit = next((place for place, step in enumerate(steps) if isinstance(step, CommitStep)), len(steps))
    assert all(isinstance(step, CommitStep) for step in steps[first_commit:]), "commits come last"
    committed = [(step.cache, step.value) for step in steps if isinstance(step, CommitStep)]
    assert committed == list(commits.deferred.items())


@given(schedules())
@settings(max_examples=100)
def test_every_update_happens_once_and_old_contents_stay_readable(schedule: Any) -> None:
    graph, programs, commits, _, cache_device = schedule
    in_place = {update.cache: program for program in programs for update in program.program.updates}
    changing = {update.cache for update in graph.updates if update.value != update.cache}
    assert set(in_place) | set(commits.deferred) == changing and not set(in_place) & set(commits.deferred)
    for cache, program in in_place.items():
        assert program.device == cache_device[cache]
        readers = [other.name for other in programs if cache in interface_of(other.program)]
        assert set(readers) <= {program.name}, "a cache that another region reads is not written in place"
        assert cache not in graph.outputs and cache not in [
            update.value for update in graph.updates if update.cache != cache]


@given(schedules())
@settings(max_examples=100)
def test_regions_hold_the_placed_nodes_and_only_them(schedule: Any) -> None:
    graph, programs, _, _, _ = schedule
    free = {node.name for node in graph.nodes} - {name for program in programs for name in program.nodes}
    placed = [name for program in programs for name in program.nodes]
    assert len(placed) == len(set(placed))
    for program in programs:
        extra = {node.name for node in program.program.nodes} - set(program.nodes)
        assert extra <= free, "beside its own nodes a region holds only what everybody makes for himself"
        assert not any(program.program.values[name].role is Role.CACHE for name in program.program.inputs)
        layers = {graph.node_by_name[name].provenance.layer for name in program.nodes}
        assert program.program.outputs or program.program.updates, f"region {program.name} of {layers} does nothing"


@given(schedules(), st.data())
@settings(max_examples=120)
def test_storage_never_overlaps(schedule: Any, data: st.DataObject) -> None:
    graph, _, _, steps, cache_device = schedule
    sizes = {name: data.draw(st.sampled_from([0, 1, 255, 256, 257, 1000, 4096])) for name in graph.values}
    resident: list[tuple[str, str, Any]] = [(cache, device, "cache") for cache, device in cache_device.items()]
    resident += [(name, "gpu", "weight") for name, value in graph.values.items() if value.role.is_weight]
    buffers = allocate(steps, sizes, resident)
    _check_storage(buffers, len(steps))
    stored = {(buffer.value, buffer.device): buffer for buffer in buffers}
    assert len(stored) == len(buffers), "one buffer for a value on a device"
    for position, step in enumerate(steps):
        for value, device in _touched(step):
            buffer = stored[(value, device)]
            assert buffer.first_step <= position <= buffer.last_step and buffer.size_bytes == sizes[value]
    needed = memory_bytes(buffers)
    for buffer in buffers:
        assert needed[buffer.device] >= buffer.offset_bytes + buffer.size_bytes
    for device, total in needed.items():
        arenas = {buffer.residency for buffer in buffers if buffer.device == device}
        assert total == sum(max(buffer.offset_bytes + buffer.size_bytes for buffer in buffers
                                if (buffer.device, buffer.residency) == (device, arena)) for arena in arenas)


def _check_storage(buffers: tuple[BufferSpec, ...], steps: int) -> None:
    for buffer in buffers:
        assert buffer.offset_bytes % ALIGNMENT_BYTES == 0
        assert 0 <= buffer.first_step <= buffer.last_step <= max(steps - 1, 0)
    for place, first in enumerate(buffers):
        for second in buffers[place + 1:]:
            same_arena = (first.device, first.residency) == (second.device, second.residency)
            both_live = first.first_step <= second.last_step and second.first_step <= first.last_step
            if same_arena and both_live and first.size_bytes and second.size_bytes:
                apart = (first.offset_bytes + first.size_bytes <= second.offset_bytes
                         or second.offset_bytes + second.size_bytes <= first.offset_bytes)
                assert apart, f"{first} overlaps {second}"


def _touched(step: PricedStep) -> list[tuple[str, str]]:
    if isinstance(step, LaunchStep):
        return [(value, step.stream) for value in (*step.inputs, *step.outputs)]
    if isinstance(step, TransferStep):
        return [(step.value, step.source), (step.value, step.destination)]
    return [(step.value, step.device)]


def test_dead_storage_is_used_again() -> None:
    def launch(name: str, reads: tuple[str, ...], makes: str) -> LaunchStep:
        return LaunchStep(region=name, stream="gpu", inputs=reads, outputs=(makes,), predicted_time_s=0.0)

    steps = (launch("r0", (), "a"), launch("r1", ("a",), "b"), launch("r2", ("b",), "c"), launch("r3", ("c",), "d"))
    buffers = {buffer.value: buffer for buffer in allocate(steps, dict.fromkeys("abcd", 300), ())}
    assert buffers["c"].offset_bytes == buffers["a"].offset_bytes == 0
    assert buffers["d"].offset_bytes == buffers["b"].offset_bytes == 512
    assert memory_bytes(tuple(buffers.values())) == {"gpu": 812}


def test_a_cache_that_is_only_read() -> None:
    """A cache of another phase: read through a view on one device, or on two devices at once."""
    build = GraphBuilder("read_only")
    x, table = build.input("x", 2, 4), build.cache("table", 3, 4)
    columns = build.call("t", table, to="columns")
    scores = build.call("_softmax", build.call("mm", x, columns, to="scores"), -1, False, to="weights")
    graph = build.done(build.call("mm", scores, table, to="mixed"))
    clustering = form_clusters(TaggedGraph(graph, {}))
    problem = problem_of(graph, clustering)
    assert "columns" in clustering.free
    for second, lent in (("fpga", False), ("gpu", True)):
        device_of = {"scores": "fpga", "weights": second, "mixed": second}
        assert cache_devices(graph, clustering, device_of) == {"table": "fpga"}
        programs, commits = build_regions(graph, clustering, finish(problem, device_of, "test", 0.0))
        assert not commits.deferred
        steps = build_steps(graph, programs, commits, StepPrices({}, lambda *_: 1e-6), {"table": "fpga"})
        sent = [(step.source, step.destination) for step in steps
                if isinstance(step, TransferStep) and step.value == "table"]
        assert sent == ([("fpga", "gpu")] if lent else [])
        assert ["table" in program.program.inputs for program in programs] == [lent] * len(programs)
