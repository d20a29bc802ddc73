"""What the axis rules say against what the operators do: perturb one slice, see which slices of the result change."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.backends.host.program import load_host_program
from hetcc.ir import DType, Graph, Role
from hetcc.ir.axes import Follow, ValueAxis, contracted, destinations, reshape_axes, sources
from hetcc.ir.subgraph import interface_of

from corpus.graphs import GraphBuilder, Name

Draw = Any


def coordinates(shape: tuple[int, ...], axis: int) -> numpy.ndarray:
    """For every element of ``shape`` in memory order, where it stands along ``axis``."""
    return numpy.indices(shape)[axis].reshape(-1)


@st.composite
def reshapes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of equally many elements, made by splitting and merging the same factors."""
    factors = draw(st.lists(st.sampled_from([2, 2, 3, 4, 5]), min_size=1, max_size=5))

    def grouped() -> tuple[int, ...]:
        shape: list[int] = []
        rest = list(factors)
        while rest:
            count = draw(st.integers(1, len(rest)))
            shape.append(math.prod(rest[:count]))
            rest = rest[count:]
            shape.extend([1] * draw(st.integers(0, 1)))
        return tuple(shape)

    return grouped(), grouped()


@given(reshapes())
@settings(max_examples=100)
def test_reshapes_keep_exactly_the_axes_whose_coordinates_stay(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    source, target = shapes
    expected = {axis: origin for axis in range(len(target)) for origin in range(len(source))
                if target[axis] > 1 and source[origin] > 1
                and (coordinates(source, origin) == coordinates(target, axis)).all()}
    assert reshape_axes(source, target) == expected


def test_some_reshapes() -> None:
    assert reshape_axes((2, 3, 4), (6, 4)) == {1: 2}
    assert reshape_axes((6, 4), (2, 3, 4)) == {2: 1}
    assert reshape_axes((1, 8, 4), (8, 1, 4)) == {0: 1, 2: 2}
    assert reshape_axes((4, 2), (2, 4)) == {}
    assert reshape_axes((1, 1), (1,)) == {}


def changed_slices(before: numpy.ndarray, after: numpy.ndarray, axis: int) -> set[int]:
    different = ~((before == after) | (numpy.isnan(before) & numpy.isnan(after)))
    return set(numpy.unique(numpy.nonzero(different)[axis]).tolist())


def kept_axes(graph: Graph, output: str) -> tuple[set[tuple[str, int, int]], set[tuple[str, int, int]]]:
    """(input, its axis, output axis) for which slice i of the output depends on slice i of the input alone.

    Twice: where no other slice is read, and those of them where slice i really is.
    """
    generator = numpy.random.default_rng(0)
    program = load_host_program(graph)
    arrays = {name: _random(graph, name, generator) for name in interface_of(graph)}
    reference = program.run(arrays)[output]
    alone, read = set(), set()
    for name in graph.inputs:
        if not graph.type_of(name).dtype.is_floating:
            continue
        for axis, extent in enumerate(graph.type_of(name).shape):
            seen: list[list[set[int]]] = []
            for position in range(extent):
                perturbed = arrays[name].copy()
                numpy.moveaxis(perturbed, axis, 0)[position] += generator.standard_normal(
                    numpy.moveaxis(perturbed, axis, 0)[position].shape).astype("float32")
                result = program.run({**arrays, name: perturbed})[output]
                seen.append([changed_slices(reference, result, place) for place in range(reference.ndim)])
            kept = {place for place in range(reference.ndim) if reference.shape[place] == extent
                    and all(slices[place] <= {position} for position, slices in enumerate(seen))}
            alone |= {(name, axis, place) for place in kept}
            read |= {(name, axis, place) for place in kept if any(slices[place] for slices in seen)}
    return alone, read


def _random(graph: Graph, name: str, generator: numpy.random.Generator) -> numpy.ndarray:
    kind = graph.type_of(name)
    if kind.dtype is DType.INT64:
        return numpy.array(numpy.arange(kind.elements)[::-1] % 2, numpy.int64).reshape(kind.shape)
    return generator.standard_normal(kind.shape).astype("float32")


Make = Callable[[GraphBuilder, Draw], Any]
EXTENTS = st.integers(2, 4)


def shape(draw: Draw, least: int = 1, most: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(EXTENTS, min_size=least, max_size=most)))


