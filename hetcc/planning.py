"""From a captured graph to the plan of one phase: the middle of the flow, with nothing but prices and graphs."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from hetcc.backends.contract import Rejected
from hetcc.capture.model import CaptureRequest
from hetcc.cost_model.transfer import transfer, transfer_time_s
from hetcc.cost_model.work import Work, works_of
from hetcc.errors import InternalError, UserError
from hetcc.ir import Graph, OperatorClass, Stage, TaggedGraph
from hetcc.ir.proof import Checker
from hetcc.ir.remembered import remembering
from hetcc.ir.subgraph import digest_of
from hetcc.options import PlacementChoice
from hetcc.passes.clusters import Clustering, form_clusters
from hetcc.passes.estimate import HOST, CostTable, DeviceSet, cache_devices, estimate, weight_devices
from hetcc.passes.normalize import NarrowToSelection, Reassociate, Rewrite, Simplify
from hetcc.passes.phase import PlannedPhase
from hetcc.passes.place import finish, load_placer, place_optimal
from hetcc.passes.place.follow import with_followers
from hetcc.passes.schedule import RegionProgram, allocate, build_regions, build_steps
from hetcc.passes.schedule.steps import StepPrices
from hetcc.passes.shadows import SECOND, shadow_steps, stand_in_name, with_shadows, without_shadows
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.plan.placement import Cluster, Cost, Placement, assignment_from_json
from hetcc.plan.plan import Residency
from hetcc.registry import BUILDERS, CHECKERS, load
from hetcc.stopwatch import Stopwatch
from hetcc.store import Store


def plan_phase(name: str, graph: Graph, request: CaptureRequest, devices: DeviceSet, choice: PlacementChoice,
               watch: Stopwatch, without_rewrites: Collection[str] = (), store: Store | None = None) -> PlannedPhase:
    """Normalise, tag, price, place and schedule one phase; rewriting passes named ``without_rewrites`` are left out.

    Proofs of rewrites are looked up and kept in ``store``, if there is one.

    Raises:
        UserError: HET-P001 to HET-P005 for impossible placements.
    """
    with watch.stage("normalize"):
        graph, rewrites = normalize(graph, remembering(store) if store else None, without_rewrites)
    with watch.stage("tag"):
        tagged = TagMemoryPipeline().run(graph)
    return plan_tagged(name, tagged, rewrites, request, devices, choice, watch)


def plan_tagged(name: str, tagged: TaggedGraph, rewrites: tuple[Rewrite, ...], request: CaptureRequest,
                devices: DeviceSet, choice: PlacementChoice, watch: Stopwatch) -> PlannedPhase:
    """The second half of :func:`plan_phase`: price, place and schedule a tagged graph. Needs no torch.

    Raises:
        UserError: HET-P001 to HET-P005 for impossible placements.
    """
    tagged, observed = observe_selections(tagged)
    with watch.stage("form regions"):
        clustering = form_clusters(tagged)
    with watch.stage("estimate"):
        table = estimate(tagged.graph, clustering, devices, choice.objective)
        if choice.caches == "shadowed":
            table = with_shadows(table, tagged.graph, clustering)
    return _place_and_schedule(name, request, tagged, rewrites, clustering, table, choice, observed, watch)


def normalize(graph: Graph, checked: Callable[[Checker], Checker] | None = None,
              without_rewrites: Collection[str] = ()) -> tuple[Graph, tuple[Rewrite, ...]]:
    """Tidy up; gather instead of masking; multiply in the cheaper order; tidy up after each.

    Args:
        graph: as captured.
        checked: wraps the numeric check of a rewrite, say to remember its answers.
        without_rewrites: names of rewriting passes to leave out.
    """
    domains = {node.operator.domain for node in graph.nodes}
    graph = Simplify().run(graph)
    rewrites: tuple[Rewrite, ...] = ()
    for domain in sorted(domains & CHECKERS.keys()):
        check = load(CHECKERS[domain])
        builders, check = {domain: load(BUILDERS[domain])(graph)}, checked(check) if checked else check
        for rewriting in (NarrowToSelection(builders, check), Reassociate(builders, check)):
            if rewriting.name not in without_rewrites:
                graph, report = rewriting.run(graph)
                graph = Simplify().run(graph) if any(rewrite.applied for rewrite in report) else graph
                rewrites += report
    return graph, rewrites


def observe_selections(tagged: TaggedGraph) -> tuple[TaggedGraph, tuple[str, ...]]:
    """Make the indices of every retrieval a result of the program, so that runs can be compared in what they select."""
    graph = tagged.graph
    found = tuple(node.outputs[-1] for node in graph.nodes
                  if node.operator_class is OperatorClass.TOPK and tagged.stage_of(node.name) is Stage.RETRIEVAL)
    outputs = (*graph.outputs, *(value for value in found if value not in graph.outputs))
    return TaggedGraph(replace(graph, outputs=outputs), tagged.tags), found


def _place_and_schedule(
    name: str, request: CaptureRequest, tagged: TaggedGraph, rewrites: tuple[Rewrite, ...], clustering: Clustering,
    table: CostTable, choice: PlacementChoice, observed: tuple[str, ...], watch: Stopwatch,
) -> PlannedPhase:
    """Place; what a back end cannot compose after all is kept from that device, with the reason, and placed anew."""
    demotions: list[tuple[str, str, str]] = []
    while True:
        with watch.stage("place"):
            placement = choose_placement(table, choice)
            gpu_only = finish(table.problem, load_placer("gpu-only").place(table.problem, table.facts), "gpu-only",
                              placement.lower_bound)
        with watch.stage("schedule"):
            programs, commits = build_regions(tagged.graph, clustering, placement)
            refused = _refused_clusters(programs, placement)
        if not refused:
            break
        if choice.file is not None or choice.forced:
            cluster, device, reason = refused[0]
            raise UserError("HET-P005", f"'{cluster}' cannot run on {device} there: {reason}", where=name,
                            fix="place what it is fused with on the same device, or leave it to the placer")
        demotions.extend(refused)
        table = keep_from(table, refused)
    with watch.stage("schedule"):
        cache_device = cache_devices(tagged.graph, clustering, placement.device_of)
        costs = region_costs(table, placement)
        prices = StepPrices(
            {region: cost.time_s for region, cost in costs.items()}, partial(transfer_time_s, links=table.links),
            {device: cost.time_s for device, cost in table.problem.launch.items()},
            {region: cost.energy_j for region, cost in costs.items()},
            lambda source, target, size_bytes: transfer(source, target, size_bytes, links=table.links).energy_j)
        steps = build_steps(tagged.graph, programs, commits, prices, cache_device)
        resident = _resident(programs, cache_device)
        if choice.caches == "shadowed":
            steps += shadow_steps(tagged.graph, programs, steps, cache_device, table)
            resident += [(cache, SECOND, "cache") for cache, device in cache_device.items()
                         if device in table.losable]
        sizes = {value.name: value.type.size_bytes for value in tagged.graph.values.values()}
        buffers = allocate(steps, sizes, resident)
        works = _region_works(tagged.graph, clustering, placement)
    check_amdahl(table, placement, gpu_only)
    return PlannedPhase(name, request, tagged, rewrites, clustering, table, placement, gpu_only, programs, commits,
                        steps, buffers, cache_device, observed, works, tuple(demotions))


def check_amdahl(table: CostTable, placement: Placement, gpu_only: Placement) -> None:
    """A plan can at best make free what it moves: what stays on the first device takes the time it took before.

    Raises:
        InternalError: HET-I001, the prediction is better than that, so a price or the scorer is wrong.
    """
    first = table.problem.devices[0]
    moved = [name for name, device in placement.device_of.items() if gpu_only.device_of[name] == first != device]
    share_s = sum(table.problem.cluster_by_name[name].costs[first].time_s for name in moved)
    launches_s = table.problem.launch[first].time_s * len(gpu_only.regions)
    least_s = gpu_only.cost.time_s - share_s - launches_s
    if placement.cost.time_s < least_s * (1 - 1e-9):
        raise InternalError("HET-I001", f"{placement.cost.time_s:.3g} s is predicted where moving clusters leaves at "
                            f"least {least_s:.3g} s", where=table.problem.name)


def replan(phase: PlannedPhase, refused: list[tuple[str, str, str]], choice: PlacementChoice,
           watch: Stopwatch) -> PlannedPhase:
    """The phase with the refused (cluster, device, reason) kept from those devices."""
    if not refused:
        return phase
    again = _place_and_schedule(phase.name, phase.request, phase.tagged, phase.rewrites, phase.clustering,
                                keep_from(phase.table, refused), choice, phase.observed, watch)
    return replace(again, demotions=(*phase.demotions, *refused, *again.demotions))


def stand_in_for(phase: PlannedPhase, device: str, choice: PlacementChoice, watch: Stopwatch) -> PlannedPhase:
    """The same phase without a device that may be lost, placed as well as can be; it keeps no second copies."""
    reason = f"for when the {device} is lost"
    barred = [(cluster.name, device, reason) for cluster in phase.table.problem.clusters if device in cluster.costs]
    return _place_and_schedule(
        stand_in_name(phase.name, device), phase.request, phase.tagged, phase.rewrites, phase.clustering,
        keep_from(without_shadows(phase.table), barred), PlacementChoice(objective=choice.objective), phase.observed,
        watch)


def replaced_devices(phase: PlannedPhase, choice: PlacementChoice) -> tuple[str, ...]:
    """Devices that may be lost, whose loss would matter to the phase, if the request shall go on."""
    if choice.caches == "single":
        return ()
    used = {program.device for program in phase.programs}
    return tuple(device for device in phase.table.losable if device in used)


def choose_placement(table: CostTable, choice: PlacementChoice) -> Placement:
    """The placement the user asked for, always with the proved bound of the optimal placer beside it."""
    problem = table.problem
    best = place_optimal(problem, table.facts)
    if choice.file is not None:
        assignment = assignment_from_json(read_placement(choice.file), problem)
        return finish(problem, assignment, f"file {choice.file.name}", best.lower_bound)
    if choice.partitioner == "optimal":
        assignment, label = dict(best.device_of), "optimal"
    else:
        placer = load_placer(choice.partitioner)
        assignment, label = placer.place(problem, table.facts), placer.name
    if not choice.forced:
        return best if label == "optimal" else finish(problem, assignment, label, best.lower_bound)
    spelled = ",".join(f"{pattern}={device}" for pattern, device in choice.forced)
    return finish(problem, _force(table, assignment, choice.forced), f"{label} with {spelled}", best.lower_bound)


def read_placement(file: Path) -> dict[str, object]:
    """A placement that came from outside, as plain data.

    Raises:
        UserError: HET-P001, the file is missing or no JSON object.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError("HET-P001", f"'{file}' cannot be read as JSON: {error}", where=str(file),
                        fix="write it like `hetcc export BUNDLE --format json`") from error
    if not isinstance(document, dict):
        raise UserError("HET-P001", "a placement file holds an object with the key 'placement'", where=str(file))
    return document


