"""The folder of a kernel: which files, the same bytes every time, and figures that follow from the structure."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.fpga import tools
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import choose
from hetcc.backends.fpga.costs.cycles import DSP_BUDGET, depth_of, estimate_cycles
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph
from hetcc.backends.fpga.vendor.packaging import banks_of
from hetcc.backends.fpga.xrt.xclbin import MAGIC, pack, unpack
from hetcc.errors import ToolError


def emitted(**options: bool) -> EmittedRegion:
    result = emit(sample.weighted_scan(), "region", **options)
    assert isinstance(result, EmittedRegion)
    return result


def composed(*sizes: int) -> StageGraph:
    graph = compose(sample.weighted_scan(*sizes))
    assert isinstance(graph, StageGraph)
    return graph


def test_the_folder_holds_what_the_vendor_tools_and_the_runtime_need() -> None:
    found = emitted()
    folder = found.entry.rpartition("/")[0]
    assert {name.removeprefix(f"{folder}/") for name in found.files} == {
        "stages.json", "report.json", "kernel.xml", "connectivity.cfg", "package_kernel.tcl", "Makefile",
        "emulation.xclbin"}
    assert found.entry in found.files
    assert "emulated" in found.engine
    assert emitted() == found
    report = json.loads(found.files[f"{folder}/report.json"])
    assert report["verilog"] is None
    assert report["without_verilog_because"] == "not asked for"
    assert "estimated" in report
    roles = [entry["role"] for entry in report["interface"]]
    assert roles == ["input", "input", "input", "input", "input", "table", "output"]


def test_metadata_names_every_argument_and_bank() -> None:
    found = emitted()
    folder = found.entry.rpartition("/")[0]
    root = ElementTree.fromstring(found.files[f"{folder}/kernel.xml"])
    kernel = root.find(".//kernel")
    assert kernel is not None
    arguments = kernel.findall("args/arg")
    assert [argument.get("id") for argument in arguments] == [str(at) for at in range(9)]
    connections = found.files[f"{folder}/connectivity.cfg"].decode()
    for at, bank in enumerate(banks_of(composed())):
        assert f"HBM[{bank}]" in connections, at


def test_a_region_that_cannot_stream_is_rejected_with_its_name() -> None:
    verdict = emit(sample.single_scan(rows=8192, k=5000), "layer 7")
    assert isinstance(verdict, Rejected)
    assert verdict.rule.startswith("layer 7: ")


def test_verilog_is_written_once_per_unit_and_named_ports() -> None:
    found = emitted(with_verilog=True)
    folder = found.entry.rpartition("/")[0]
    text = found.files[f"{folder}/kernel.v"].decode()
    assert text.count("module hetcc_fp32_multiply(") == 1
    assert text.count("module hetcc_fp32_add(") == 1
    kernel = json.loads(found.files[f"{folder}/report.json"])["kernel"]
    header = text[text.index(f"module {kernel}("):]
    header = header[:header.index(";")]
    assert "\\" not in header
    for port in ("ap_clk", "ap_rst_n", "interrupt", "s_axi_control_awaddr", "m_axi_gmem0_wstrb", "m_axi_gmem1_araddr"):
        assert port in header


def test_beyond_the_limits_there_is_no_verilog_and_the_report_says_why() -> None:
    found = emit(sample.single_scan(depth=300), "region", with_verilog=True, policy="quantised:int8")
    assert isinstance(found, EmittedRegion)
    folder = found.entry.rpartition("/")[0]
    assert f"{folder}/kernel.v" not in found.files
    assert "adder tree" in json.loads(found.files[f"{folder}/report.json"])["without_verilog_because"]


# ---- figures


def test_the_model_size_uses_the_card_within_its_budget() -> None:
    graph = composed(1, 1, 64, 128, 131072, 2048)
    found = estimate_cycles(graph)
    assert found.dsp <= DSP_BUDGET
    # Three rows of 64 heads at 8 lanes take 8 cycles; 512 bytes per row take less from six channels.
    assert (choose(graph).lanes, choose(graph).together, found.row_interval_cycles) == (8, 3, 8 / 3)
    assert found.cycles == math.ceil(131072 * 8 / 3) + found.fill_cycles + 128
    assert found.time_s == pytest.approx(found.cycles / 300e6)


def test_cycles_are_rows_times_interval_per_instance() -> None:
    one, many = (estimate_cycles(replace(composed(batch, tokens, 2, 4, 64, 4), parallel=Parallelism(2)))
                 for batch, tokens in ((1, 1), (2, 3)))
    assert (one.instances, many.instances) == (1, 6)
    assert many.row_interval_cycles == one.row_interval_cycles == 1
    assert many.cycles - 6 * 64 - 6 * many.fill_cycles == 2 * 3 * 4


@pytest.mark.parametrize(("terms", "depth"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7)])
def test_tree_depth(terms: int, depth: int) -> None:
    assert depth_of(terms) == depth


# ---- the container


def test_the_container_is_laid_out_as_xrt_reads_it() -> None:
    content = pack("k", (0, 3), b"<project/>", b"stages")
    assert content[:8] == MAGIC
    assert struct.unpack_from("<i", content, 8) == (-1,)
    # axlf: magic 8, signature length 4, reserved 28, key block 256, unique id 8, then the 152-byte header.
    length, = struct.unpack_from("<Q", content, 304)
    assert length == len(content)
    sections, = struct.unpack_from("<I", content, 304 + 144)
    assert sections == 9
    for at in range(sections):
        kind, offset, size = struct.unpack_from("<I20xQQ", content, 456 + 40 * at)
        assert offset % 8 == 0
        assert offset + size <= len(content)
        if kind == 8:
            assert size == 8 + 80
        if kind == 6:
            assert size == 8 + 32 * 40
    opened = unpack(content)
    assert (opened.kernel, opened.banks, opened.emulation_data) == ("k", (0, 3), b"stages")


@pytest.mark.parametrize("damage", [b"", b"xclbin2\0", b"not an xclbin" * 100])
def test_anything_else_is_not_a_container(damage: bytes) -> None:
    with pytest.raises(ValueError, match="not an xclbin"):
        unpack(damage)


def test_missing_and_failing_programs_are_tool_errors(tmp_path: pytest.TempPathFactory) -> None:
    with pytest.raises(ToolError, match="HET-T001"):
        tools.run(["no-such-program-anywhere"], tmp_path)
    with pytest.raises(ToolError, match="HET-T002"):
        tools.run(["false"], tmp_path)
