"""From prices to plans: every node is priced, plans add up, and nothing faster makes the best plan worse."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from hetcc.backends.contract import Rejected, Supported
from hetcc.cost_model import transfer as transfers
from hetcc.cost_model.device import load_device
from hetcc.cost_model.price import Bound
from hetcc.ir import OperatorClass, TaggedGraph, TensorType
from hetcc.passes.clusters import form_clusters
from hetcc.passes.estimate import HOST, DeviceSet, estimate
from hetcc.passes.place import finish, load_placer, place_optimal
from hetcc.plan.placement import Objective

from corpus.random_graphs import tagged_graphs
from corpus.scaled_devices import changed, faster, speed_numbers

ALMOST = 1 + 1e-9


class Takes:
    """A back end that takes every class but one."""

    def __init__(self, name, refused=None):
        self.name, self.refused, self.fault_code = name, refused, ""

    def verdict(self, graph, node):
        return Rejected("not this one") if node.operator_class is self.refused else Supported(self.name)

    def factor_type(self, graph, node, policy):
        return None


def devices(baseline="tuned", links="published", gpu="mi210", fpga="u55c"):
    profiles = {"gpu": load_device(gpu), "fpga": load_device(fpga), HOST: load_device("host")}
    supports = {"gpu": Takes("gpu", OperatorClass.NORMALIZATION), "fpga": Takes("fpga", OperatorClass.CONCAT)}
    return DeviceSet(profiles, supports, baseline, links)


def enlarged(tagged, rows, columns):
    """The same program over larger tensors."""
    kind = TensorType((rows, columns), next(iter(tagged.graph.values.values())).type.dtype)
    values = {name: replace(value, type=kind) for name, value in tagged.graph.values.items()}
    return TaggedGraph(replace(tagged.graph, values=values), tagged.tags)


SIDES = st.sampled_from([4, 64, 512, 2048, 8192])


@st.composite
def programs(draw):
    return enlarged(draw(tagged_graphs()), draw(SIDES), draw(SIDES))


def table_of(tagged, chosen, objective=None):
    return estimate(tagged.graph, form_clusters(tagged), chosen, objective or Objective())


@cache
def numbers_of(name):
    return [entry for entry in speed_numbers(load_device(name)) if "factor" not in entry[0]]


@given(programs(), st.sampled_from([("gpu", "mi210"), ("fpga", "u55c")]), st.data(), st.floats(1.0, 8.0),
       st.sampled_from(["tuned", "as-published"]), st.sampled_from([Objective(), Objective(0.0, 1.0)]))
@settings(max_examples=120)
def test_a_faster_device_never_makes_the_best_plan_worse(tagged, device, data, factor, baseline, objective):
    slot, name = device
    before = devices(baseline)
    path, more = data.draw(st.sampled_from(numbers_of(name)))
    profile = before.profiles[slot]
    # Less time is less energy only where the price of a byte or a flop stays: see test_energy.
    if objective.energy_weight and not path[-1].endswith("_s"):
        return
    after = replace(before, profiles={**before.profiles, slot: faster(profile, path, more, factor)})
    first, second = (place_optimal(table_of(tagged, chosen, objective).problem) for chosen in (before, after))
    assert second.lower_bound <= first.objective * ALMOST
    if first.gap < 1e-9 and second.gap < 1e-9:
        assert second.objective <= first.objective * ALMOST


@given(programs(), st.floats(1.0, 16.0), st.sampled_from(["tuned", "as-published"]))
@settings(max_examples=40)
def test_a_faster_link_never_makes_the_best_plan_worse(tagged, factor, baseline):
    chosen = devices(baseline, "pcie4-peer")
    before = place_optimal(table_of(tagged, chosen).problem)
    real = transfers.load_links("pcie4-peer")
    quick = {ends: changed(changed(link, ("latency_s",), 1 / factor), ("bandwidth_bytes_per_s",), factor)
             for link in real for ends in transfers.ends_of(link)}
    saved = transfers._directions
    try:
        transfers._directions = lambda links: quick
        after = place_optimal(table_of(tagged, chosen).problem)
    finally:
        transfers._directions = saved
    assert after.lower_bound <= before.objective * ALMOST
    if before.gap < 1e-9 and after.gap < 1e-9:
        assert after.objective <= before.objective * ALMOST


@given(programs(), st.sampled_from(["tuned", "as-published"]))
@settings(max_examples=60)
def test_every_node_is_priced_and_every_price_has_a_source(tagged, baseline):
    table = table_of(tagged, devices(baseline))
    clustering = form_clusters(tagged)
    priced = {node.name for found in table.estimates.values() for node in found.group.nodes}
    assert priced | clustering.free.keys() == {node.name for node in tagged.graph.nodes}
    for found in table.estimates.values():
        assert found.prices.keys() | found.rejections.keys() == {"gpu", "fpga", HOST}
        for price in found.prices.values():
            assert price.low_s <= price.time_s <= price.high_s
            assert price.sources or price.bound is Bound.FREE


@given(programs())
@settings(max_examples=40)
def test_a_plan_on_one_device_is_the_sum_of_its_parts(tagged):
    """Launches, clusters, what goes through the host, less what fusing saves; and no saving exceeds its clusters."""
    problem = table_of(tagged, devices()).problem
    placed = finish(problem, load_placer("gpu-only").place(problem, table_of(tagged, devices()).facts), "gpu-only", 0.0)
    total_s = sum(problem.launch[region.device].time_s for region in placed.regions)
    total_s += sum(cluster.costs[placed.device_of[cluster.name]].time_s for cluster in problem.clusters)
    region_of = placed.region_of
    for tensor in problem.tensors:
        home = region_of[tensor.producer].device
        targets = {placed.device_of[name] for name in tensor.consumers} - {home}
        total_s += sum(tensor.transfer[home, target].time_s for target in targets)
        saving = tensor.fusion_saving.get(home)
        if saving is not None and all(region_of[name] is region_of[tensor.producer] for name in tensor.consumers):
            total_s -= saving.time_s
            involved = (tensor.producer, *tensor.consumers)
            assert saving.time_s <= sum(problem.cluster_by_name[name].costs[home].time_s for name in involved) * ALMOST
    assert abs(placed.cost.time_s - total_s) <= 1e-12 + 1e-9 * total_s


@given(programs())
@settings(max_examples=150)
def test_no_cluster_is_saved_twice(tagged):
    problem = table_of(tagged, devices()).problem
    for device in ("gpu", "fpga"):
        involved = [name for tensor in problem.tensors if device in tensor.fusion_saving
                    for name in (tensor.producer, *tensor.consumers)]
        assert len(involved) == len(set(involved))