def permuted(build: GraphBuilder, draw: Draw) -> Name:
    x = build.input("x", *shape(draw))
    rank = len(build.values[x].type.shape)
    return build.call("permute", x, tuple(draw(st.permutations(range(rank)))))


def reshaped(build: GraphBuilder, draw: Draw) -> Name:
    source, target = draw(reshapes())
    return build.call("view", build.input("x", *source), target)


def expanded(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    source = tuple(1 if draw(st.booleans()) else extent for extent in full)[draw(st.integers(0, 1)):]
    return build.call("expand", build.input("x", *source), full)


def sliced(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw)
    axis = draw(st.integers(0, len(full) - 1))
    return build.call("slice.Tensor", build.input("x", *full), axis - len(full), draw(st.integers(0, 1)), 2**63 - 1)


def selected(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    return build.call("select.int", build.input("x", *full), draw(st.integers(-len(full), len(full) - 1)), 1)


def divided(build: GraphBuilder, draw: Draw) -> Any:
    full = shape(draw, 2)
    axis = draw(st.integers(0, len(full) - 1))
    return build.call("split_with_sizes", build.input("x", *full), (1, full[axis] - 1), axis)[1]


def added(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    other = tuple(1 if draw(st.booleans()) else extent for extent in full)[draw(st.integers(0, 1)):]
    return build.call("add.Tensor", build.input("x", *full), build.input("y", *other))


def reduced(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    axes = draw(st.sets(st.integers(0, len(full) - 1), min_size=1, max_size=len(full) - 1))
    signed = tuple(axis - len(full) if draw(st.booleans()) else axis for axis in sorted(axes))
    return build.call("sum.dim_IntList", build.input("x", *full), signed, draw(st.booleans()))


def softmaxed(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    axis = draw(st.integers(-len(full), len(full) - 1))
    if draw(st.booleans()):
        return build.call("softmax.int", build.input("x", *full), axis)
    return build.call("_softmax", build.input("x", *full), axis, False)


def accumulated(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    return build.call("cumsum", build.input("x", *full), draw(st.integers(-len(full), len(full) - 1)))


def normalized(build: GraphBuilder, draw: Draw) -> Any:
    full = shape(draw, 2)
    count = draw(st.integers(1, len(full) - 1))
    return build.call("native_layer_norm", build.input("x", *full), full[-count:], None, None, 1e-5)[0]


def multiplied(build: GraphBuilder, draw: Draw) -> Name:
    batch, rows, inner, columns = (draw(EXTENTS) for _ in range(4))
    kind = draw(st.sampled_from(["mm", "bmm", "addmm", "matmul"]))
    if kind == "mm":
        return build.call("mm", build.input("x", rows, inner), build.input("y", inner, columns))
    if kind == "bmm":
        return build.call("bmm", build.input("x", batch, rows, inner), build.input("y", batch, inner, columns))
    if kind == "addmm":
        return build.call("addmm", build.weight("bias", columns), build.input("x", rows, inner),
                          build.input("y", inner, columns))
    left, right = draw(st.sampled_from([((batch,), ()), ((), (batch,)), ((batch,), (1,)), ((1,), (batch,))]))
    return build.call("matmul", build.input("x", *left, rows, inner), build.input("y", *right, inner, columns))


def gathered(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 1, 3)
    axis = draw(st.integers(0, len(full) - 1))
    data, kind = build.input("x", *full), draw(st.sampled_from(["index_select", "gather", "index", "embedding"]))
    if kind == "gather":
        extents = tuple(draw(st.integers(2, extent)) if place != axis else draw(EXTENTS)
                        for place, extent in enumerate(full))
        return build.call("gather", data, axis, build.input("i", *extents, dtype=DType.INT64))
    indices = build.input("i", *shape(draw, 1, 1 if kind == "index_select" else 2), dtype=DType.INT64)
    if kind == "index_select":
        return build.call("index_select", data, axis, indices)
    if kind == "index":
        return build.call("index.Tensor", data, (*[None] * axis, indices))
    return build.call("embedding", build.input("table", 3, 4), indices)


def written(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 1, 3)
    axis = draw(st.integers(0, len(full) - 1))
    rows = (*full[:axis], 2, *full[axis + 1:])
    position = build.input("i", 2, dtype=DType.INT64)
    return build.call("index_copy", build.input("x", *full), axis, position, build.weight("rows", *rows))


def chosen(build: GraphBuilder, draw: Draw) -> Any:
    full = shape(draw, 2)
    axis = draw(st.integers(-len(full), len(full) - 1))
    x = build.input("x", *full)
    if draw(st.booleans()):
        return build.call("sort", x, axis)[0]
    return build.call("topk", x, 1, axis)[0]


def joined(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    axis = draw(st.integers(-len(full), len(full) - 1))
    return build.call("cat", (build.input("x", *full), build.input("y", *full)), axis)


def overwritten(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    axis = draw(st.integers(0, len(full) - 1))
    part = (*full[:axis], 1, *full[axis + 1:])
    return build.call("slice_scatter", build.input("x", *full), build.input("y", *part), axis, 1, 2)


def copied(build: GraphBuilder, draw: Draw) -> Name:
    full = shape(draw, 2)
    kind = draw(st.sampled_from(["clone", "repeat", "pad", "stack", "select_scatter"]))
    x = build.input("x", *full)
    axis = draw(st.integers(0, len(full) - 1))
    if kind == "stack":
        return build.call("stack", (x, build.input("y", *full)), axis)
    if kind == "select_scatter":
        return build.call("select_scatter", x, build.input("y", *full[:axis], *full[axis + 1:]), axis, 0)
    if kind == "clone":
        return build.call("clone", x)
    if kind == "repeat":
        return build.call("repeat", x, tuple(draw(st.integers(1, 2)) for _ in full))
    return build.call("constant_pad_nd", x, (0, 1), 0.0)


MAKERS: list[Make] = [permuted, reshaped, expanded, sliced, selected, divided, added, reduced, softmaxed, accumulated,
                      normalized, multiplied, gathered, written, chosen, joined, overwritten, copied]
INCOMPLETE = {"copied", "written", "gathered", "overwritten"}
"""Operators for which the rules may also find less than there is."""


@pytest.mark.parametrize("make", MAKERS)
@given(data=st.data())
@settings(max_examples=10)
def test_axes_are_kept_exactly_where_the_numbers_say_so(make: Make, data: st.DataObject) -> None:
    build = GraphBuilder("one")
    output = make(build, data.draw)
    made = build.done(output)
    node = made.nodes[-1]
    floats = {name for name in made.inputs if made.type_of(name).dtype.is_floating}
    rank = len(made.type_of(output).shape)
    said = {(found.value, found.axis, axis) for axis in range(rank) for found in sources(made, node, axis)
            if made.values[found.value].role is Role.INPUT}
    wide = {(name, axis, place) for name, axis, place in said
            if name in floats and made.type_of(name).shape[axis] > 1}
    for name, axis, place in said:
        assert made.type_of(name).shape[axis] == made.type_of(output).shape[place], "a kept axis keeps its extent"
    alone, read = kept_axes(made, output)
    assert wide <= alone, "an axis said to be kept mixes its slices"
    if make.__name__ not in INCOMPLETE:
        assert {fact for fact in read if made.type_of(fact[0]).shape[fact[1]] > 1} == wide
    for name, axis, place in said:
        assert ValueAxis(str(output), place) in destinations(made, node, ValueAxis(name, axis))
    for summed in contracted(made, node):
        assert not [fact for fact in wide if fact[:2] == (summed.value, summed.axis)]
        assert not destinations(made, node, summed, Follow.MEMORY) or node.attribute("keepdims") is not True


def test_how_strictly_an_axis_is_followed() -> None:
    build = GraphBuilder("follow")
    x, y = build.input("x", 2, 5), build.input("y", 2, 1)
    joined_name = build.call("cat", (x, y), 1)
    weights = build.call("_softmax", joined_name, 1, False)
    cut = build.call("slice.Tensor", weights, 1, 0, 5)
    graph = build.done(cut)
    concat, softmax, view = graph.nodes
    found = {follow: [len(sources(graph, node, 1, follow)) for node in (concat, softmax, view)] for follow in Follow}
    assert found == {Follow.ENTRY: [0, 0, 0], Follow.PLACE: [0, 1, 0], Follow.MEMORY: [2, 1, 1]}
    assert all(len(sources(graph, node, 0, follow)) for node in graph.nodes for follow in Follow)
