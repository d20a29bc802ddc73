"""Products of three factors: which are found, when the other order pays, and that it computes the same."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from hetcc.aten.build import AtenBuilder
from hetcc.aten.check import check_on_random_inputs
from hetcc.backends.host.program import load_host_program
from hetcc.capture.model import CaptureRequest
from hetcc.cost_model.work import Work, total_work
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, OperatorClass, Provenance, Role, TensorType, Value
from hetcc.ir.proof import CheckRequest, CheckResult
from hetcc.ir.subgraph import interface_of
from hetcc.ir.trials import TRIALS, trial_arguments
from hetcc.onnx.build import OnnxBuilder
from hetcc.onnx.check import check_on_random_inputs as check_onnx
from hetcc.onnx.reference import evaluate_region
from hetcc.options import CompileOptions
from hetcc.passes.normalize import NarrowToSelection, Reassociate, Rewrite, Simplify
from hetcc.passes.normalize.digits import Digits
from hetcc.passes.normalize.reassociate import is_less
from hetcc.planning import normalize

from corpus.graphs import LOWEST, GraphBuilder
from corpus.latent_graphs import HEADS, LATENT, NOPE, VALUE, latent_attention, latent_selection

BUILDERS = {"aten": AtenBuilder()}


def reassociated(graph: Graph) -> tuple[Graph, tuple[Rewrite, ...]]:
    after, report = Reassociate(BUILDERS, check_on_random_inputs).run(graph)
    return Simplify().run(after), report


def arguments_of(graph: Graph, seed: int = 0) -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(seed)
    return {name: generator.standard_normal(graph.type_of(name).shape).astype(numpy.float32)
            if graph.type_of(name).dtype.is_floating else numpy.full(graph.type_of(name).shape, 3)
            for name in interface_of(graph)}


def same_results(before: Graph, after: Graph, arguments: dict[str, numpy.ndarray]) -> None:
    expected, actual = (load_host_program(graph).run({name: arguments[name] for name in interface_of(graph)})
                        for graph in (before, after))
    assert expected.keys() == actual.keys()
    for name in expected:
        numpy.testing.assert_allclose(actual[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_few_queries_are_projected_instead_of_many_entries(batch: int, queries: int) -> None:
    before = latent_attention(batch, queries, context=40)
    after, report = reassociated(before)
    assert [(rewrite.node, rewrite.applied, rewrite.rule) for rewrite in report] == [
        ("layers.0/scores", True, "reassociate"), ("layers.0/attended", True, "reassociate")]
    assert "layers.0/up" not in after.node_by_name and "layers.0/keys" not in after.node_by_name
    assert is_less(total_work(after), total_work(before))
    same_results(before, after, arguments_of(before))
    assert reassociated(after) == (after, ()), "there is nothing left to do"


def test_many_queries_keep_the_order() -> None:
    before = latent_attention(queries=48, context=48)
    after, report = Reassociate(BUILDERS, check_on_random_inputs).run(before)
    assert after is before and report == ()


def test_equal_layers_are_proven_once_and_in_double_precision() -> None:
    asked: list[CheckRequest] = []

    def counted(request: CheckRequest) -> CheckResult:
        asked.append(request)
        return check_on_random_inputs(request)

    graph = latent_attention(context=4096, layers=3)
    _, report = Reassociate(BUILDERS, counted).run(graph)
    assert len(report) == 6 and all(rewrite.applied for rewrite in report)
    assert len(asked) == 2
    for request in asked:
        for program in (request.before, request.after):
            assert all(value.type.dtype is DType.FLOAT64 for value in program.values.values())
            assert max(value.type.elements for value in program.values.values()) < 1000
        assert set(interface_of(request.before)) == set(interface_of(request.after))


def test_what_does_not_agree_is_refused_with_the_reason() -> None:
    def disagree(request: CheckRequest) -> CheckResult:
        agrees = "attended" not in request.compared[0]
        return CheckResult(agrees, 0.5, "" if agrees else "differs by 5e-1")

    graph = latent_attention(context=40)
    after, report = Reassociate(BUILDERS, disagree).run(graph)
    assert after is graph
    assert {rewrite.node: (rewrite.applied, rewrite.reason) for rewrite in report} == dict.fromkeys(
        ("layers.0/scores", "layers.0/attended"), (False, "differs by 5e-1"))


def test_the_proof_notices_another_span_of_the_weight() -> None:
    asked: list[CheckRequest] = []

    def remember(request: CheckRequest) -> CheckResult:
        asked.append(request)
        return check_on_random_inputs(request)

    Reassociate(BUILDERS, remember).run(latent_attention(context=40))
    request = asked[0]
    cut = next(node for node in request.after.nodes
               if node.attribute("kind") == "slice" and request.after.type_of(node.outputs[0]).shape[-1] != NOPE)
    start, stop = cut.arguments[2], cut.arguments[3]
    assert (start, stop) == (0, NOPE)
    moved = replace(cut, arguments=(*cut.arguments[:2], 1, NOPE + 1, 1))
    broken = replace(request.after, nodes=tuple(moved if node is cut else node for node in request.after.nodes))
    assert check_on_random_inputs(request).agrees
    assert not check_on_random_inputs(replace(request, after=broken)).agrees


def grouped_queries(width: int = 6, context: int = 32) -> Graph:
    """Two query heads share each head of keys, which are the left operand here."""
    build = GraphBuilder("grouped_queries")
    query, entries = build.input("query", 4, width, 2), build.input("entries", 1, context, LATENT)
    weight = build.weight("up", LATENT, 2 * width)
    build.module = "layers.0"
    flat = build.call("mm", build.call("view", entries, (context, LATENT), to="flat"), weight, to="up")
    apart = build.call("view", flat, (context, 2, 1, width), to="heads")
    heads = build.call("permute", apart, (1, 2, 0, 3), to="by_head")
    shared = build.call("expand", heads, (2, 2, context, width), to="shared")
    keys = build.call("view", shared, (4, context, width), to="keys")
    return build.done(build.call("bmm", keys, query, to="scores"))


def test_a_left_operand_with_shared_heads() -> None:
    before = grouped_queries()
    after, report = reassociated(before)
    assert [rewrite.applied for rewrite in report] == [True]
    assert "layers.0/up" not in after.node_by_name
    assert after.type_of("layers.0/scores").shape == (4, 32, 2)
    same_results(before, after, arguments_of(before))


@pytest.mark.parametrize("change", ["bias", "elementwise", "result"])
def test_what_is_no_product_of_three_factors_stays(change: str) -> None:
    build = GraphBuilder("near_miss")
    query, entries = build.input("query", 1, 4), build.input("entries", 64, LATENT)
    weight, bias = build.weight("up", LATENT, 4), build.weight("bias", 4)
    build.module = "layers.0"
    up = build.call("addmm", bias, entries, weight, to="up") if change == "bias" else \
        build.call("mm", entries, weight, to="up")
    keys = build.call("relu", up, to="positive") if change == "elementwise" else up
    scores = build.call("mm", query, build.call("permute", keys, (1, 0), to="turned"), to="scores")
    graph = build.done(scores, *([up] if change == "result" else []))
    after, report = Reassociate(BUILDERS, check_on_random_inputs).run(graph)
    assert after is graph and report == ()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_selection_is_gathered_before_batch_and_memory_merge(batch: int) -> None:
    before = latent_selection(batch)
    narrowed, report = NarrowToSelection(BUILDERS, check_on_random_inputs).run(before)
    assert [rewrite.applied for rewrite in report] == [True], report
    tidy = Simplify().run(narrowed)
    gathers = [node for node in tidy.nodes if node.operator_class is OperatorClass.GATHER]
    assert {node.operand("data") for node in gathers} >= {"layers.0/memory_written", "layers.0/rope_written"}
    products = [node for node in tidy.nodes if node.operator.name == "mm"]
    assert [tidy.type_of(node.outputs[0]).shape for node in products] == [(4 * batch, HEADS * (NOPE + VALUE))]
    final, _ = normalize(before)
    assert not [node for node in final.nodes if node.operator.name == "mm" and batch > 1]
    for seed in range(3):
        arguments = arguments_of(before, seed)
        if seed == 1:  # ties, between entries and between sequences
            arguments["relevancy"] = numpy.round(arguments["relevancy"])
        if seed == 2:  # all but one entry of each selection is hidden
            order = numpy.argsort(-arguments["relevancy"], axis=-1)[:, 0, :4]
            arguments["visible"][..., numpy.setdiff1d(order, order[:, 0])] = LOWEST
        same_results(before, tidy, arguments)
        same_results(before, final, arguments)


def test_selections_that_keep_everything_are_refused_for_a_batch_too() -> None:
    graph = latent_selection(2, context=8, selected=8)
    after, report = NarrowToSelection(BUILDERS, check_on_random_inputs).run(graph)
    assert after is graph and [rewrite.reason for rewrite in report] == ["everything is selected"]


def merged_memory(batch: int, context: int = 40, selected: int = 4, width: int = 6) -> Graph:
    """The memory comes as one list of all sequences' entries."""
    build = GraphBuilder("merged_memory")
    query, relevancy = build.input("query", batch, 1, width), build.input("relevancy", batch, 1, context)
    entries = build.input("entries", batch * context, width)
    build.module = "layers.0"
    _, chosen = build.call("topk", relevancy, selected, -1, to="best")
    blank = build.call("full", (batch, 1, context), LOWEST, dtype=DType.FLOAT32, to="blank")
    mask = build.call("scatter.value", blank, -1, chosen, 0.0, to="mask")
    memory = build.call("view", build.call("tanh", entries, to="bounded"), (batch, context, width), to="memory")
    scores = build.call("bmm", query, build.call("transpose.int", memory, 1, 2, to="turned"), to="scores")
    weights = build.call("_softmax", build.call("add.Tensor", scores, mask, to="masked"), -1, False, to="weights")
    return build.done(build.call("bmm", weights, memory, to="attended"))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_memory_that_is_merged_from_the_start(batch: int) -> None:
    before = merged_memory(batch)
    after, report = NarrowToSelection(BUILDERS, check_on_random_inputs).run(before)
    after = Simplify().run(after)
    assert [rewrite.applied for rewrite in report] == [True], report
    bounded = next(node for node in after.nodes if node.operator.name == "tanh")
    assert after.type_of(bounded.outputs[0]).shape == (4 * batch, 6), "also what comes before the split is narrowed"
    same_results(before, after, arguments_of(before))


