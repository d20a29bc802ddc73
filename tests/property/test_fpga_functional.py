"""The functional model against the region's own nodes, evaluated in float64 by an oracle that knows no stages."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.functional import execute, select
from hetcc.backends.fpga.stages.numbers import (
    GRIDS,
    block_dots,
    flush,
    round_to,
    sort_key,
    tree_sum,
)
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.ir import DType, Graph, Node, Operand, OperatorClass, Role
from hetcc.ir.subgraph import interface_of

FUNCTIONS = {"mul": numpy.multiply, "add": numpy.add, "sub": numpy.subtract, "relu": lambda x: numpy.maximum(x, 0),
             "cast": lambda x: x,
             "where": lambda chosen, yes, no: numpy.where(chosen, yes, numpy.float64(numpy.float32(no)))}


def evaluate(region: Graph, arguments: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Every value of a region in float64, node by node."""
    found = {name: array.astype(numpy.float64) if array.dtype.kind == "f" else array
             for name, array in arguments.items()}
    for node in region.nodes:
        shape = region.type_of(node.outputs[0]).shape
        inputs = [found[name] for name in node.inputs]
        if node.operator_class is OperatorClass.TOPK:
            order = numpy.argsort(-inputs[0], axis=-1, kind="stable")[..., :node.integer("k")]
            found[node.outputs[0]] = numpy.take_along_axis(inputs[0], order, -1)
            found[node.outputs[1]] = order
        else:
            found[node.outputs[0]] = one_output(node, inputs, shape)
    return found


def one_output(node: Node, inputs: list[numpy.ndarray], shape: tuple[int, ...]) -> numpy.ndarray:
    if node.operator_class is OperatorClass.CACHE_UPDATE:
        table = inputs[0].copy()
        table[(slice(None),) * node.integer("axis") + (inputs[1],)] = inputs[2]
        return table
    if node.operator_class is OperatorClass.VIEW:
        if node.attribute("kind") == "permute":
            return inputs[0].transpose(node.attribute("permutation"))
        if node.attribute("kind") == "expand":
            return numpy.broadcast_to(inputs[0], shape)
        return inputs[0].reshape(shape)
    if node.operator_class is OperatorClass.MATMUL:
        return inputs[0] @ inputs[1]
    if node.operator_class is OperatorClass.REDUCTION:
        reduce = {"sum": numpy.sum, "max": numpy.max, "min": numpy.min, "mean": numpy.mean}
        return reduce[node.attribute("function")](inputs[0], axis=node.attribute("axes"))
    operands = [inputs[part.index] if isinstance(part, Operand) else part for part in node.arguments] or inputs
    return FUNCTIONS[node.attribute("function")](*operands)


def arguments_of(region: Graph, draw_floats, positions) -> dict[str, numpy.ndarray]:
    found = {}
    for name in interface_of(region):
        kind = region.type_of(name)
        found[name] = positions(kind.shape) if kind.dtype is DType.INT64 else draw_floats(kind.shape)
    return found


def run(region: Graph, arguments: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    emitted = emit(region, "region")
    return dict(load_program(emitted.files, region).run(arguments))


REGIONS = st.one_of(
    st.builds(sample.weighted_scan, st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9),
              st.integers(6, 40), st.integers(1, 6), cast=st.booleans()),
    st.builds(sample.single_scan, st.integers(1, 20), st.integers(5, 700), st.integers(1, 5), masked=st.booleans()),
    st.builds(sample.block_scan, st.integers(1, 3), st.integers(1, 8), st.integers(3, 9), st.sampled_from([1, 2, 4, 5]),
              st.integers(1, 3), st.sampled_from(["max", "min", "sum"])),
    st.builds(sample.onnx_scan, st.integers(1, 4), st.integers(1, 8), st.integers(4, 30), st.integers(1, 4)),
)


