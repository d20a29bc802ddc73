"""Which index stays on chip, and that the whole price list of a corpus graph is complete."""

from __future__ import annotations

import pytest

from hetcc.backends.contract import Supported
from hetcc.cost_model.device import load_device
from hetcc.cost_model.fpga import on_chip_budget
from hetcc.cost_model.price import Bound
from hetcc.cost_model.work import works_of
from hetcc.ir import Stage
from hetcc.options import CompileOptions
from hetcc.passes.clusters import form_clusters
from hetcc.passes.estimate import HOST, DeviceSet, count_work, estimate, keep_indices, scanned_bytes, with_resident
from hetcc.passes.normalize import Simplify
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.pipeline import device_set
from hetcc.plan.placement import Objective

from corpus.graphs import (
    attention_with_sink,
    dense_attention,
    expert_routing,
    sparse_selection,
    table_lookup,
    threshold_selection,
)
from corpus.tiny import tiny

CORPUS = [sparse_selection, threshold_selection, expert_routing, dense_attention, attention_with_sink, table_lookup]


class Everything:
    name = "everything"
    fault_code = ""

    def verdict(self, graph, node):
        return Supported("any")

    def factor_type(self, graph, node, policy):
        return None


def prepared(make, **sizes):
    tagged = TagMemoryPipeline().run(Simplify().run(make(**sizes)))
    return tagged, form_clusters(tagged)


@pytest.mark.parametrize("make", CORPUS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("fpga", ["u55c", "v80"])
@pytest.mark.parametrize("baseline", ["tuned", "as-published"])
def test_every_node_of_the_corpus_is_priced_with_a_source(make, fpga, baseline):
    tagged, clustering = prepared(make)
    table = estimate(tagged.graph, clustering, device_set(CompileOptions(tiny("llama"), fpga=fpga, baseline=baseline)),
                     Objective())
    priced = {node.name for found in table.estimates.values() for node in found.group.nodes}
    assert priced | clustering.free.keys() == {node.name for node in tagged.graph.nodes}
    assert table.estimates
    for found in table.estimates.values():
        assert found.prices.keys() | found.rejections.keys() == {"gpu", "fpga", HOST}
        for price in found.prices.values():
            assert price.sources or price.bound is Bound.FREE
            assert price.low_s <= price.time_s <= price.high_s and price.low_j <= price.energy_j <= price.high_j


def kept_bytes(context, fpga="u55c", baseline="as-published"):
    """(block RAM, ultra RAM) that the index of a selection over ``context`` keys of 64 bytes takes."""
    tagged, clustering = prepared(sparse_selection, context=context, width=16)
    profiles = {"gpu": load_device("mi210"), "fpga": load_device(fpga), HOST: load_device("host")}
    devices = DeviceSet(profiles, {"gpu": Everything(), "fpga": Everything()}, baseline)
    counted = count_work(tagged.graph, clustering, devices)
    resident = [work.resident for items in counted.values() for work, _, _ in items if any(work.resident)]
    assert len(resident) <= 1
    return resident[0] if resident else (0, 0)


def test_an_index_goes_to_block_ram_first_then_to_ultra_ram_and_the_rest_stays_in_memory():
    bram, uram = on_chip_budget(load_device("u55c").streaming)
    assert kept_bytes(1024) == (1024 * 64, 0)
    assert kept_bytes(bram // 64 + 1000) == (bram, (bram // 64 + 1000) * 64 - bram)
    assert kept_bytes(1 << 20) == (bram, uram)
    assert kept_bytes(1024, baseline="tuned") == (0, 0), "hardware that reads memory anew keeps nothing"


def test_layers_share_one_budget():
    tagged, clustering = prepared(sparse_selection, context=32, width=16)
    first = next(group for group in clustering.groups if group.stage is Stage.RELEVANCY)
    items = works_of(first.nodes, tagged.graph)
    size_bytes = scanned_bytes(tagged.graph.values, items)
    assert size_bytes == 32 * 64, "32 keys of 64 bytes each"
    kept = keep_indices([("first", size_bytes), ("second", size_bytes), ("third", size_bytes)], (3000, 700))
    assert kept == {"first": (2048, 0), "second": (952, 700), "third": (0, 0)}
    marked = [work.resident for work, _, _ in with_resident(items, kept["second"])]
    assert sorted(marked)[-1] == (952, 700) and marked.count((0, 0)) == len(marked) - 1
    assert with_resident((), (1, 1)) == ()


def test_links_are_named_in_the_table():
    tagged, clustering = prepared(sparse_selection)
    options = CompileOptions(tiny("llama"), links="cxl3")
    table = estimate(tagged.graph, clustering, device_set(options), Objective())
    plain = estimate(tagged.graph, clustering, device_set(CompileOptions(tiny("llama"))), Objective())
    assert (table.links, plain.links) == ("cxl3", "published")
    pairs = zip(table.problem.tensors, plain.problem.tensors, strict=True)
    assert all(quick.transfer["gpu", "fpga"].time_s < slow.transfer["gpu", "fpga"].time_s for quick, slow in pairs
               if slow.transfer["gpu", "fpga"].time_s)
