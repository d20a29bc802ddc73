"""Closed forms of resources: against yosys' figures that were not used to fit them, and of whole kernels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import chosen
from hetcc.backends.fpga.costs.cycles import estimate_cycles
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, largest_share, top_k, total_of
from hetcc.backends.fpga.costs.lookups import lookup_copies
from hetcc.backends.fpga.costs.unit_resources import (
    CARD,
    MARGIN,
    NAMES,
    Resources,
    burst_reader,
    comparators_of_sorter,
    integer_dots,
    memory,
    quantiser,
    row_sorter,
    run_merger,
    unpacker,
)
from hetcc.backends.fpga.formats import POLICIES, with_policy
from hetcc.backends.fpga.rtl.simulation.synthesis import synthesise, synthesise_kernel
from hetcc.backends.fpga.rtl.units.merge import sorting_network
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph
from hetcc.store import Store

# yosys 0.70, from `python benchmarks/fpga/resources.py`. The first three were synthesised after the forms were written;
# the others were not fitted to, but known.
SEEN = [
    (run_merger(16, 128), Resources(6415, 4626, 0, 32, 0)),
    (run_merger(16, 128, keep=True), Resources(6396, 4616, 0, 32, 0)),
    (integer_dots(32, 16, 1), Resources(1018, 4120, 32, 0, 0)),
    (row_sorter(8), Resources(2736, 2592, 0, 0, 0)), (row_sorter(16), Resources(9072, 8640, 0, 0, 0)),
    (run_merger(8, 16), Resources(3104, 2706, 0, 0, 0)), (run_merger(1, 512), Resources(146, 130, 0, 3, 0)),
    (run_merger(1, 4096), Resources(288, 153, 0, 24, 0)),
    (run_merger(8, 16, keep=True), Resources(3094, 2699, 0, 0, 0)),
    (quantiser(32, 16), Resources(4274, 6440, 0, 0, 0)), (quantiser(64, 8), Resources(5267, 13896, 0, 0, 0)),
    (burst_reader(256, 64), Resources(204, 203, 0, 7.5, 0)), (unpacker((4, 8)), Resources(710, 92, 0, 0, 0)),
    (unpacker((4, 64)), Resources(771, 92, 0, 0, 0)), (unpacker((4, 8, 64)), Resources(1226, 94, 0, 0, 0)),
    (lookup_copies(300, 4, 1), Resources(78, 45, 0, 2, 0)), (lookup_copies(4096, 4, 2), Resources(138, 96, 0, 4, 0)),
    (lookup_copies(8192, 4, 2), Resources(137, 98, 0, 0, 2)),
    (lookup_copies(30_522, 8, 2), Resources(277, 104, 0, 0, 4)),
]


def composed(*sizes: int, policy: str = "exact") -> StageGraph:
    graph = compose(sample.weighted_scan(*sizes))
    assert isinstance(graph, StageGraph)
    quantised = with_policy(graph, policy)
    assert isinstance(quantised, StageGraph)
    return quantised


def assert_near(form: Resources, seen: Resources) -> None:
    """Memory and slices within 10 %, tables and registers within 20 %."""
    for name in NAMES:
        expected = getattr(seen, name)
        limit = 0.2 if name in ("lut", "register") else 0.1
        assert getattr(form, name) == pytest.approx(expected, rel=limit, abs=1e-9), name


@pytest.mark.parametrize(("form", "seen"), SEEN)
def test_forms_hold_on_sizes_that_were_not_fitted(form: Resources, seen: Resources) -> None:
    assert_near(form, seen)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
def test_the_comparators_of_the_sorter_are_those_of_the_network(width: int) -> None:
    assert comparators_of_sorter(width) == sum(len(stage) for stage in sorting_network(width))


@pytest.mark.parametrize(("depth", "bits", "expected"), [
    (1, 14, Resources(8, 0, 0, 0, 0)), (32, 15, Resources(16, 0, 0, 0, 0)), (64, 54, Resources(64, 0, 0, 0, 0)),
    (65, 36, Resources(0, 0, 0, 0.5, 0)), (512, 512, Resources(0, 0, 0, 7.5, 0)),
    (1024, 54, Resources(0, 0, 0, 1.5, 0)), (8192, 54, Resources(54, 0, 0, 12, 0)),
])
def test_memories_take_tables_or_halves_of_blocks(depth: int, bits: int, expected: Resources) -> None:
    assert memory(depth, bits) == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_the_indexer_of_the_model_fits_with_the_lanes_that_are_chosen(policy: str) -> None:
    graph = chosen(composed(1, 1, 64, 128, 131072, 2048, policy=policy))
    shares = total_of(kernel_resources(graph)).shares(CARD)
    assert max(shares.values()) <= MARGIN, shares
    assert estimate_cycles(graph).resources == total_of(kernel_resources(graph))
    assert largest_share(estimate_cycles(graph).resources) == pytest.approx(max(shares.values()) / MARGIN)


def test_more_lanes_take_more_and_parts_add_up() -> None:
    graph = composed(1, 1, 8, 16, 1024, 32)
    narrow, wide = (kernel_resources(replace(graph, parallel=Parallelism(lanes, 1, 1))) for lanes in (1, 8))
    assert narrow.keys() == wide.keys()
    for name in ("lut", "register", "dsp"):
        assert getattr(total_of(wide), name) > getattr(total_of(narrow), name)
    assert total_of(wide).dsp == sum(part.dsp for part in wide.values())


def test_selections_grow_with_what_they_are_offered_and_keep() -> None:
    sizes = [top_k(k, offered) for offered, k in itertools.product((1, 4, 16), (64, 2048))]
    assert all(small.lut < large.lut for small, large in itertools.pairwise(sizes[::2]))
    assert all(small.bram36 <= large.bram36 for small, large in zip(sizes[::2], sizes[1::2], strict=True))


# ---- synthesis


@pytest.mark.slow
def test_figures_are_kept_by_the_text_of_a_module(tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl.units.merge import RowSorter

    def units() -> list[tuple[RowSorter, tuple[object, ...]]]:
        unit = RowSorter(2, 54)
        return [(unit, (unit.row, unit.result))]

    store = Store(tmp_path)
    found = synthesise(units(), store)
    assert len(list(tmp_path.iterdir())) == 1
    assert_near(row_sorter(2), found[0])
    for path in tmp_path.iterdir():
        store.put_document(path.name.partition(".")[0], "   7   LUT6\n")
    assert synthesise(units(), store)[0].lut == 7, "what is kept is not made again"


@pytest.mark.slow
def test_a_kernel_is_the_sum_over_its_instances(tmp_path: Path) -> None:
    text = b"""\
module leaf(a, b, clk, q);
  input [7:0] a, b;
  input clk;
  output reg [7:0] q;
  always @(posedge clk) q <= a & b;
endmodule

module \\top.middle (a, b, clk, q);
  input [7:0] a, b;
  input clk;
  output [7:0] q;
  wire [7:0] first;
  leaf one (
    .a(a), .b(b), .clk(clk), .q(first));
  leaf two (
    .a(first), .b(b), .clk(clk), .q(q));
endmodule

module top(a, b, clk, q);
  input [7:0] a, b;
  input clk;
  output [7:0] q;
  wire [7:0] first;
  \\top.middle  one (
    .a(a), .b(b), .clk(clk), .q(first));
  leaf two (
    .a(first), .b(b), .clk(clk), .q(q));
endmodule
"""
    found = synthesise_kernel(text, "top", Store(tmp_path))
    assert found.instances == {"leaf": 3, "top.middle": 1, "top": 1}
    assert (found.total.lut, found.total.register) == (24, 24)
    assert found.modules["top"].lut == 0
    flat = synthesise_kernel(text, "top", flat=True)
    assert (flat.total.lut, flat.total.register) == (24, 24)
