"""What each pass makes of a small graph, step by step: narrow, simplify, form clusters, split, schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy
import pytest

from hetcc.aten.build import AtenBuilder
from hetcc.aten.check import check_on_random_inputs
from hetcc.backends.host.program import load_host_program
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest
from hetcc.ir import DType, Graph, Stage
from hetcc.ir.printer import print_graph
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.passes.clusters import Clustering, form_clusters
from hetcc.passes.normalize import NarrowToSelection, Simplify
from hetcc.passes.phase import PlannedPhase
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.pipeline import device_set
from hetcc.plan.plan import LaunchStep, TransferStep
from hetcc.planning import plan_phase
from hetcc.stopwatch import Stopwatch

from corpus import doors
from corpus.graphs import GraphBuilder, attention_with_sink, sparse_selection, threshold_selection

Golden = Callable[[str, str], None]
Arrays = Mapping[str, numpy.ndarray]


def narrowing() -> NarrowToSelection:
    return NarrowToSelection({"aten": AtenBuilder()}, check_on_random_inputs)


def random_arguments(graph: Graph, seed: int) -> dict[str, numpy.ndarray]:
    """Normal numbers; whole numbers are positions and become 5."""
    generator = numpy.random.default_rng(seed)
    found = {}
    for name in interface_of(graph):
        kind = graph.type_of(name)
        array = generator.standard_normal(kind.shape) if kind.dtype.is_floating else numpy.full(kind.shape, 5)
        found[name] = array.astype(kind.dtype.value)
    return found


def same_results(before: Graph, after: Graph, arguments: Arrays) -> None:
    expected, actual = (load_host_program(graph).run({name: arguments[name] for name in interface_of(graph)})
                        for graph in (before, after))
    assert expected.keys() == actual.keys()
    for name in expected:
        numpy.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch", [1, 2])
def test_narrowing(batch: int, golden: Golden) -> None:
    before = sparse_selection(batch)
    after, report = narrowing().run(before)
    assert [(rewrite.node, rewrite.applied) for rewrite in report] == [("layers.0.attention/mask", True)]
    golden("before.txt", print_graph(before))
    golden("narrowed.txt", print_graph(after))
    golden("simplified.txt", print_graph(Simplify().run(after)))
    for graph in (after, Simplify().run(after)):
        same_results(before, graph, random_arguments(before, batch))
    modes = {node.attribute("mode") for node in after.nodes if node.name.endswith(".selected")} - {None}
    assert modes == ({"rows"} if batch == 1 else {"along"})


def test_selections_that_share_a_mask_are_narrowed_each() -> None:
    """In a program without layers, where nothing but the selection tells the narrowed masks apart."""
    before, = capture(CaptureRequest(f"{doors.__file__}:two_sparse_blocks")).graphs.values()
    after, report = narrowing().run(Simplify().run(before))
    assert [rewrite.applied for rewrite in report] == [True, True]
    arguments = {name: array / 4 if array.dtype.kind == "f" else array  # so that sums stay near one
                 for name, array in random_arguments(before, 0).items()}
    same_results(before, after, arguments)


def test_narrowing_is_not_believed_without_agreement() -> None:
    def disagree(request: CheckRequest) -> CheckResult:
        return CheckResult(False, 0.5, f"'{request.compared[0]}' differs")

    graph = sparse_selection()
    after, report = NarrowToSelection({"aten": AtenBuilder()}, disagree).run(graph)
    assert after is graph
    assert [(rewrite.applied, rewrite.reason) for rewrite in report] == [
        (False, "'layers.0.attention/attended' differs")]


def test_the_checker_notices_a_wrong_rewrite() -> None:
    seen: list[CheckRequest] = []

    def remember(request: CheckRequest) -> CheckResult:
        seen.append(request)
        return check_on_random_inputs(request)

    NarrowToSelection({"aten": AtenBuilder()}, remember).run(sparse_selection(context=128, selected=30))
    (request,) = seen
    assert request.extent == 96, "a large memory is checked at a smaller size"
    assert request.after.type_of(request.indices).shape[-1] == 24
    assert check_on_random_inputs(request).agrees
    scaled = next(node for node in request.after.nodes if node.operator.name == "mul")
    wrong = replace(scaled, arguments=(scaled.arguments[0], 0.3))
    broken = replace(request.after, nodes=tuple(wrong if node is scaled else node for node in request.after.nodes))
    result = check_on_random_inputs(replace(request, after=broken))
    assert not result.agrees and result.relative_error > 1e-3 and "differs" in result.detail


@pytest.mark.parametrize(("changes", "reason"), [
    ({"queries": 2}, "2 queries select from the same memory"), ({"selected": 32}, "everything is selected"),
])
def test_narrowing_that_does_not_pay_is_refused(changes: dict[str, int], reason: str) -> None:
    graph = sparse_selection(**changes)
    after, report = narrowing().run(graph)
    assert after is graph
    assert len(report) == 1 and not report[0].applied and reason in report[0].reason


def test_narrowing_stops_at_results_of_the_program() -> None:
    graph = sparse_selection()
    exposed = replace(graph, outputs=(*graph.outputs, "layers.0.attention/masked"))
    after, report = narrowing().run(exposed)
    assert after is exposed and "is a result of the program" in report[0].reason


def redundant() -> Graph:
    """Identities of every kind, repeated nodes, dead nodes, and near misses that must stay."""
    build = GraphBuilder("redundant")
    x, square = build.input("x", 2, 4), build.input("square", 3, 3)
    build.module = "layers.0"
    a = build.call("clone", build.call("mul.Tensor", build.call("view", x, (2, 4), to="same"), 1.0, to="times_one"),
                   to="copied")
    b = build.call("_to_copy", build.call("sub.Tensor", a, 0, to="minus_zero"), dtype=DType.FLOAT32, to="cast")
    first, again = build.call("exp", b, to="first"), build.call("exp", x, to="again")
    build.call("neg", x, to="dead")
    total = build.call("add.Tensor", first, again, to="total")
    reverse = build.call("abs", build.call("rsub.Scalar", total, 0.0, to="negated"), to="magnitude")
    reverse = build.call("add.Tensor", reverse, build.call("rsub.Scalar", x, 0, to="opposite"), to="sum")
    kept = [build.call("t", square, to="transposed"), build.call("add.Tensor", total, total, alpha=0, to="with_alpha"),
            build.call("mm", square, build.call("t", square, to="inner"), to="gram"),
            build.call("view", x, (4, 2), to="reshaped"), build.call("mul.Tensor", x, True, to="by_true")]
    build.module = "layers.1"
    other_layer = build.call("exp", x, to="again")
    return build.done(reverse, *kept, other_layer, build.call("clone", x, to="result"))


def test_simplify(golden: Golden) -> None:
    before = redundant()
    after = Simplify().run(before)
    golden("before.txt", print_graph(before))
    golden("after.txt", print_graph(after))
    same_results(before, after, random_arguments(before, 0))
    assert Simplify().run(after) is after, "there is nothing left to do"


def clusters_as_text(graph: Graph, clustering: Clustering) -> str:
    lines = [f"{group.name} [{group.layer or '-'}] {group.stage.value if group.stage else '-'}\n"
             + "".join(f"  {node.operator_class.value} {node.name}\n" for node in group.nodes)
             for group in clustering.groups]
    return f"graph {graph.name}\n" + "".join(lines) + f"free: {', '.join(clustering.free)}\n"


@pytest.mark.parametrize("make", [sparse_selection, threshold_selection, attention_with_sink, redundant])
def test_clusters(make: Callable[[], Graph], golden: Golden) -> None:
    tagged = TagMemoryPipeline().run(Simplify().run(make()))
    golden("clusters.txt", clusters_as_text(tagged.graph, form_clusters(tagged)))


def planned(graph: Graph, *forced: tuple[str, str]) -> PlannedPhase:
    request = CaptureRequest(graph.name, context=graph.type_of(graph.caches[0]).shape[1])
    options = CompileOptions(request, choice=PlacementChoice(forced=forced))
    return plan_phase("decode", graph, request, device_set(options), options.choice, Stopwatch())


def steps_as_text(phase: PlannedPhase) -> str:
    """The schedule without its times, which are the cost model's business."""
    lines = []
    for position, step in enumerate(phase.steps):
        after = f" after {','.join(map(str, step.waits))}" if step.waits else ""
        if isinstance(step, LaunchStep):
            lines.append(f"{position} launch {step.region} on {step.stream}{after}\n  reads {', '.join(step.inputs)}\n"
                         f"  makes {', '.join(step.outputs)}\n")
        elif isinstance(step, TransferStep):
            lines.append(f"{position} transfer {step.value} {step.source}->{step.destination} {step.size_bytes} bytes "
                         f"{'/'.join(step.variants)}{after}\n")
        else:
            lines.append(f"{position} commit {step.cache} <- {step.value} on {step.device}{after}\n")
    return "".join(lines)


