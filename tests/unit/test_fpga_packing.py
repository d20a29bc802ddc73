"""Kernels into files: as few as possible, within margins and channels, and what another file costs a step."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.unit_resources import CARD, Resources
from hetcc.backends.fpga.memory.memory_map import HBM_BANK_BYTES, Master, MemoryMap
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.vendor.packing import (
    Demand,
    Packing,
    Table,
    count_loads,
    demand_of,
    fits,
    link_config,
    pack,
    to_json,
)
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest
from hetcc.cost_model.price import reconfiguration
from hetcc.emission import Emission
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.pipeline import build_plan, compile_captured, device_set
from hetcc.report.packing_text import packing_block
from hetcc.sharing import with_loads
from hetcc.stopwatch import Stopwatch

from corpus import doors

SEQUENCE: dict[str, list[str]] = {}


def demand(name: str, share: float, masters: int = 2, tables: tuple[Table, ...] = ()) -> Demand:
    """A kernel that takes a share of every resource of the card."""
    memory = MemoryMap(tuple(Master(number, True, number) for number in range(masters)), ())
    return Demand(name, CARD.times(share), memory, tables)


def names(packing: Packing) -> set[frozenset[str]]:
    return {frozenset(placed.demand.kernel for placed in one.kernels) for one in packing.packs}


def test_kernels_share_a_file_within_the_margin() -> None:
    packing = pack([demand("a", 0.4), demand("b", 0.3), demand("c", 0.35), demand("d", 0.35)], SEQUENCE)
    assert names(packing) == {frozenset("ab"), frozenset("cd")}
    assert packing.proved and all(one.fits for one in packing.packs)
    assert pack([], SEQUENCE).packs == ()


def test_first_fit_is_not_enough() -> None:
    shares = {"a": 0.28, "b": 0.26, "c": 0.22, "d": 0.22, "e": 0.21, "f": 0.21}
    packing = pack([demand(name, share) for name, share in shares.items()], SEQUENCE)
    assert len(packing.packs) == 2, names(packing)


@pytest.mark.parametrize("seed", range(12))
def test_no_packing_of_fewer_files_exists(seed: int) -> None:
    choose = random.Random(seed)
    kernels = [demand(str(at), choose.choice([0.1, 0.2, 0.23, 0.3, 0.35, 0.4, 0.6])) for at in range(6)]
    phases = {"step": choose.choices([one.kernel for one in kernels], k=5)}
    packing = pack(kernels, phases)

    def every(at: int, groups: list[list[Demand]]) -> list[tuple[int, int]]:
        if at == len(kernels):
            return [(len(groups), count_loads(groups, phases["step"]))]
        found = []
        for place in range(len(groups) + 1):
            grown = [list(group) for group in groups] + [[]]
            grown[place].append(kernels[at])
            grown = [group for group in grown if group]
            if fits(grown[min(place, len(grown) - 1)]):
                found += every(at + 1, grown)
        return found

    best = min(every(0, []))
    assert (len(packing.packs), packing.loads["step"]) == best
    used = [one.resources.lut for one in packing.packs]
    assert all(lut <= 0.7 * CARD.lut + 1e-3 for lut in used)


def test_a_kernel_beyond_the_margin_is_alone_and_said_so() -> None:
    packing = pack([demand("large", 0.9), demand("small", 0.1)], SEQUENCE)
    assert names(packing) == {frozenset({"large"}), frozenset({"small"})}
    assert {one.kernels[0].demand.kernel: one.fits for one in packing.packs} == {"large": False, "small": True}


def test_dies_are_filled_from_the_memory_on_and_large_kernels_span_them() -> None:
    packing = pack([demand("wide", 0.3), demand("b", 0.2), demand("c", 0.1)], SEQUENCE)
    assert {placed.demand.kernel: placed.die for placed in packing.packs[0].kernels} == {"wide": None, "b": 0, "c": 1}


def test_shared_tables_have_the_same_channels_and_others_have_not() -> None:
    table = Table((1, 2), frozenset({"keys0", "keys1"}), HBM_BANK_BYTES // 4)
    other = Table((1, 2), frozenset({"keys1"}), HBM_BANK_BYTES // 4)
    apart = Table((1,), frozenset({"values"}), HBM_BANK_BYTES // 4)
    packing = pack([demand("a", 0.1, 3, (table,)), demand("b", 0.1, 3, (other,)), demand("c", 0.1, 2, (apart,))],
                   SEQUENCE)
    channels = {placed.demand.kernel: placed.channels for placed in packing.packs[0].kernels}
    assert channels["a"][1:] == channels["b"][1:]
    assert not set(channels["c"][1:]) & set(channels["a"])
    assert all(first <= last for of in channels.values() for first, last in of)


def test_a_table_takes_as_many_channels_as_its_caches_fill() -> None:
    table = Table((1,), frozenset(f"keys{at}" for at in range(12)), HBM_BANK_BYTES // 2)
    placed = pack([demand("a", 0.1, 2, (table,))], SEQUENCE).packs[0].kernels[0]
    first, last = placed.channels[1]
    assert last - first + 1 == 6
    config = link_config(pack([demand("a", 0.1, 2, (table,))], SEQUENCE).packs[0], 250e6).decode()
    assert f"sp=a_1.m_axi_gmem1:HBM[{first}:{last}]" in config
    assert "nk=a:1:a_1" in config and "slr=a_1:SLR0" in config and "defaultFreqHz=250000000" in config


def test_channels_limit_a_file_too() -> None:
    kernels = [demand(name, 0.1, 17, (Table(tuple(range(1, 17)), frozenset({name}), 64),)) for name in "ab"]
    assert len(pack(kernels, SEQUENCE).packs) == 2
    shared = [demand(name, 0.1, 17, (Table(tuple(range(1, 17)), frozenset({"keys"}), 64),)) for name in "ab"]
    assert len(pack(shared, SEQUENCE).packs) == 1


def test_another_file_is_loaded_when_a_step_needs_it() -> None:
    kernels = [demand(name, 0.35) for name in "abc"]
    groups = [[kernels[0], kernels[1]], [kernels[2]]]
    assert count_loads(groups, "ab") == 0
    assert count_loads(groups, "abc") == 2
    assert count_loads(groups, "acbc") == 4
    assert count_loads(groups, "c") == count_loads(groups, "") == 0
    packing = pack(kernels, {"decode": list("acacb"), "prefill": ["b"]})
    assert frozenset("ac") in names(packing)
    assert packing.loads == {"decode": 2, "prefill": 0}
    document = to_json(packing, 2.0, 30.0)
    assert document["loads"] == {"decode": {"per_step": 2, "time_s": 4.0, "energy_j": 60.0},
                                 "prefill": {"per_step": 0, "time_s": 0.0, "energy_j": 0.0}}
    json.dumps(document)


def test_demands_come_from_the_kernel_itself() -> None:
    graph = compose(sample.weighted_scan(1, 1, 2, 4, 16, 4))
    assert isinstance(graph, StageGraph)
    uses = [[f"{buffer.name}.{layer}" for buffer in graph.buffers] for layer in range(3)]
    found = demand_of("k", graph, uses)
    assert len(found.tables) == 1
    assert len(found.tables[0].caches) == 3
    assert found.tables[0].part_bytes >= 16 * 4 * 4
    assert 0 in found.small
    assert found.resources.dsp > 0
    assert isinstance(found.resources, Resources)
    assert set(itertools.chain(found.small, found.tables[0].masters)) == set(range(len(found.memory.masters)))


def test_loading_other_files_is_part_of_the_predicted_latency() -> None:
    captured = capture(CaptureRequest(f"{doors.__file__}:sparse_block"))
    options = CompileOptions(captured.request, choice=PlacementChoice(forced=(("relevancy", "fpga"),)), emit="never",
                             robustness_samples=0)
    compiled = compile_captured(captured, options, None, force=False, watch=Stopwatch())
    devices = device_set(options)
    plain, loading = (build_plan(captured, tuple(with_loads(phase, loads, devices.profiles["fpga"])
                                                 for phase in compiled.phases), options, devices, Emission(), fits=True)
                      .phase("decode").prediction for loads in (0, 2))
    load = reconfiguration(devices.profiles["fpga"])
    assert load.time_s > 0
    assert (plain.reconfiguration_s, loading.reconfiguration_s) == (0.0, 2 * load.time_s)
    assert loading.latency_s == pytest.approx(plain.latency_s + 2 * load.time_s)
    assert loading.energy_j == pytest.approx(plain.energy_j + 2 * load.energy_j)
    assert loading.gpu_only_latency_s == plain.gpu_only_latency_s


def test_explain_shows_files_shares_and_loads() -> None:
    packing = pack([demand("a", 0.4), demand("b", 0.35), demand("c", 0.9)], {"decode": list("ab"), "prefill": ["b"]})
    document = json.loads(json.dumps(to_json(packing, 2.0, 24.0)))
    text = packing_block(document, "decode")
    assert "FPGA kernels in 3 xclbins (estimated; shares of the card, at most 70%)" in text
    assert "does not fit" in text and "40.0%" in text
    assert "loads per step: 2, 4 s of the predicted latency (assumed)" in text
    assert packing_block(document, "prefill").endswith("loads per step: none")
    assert packing_block(None, "decode") == ""
