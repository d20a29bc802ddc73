"""Emulation files and the driver on the real Xilinx Runtime, whose noop device accepts everything and computes nothing.

Each test runs in a process of its own, since XRT reads its environment once and a failed check there must not take the
test run with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from hetcc.api import Bundle
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.vendor.packing import demand_of, pack
from hetcc.backends.fpga.vendor.packing_files import emulation_of
from hetcc.backends.fpga.xrt.emulator import EmulatedXrt
from hetcc.backends.fpga.xrt.xclbin import unpack
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest
from hetcc.ir import Graph
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.pipeline import compile_captured
from hetcc.runtime.devices import EmulatedFpga, HostDevice
from hetcc.runtime.session import Session
from hetcc.stopwatch import Stopwatch

from corpus import doors
from corpus.recorded_xrt import RecordedXrt, link_shim

pytestmark = pytest.mark.requires_tool("libxrt1")
STEPS = 2
TESTS = Path(__file__).resolve().parents[1]
QUESTIONS = """
import json, sys
from pathlib import Path
from hetcc.backends.fpga.xrt.xrt_library import LibraryXrt as xrt

device = xrt.device(0)
identity = device.load_xclbin(sys.argv[1])
found = {"uuid": identity.hex, "kernels": {}, "refused": {}}
for name in sys.argv[2:]:
    kernel = xrt.kernel(device, identity, name)
    groups, offsets = [], []
    try:
        while True:
            offsets.append(kernel.offset(len(offsets)))
    except IndexError:
        pass
    for at in range(len(offsets)):
        try:
            groups.append(kernel.group_id(at))
        except IndexError:
            groups.append(None)
    found["kernels"][name] = {"groups": groups, "offsets": offsets}
for bad in ("x", sys.argv[2] + ":{other}"):
    try:
        xrt.kernel(device, identity, bad)
    except RuntimeError as error:
        found["refused"][bad] = str(error)
Path(sys.argv[1] + ".cut").write_bytes(Path(sys.argv[1]).read_bytes()[:200])
for path in (sys.argv[1] + ".cut", sys.argv[1] + ".none"):
    try:
        device.load_xclbin(path)
    except RuntimeError as error:
        found["refused"][path[-4:]] = str(error)
print(json.dumps(found))
"""


def on_real_xrt(folder: Path, *command: str) -> str:
    """What a Python program prints where the Xilinx Runtime is found."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, *command], env={**os.environ, **link_shim(folder), "PYTHONPATH": str(TESTS)},
                          cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("region", [
    sample.weighted_scan(1, 1, 2, 4, 16, 4), sample.single_scan(), sample.bound_scan(),
], ids=["weighted", "single", "bound"])
def test_xrt_knows_every_kernel_argument_and_memory(tmp_path: Path, region: Graph) -> None:
    emitted = emit(region, "region")
    path = tmp_path / "kernel.xclbin"
    path.write_bytes(emitted.files[emitted.entry])
    container = unpack(path.read_bytes())
    found = json.loads(on_real_xrt(tmp_path / "xrt", "-c", QUESTIONS, str(path), container.kernel))
    memory = memory_map(StageGraph.from_json(container.emulation_data))
    assert found["uuid"] == container.uuid.hex()
    kernel = found["kernels"][container.kernel]
    assert kernel["offsets"] == [argument.offset for argument in memory.arguments]
    assert kernel["groups"] == [memory.masters[argument.master].bank if argument.master >= 0 else None
                                for argument in memory.arguments]
    assert len(found["refused"]) == 4, found["refused"]


def test_kernels_that_share_a_file_keep_their_own_memories(tmp_path: Path) -> None:
    graphs = {}
    for name, region in (("first", sample.weighted_scan(1, 1, 2, 4, 16, 4)), ("second", sample.single_scan())):
        emitted = emit(region, name)
        graphs[name] = StageGraph.from_json(unpack(emitted.files[emitted.entry]).emulation_data)
    uses = {name: [[f"{name}.{buffer.name}" for buffer in graph.buffers]] for name, graph in graphs.items()}
    packing = pack([demand_of(name, graph, uses[name]) for name, graph in graphs.items()], {})
    assert len(packing.packs) == 1
    content = emulation_of(packing.packs[0], {name: graph.to_json() for name, graph in graphs.items()}, 250e6)
    path = tmp_path / "pack.xclbin"
    path.write_bytes(content)
    found = json.loads(on_real_xrt(tmp_path / "xrt", "-c", QUESTIONS, str(path), *graphs))["kernels"]
    for placed in packing.packs[0].kernels:
        memory = placed.demand.memory
        assert found[placed.demand.kernel]["groups"] == [
            placed.channels[argument.master][0] if argument.master >= 0 else None for argument in memory.arguments]
    device = EmulatedXrt.device(0)
    identity = device.load_xclbin(str(path))
    for name in graphs:
        kernel = EmulatedXrt.kernel(device, identity, name)
        pointers = len(memory_map(graphs[name]).pointers)
        assert [kernel.group_id(at) for at in range(pointers)] == found[name]["groups"][:pointers]


class _Streamed(EmulatedFpga):
    """Kernels made when they are loaded, on a module that remembers its calls."""

    def __init__(self, xrt: RecordedXrt) -> None:
        super().__init__()
        self._xrt = xrt

    def load(self, region: Graph, files: object, entry: str) -> None:
        """See :class:`EmulatedFpga`."""
        self.programs[region.name] = (load_program(emit(region, region.name).files, region, self._xrt), region)


def test_the_calls_of_a_whole_plan_are_taken_by_xrt(tmp_path: Path) -> None:
    asked = CaptureRequest(f"{doors.__file__}:sparse_block")
    choice = PlacementChoice(forced=(("relevancy", "fpga"), ("retrieval", "fpga")))
    compiled = compile_captured(
        capture(asked), CompileOptions(asked, choice=choice, emit="never", robustness_samples=0), tmp_path / "bundle",
        force=False, watch=Stopwatch())
    files = tmp_path / "files"
    files.mkdir()
    recorded = RecordedXrt(EmulatedXrt, files)
    bundle = Bundle(tmp_path / "bundle")
    session = Session(bundle.files, bundle.plan, devices={
        "gpu": HostDevice(), "fpga": _Streamed(recorded), "host": HostDevice()})
    plan = compiled.plan.phase("decode")
    feeds = {spec.name: numpy.zeros(spec.shape, spec.dtype) for spec in plan.inputs}
    for _ in range(STEPS):
        session.run("decode", feeds)
    on_fpga = {region.name for region in plan.regions if region.device == "fpga"}
    launches = STEPS * sum(step.kind == "launch" and step.region in on_fpga for step in plan.steps)
    assert launches > 0
    (files / "calls.json").write_text(json.dumps(recorded.calls))
    replayed = on_real_xrt(tmp_path / "xrt", str(TESTS / "corpus" / "recorded_xrt.py"), str(files))
    assert int(replayed) == launches == sum(call[0] == "start" for call in recorded.calls)
