"""Cases to programs: captured, normalised and counted as plans are, compiled for the engine, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hetcc import planning
from hetcc.backends.contract import Rejected
from hetcc.backends.gpu.emit import emit_many
from hetcc.bench.cases import Case, StepCase
from hetcc.bench.engine import Engine, Step
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.cost_model.price import WorkItem
from hetcc.cost_model.reuse import mark_recent
from hetcc.cost_model.work import works_of
from hetcc.ir import Graph, Role
from hetcc.passes.clusters import form_clusters
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.stopwatch import silent
from hetcc.workloads.microbenchmarks import capture_microbenchmark

Clusters = tuple[tuple[WorkItem, ...], ...]


@dataclass(frozen=True)
class Program:
    """One case, ready to run."""

    case: Case | StepCase
    clusters: Clusters
    """The work of each cluster, as plans price it."""
    step: Step


def prepare(wanted: Sequence[Case | StepCase], engine: Engine, progress: Callable[[str], None] = silent,
            ) -> tuple[list[Program], dict[str, str]]:
    """Programs of the cases that the compiler takes, and why it does not take the others, by name.

    Raises:
        ToolError: HET-T001, a tool is missing; HET-T002, the compiler does not work.
    """
    graphs: dict[str, tuple[Case | StepCase, Graph, Clusters]] = {}
    for count, case in enumerate(wanted, 1):
        progress(f"capture: {count} of {len(wanted)} ({case.name})")
        graphs[case.name] = (case, *_counted(_captured(case)))
    emitted = emit_many({name: graph for name, (_, graph, _) in graphs.items()}, (engine.target,),
                        progress=lambda done, total, name: progress(f"compile: {done} of {total} ({name})"))
    programs: list[Program] = []
    refused: dict[str, str] = {}
    for name, (case, graph, clusters) in graphs.items():
        made = emitted[name]
        if isinstance(made, Rejected):
            refused[name] = str(made)
        else:
            programs.append(Program(case, clusters, engine.load(graph, made.files, made.entry)))
    return programs, refused


def _captured(case: Case | StepCase) -> Graph:
    if isinstance(case, Case):
        return capture_microbenchmark(case.kind, dict(case.settings), case.name)
    from hetcc.capture import capture

    request = CaptureRequest("llama", (Phase.DECODE,), case.batch, case.context, 1, overrides=case.overrides)
    captured = capture(request.located())
    return replace(captured.graphs[Phase.DECODE.value], name=case.name)


def _counted(graph: Graph) -> tuple[Graph, Clusters]:
    """The graph that is compiled, and its work. Every repeat is fed the same buffers, which caches may still hold."""
    tagged = TagMemoryPipeline().run(planning.normalize(graph)[0])
    graph = tagged.graph
    groups = [group.nodes for group in form_clusters(tagged).groups]
    kept = replace(graph, values={
        name: replace(value, role=Role.CACHE) if value.role is Role.INPUT else value
        for name, value in graph.values.items()})
    return graph, tuple(mark_recent(kept, groups, [works_of(nodes, graph) for nodes in groups]))


__all__ = ["Clusters", "Program", "prepare"]
