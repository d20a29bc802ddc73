"""Kernels that listen are dismissed: when a session ends, when a step fails, and whatever else goes wrong meanwhile.

Plans with two kernels, emitted when they are loaded, on the emulator; everything else runs on the host.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.api import Bundle
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.program import load_program
from hetcc.backends.fpga.xrt.compute_unit import ComputeUnit
from hetcc.backends.fpga.xrt.emulator import Device, EmulatedXrt
from hetcc.backends.fpga.xrt.faults import Fault, FaultyXrt
from hetcc.capture import capture
from hetcc.capture.model import CaptureRequest
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph
from hetcc.options import CompileOptions, PlacementChoice
from hetcc.pipeline import compile_captured
from hetcc.runtime.devices import EmulatedFpga, HostDevice, LaunchEvidence
from hetcc.runtime.session import Session
from hetcc.stopwatch import Stopwatch

from corpus import doors

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))


class Streamed(EmulatedFpga):
    """Kernels are made when they are loaded; their units are kept to be looked at."""

    def __init__(self, xrt: Any = None) -> None:
        super().__init__(xrt)
        self.units: list[ComputeUnit] = []

    def load(self, region: Graph, files: object, entry: str) -> None:
        """See :class:`EmulatedFpga`."""
        program = load_program(emit(region, region.name).files, region, self._xrt)
        self.programs[region.name] = (program, region)
        self.units.append(program._driver.device.unit)

    @property
    def listening(self) -> int:
        """How many units look at their doorbells."""
        return sum(unit.listening for unit in self.units)


class FailingHost(HostDevice):
    """Fails in a launch."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def launch(self, region: str) -> LaunchEvidence:
        self.left -= 1
        if self.left == 0:
            raise ToolError("HET-G002", "the card does not answer", where="kernel", fix="look at it")
        return super().launch(region)


class DeafUnit(ComputeUnit):
    """Does not hear that it shall stop."""

    def ring(self) -> None:
        """See :class:`ComputeUnit`."""
        super().ring()
        self.listening = True


class DeafDevice(Device):
    """Every second unit that is made is deaf."""

    made = 0

    def unit_of(self, packed: Any) -> ComputeUnit:
        """See :class:`Device`."""
        DeafDevice.made += 1
        return DeafUnit(packed) if DeafDevice.made % 2 else ComputeUnit(packed)


class DeafXrt(EmulatedXrt):
    """Stands where pyxrt stands."""

    device = DeafDevice


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """By what becomes of the caches of a lost card."""
    folder, made = tmp_path_factory.mktemp("listening"), {}
    asked = CaptureRequest(f"{doors.__file__}:two_sparse_blocks")
    captured = capture(asked)
    for caches in ("single", "shadowed"):
        options = CompileOptions(asked, choice=PlacementChoice(forced=FORCED, caches=caches), emit="never",
                                 robustness_samples=0, fpga_launch="doorbell")
        compile_captured(captured, options, folder / caches, force=False, watch=Stopwatch())
        made[caches] = Bundle(folder / caches)
    return made


def session_of(bundle: Bundle, fpga: Streamed, told: list[str] | None = None, gpu: HostDevice | None = None) -> Session:
    return Session(bundle.files, bundle.plan, warn=(told if told is not None else []).append,
                   devices={"gpu": gpu or HostDevice(), "fpga": fpga, "host": HostDevice()})


def feeds(bundle: Bundle, seed: int = 0) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    return {spec.name: random.standard_normal(spec.shape).astype(spec.dtype) if spec.dtype.startswith("float")
            else numpy.full(spec.shape, seed, spec.dtype) for spec in bundle.plan.phase("decode").inputs}


def test_the_plan_has_two_kernels_that_listen_until_the_session_ends(bundles: dict[str, Bundle]) -> None:
    bundle, card = bundles["single"], Streamed()
    with session_of(bundle, card) as session:
        assert (len(card.units), card.listening) == (2, 0), "they begin at their first launch"
        first = session.run("decode", feeds(bundle))
        assert card.listening == 2
        assert [record.by_doorbell for record in first.records if record.device == "fpga"
                and record.kind == "launch"] == [True, True]
        session.reset()
        assert card.listening == 2, "a new request is no end"
    assert card.listening == 0
    session.reset()
    again = session.run("decode", feeds(bundle))
    assert card.listening == 2, "a session that was closed can be used again"
    assert all(numpy.array_equal(again.outputs[name], first.outputs[name]) for name in first.outputs)
    session.close()
    session.close()
    assert card.listening == 0


def test_a_step_that_raises_leaves_no_kernel_listening(bundles: dict[str, Bundle]) -> None:
    bundle, card, told = bundles["single"], Streamed(), list[str]()
    launches = sum(region.device == "gpu" for region in bundle.plan.phase("decode").regions)
    session = session_of(bundle, card, told, FailingHost(2 * launches))
    session.run("decode", feeds(bundle))
    assert card.listening == 2
    with pytest.raises(ToolError, match="HET-R004") as caught:
        session.run("decode", feeds(bundle, 1))
    assert "the card does not answer" in str(caught.value) and card.listening == 0
    session.run("decode", feeds(bundle, 1))
    assert card.listening == 2
    with pytest.raises(UserError, match="HET-R002"):
        session.run("decode", {})
    assert card.listening == 0 and not told