@settings(max_examples=60)
@given(region=REGIONS, seed=st.integers(0, 2**32 - 1))
def test_whole_numbers_give_exactly_the_selection_of_float64(region: Graph, seed: int) -> None:
    # Small whole numbers (and quarters, from the scale) are exact in binary32, so even ties must come out alike.
    random = numpy.random.default_rng(seed)
    depth = region.type_of(region.caches[0]).shape[-1]
    scale_is_exact = math.sqrt(depth).is_integer() or "positions" not in region.values

    def floats(shape: tuple[int, ...]) -> numpy.ndarray:
        return random.integers(-3, 4, shape).astype(numpy.float32)

    arguments = arguments_of(region, floats, lambda shape: random.permutation(6)[:shape[0]].astype(numpy.int64))
    expected = evaluate(region, arguments)
    results = run(region, arguments)
    for update in region.updates:
        assert numpy.array_equal(results[update.value], expected[update.value])
    for name in region.outputs:
        if scale_is_exact:
            assert numpy.array_equal(results[name], expected[name]), name
        else:
            assert results[name].shape == expected[name].shape


@settings(max_examples=25)
@given(region=REGIONS, seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1.0, 1e-18, 1e15]))
def test_selected_scores_are_within_the_rounding_of_binary32(region: Graph, seed: int, scale: float) -> None:
    # Each of the at most 40 terms passes at most 8 roundings of 2**-24; 1e-4 of the largest score is generous.
    random = numpy.random.default_rng(seed)

    def floats(shape: tuple[int, ...]) -> numpy.ndarray:
        return (random.standard_normal(shape) * scale).astype(numpy.float32)

    arguments = arguments_of(region, floats, lambda shape: random.permutation(6)[:shape[0]].astype(numpy.int64))
    expected = evaluate(region, arguments)
    results = run(region, arguments)
    selection = next(node for node in region.nodes if node.operator_class is OperatorClass.TOPK)
    scores = expected[selection.inputs[0]]
    indices = next(results[name] for name in region.outputs if results[name].dtype.kind == "i")
    chosen = numpy.take_along_axis(scores, indices.astype(numpy.int64), -1)
    best = expected[selection.outputs[0]]
    # Underflow to zero is allowed to change the choice among scores below the smallest normal number.
    assert numpy.allclose(chosen, best, rtol=1e-4, atol=1e-4 * numpy.abs(scores).max() + 2.0**-120)


SCORES = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, -3.4028234663852886e38]),
                  min_size=1, max_size=60)


@given(scores=SCORES, data=st.data())
def test_selection_is_a_stable_sort(scores: list[float], data: st.DataObject) -> None:
    values = numpy.array(scores, numpy.float32)
    k = data.draw(st.integers(1, len(scores)))
    assert numpy.array_equal(select(values, k, True), numpy.argsort(-values, kind="stable")[:k])
    assert numpy.array_equal(select(values, k, False), numpy.argsort(values, kind="stable")[:k])


@pytest.mark.parametrize("scores", [[7.0] * 9, [5.0], list(range(30)), list(range(30, 0, -1)), [-math.inf] * 4])
def test_selection_of_everything_sorts(scores: list[float]) -> None:
    values = numpy.array(scores, numpy.float32)
    assert numpy.array_equal(select(values, len(values), True), numpy.argsort(-values, kind="stable"))


def test_nan_is_larger_than_everything_in_both_directions() -> None:
    values = numpy.array([1.0, math.nan, math.inf, -math.nan, -math.inf], numpy.float32)
    assert select(values, 3, True).tolist() == [1, 3, 2]
    assert select(values, 3, False).tolist() == [4, 0, 2]


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2))
def test_keys_order_as_floats_do(bits: list[int]) -> None:
    left, right = numpy.array(bits, numpy.uint32).view(numpy.float32)
    first, second = sort_key(numpy.array([left, right]))
    if not (math.isnan(left) or math.isnan(right)):
        assert (first < second, first == second) == (left < right, left == right)
    else:
        assert (first == 0xFFFFFFFF) == math.isnan(left)