def test_sequences_that_see_different_entries_each_keep_one() -> None:
    graph = latent_selection(3, context=8, selected=2)
    asked: list[CheckRequest] = []

    def remember(request: CheckRequest) -> CheckResult:
        asked.append(request)
        return check_on_random_inputs(request)

    NarrowToSelection(BUILDERS, remember).run(graph)
    arguments = trial_arguments(asked[0], TRIALS - 1)
    chosen, mask = arguments[asked[0].indices], arguments[next(iter(asked[0].mask_inputs))]
    visible = mask.reshape(-1) > LOWEST
    assert all(visible[row].any() for row in chosen.reshape(3, 2)) and not visible.all()


@pytest.mark.parametrize("domain", ["aten", "onnx"])
def test_constructors_of_products_and_views(domain: str) -> None:
    builder = AtenBuilder() if domain == "aten" else OnnxBuilder(18)
    shapes = {"x": (2, 3, 4), "turned": (2, 4, 3), "cut": (2, 2, 4), "product": (2, 2, 3), "sum": (2, 2, 3)}
    values = {name: Value(name, TensorType(shape, DType.FLOAT32), Role.INPUT if name == "x" else Role.ACTIVATION)
              for name, shape in shapes.items()}
    where = Provenance("layers.0")
    nodes = (builder.permute("turned", "x", (0, 2, 1), values["turned"], where),
             builder.slice("cut", "x", 1, (0, 3, 2), values["cut"], where),
             builder.matmul("product", "cut", "turned", values["product"], where),
             builder.add("sum", "product", "product", values["sum"], where))
    assert [nodes[1].integer(key) for key in ("axis", "start", "stop", "step")] == [1, 0, 3, 2]
    program = Graph("made", nodes, values, ("x",), ("sum",))
    x = numpy.random.default_rng(0).standard_normal((2, 3, 4)).astype(numpy.float32)
    found = evaluate_region(program, {"x": x}) if domain == "onnx" else load_host_program(program).run({"x": x})
    numpy.testing.assert_allclose(found["sum"], 2 * x[:, ::2] @ x.transpose(0, 2, 1), rtol=1e-6, atol=1e-6)


