"""Operand formats: what they mean, that the hardware computes the same bits, and that none is chosen silently."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.cycles import product_dsp
from hetcc.backends.fpga.costs.unit_resources import Resources, integer_dots
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.formats import EXACT, POLICIES, accuracy, policy_of, with_policy
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import BufferRole, InnerProduct, Scan, StageGraph
from hetcc.errors import UserError
from hetcc.ir import Graph

EDGES = numpy.array([0.0, -0.0, 1.0, -1.0, 1.9999999, 2.0**-126, -(2.0**-140), 3.4e38, -3.4e38, 1e-30, 0.5, 255.5],
                    numpy.float32)
QUANTISED = tuple(policy for policy in POLICIES if policy != EXACT)


def vectors(depth: int, count: int, seed: int = 0) -> numpy.ndarray:
    """Columns of ordinary numbers, of edge values, and of numbers with very different exponents."""
    random = numpy.random.default_rng(seed)
    found = random.standard_normal((depth, count)).astype(numpy.float32)
    found[:, ::3] = random.choice(EDGES, found[:, ::3].shape)
    wild = numpy.ldexp(found[:, 1::3], random.integers(-140, 120, found[:, 1::3].shape)).astype(numpy.float32)
    found[:, 1::3] = wild
    return numbers.flush(found)


def kernel(region: Graph, policy: str) -> StageGraph:
    composed = compose(region)
    assert isinstance(composed, StageGraph), composed
    graph = with_policy(composed, policy)
    assert isinstance(graph, StageGraph), graph
    return graph


def buffers_of(graph: StageGraph, extreme: bool = False) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(3)
    found = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif not buffer.element.is_floating:
            found[buffer.name] = random.permutation(4)[:count].astype(kind)
        elif extreme:
            found[buffer.name] = random.choice(numpy.append(EDGES, [math.inf, math.nan]).astype(kind), count)
        else:
            found[buffer.name] = random.standard_normal(count).astype(kind)
    return found


# ---- meaning


@pytest.mark.parametrize("bits", [8, 16])
def test_integers_are_the_nearest_multiples_of_one_power_of_two(bits: int) -> None:
    given = vectors(7, 60)
    integers, exponents, bad = numbers.quantise(given, bits)
    assert not bad.any()
    limit = 2 ** (bits - 1) - 1
    largest = numpy.abs(integers).max(axis=0)
    assert largest.max() <= limit
    # All bits are used: the largest integer has its top bit set unless the vector is zero.
    assert ((largest >= 2 ** (bits - 2)) | (numpy.abs(given).max(axis=0) == 0)).all()
    exact = given.astype(numpy.float64) * 2.0 ** -exponents.astype(numpy.float64)
    off = numpy.abs(integers - exact)
    assert (off <= numpy.where(numpy.abs(exact) > limit, 1.0, 0.5)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_products_are_exact_integer_sums_rounded_once(bits: int) -> None:
    from fractions import Fraction

    rows, query = vectors(5, 40), vectors(5, 6, seed=1)
    found = numbers.integer_dots(rows, query, bits)
    left, left_exponents, _ = numbers.quantise(rows, bits)
    right, right_exponents, _ = numbers.quantise(query, bits)
    for at in range(40):
        for to in range(6):
            total = sum(int(a) * int(b) for a, b in zip(left[:, at], right[:, to], strict=True))
            value = Fraction(total) * Fraction(2) ** int(left_exponents[at] + right_exponents[to])
            if abs(value) >= Fraction(2) ** 128:
                assert math.isinf(found[to, at])
            elif abs(value) < Fraction(2) ** -126:
                assert abs(found[to, at]) in (0, numpy.float32(2.0**-126))
            else:
                nearest = numpy.float32(float(value))
                assert found[to, at] == nearest


def test_a_vector_that_is_not_finite_gives_nan_and_a_zero_one_zero() -> None:
    rows = numpy.array([[1, math.inf, math.nan, 0.0], [1, 1, 1, -0.0]], numpy.float32)
    found = numbers.integer_dots(rows, numpy.ones((2, 1), numpy.float32), 16)[0]
    assert found.view(numpy.uint32).tolist() == [0x40000000, 0x7FC00000, 0x7FC00000, 0]


@pytest.mark.parametrize(("form", "error", "recall"), [
    (NumberFormat.FP32, 1e-5, 1.0), (NumberFormat.INT16, 1e-3, 0.99), (NumberFormat.BF16, 3e-2, 0.97),
    (NumberFormat.INT8, 0.2, 0.9),
])
def test_accuracy_of_each_format(form: NumberFormat, error: float, recall: float) -> None:
    random = numpy.random.default_rng(5)
    found = accuracy(random.standard_normal((64, 4000)).astype(numpy.float32),
                     random.standard_normal((64, 2)).astype(numpy.float32), form, 100)
    assert found.largest_error <= error and found.recall >= recall
    assert found.typical_error <= found.largest_error


# ---- choosing


def test_only_products_with_the_table_are_quantised() -> None:
    graph = kernel(sample.weighted_scan(), "quantised:int16")
    forms = [(isinstance(graph.stage(stage.source.stage), Scan), stage.format) for stage in graph.of_kind(InnerProduct)]
    assert forms == [(True, NumberFormat.INT16), (False, NumberFormat.FP32)]
    assert policy_of(graph) == "quantised:int16"
    assert StageGraph.from_json(graph.to_json()) == graph


def test_nothing_is_quantised_unless_asked_for_and_the_report_says_what_was() -> None:
    policies = {}
    for policy in (None, *QUANTISED):
        found = emit(sample.single_scan(), "r", **({} if policy is None else {"policy": policy}))
        assert isinstance(found, EmittedRegion)
        report = next(content for path, content in found.files.items() if path.endswith("report.json"))
        policies[policy] = json.loads(report)["numeric_policy"].split(":")[0:2]
    assert policies[None][0] == "exact"
    assert all(policies[policy] == policy.split(":") for policy in QUANTISED)


def test_unknown_and_useless_policies_are_refused() -> None:
    with pytest.raises(UserError, match="HET-U001"):
        emit(sample.single_scan(), "r", policy="quantised:int3")
    composed = compose(sample.single_scan())
    assert isinstance(composed, StageGraph)
    nothing = replace(composed, stages=composed.of_kind(Scan))
    assert isinstance(with_policy(nothing, "quantised:int8"), Rejected)


# ---- hardware


def run(unit: Any, given: dict[str, list[int]], output: str, latency: int) -> list[int]:
    """One operation per cycle."""
    from amaranth.sim import Simulator

    found: list[int] = []
    count = len(next(iter(given.values())))

    async def bench(context: Any) -> None:
        for at in range(count + latency):
            for port, words in given.items():
                context.set(getattr(unit, port), words[min(at, count - 1)])
            if at >= latency:
                found.append(context.get(getattr(unit, output)))
            await context.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize("bits", [8, 16])
def test_the_quantiser_is_the_model(bits: int) -> None:
    from hetcc.backends.fpga.rtl.units.quantise import VectorQuantiser

    given = vectors(3, 200)
    unit = VectorQuantiser(3, bits)
    words = [int.from_bytes(numpy.ascontiguousarray(column).tobytes(), "little") for column in given.T]
    found = run(unit, {"row": words}, "result", unit.latency)
    integers, _, _ = numbers.quantise(given, bits)
    mask = 2**bits - 1
    expected = [sum((int(value) & mask) << bits * at for at, value in enumerate(column)) for column in integers.T]
    assert found == expected


def test_totals_become_floats_with_one_rounding() -> None:
    from hetcc.backends.fpga.rtl.units.quantise import IntegerToFloat

    random = numpy.random.default_rng(2)
    bits, width = 16, 33
    totals = numpy.concatenate([
        random.integers(-(2**32), 2**32, 150), [0, 1, -1, 2**32 - 1, -(2**32), 2**24 + 1, 2**25 + 2, 2**25 + 6,
                                                2**24 - 1, 2**25 - 1, 2**26 - 1] * 8])
    exponents = random.integers(1, 509, len(totals))
    # Around both ends of binary32.
    exponents[::4] = random.integers(130, 160, len(exponents[::4]))
    exponents[1::4] = random.integers(375, 415, len(exponents[1::4]))
    found = run(IntegerToFloat(width, bits), {
        "total": [int(total) & (2**width - 1) for total in totals], "exponents": exponents.tolist(),
        "bad": [0] * len(totals)}, "result", IntegerToFloat.latency)
    with numpy.errstate(over="ignore"):
        expected = numbers.flush_tiny(numpy.ldexp(totals.astype(numpy.float64), exponents - 2 * (127 + bits - 2)))
    assert found == expected.view(numpy.uint32).tolist()


@pytest.mark.parametrize(("policy", "make", "lanes", "together", "extreme"), [
    *((policy, lambda: sample.weighted_scan(1, 1, 4, 3, 8, 3), 2, 1, True) for policy in QUANTISED),
    ("quantised:int16", lambda: sample.weighted_scan(2, 1, 3, 3, 8, 2), 1, 1, False),
    ("quantised:int8", lambda: sample.weighted_scan(1, 1, 2, 3, 8, 2), 2, 4, True),
    (EXACT, lambda: sample.weighted_scan(1, 1, 2, 3, 8, 2), 2, 2, True),
    (EXACT, lambda: sample.block_scan(1, 2, 4, 4, 2, "max"), 1, 2, False),
    (EXACT, lambda: sample.block_scan(1, 2, 8, 2, 2, "sum"), 1, 4, False),
])
def test_kernels_in_every_format_are_the_functional_model(policy: str, make: Any, lanes: int, together: int,
                                                          extreme: bool) -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    graph = kernel(make(), policy)
    buffers = buffers_of(graph, extreme)
    got = simulate(graph, {name: content.copy() for name, content in buffers.items()}, lanes, stall=0.3,
                   together=together)
    execute(graph, buffers)
    for buffer in (buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT):
        for instance, expected in zip(got, buffers[buffer.name].reshape(len(got), -1), strict=True):
            if buffer.element.is_floating:
                assert numpy.array_equal(instance.values, expected.view(numpy.uint32))
            else:
                assert numpy.array_equal(instance.indices, expected)


def test_several_rows_pass_in_every_cycle() -> None:
    from hetcc.backends.fpga.rtl.simulation.simulate import simulate

    cycles = {}
    for rows in (32, 96):
        graph = kernel(sample.single_scan(4, rows, 2), "quantised:int16")
        cycles[rows] = simulate(graph, buffers_of(graph), 1, together=4)[0].cycles
    assert cycles[96] - cycles[32] == 64 // 4


@pytest.mark.parametrize(("policy", "lanes", "slices"), [
    (EXACT, 4, 2 * 4 * 128), ("quantised:bf16", 4, 4 * 128), ("quantised:int16", 16, 2048),
    ("quantised:int8", 16, 1024), ("quantised:int8", 1, 128),
])
def test_slices_of_the_products(policy: str, lanes: int, slices: int) -> None:
    assert product_dsp(128, lanes, POLICIES[policy]) == slices


@pytest.mark.parametrize(("size", "lut", "register", "dsp"), [
    ((32, 16, 1), 1018, 4120, 32), ((32, 8, 2), 1332, 3984, 32), ((32, 8, 1), 522, 2088, 32),
])
def test_resources_are_those_synthesised(size: tuple[int, int, int], lut: int, register: int, dsp: int) -> None:
    """yosys 0.70, xcup; ``benchmarks/fpga/resources.py dots``. The pair of 8-bit products was seen while fitting."""
    found = integer_dots(*size)
    assert found.dsp == dsp
    assert (found.lut, found.register) == pytest.approx((lut, register), rel=0.05)


def test_primitives_are_counted_from_the_listing() -> None:
    from hetcc.backends.fpga.rtl.simulation.synthesis import counted

    text = "\n".join(f"     {count}   {cell}" for count, cell in (
        (3, "LUT6"), (2, "SRL16E"), (5, "FDRE"), (2, "DSP48E2"), (1, "RAMB18E2"), (1, "RAMB36E2"), (1, "RAM32M16"),
        (4, "CARRY4"), (1, "INV")))
    assert counted(text) == Resources(13, 5, 2, 1.5, 0)