def exact_block(left: list[float], right: list[float], bits: int) -> Fraction:
    """The definition of a block's sum in whole numbers, before it is rounded."""
    pairs = [(Fraction(a), Fraction(b)) for a, b in zip(left, right, strict=True) if a and b]
    if not pairs:
        return Fraction(0)
    largest = max(math.frexp(float(a))[1] + math.frexp(float(b))[1] - 2 for a, b in pairs)
    unit = Fraction(2) ** (largest - GRIDS[bits].places)
    return sum((Fraction(math.floor(a * b / unit)) * unit for a, b in pairs), Fraction(0))


def rounded(value: Fraction) -> numpy.float32:
    """To 24 significant bits, nearest even, of any size; below the normal range zero, above it infinity."""
    if not value:
        return numpy.float32(0)
    places = 23 - math.floor(math.log2(abs(value)))
    places += (abs(value) * Fraction(2) ** places < 2**23) - (abs(value) * Fraction(2) ** places >= 2**24)
    whole = round(value * Fraction(2) ** places) / Fraction(2) ** places
    if abs(whole) < Fraction(2) ** -126:
        return numpy.copysign(numpy.float32(0), numpy.float32(-1 if value < 0 else 1))
    with numpy.errstate(over="ignore"):
        return numpy.float32(float(whole)) if abs(whole) < Fraction(2) ** 128 else numpy.float32(
            math.copysign(math.inf, value))


@given(depth=st.integers(1, 16), seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0, 3, 20, 60, 126]),
       bits=st.sampled_from([32, 16]))
def test_a_block_is_its_definition_in_whole_numbers(depth: int, seed: int, spread: int, bits: int) -> None:
    random = numpy.random.default_rng(seed)
    left, right = (flush((random.standard_normal((depth, 5)) * 2.0**random.integers(-spread, spread + 1, (depth, 5)) *
                          (random.random((depth, 5)) > 0.1)).astype(numpy.float32)) for _ in range(2))
    if bits == 16:
        left, right = (flush(round_to(part, DType.BFLOAT16)) for part in (left, right))
    if depth > 1:
        # A product that the first one takes away but for its last places.
        left[1, 0], right[1, 0] = -left[0, 0], right[0, 0]
    found = block_dots(left, right[:, :1], bits)[0]
    for at in range(5):
        assert found[at].view(numpy.uint32) == rounded(exact_block(
            left[:, at].tolist(), right[:, 0].tolist(), bits)).view(numpy.uint32)