def test_programs_of_the_other_domain() -> None:
    shapes = {"query": (1, 4), "entries": (64, 16), "up": (16, 4), "keys": (64, 4), "turned": (4, 64),
              "scores": (1, 64)}
    values = {name: Value(name, TensorType(shape, DType.FLOAT32),
                          {"query": Role.INPUT, "entries": Role.INPUT, "up": Role.PARAMETER}.get(name, Role.ACTIVATION))
              for name, shape in shapes.items()}
    builder, where = OnnxBuilder(18), Provenance("layers.0")
    nodes = (builder.matmul("keys", "entries", "up", values["keys"], where),
             builder.permute("turned", "keys", (1, 0), values["turned"], where),
             builder.matmul("scores", "query", "turned", values["scores"], where))
    before = Graph("made", nodes, values, ("query", "entries"), ("scores",))
    after, report = Reassociate({"onnx": builder}, check_onnx).run(before)
    assert [rewrite.applied for rewrite in report] == [True], report
    after = Simplify().run(after)
    assert "keys" not in after.node_by_name
    arguments = arguments_of(before)
    numpy.testing.assert_allclose(evaluate_region(after, arguments)["scores"],
                                  evaluate_region(before, arguments)["scores"], rtol=1e-4, atol=1e-4)


def test_digits_follow_views() -> None:
    digits = Digits()
    axes = digits.fresh_axes((6, 1, 20))
    merged = digits._regrouped(axes, (120,))
    assert merged is not None
    split = digits._regrouped(merged, (2, 3, 4, 5))
    assert split is not None and [digits.extents[digit] for axis in split for digit in axis] == [2, 3, 4, 5]
    assert digits._regrouped(split, (8, 15)) is None, "an axis of 3 is no part of 8"
    cut = digits._cut(split, 2, 1, 2, 2)
    assert cut is not None and [digits.extents[digit] for digit in cut[2]] == [2]
    small = digits.shrunk(lambda extent: min(extent, 2))
    assert [small[digit] for digit in (*axes[0], *axes[2])] == [4, 8], "4 is cut and stays"


def test_less_work_needs_no_unit() -> None:
    base = Work(flops=100, bytes_read=50, bytes_written=50)
    assert is_less(Work(flops=90, bytes_read=100), base)
    assert not is_less(base, base)
    assert is_less(Work(flops=20, bytes_read=200), base) and not is_less(Work(flops=60, bytes_read=200), base)


def test_a_pass_can_be_left_out() -> None:
    graph = latent_selection(2)
    _, report = normalize(graph, without_rewrites=("reassociate",))
    assert {rewrite.rule for rewrite in report} == {"narrow-to-selection"}
    _, report = normalize(graph)
    assert [rewrite.rule for rewrite in report if rewrite.applied] == ["narrow-to-selection", *["reassociate"] * 2]
    with pytest.raises(UserError, match="--no-rewrite") as error:
        CompileOptions(CaptureRequest("llama"), without_rewrites=("reassociation",))
    assert error.value.code == "HET-U001"
