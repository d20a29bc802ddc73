"""``hetcc build`` with fakes of the vendor's tools: order, what is handed over, resuming, caching, reading back.

The fakes are ``tests/corpus/fake_vendor``; nothing here says anything about the real tools.
"""

from __future__ import annotations

import json
import shutil
import stat
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from hetcc.backends.fpga.vendor.reports import Timing, timing_of, utilisation_of
from hetcc.backends.fpga.xrt.xclbin import Kind, Section, write_sections
from hetcc.cost_model.device import load_device
from hetcc.plan.bundle import write_bundle
from hetcc.plan.plan import DeviceSpec, Plan, plan_to_bytes

from corpus.command_line import hetcc

FAKES = Path(__file__).resolve().parents[1] / "corpus" / "fake_vendor"
KERNELS = {"hetcc_a": 100.0, "hetcc_b": 200.0, "hetcc_c": 300.0}
PACKS = {"pack0": ("hetcc_a", "hetcc_b"), "pack1": ("hetcc_c",)}


def bundle_with(folder: Path, verilog: str = "", without: str = "") -> Path:
    """A bundle with two xclbins and nothing else to run."""
    resources = dict.fromkeys(("lut", "register", "dsp", "bram36", "uram"), 1.0)
    files: dict[str, bytes] = {}
    for kernel, lut in KERNELS.items():
        home = f"fpga/folder_of_{kernel}"
        if kernel != without:
            files[f"{home}/kernel.v"] = f"module {kernel}(ap_clk);{verilog}\nendmodule\n".encode()
        files[f"{home}/kernel.xml"] = b"<root/>"
        files[f"{home}/package_kernel.tcl"] = (
            f"add_files kernel.v\nset_property top {kernel} [current_fileset]\n"
            f"package_xo -xo_path {kernel}.xo -kernel_name {kernel} -kernel_xml kernel.xml\n").encode()
        files[f"{home}/report.json"] = json.dumps({
            "kernel": kernel, "platform": "u55c", "without_verilog_because": "too wide", "lut": lut}).encode()
    packing = {"xclbins": [{"name": name, "kernels": [
        {"kernel": kernel, "resources": {**resources, "lut": KERNELS[kernel]}} for kernel in members]}
        for name, members in PACKS.items()]}
    files["fpga/packing.json"] = json.dumps(packing).encode()
    for name, members in PACKS.items():
        files[f"fpga/{name}/link.cfg"] = "".join(f"nk={kernel}:1:{kernel}_1\n" for kernel in members).encode()
    device = DeviceSpec(name="fpga", profile="u55c", capacity_bytes=0)
    plan = Plan(model="m", dtype="float32", targets=(), fits=True, ignore_capacity=False, devices=(device,), phases=())
    return write_bundle(folder, {**files, "plan.json": plan_to_bytes(plan)}, replace=True)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with fakes on PATH and an empty cache."""
    fakes = tmp_path / "fakes"
    shutil.copytree(FAKES, fakes)
    clocks = struct.pack("<hHB5x128s", 1, 212, 1, b"DATA_CLK")
    (fakes / "made.xclbin").write_bytes(write_sections([Section(Kind.CLOCK_FREQ_TOPOLOGY, clocks)], 0))
    for name, script in (("vivado", "fake_vivado.py"), ("v++", "fake_linker.py v++"),
                         ("emconfigutil", "fake_linker.py emconfigutil")):
        place = fakes / name
        program, *words = script.split()
        command = f'"{sys.executable}" -I -S "{fakes / program}" {" ".join(words)} "$@"'
        place.write_text(f"#!/bin/sh\n# FAKE\nexec {command}\n")
        place.chmod(place.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fakes}:/usr/bin:/bin")
    monkeypatch.setenv("HETCC_CACHE", str(tmp_path / "cache"))
    bundle_with(tmp_path / "bundle")
    return tmp_path


def calls(workplace: Path) -> list[str]:
    """What was called, without asking for versions."""
    lines = (workplace / "fakes" / "calls.log").read_text().splitlines()
    return [line for line in lines if not line.endswith("ersion")]


def built(workplace: Path, *words: str, bundle: str = "bundle", output: str = "out") -> dict[str, Any]:
    """The answer of a build that works."""
    done = hetcc("build", workplace / bundle, "-o", workplace / output, "--json", *words)
    assert done.code == 0, done.err
    answer: dict[str, Any] = done.document
    return answer


def test_without_the_tools_everything_is_written_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    bundle_with(tmp_path / "bundle")
    done = hetcc("build", tmp_path / "bundle", "--target", "hw_emu")
    assert done.code == 5
    assert "HET-T001" in done.err and "vivado and v++ and emconfigutil are not on PATH" in done.err
    folder = tmp_path / "bundle-hw_emu"
    assert {path.name for path in folder.iterdir()} == {"build.sh", "kernels", "pack0", "pack1"}
    assert (folder / "kernels/hetcc_a/kernel.v").is_file() and (folder / "pack0/link.cfg").is_file()
    assert "v++ --link --target hw_emu" in (folder / "build.sh").read_text()


def test_every_kernel_is_packaged_and_every_file_linked(workplace: Path) -> None:
    answer = built(workplace)
    assert [(step["name"], step["how"]) for step in answer["steps"]] == [
        *((f"package {kernel}", "ran") for kernel in KERNELS), ("link pack0", "ran"), ("link pack1", "ran")]
    linked = [line for line in calls(workplace) if line.startswith("v++")]
    assert "--target hw --platform u55c" in linked[0]
    assert "hetcc_a.xo" in linked[0] and "hetcc_b.xo" in linked[0] and "hetcc_c.xo" not in linked[0]
    assert (workplace / "out/pack0/pack0.xclbin").is_file()


def test_clock_slack_and_resources_are_read_back(workplace: Path) -> None:
    answer = built(workplace)
    found = answer["xclbins"]["pack0"]
    assert found["clock_hz"] == 212e6
    assert found["timing"] == {"worst_slack_ns": -0.217, "failing_endpoints": 93}
    assert found["kernels"]["hetcc_a"] == {"lut": 1000.0, "register": 2000.0, "dsp": 64.0, "bram36": 1.5, "uram": 4.0}
    assert set(found["kernels"]) == set(PACKS["pack0"])
    profile = load_device(answer["profile"])
    assert profile.name == "u55c-built" and profile.streaming is not None
    assert profile.streaming.clock_hz.value == profile.streaming.clock_hz.high == 212e6
    assert profile.streaming.dsp_count == load_device("u55c").streaming.dsp_count  # type: ignore[union-attr]
    text = hetcc("build", workplace / "bundle", "-o", workplace / "out").out
    assert "212 MHz" in text and "-0.217 ns" in text and "100 / 1000" in text


def test_a_build_goes_on_where_it_failed(workplace: Path) -> None:
    (workplace / "fakes" / "fail").touch()
    done = hetcc("build", workplace / "bundle", "-o", workplace / "out")
    assert done.code == 5 and "told to fail" in done.err and "link-pack0.log" in done.err
    before = len(calls(workplace))
    answer = built(workplace)
    assert [step["how"] for step in answer["steps"]] == ["kept"] * 3 + ["ran"] * 2
    assert len(calls(workplace)) == before + 2
    assert [step["how"] for step in built(workplace)["steps"]] == ["kept"] * 5
    assert len(calls(workplace)) == before + 2


def test_equal_kernels_are_not_built_twice_anywhere(workplace: Path) -> None:
    first = built(workplace)
    before = len(calls(workplace))
    second = built(workplace, output="elsewhere")
    assert [step["how"] for step in second["steps"]] == ["cached"] * 5
    assert second["xclbins"] == first["xclbins"]
    bundle_with(workplace / "changed", verilog=" // another comment")
    assert [step["how"] for step in built(workplace, bundle="changed", output="third")["steps"]] == ["ran"] * 5
    assert len(calls(workplace)) == before + 5


def test_a_damaged_result_is_made_again(workplace: Path) -> None:
    built(workplace)
    (workplace / "out/kernels/hetcc_a/hetcc_a.xo").write_text("something else")
    assert [step["how"] for step in built(workplace)["steps"]] == ["cached"] + ["kept"] * 4
    (workplace / "out/build.json").write_text("{ damaged")
    assert {step["how"] for step in built(workplace)["steps"]} == {"cached"}


def test_hardware_emulation_needs_no_reports_and_a_described_card(workplace: Path) -> None:
    answer = built(workplace, "--target", "hw_emu", "--platform", "another")
    assert answer["xclbins"] == {} and answer["profile"] is None
    assert calls(workplace)[-1] == "emconfigutil --platform another --od ."
    assert (workplace / "out/emconfig.json").is_file()


def test_what_cannot_be_built_is_said(workplace: Path) -> None:
    bundle_with(workplace / "partly", without="hetcc_b")
    done = hetcc("build", workplace / "partly", "-o", workplace / "out")
    assert done.code == 2 and "HET-B005" in done.err and "hetcc_b has no Verilog: too wide" in done.err
    (workplace / "other").mkdir()
    (workplace / "other" / "mine").touch()
    done = hetcc("build", workplace / "bundle", "-o", workplace / "other")
    assert done.code == 2 and "HET-B001" in done.err
    done = hetcc("build", workplace / "bundle", "--target", "card")
    assert done.code == 2 and "hw_emu, hw" in done.err
    plan = write_bundle(workplace / "plan", {"plan.json": (workplace / "bundle/plan.json").read_bytes()}, replace=True)
    done = hetcc("build", plan)
    assert done.code == 2 and "holds no FPGA kernels" in done.err


def test_reports_of_another_form_say_nothing() -> None:
    assert timing_of("no table here") is None
    assert timing_of(" WNS(ns)  TNS(ns)  x\n -------  -----\n   0.5  0.0  0  9") == Timing(0.5, 0)
    assert utilisation_of("| k | 1 |\n") == {}