def _force(table: CostTable, assignment: dict[str, str], forced: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Move matching clusters, and the memory that only they read, to the devices asked for."""
    problem = table.problem
    named: dict[str, str] = {}
    for pattern, device in forced:
        if device not in problem.devices:
            raise UserError("HET-M001", f"'{device}' is not a device of this plan", where=f"--place {pattern}={device}",
                            fix=f"use one of {', '.join(problem.devices)}")
        matching = [cluster for cluster in problem.clusters if _matches(table, cluster.name, cluster.nodes, pattern)]
        allowed = [cluster for cluster in matching if device in cluster.costs]
        if not allowed:
            raise UserError("HET-P005", _why_none(table, [cluster.name for cluster in matching], pattern, device),
                            where=f"--place {pattern}={device}",
                            fix="`hetcc explain BUNDLE NODE` shows which devices take a node and why others do not")
        named.update(dict.fromkeys((cluster.name for cluster in allowed), device))
    for device in dict.fromkeys(named.values()):
        here = {name for name, home in named.items() if home == device}
        followers = with_followers(problem, here, device, elsewhere=named.keys() - here)
        assignment.update(dict.fromkeys(followers, device))
    return assignment


def _matches(table: CostTable, cluster: str, nodes: tuple[str, ...], pattern: str) -> bool:
    stage = table.facts.stage.get(cluster)
    if stage is not None and stage.value == pattern:
        return True
    return fnmatch.fnmatchcase(cluster, pattern) or any(fnmatch.fnmatchcase(node, pattern) for node in nodes)


def _why_none(table: CostTable, matching: list[str], pattern: str, device: str) -> str:
    if not matching:
        return f"no stage, cluster or node matches '{pattern}'"
    node, rejected = table.estimates[matching[0]].rejections.get(device, (matching[0], Rejected("was kept from it")))
    return f"nothing that matches '{pattern}' can run on {device}; '{node}': {rejected}"


def keep_from(table: CostTable, refused: list[tuple[str, str, str]]) -> CostTable:
    """The table without the refused (cluster, device) pairs; what nobody takes any more goes to the host."""
    barred: dict[str, set[str]] = {}
    for cluster, device, _ in refused:
        barred.setdefault(cluster, set()).add(device)
    clusters: list[Cluster] = []
    for placed in table.problem.clusters:
        if placed.name not in barred:
            clusters.append(placed)
            continue
        costs = {device: cost for device, cost in placed.costs.items() if device not in barred[placed.name]}
        host = table.estimates[placed.name].prices[HOST]
        clusters.append(replace(placed, costs=costs or {HOST: Cost(host.time_s, host.energy_j)}))
    return replace(table, problem=replace(table.problem, clusters=tuple(clusters)))


def _refused_clusters(programs: tuple[RegionProgram, ...], placement: Placement) -> list[tuple[str, str, str]]:
    """(cluster, device, reason) for clusters of streaming regions that do not compose into a kernel."""
    reasons = refused_regions(programs)
    return [(cluster, region.device, reasons[region.name]) for region in placement.regions if region.name in reasons
            for cluster in region.clusters]


def refused_regions(programs: tuple[RegionProgram, ...]) -> dict[str, str]:
    """Streaming regions that do not compose into a kernel, with the reason; each distinct region is tried once."""
    from hetcc.backends.fpga.compose.compose import compose

    verdicts: dict[str, Rejected | None] = {}
    found: dict[str, str] = {}
    for program in programs:
        if program.device != "fpga":
            continue
        digest = digest_of(program.program)
        if digest not in verdicts:
            outcome = compose(program.program)
            verdicts[digest] = outcome if isinstance(outcome, Rejected) else None
        rejected = verdicts[digest]
        if rejected is not None:
            found[program.name] = str(rejected)
    return found


def region_costs(table: CostTable, placement: Placement) -> dict[str, Cost]:
    """Predicted cost of each region: launch, its clusters, less what fusing saves."""
    problem = table.problem
    costs = {}
    for region in placement.regions:
        clusters = (problem.cluster_by_name[name] for name in region.clusters)
        costs[region.name] = sum((cluster.costs[region.device] for cluster in clusters), problem.launch[region.device])
        paid = (table.shadowing.get(name, {}) for name in region.clusters)
        costs[region.name] -= sum((extra[region.device] for extra in paid if region.device in extra), Cost())
    region_of = placement.region_of
    for tensor in problem.tensors:
        home = region_of[tensor.producer]
        saving = tensor.fusion_saving.get(home.device)
        if saving is not None and all(region_of[name] is home for name in tensor.consumers):
            costs[home.name] = costs[home.name] - saving
    return costs


def _resident(programs: tuple[RegionProgram, ...],
              cache_device: Mapping[str, str]) -> list[tuple[str, str, Residency]]:
    pairs = weight_devices({program.name: program.program for program in programs},
                           {program.name: program.device for program in programs})
    weights: list[tuple[str, str, Residency]] = [(name, device, "weight") for name, device in sorted(pairs)]
    caches: list[tuple[str, str, Residency]] = [(name, device, "cache") for name, device in cache_device.items()]
    return weights + caches


def _region_works(graph: Graph, clustering: Clustering, placement: Placement) -> dict[str, Work]:
    nodes_of = {group.name: group.nodes for group in clustering.groups}
    return {region.name: sum((item[0] for name in region.clusters for item in works_of(nodes_of[name], graph)), Work())
            for region in placement.regions}
