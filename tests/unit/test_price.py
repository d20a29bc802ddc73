"""Device profiles, prices and transfers against published numbers."""

from __future__ import annotations

import datetime
import itertools
import json
import tomllib

import pytest

from hetcc.cost_model.device import (
    DEVICES_FOLDER,
    SCHEMA_FILE,
    Achieved,
    Device,
    list_devices,
    load_device,
    schema_text,
)
from hetcc.cost_model.price import FREE, Bound, parts_of, price, region_launch
from hetcc.cost_model.quantity import Corner, Provenance, Quantity, worst
from hetcc.cost_model.transfer import (
    LINKS_FILE,
    LINKS_SCHEMA_FILE,
    link_between,
    links_schema_text,
    list_link_sets,
    load_links,
    route,
    transfer,
    transfer_time_s,
)
from hetcc.cost_model.work import Work
from hetcc.errors import UserError
from hetcc.ir import DType, OperatorClass

F32, BF16 = DType.FLOAT32, DType.BFLOAT16
PROFILES = [*sorted(DEVICES_FOLDER.glob("*.toml")), LINKS_FILE]
STRUCTURAL = {"up_to_bytes", "at"}
"""Plain numbers that are part of a formula's form rather than facts about a device."""


def all_links():
    return [link for name in list_link_sets() for link in load_links(name)]


def bare_numbers(tree, path=""):
    """Paths of numbers that are not inside a quantity."""
    if isinstance(tree, dict):
        if {"value", "unit"} <= tree.keys():
            return
        for key, branch in tree.items():
            if key not in STRUCTURAL:
                yield from bare_numbers(branch, f"{path}.{key}")
    elif isinstance(tree, list):
        for index, branch in enumerate(tree):
            yield from bare_numbers(branch, f"{path}[{index}]")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield path


def quantities(tree):
    if isinstance(tree, dict):
        if {"value", "unit"} <= tree.keys():
            yield tree
        else:
            for branch in tree.values():
                yield from quantities(branch)
    elif isinstance(tree, list):
        for branch in tree:
            yield from quantities(branch)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_number_says_where_it_comes_from(path):
    tree = tomllib.loads(path.read_text())
    assert list(bare_numbers(tree)) == []
    found = [Quantity.model_validate(entry) for entry in quantities(tree)]
    assert len(found) > 10
    for quantity in found:
        assert quantity.date <= datetime.date.today()
        if quantity.kind is Provenance.ASSUMED:
            assert quantity.low < quantity.high, f"an assumption without a range: {quantity.source}"


def test_numbers_without_provenance_are_refused(tmp_path):
    text = (DEVICES_FOLDER / "mi210.toml").read_text()
    assert text.count('source = "AMD Instinct MI210 data sheet"') > 3
    broken = tmp_path / "broken.toml"
    start = text.index("bandwidth_bytes_per_s")
    broken.write_text(text[:start] + text[start:].replace(', source = "AMD Instinct MI210 data sheet"', "", 1))
    with pytest.raises(UserError, match=r"bandwidth_bytes_per_s\.source: Field required") as caught:
        load_device(str(broken))
    assert caught.value.code == "HET-M002"


def test_the_published_schemas_are_the_ones_in_use():
    from jsonschema import Draft202012Validator

    assert LINKS_SCHEMA_FILE.read_text() == links_schema_text()
    tree = json.loads(json.dumps(tomllib.loads(LINKS_FILE.read_text()), default=str))
    assert list(Draft202012Validator(json.loads(links_schema_text())).iter_errors(tree)) == []
    assert SCHEMA_FILE.read_text() == schema_text()
    validator = Draft202012Validator(json.loads(schema_text()))
    for name in list_devices():
        tree = json.loads(json.dumps(tomllib.loads((DEVICES_FOLDER / f"{name}.toml").read_text()), default=str))
        assert list(validator.iter_errors(tree)) == []


def test_known_devices_and_unknown_ones(tmp_path):
    assert set(list_devices()) == {"a100", "epyc9654", "h100", "h200", "host", "mi210", "mi300x", "u280", "u55c", "v80",
                                   "vu47p"}
    with pytest.raises(UserError, match="known: a100, epyc9654, h100") as caught:
        load_device("mi300")
    assert caught.value.code == "HET-M001"
    with pytest.raises(UserError, match="there is no file"):
        load_device(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="has no baseline 'magic'"):
        load_device("mi210").baseline("magic")
    text = tmp_path / "text.toml"
    text.write_text("this is not toml")
    with pytest.raises(UserError, match="not a device profile"):
        load_device(str(text))


def test_the_default_gpu_baseline_is_the_tuned_one():
    for name in ("mi210", "mi300x", "a100", "h100", "h200"):
        assert load_device(name).default_baseline == "tuned"


def test_a_range_that_does_not_hold_its_value_is_refused():
    with pytest.raises(ValueError, match="not between"):
        Quantity(value=3.0, unit="s", low=1.0, high=2.0, kind="assumed", source="a reason", date="2026-11-20")