def regions_as_text(phase: PlannedPhase) -> str:
    device_of = {node: program.device for program in phase.programs for node in program.nodes}
    parts = [print_graph(phase.graph, phase.tagged.tags, device_of)]
    parts += [f"{program.device} {print_graph(program.program)}" for program in phase.programs]
    caches = "".join(f"cache {cache} on {device}\n" for cache, device in phase.cache_device.items())
    return "\n".join(parts) + caches


def test_forced_to_the_fpga(golden: Golden) -> None:
    phase = planned(sparse_selection(context=64, width=16), ("relevancy", "fpga"), ("retrieval", "fpga"),
                    ("apply", "gpu"))
    stage_of_device = {(program.device, phase.tagged.stage_of(node)) for program in phase.programs
                       for node in program.nodes}
    assert {("fpga", Stage.RELEVANCY), ("fpga", Stage.RETRIEVAL), ("gpu", Stage.APPLY)} <= stage_of_device
    assert phase.cache_device == {"memory": "gpu", "index": "fpga"}, "a memory lives where it is scanned"
    golden("regions.txt", regions_as_text(phase))
    golden("steps.txt", steps_as_text(phase))
    kinds = Counter(type(step).__name__ for step in phase.steps)
    assert kinds["LaunchStep"] == len(phase.placement.regions)
