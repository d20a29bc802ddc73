"""``hetcc devices``, ``hetcc doctor``, help, version, and how the command line ends."""

from __future__ import annotations

import re

import pytest

import hetcc as package
from hetcc import api
from hetcc.cli import tools_found
from hetcc.cli.output import progress_shown
from hetcc.cost_model.device import list_devices, load_device
from hetcc.report.devices import provenance_counts, quantities_of

from corpus.command_line import hetcc

COMMANDS = ("compile", "run", "generate", "explain", "export", "devices", "doctor", "demo")


def test_every_profile_is_listed_with_what_its_numbers_rest_on() -> None:
    done = hetcc("devices")
    for name in list_devices():
        row = next(line for line in done.out.splitlines() if line.startswith(f"{name} "))
        for kind, count in provenance_counts(load_device(name)).items():
            assert f"{kind} {count}" in row
    assert hetcc("devices", "--json").document.keys() == set(list_devices())


def test_one_profile_shows_every_number_with_its_source() -> None:
    quantities = quantities_of(load_device("mi210"))
    assert len(quantities) == sum(provenance_counts(load_device("mi210")).values()) > 30
    out = hetcc("devices", "mi210").out
    assert all(path in out and item.source in out for path, item in quantities)
    assert hetcc("devices", "mi210", "--json").document["name"] == "mi210"


def test_doctor_is_content_here() -> None:
    done = hetcc("doctor", "--json")
    assert done.code == 0 and done.document["ok"] is True
    tools = {tool["name"]: tool for tool in done.document["tools"]}
    assert tools["torch"]["found"] and re.match(r"\d+\.\d+", tools["torch"]["version"])
    assert all(tool["needed_for"] and tool["how_to_get"] for tool in tools.values())
    assert "how to get it" in hetcc("doctor").out


@pytest.mark.parametrize(("missing", "code"), [("torch", 5), ("verilator", 0), ("iree-compile", 0)])
def test_doctor_fails_only_for_what_planning_needs(missing: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tools_found.check_tools
    monkeypatch.setattr(tools_found, "check_tools", lambda: real({missing: lambda: None}))
    done = hetcc("doctor", "--json")
    assert done.code == code
    entry = next(tool for tool in done.document["tools"] if tool["name"] == missing)
    assert not entry["found"] and done.document["ok"] is (code == 0)
    if code:
        assert done.document["error"]["code"] == "HET-T001" and entry["how_to_get"] in done.err


def test_version() -> None:
    assert hetcc("--version").out == f"hetcc {package.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = hetcc(command, "--help")
    assert done.code == 0 and "Examples" in done.out and f"hetcc {command}" in done.out
    assert command in hetcc("--help").out


def test_no_command_prints_help() -> None:
    assert hetcc().out == hetcc("--help").out


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_an_unexpected_exception_is_an_internal_error(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: object) -> None:
        raise ZeroDivisionError("one by nothing")

    monkeypatch.setattr(api, "load", broken)
    monkeypatch.delenv("HETCC_DEBUG", raising=False)
    done = hetcc("explain", "bundle", *words)
    assert done.code == 1 and "HET-I001  internal error: ZeroDivisionError: one by nothing" in done.err
    assert "report" in done.err and "Traceback" not in done.err
    assert f"{__name__.rpartition('.')[2]}.py:" in done.err
    if words:
        assert done.document["error"]["code"] == "HET-I001"
    monkeypatch.setenv("HETCC_DEBUG", "1")
    assert "Traceback" in hetcc("explain", "bundle").err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load", interrupted)
    done = hetcc("explain", "bundle")
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


def test_progress_off_a_terminal_is_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_shown() as progress:
        for message in ("place", "emit gpu", "emit gpu: 1 of 2 (a)", "emit gpu: 2 of 2 (b)", "place",
                        "warning: x: one", "warning: x: two", "warning: x: one"):
            progress(message)
    assert capsys.readouterr().err.splitlines() == ["place", "emit gpu", "warning: x: one", "warning: x: two"]


@pytest.mark.parametrize("without_colour", [True, False])
def test_progress_on_a_terminal_is_one_status_line(without_colour: bool, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if without_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with progress_shown() as progress:
        progress("place")
        progress("warning: look [here]")
    err = capsys.readouterr().err
    assert "place" in err and "warning: look [here]" in err and "\x1b[2K" in err
    assert ("\x1b[33m" in err) is not without_colour