def test_the_worst_provenance_wins():
    def known(kind):
        return Quantity(value=1, unit="1", low=1, high=1, kind=kind, source="a reason", date="2026-11-20")

    assert worst([known("measured"), known("published")]) is Provenance.PUBLISHED
    assert worst([known("assumed"), known("measured")]) is Provenance.ASSUMED


# Artefact of arXiv 2603.29002: step, flops, bytes, class, GPU measured us, FPGA model us without hand-added overhead.
PUBLISHED_STEPS = [
    ("index build", 1_667_000_000, 205_900_000, OperatorClass.REDUCTION, 250.0),
    ("inner product", 2_100_000, 4_227_584, OperatorClass.MATMUL, 82.5),
    ("top-k", 0, 33_280, OperatorClass.TOPK, 36.2),
    ("attention", 1_580_000, 3_150_000, OperatorClass.ATTENTION, 7.6),
]


@pytest.mark.parametrize(("step", "flops", "size", "operator_class", "measured_us"), PUBLISHED_STEPS,
                         ids=[row[0] for row in PUBLISHED_STEPS])
def test_the_as_published_baseline_gives_the_published_times(step, flops, size, operator_class, measured_us):
    item = (Work(flops, size, 0, 8192), operator_class, F32)
    published = price([item], load_device("mi210"), "as-published")
    assert published.time_s * 1e6 == pytest.approx(measured_us, rel=0.05)
    assert price([item], load_device("mi210")).time_s < published.time_s
    assert published.low_s <= published.time_s <= published.high_s


def test_the_published_fpga_inner_product():
    """10.94 us: 4.23 MB at 391 GB/s and 0.1 us more."""
    item = (Work(2_100_000, 4_194_816, 32_768, 8192), OperatorClass.MATMUL, F32)
    found = price([item], load_device("u55c"))
    assert found.time_s * 1e6 == pytest.approx(10.94, rel=0.01)
    assert found.bound is Bound.MEMORY


def test_fp32_lanes_follow_from_the_dsp_count():
    macs = 10**9
    found = price([(Work(2 * macs, 0, 1), OperatorClass.MATMUL, F32)], load_device("u55c"))
    lanes = 9024 * 0.7 / 2
    assert found.time_s == pytest.approx(macs / lanes / 250e6 + 1e-7, rel=1e-9)
    assert found.bound is Bound.COMPUTE


def test_the_production_indexer_is_not_for_the_fpga():
    """64 heads x 128 for 131,072 keys: hundreds of us on the U55C, tens on a tuned MI210."""
    flops, size = 2 * 64 * 128 * 131_072, 128 * 2 * 131_072
    item = (Work(flops, size, 0, 131_072), OperatorClass.MATMUL, BF16)
    assert price([item], load_device("u55c")).time_s > 300e-6
    assert price([item], load_device("mi210")).time_s < 100e-6


def test_stages_of_a_streaming_region_run_at_the_same_time():
    device = load_device("u55c")
    top = (Work(0, 0, 512, 131_072), OperatorClass.TOPK, F32)
    sums = (Work(131_072, 0, 0, 131_072), OperatorClass.REDUCTION, F32)
    assert price([top], device).time_s == pytest.approx(131_072 / 16 / 250e6 + 1e-7)
    filled_s = 27 / 250e6
    assert price([top, sums], device).time_s == pytest.approx(price([top], device).time_s + filled_s)


def test_no_work_is_free_everywhere():
    for name in list_devices():
        device = load_device(name)
        assert price([], device) == FREE
        assert parts_of([], device, device.baseline(), Corner.LIKELY).time_s == 0.0
        assert price([(Work(), OperatorClass.VIEW, F32)], device) == FREE


def test_bytes_without_flops_and_flops_without_bytes():
    device = load_device("mi210")
    copy = price([(Work(0, 10**9, 10**9), OperatorClass.COPY, F32)], device)
    assert copy.bound is Bound.MEMORY
    assert copy.time_s == pytest.approx(2e9 / (1.6384e12 * 0.8) + 2e-6 + 1e-6)
    product = price([(Work(10**12, 0, 0), OperatorClass.MATMUL, BF16)], device)
    assert product.bound is Bound.COMPUTE
    assert product.time_s == pytest.approx(1e12 / (181e12 * 0.6) + 2e-6 + 1e-6)
    assert product.energy_j == pytest.approx(product.time_s * 25.0 + 1e12 / 181e12 * 225.0)


def test_a_tie_between_memory_and_compute_counts_as_memory():
    def number(value, unit):
        return Quantity(value=value, unit=unit, low=value, high=value, kind="assumed", source="a reason",
                        date="2026-11-20")

    host = load_device("host")
    whole = Achieved(bandwidth_fraction=number(1, "1"), compute_fraction=number(1, "1"))
    device = host.model_copy(update={
        "memory": host.memory.model_copy(update={"bandwidth_bytes_per_s": number(2**30, "B/s")}),
        "vector_flops_per_s": {F32: number(2**31, "flop/s")},
        "baselines": {"eager": host.baseline().model_copy(update={"achieved": {"default": whole}})}})
    assert price([(Work(2**41, 2**40, 0), OperatorClass.COPY, F32)], device).bound is Bound.MEMORY
    assert price([(Work(2**41 + 2**20, 2**40, 0), OperatorClass.COPY, F32)], device).bound is Bound.COMPUTE