@given(depth=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_inner_products_of_whole_numbers_are_exact(depth: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    rows, vectors = (random.integers(-60, 61, (depth, 4)).astype(numpy.float32) for _ in range(2))
    assert numpy.array_equal(block_dots(rows, vectors), vectors.astype(numpy.float64).T @ rows)


@given(depth=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_inner_products_are_as_near_as_rounded_sums_may_be(depth: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    rows, vectors = (random.standard_normal((depth, 6)).astype(numpy.float32) for _ in range(2))
    exact = vectors.astype(numpy.float64).T @ rows.astype(numpy.float64)
    magnitude = numpy.abs(vectors).astype(numpy.float64).T @ numpy.abs(rows).astype(numpy.float64)
    assert (numpy.abs(block_dots(rows, vectors) - exact) <= 2.0**-22 * magnitude + 1e-30).all()


@pytest.mark.parametrize(("left", "right", "expected"), [
    ([math.inf, 1.0], [1.0, 1.0], math.inf), ([math.inf, 1.0], [-1.0, 1.0], -math.inf),
    ([math.inf, 1.0], [0.0, 1.0], math.nan), ([math.inf, -math.inf], [1.0, 1.0], math.nan),
    ([math.nan, 1.0], [0.0, 1.0], math.nan), ([3e38, 3e38], [1.0, 1.0], math.inf), ([1e-30, 0.0], [1e-30, 1.0], 0.0),
    ([-math.inf] * 20, [1.0] * 20, -math.inf), ([1.0] * 16 + [math.inf] + [0.0] * 3, [1.0] * 20, math.inf),
    ([1.0] * 16 + [math.inf], [math.inf] + [-1.0] * 16, math.nan),
])
def test_infinities_and_nans_pass_an_inner_product(left: list[float], right: list[float], expected: float) -> None:
    rows, vectors = (numpy.array(part, numpy.float32)[:, None] for part in (left, right))
    assert numpy.array_equal(block_dots(rows, vectors), [[expected]], equal_nan=True)


@given(terms=st.integers(1, 200), lanes_exponent=st.integers(0, 6), seed=st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_the_number_of_lanes(terms: int, lanes_exponent: int, seed: int) -> None:
    values = numpy.random.default_rng(seed).standard_normal((terms, 3)).astype(numpy.float32)
    lanes = 2**lanes_exponent
    groups = [tree_sum(values[at:at + lanes]) for at in range(0, terms, lanes)]
    assert numpy.array_equal(tree_sum(numpy.stack(groups)), tree_sum(values))


@given(bits=st.integers(0, 2**32 - 1))
def test_bfloat16_rounding_is_to_nearest_even(bits: int) -> None:
    import ml_dtypes

    value = numpy.array([bits], numpy.uint32).view(numpy.float32)
    with numpy.errstate(all="ignore"):
        expected = value.astype(ml_dtypes.bfloat16).astype(numpy.float32)
    assert numpy.array_equal(round_to(value, DType.BFLOAT16), expected, equal_nan=True)


def test_lanes_of_the_model_size_do_not_change_the_result() -> None:
    region = sample.weighted_scan(1, 1, 64, 128, 1500, 40)
    graph = compose(region)
    assert isinstance(graph, StageGraph)
    random = numpy.random.default_rng(5)
    arguments = arguments_of(region, lambda shape: random.standard_normal(shape).astype(numpy.float32),
                             lambda shape: numpy.arange(shape[0], dtype=numpy.int64))
    expected = evaluate(region, arguments)
    indices = run(region, arguments)[region.outputs[0]]
    assert numpy.array_equal(indices, expected[region.outputs[0]])


@pytest.mark.parametrize("masked", [-math.inf, -3.4028234663852886e38])
def test_masked_rows_are_chosen_last_and_in_order(masked: float) -> None:
    region = sample.weighted_scan(1, 1, 2, 4, 16, 6)
    random = numpy.random.default_rng(6)
    arguments = arguments_of(region, lambda shape: random.standard_normal(shape).astype(numpy.float32),
                             lambda shape: numpy.zeros(shape, numpy.int64))
    arguments["mask"] = numpy.full((1, 1, 16), masked, numpy.float32)
    arguments["mask"][..., [3, 9]] = 0
    indices = run(region, arguments)[region.outputs[0]].reshape(-1).tolist()
    assert sorted(indices[:2]) == [3, 9]
    if masked == -math.inf:
        assert indices[2:] == [0, 1, 2, 4]


def test_execution_counts_stages_per_instance() -> None:
    graph = compose(sample.weighted_scan(2, 3))
    assert isinstance(graph, StageGraph)
    buffers = {buffer.name: numpy.zeros(math.prod(buffer.shape), buffer.element.value) for buffer in graph.buffers}
    assert execute(graph, buffers) == 1 + 6 * (len(graph.stages) - 1)


# ---- forms beyond the samples


def check_against_float64(region: Graph, seed: int = 0) -> None:
    random = numpy.random.default_rng(seed)
    arguments = {}
    for name in interface_of(region):
        kind = region.type_of(name)
        if kind.dtype is DType.BOOL:
            arguments[name] = random.integers(0, 2, kind.shape).astype(bool)
        elif kind.dtype is DType.INT64:
            arguments[name] = random.permutation(6)[:kind.shape[0]].astype(numpy.int64)
        else:
            arguments[name] = random.integers(-3, 4, kind.shape).astype(numpy.float32)
    expected = evaluate(region, arguments)
    results = run(region, arguments)
    for name in region.outputs:
        assert numpy.array_equal(results[name], expected[name]), name


def grouped_heads(b: sample.RegionBuilder, groups: int = 2, repeat: int = 3, depth: int = 4, rows: int = 10) -> str:
    """Scores of grouped query heads: each table serves several heads, by expand and reshape."""
    cache = b.feed("keys", 2, groups, rows, depth, role=Role.CACHE)
    wide = b.view("unsqueeze", cache, 2, groups, 1, rows, depth)
    spread = b.view("expand", wide, 2, groups, repeat, rows, depth)
    heads = b.view("reshape", spread, 2, groups * repeat, rows, depth)
    turned = b.view("permute", heads, 2, groups * repeat, depth, rows, permutation=(0, 1, 3, 2))
    return b.matmul(b.feed("query", 2, groups * repeat, 1, depth), turned, 2, groups * repeat, 1, rows)


def test_scores_leave_the_kernel_without_a_selection() -> None:
    b = sample.RegionBuilder()
    check_against_float64(b.graph(grouped_heads(b)))


def test_every_head_selects_for_itself() -> None:
    b = sample.RegionBuilder()
    check_against_float64(b.graph(*b.topk(grouped_heads(b), 4)))


def test_scores_and_selection_leave_together() -> None:
    b = sample.RegionBuilder()
    score = grouped_heads(b)
    check_against_float64(b.graph(score, *b.topk(score, 4)))


def test_the_appended_table_is_an_output() -> None:
    region = sample.weighted_scan(2, 2, 2, 4, 12, 3)
    table = region.updates[0].value
    check_against_float64(Graph(region.name, region.nodes, region.values, region.inputs, (*region.outputs, table),
                                region.caches, region.updates))


def test_a_boolean_mask_chooses() -> None:
    b = sample.RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    b.feed("allowed", 16, dtype=DType.BOOL)
    masked = b.map("where", "allowed", score, -1e30, shape=(1, 16))
    check_against_float64(b.graph(*b.topk(masked, 5)))


def test_two_tables_are_scanned_together() -> None:
    """A second table holds one factor per row, as scaled 8-bit keys have it."""
    b = sample.RegionBuilder()
    cache, scale = b.feed("keys", 16, 4, role=Role.CACHE), b.feed("scales", 16, role=Role.CACHE)
    score = b.matmul(b.feed("query", 1, 4), b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    check_against_float64(b.graph(*b.topk(b.map("mul", score, scale, shape=(1, 16)), 5)))


@pytest.mark.parametrize("function", ["mean", "min"])
def test_blocks_of_rows_are_reduced(function: str) -> None:
    check_against_float64(sample.block_scan(2, 4, 6, 4, 3, function))


def test_part_of_an_operand_is_an_address_pattern() -> None:
    b = sample.RegionBuilder()
    cache = b.feed("keys", 16, 4, role=Role.CACHE)
    wide = b.feed("wide", 3, 9)
    middle = b.view("slice", wide, 3, 4, axis=1, start=2, stop=9, step=2)
    last = b.view("reshape", b.view("select", middle, 4, axis=0, index=1), 1, 4)
    score = b.matmul(last, b.view("permute", cache, 4, 16, permutation=(1, 0)), 1, 16)
    region = b.graph(*b.topk(score, 5))
    random = numpy.random.default_rng(2)
    arguments = {"keys": random.integers(-3, 4, (16, 4)).astype(numpy.float32),
                 "wide": random.integers(-3, 4, (3, 9)).astype(numpy.float32)}
    scores = arguments["wide"][1, 2:9:2] @ arguments["keys"].T
    assert numpy.array_equal(run(region, arguments)[region.outputs[1]][0], numpy.argsort(-scores, kind="stable")[:5])