def test_a_body_that_raises_does_so_too(bundles: dict[str, Bundle]) -> None:
    bundle, card = Bundle(bundles["single"].folder), Streamed()
    with bundle:
        pass
    with pytest.raises(KeyError), bundle:
        bundle.__dict__["session"] = session_of(bundle, card)
        bundle.run("decode", feeds(bundle))
        assert card.listening == 2
        raise KeyError("elsewhere")
    assert card.listening == 0


def test_a_kernel_that_cannot_be_dismissed_is_a_coded_error_and_the_others_are(bundles: dict[str, Bundle]) -> None:
    bundle, card = bundles["single"], Streamed(DeafXrt)
    with pytest.raises(ToolError, match="HET-F002") as caught, session_of(bundle, card) as session:
        session.run("decode", feeds(bundle))
    assert "did not end within 10000 ms" in str(caught.value)
    assert card.listening == 1 and isinstance(card.units[0], DeafUnit)
    session.close()  # the driver has let go of it


def test_all_kernels_that_cannot_be_dismissed_are_counted(bundles: dict[str, Bundle]) -> None:
    bundle, card = bundles["single"], Streamed()
    session = session_of(bundle, card)
    session.run("decode", feeds(bundle))
    for unit in card.units:
        unit.listening = False
        unit.state = lambda _: EmulatedXrt.ert_cmd_state.ERT_CMD_STATE_ABORT  # type: ignore[method-assign]
    with pytest.raises(ToolError, match="1 more kernels were not dismissed") as caught:
        session.close()
    assert "ERT_CMD_STATE_ABORT" in str(caught.value)


def test_a_dismissal_that_fails_does_not_hide_what_failed_first(bundles: dict[str, Bundle]) -> None:
    bundle, card, told = bundles["single"], Streamed(DeafXrt), list[str]()
    launches = sum(region.device == "gpu" for region in bundle.plan.phase("decode").regions)
    session = session_of(bundle, card, told, FailingHost(launches))
    with pytest.raises(ToolError, match="HET-R004") as caught, session:
        session.run("decode", feeds(bundle))
    assert "the card does not answer" in caught.value.what
    assert len(told) == 1 and "was not dismissed: HET-F002" in told[0] and "did not end within" in told[0]
    assert caught.value.__notes__ == [told[0].partition("dismissed: ")[2]]


@pytest.mark.parametrize("kind", ["abort", "lost"])
def test_kernels_of_a_lost_card_are_let_go_of_and_the_request_goes_on(bundles: dict[str, Bundle], kind: str) -> None:
    bundle, told = bundles["shadowed"], list[str]()
    card, calm = Streamed(FaultyXrt([Fault(3, kind)])), Streamed()
    sessions = session_of(bundle, card, told), session_of(bundle, calm)
    for seed in range(3):
        found, expected = (session.run("decode", feeds(bundle, seed)) for session in sessions)
        assert all(numpy.array_equal(found.outputs[name], expected.outputs[name]) for name in expected.outputs)
        assert (card.listening, calm.listening) == ((2, 2) if seed == 0 else (int(kind == "lost"), 2))
    sessions[0].close()
    # A card that only ended a run in a wrong state still hears that the other kernel shall stop; one that is gone
    # does not, and that is said once.
    assert len(told) == (2 if kind == "lost" else 1), told
    assert ["was not dismissed" in text for text in told] == ([True, False] if kind == "lost" else [False])


def test_a_session_that_is_forgotten_dismisses_its_kernels(
    bundles: dict[str, Bundle], capsys: pytest.CaptureFixture[str],
) -> None:
    for xrt in (EmulatedXrt, DeafXrt):
        card = Streamed(xrt)
        units = card.units
        session = session_of(bundles["single"], card)
        session.run("decode", feeds(bundles["single"]))
        assert sum(unit.listening for unit in units) == 2
        del session, card
        gc.collect()
        assert sum(unit.listening for unit in units) == (xrt is DeafXrt)
        assert ("was not dismissed" in capsys.readouterr().err) == (xrt is DeafXrt)


FORGETFUL = """
import sys
from hetcc.backends.fpga.emit import emit
from hetcc.backends.fpga.samples import scans
from hetcc.runtime.devices import EmulatedFpga
region = scans.weighted_scan(1, 1, 2, 4, 16, 4)
made = emit(region, "r0")
device = EmulatedFpga()
device.load(region, {f"fpga/{path}": content for path, content in made.files.items()}, f"fpga/{made.entry}")
driver = device.programs[region.name][0]._driver
driver.listen()
dismiss = driver.dismiss
driver.dismiss = lambda timeout_ms: (dismiss(timeout_ms), print("dismissed", driver.device.unit.listening))
"""


def test_a_process_that_ends_dismisses_its_kernels(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORGETFUL], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "dismissed False\n"), done.stderr