def test_a_tiny_operator_is_launch_bound():
    found = price([(Work(1, 4, 4, 1), OperatorClass.ELEMENTWISE, F32)], load_device("mi210"))
    assert found.bound is Bound.LAUNCH
    assert found.source is Provenance.ASSUMED


def test_types_without_a_rate_use_the_next_wider_one():
    device = load_device("mi210")
    half = price([(Work(10**12, 0, 1), OperatorClass.MATMUL, DType.FLOAT16)], device).time_s
    assert price([(Work(10**12, 0, 1), OperatorClass.MATMUL, DType.FLOAT8_E4M3FN)], device).time_s == half
    assert price([(Work(10**12, 0, 1), OperatorClass.MATMUL, DType.INT64)], device).time_s > half


def test_an_fpga_launch_costs_what_was_measured():
    launch = region_launch(load_device("u55c"))
    assert launch.time_s == pytest.approx(14e-6)
    assert launch.source is Provenance.MEASURED


def test_profiles_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_device("mi210").name = "other"
    assert isinstance(load_device("mi210"), Device)


@pytest.mark.parametrize(("source", "destination", "size_bytes", "published_us"), [
    ("gpu", "fpga", 1024, 4.67), ("fpga", "gpu", 1024, 3.14), ("fpga", "gpu", 256, 0.87), ("fpga", "gpu", 4 << 20, 912),
])
def test_the_published_fit(source, destination, size_bytes, published_us):
    assert link_between(source, destination).fitted_time_s(size_bytes) * 1e6 == pytest.approx(published_us, rel=0.01)


def test_copies_below_what_the_fit_speaks_about_cost_as_much_as_the_smallest():
    assert transfer_time_s("fpga", "gpu", 4) == transfer_time_s("fpga", "gpu", 1024) == pytest.approx(3.14e-6, rel=0.01)


def test_no_bytes_and_no_distance_cost_nothing():
    assert transfer_time_s("gpu", "fpga", 0) == 0.0
    assert transfer_time_s("gpu", "gpu", 10**9) == 0.0
    for link in all_links():
        assert link.time_s(0) == 0.0


def test_a_staged_copy_pays_both_hops():
    staged = transfer("gpu", "fpga", 1 << 20, peer_to_peer=False)
    hops = transfer_time_s("gpu", "host", 1 << 20) + transfer_time_s("host", "fpga", 1 << 20)
    assert staged.time_s == pytest.approx(hops)
    by_profile = transfer(load_device("mi210"), load_device("u55c"), 1 << 20)
    assert by_profile == transfer("gpu", "fpga", 1 << 20)
    assert transfer("gpu", "fpga", 1 << 20).low_s < transfer("gpu", "fpga", 1 << 20).high_s


def test_unknown_ends_and_sets_are_refused():
    with pytest.raises(UserError, match="no kind of device"):
        transfer_time_s("gpu", "tpu", 1)
    with pytest.raises(UserError, match="no set of links is called 'pigeon'; known: published"):
        transfer_time_s("gpu", "fpga", 1, "pigeon")
    with pytest.raises(UserError, match="no link leads from 'gpu' to 'fpga' in 'pcie4-staged'"):
        link_between("gpu", "fpga", "pcie4-staged")


@pytest.mark.parametrize("links", list_link_sets())
def test_every_set_joins_all_kinds_of_device(links):
    for ends in itertools.permutations(("gpu", "fpga", "host"), 2):
        sizes = [0, 1, 64, 4096, 1 << 20, 1 << 30]
        times = [transfer_time_s(*ends, size, links) for size in sizes]
        assert times[0] == 0.0 and times == sorted(times) and times[1] > 0.0
        found = transfer(*ends, 4096, links=links)
        assert found.low_s < found.time_s < found.high_s and found.energy_j > 0.0
        assert len(route(*ends, links=links)) == (2 if "staged" in links and "host" not in ends else 1)


def test_a_newer_link_is_not_slower():
    for size in (1, 4096, 1 << 20, 1 << 26):
        for kind in ("staged", "peer"):
            times = [transfer_time_s("gpu", "fpga", size, f"pcie{generation}-{kind}") for generation in (3, 4, 5)]
            assert times == sorted(times, reverse=True)
        assert transfer_time_s("gpu", "fpga", size, "cxl3") < transfer_time_s("gpu", "fpga", size, "cxl2")


def test_corners_are_ordered():
    for link in all_links():
        times = [link.time_s(4096, corner) for corner in (Corner.FAST, Corner.LIKELY, Corner.SLOW)]
        assert times == sorted(times)
