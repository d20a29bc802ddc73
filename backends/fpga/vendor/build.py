"""Drives the vendor's tools over the kernels of a bundle: Vivado packages each, ``v++`` links those of an xclbin.

A step is done again only when something it reads, its command or its tool has changed: results lie in the cache under a
key of all that, and a build that was interrupted goes on where it stopped. None of this has met the real tools; the
tests drive fakes.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetcc.backends.fpga import tools
from hetcc.errors import ToolError
from hetcc.store import Store, key_of

TARGETS = ("hw_emu", "hw")
STATE_FILE = "build.json"
SCRIPT_FILE = "build.sh"
_VIVADO, _LINKER, _EMULATOR_CONFIG = "vivado", "v++", "emconfigutil"
_TIMEOUT_S = 3 * 24 * 3600.0


@dataclass(frozen=True)
class Step:
    """One run of a tool."""

    name: str
    folder: str
    """Where it runs, relative to the build."""
    command: tuple[str, ...]
    reads: tuple[str, ...]
    """Files, relative to the build."""
    writes: str
    """The file that it is for, relative to the build."""
    reports: bool = False
    """Whether it leaves timing and utilisation reports."""


@dataclass(frozen=True)
class Result:
    """What became of a step."""

    step: Step
    key: str
    how: str
    """``ran``, ``cached``, or ``kept`` (done by an earlier build in the same folder)."""
    time_s: float
    reports: Mapping[str, str]
    """Text of its reports, by file name."""


def tools_of(target: str) -> tuple[str, ...]:
    """Programs that a build needs."""
    return (_VIVADO, _LINKER, *((_EMULATOR_CONFIG,) if target == "hw_emu" else ()))


def missing_tools(target: str) -> tuple[str, ...]:
    """Those that are not on PATH."""
    return tuple(name for name in tools_of(target) if tools.find(name) is None)


def steps_of(kernels: Sequence[str], packs: Mapping[str, Sequence[str]], target: str, platform: str) -> list[Step]:
    """All steps of a build, in order.

    Args:
        kernels: names of all kernels; the files of each are in ``kernels/<kernel>``.
        packs: kernels of each xclbin by its name; its ``link.cfg`` is in a folder of that name.
        target: one of ``TARGETS``.
        platform: name or path of the vendor's platform.
    """
    steps = []
    for kernel in kernels:
        folder = f"kernels/{kernel}"
        steps.append(Step(
            f"package {kernel}", folder, (_VIVADO, "-mode", "batch", "-nojournal", "-source", "package_kernel.tcl"),
            tuple(f"{folder}/{name}" for name in ("kernel.v", "kernel.xml", "package_kernel.tcl")),
            f"{folder}/{kernel}.xo"))
    for name, members in packs.items():
        objects = [f"kernels/{kernel}/{kernel}.xo" for kernel in members]
        command = (_LINKER, "--link", "--target", target, "--platform", platform, "--config", "link.cfg",
                   "--save-temps", "--temp_dir", "_x", "--report_level", "2", "--output", f"{name}.xclbin",
                   *(f"../{path}" for path in objects))
        steps.append(Step(f"link {name}", name, command, (f"{name}/link.cfg", *objects), f"{name}/{name}.xclbin",
                          target == "hw"))
    if target == "hw_emu":
        steps.append(Step("describe the emulated card", ".", (_EMULATOR_CONFIG, "--platform", platform, "--od", "."),
                          (), "emconfig.json"))
    return steps


def script_of(steps: Sequence[Step]) -> bytes:
    """The same steps as a shell script, for a machine that has the tools and not hetcc."""
    lines = ["#!/bin/sh", "# Packages and links every kernel; run it where vivado and v++ are on PATH.", "set -e",
             'cd "$(dirname "$0")"']
    lines += [f"[ -e {shlex.quote(step.writes)} ] || (cd {shlex.quote(step.folder)} && {shlex.join(step.command)})"
              for step in steps]
    return ("\n".join(lines) + "\n").encode()


class Build:
    """A folder in which steps are made.

    Args:
        folder: where all files of the kernels are already.
        store: what earlier builds made.
        progress: told what is being done.
    """

    def __init__(self, folder: Path, store: Store, progress: Callable[[str], None]) -> None:
        self._folder, self._store, self._progress = folder, store, progress
        self._state: dict[str, Any] = _read_state(folder / STATE_FILE)
        self._versions: dict[str, str] = {}

    def run(self, steps: Sequence[Step]) -> list[Result]:
        """Make all steps.

        Raises:
            ToolError: HET-T001, a tool is missing; HET-T002, one failed or wrote nothing. What was done stays done.
        """
        results = []
        for number, step in enumerate(steps, 1):
            self._progress(f"build {number} of {len(steps)}: {step.name}")
            results.append(self._make(step))
        return results

    def _make(self, step: Step) -> Result:
        key = self._key(step)
        target = self._folder / step.writes
        known = self._state.get(step.writes, {})
        if known.get("key") == key and target.is_file() and _digest(target) == known["sha256"]:
            return Result(step, key, "kept", 0.0, known["reports"])
        content, document = self._store.get(key), self._store.get_document(key)
        if content is not None and document is not None:
            target.write_bytes(content)
            return self._noted(Result(step, key, "cached", document["time_s"], document["reports"]))
        target.unlink(missing_ok=True)
        log = self._folder / f"{step.name.replace(' ', '-')}.log"
        time_s = tools.run_logged(step.command, self._folder / step.folder, log, _TIMEOUT_S)
        if not target.is_file():
            raise ToolError("HET-T002", f"{step.command[0]} ended well and did not write {step.writes}", where=str(log))
        reports = _reports(self._folder / step.folder) if step.reports else {}
        self._store.put(key, target.read_bytes())
        self._store.put_document(key, {"time_s": time_s, "reports": reports})
        return self._noted(Result(step, key, "ran", time_s, reports))

    def _key(self, step: Step) -> str:
        """Of everything that decides what a step writes."""
        tool = step.command[0]
        if tool not in self._versions:
            self._versions[tool] = tools.run([tool, "-version" if tool == _VIVADO else "--version"], self._folder)
        read = [(path, _digest(self._folder / path)) for path in step.reads]
        return key_of("fpga-build", list(step.command), self._versions[tool], read)

    def _noted(self, result: Result) -> Result:
        self._state[result.step.writes] = {
            "key": result.key, "sha256": _digest(self._folder / result.step.writes), "step": result.step.name,
            "time_s": result.time_s, "reports": dict(result.reports)}
        (self._folder / STATE_FILE).write_text(json.dumps(self._state, indent=1, sort_keys=True) + "\n")
        return result


def _read_state(path: Path) -> dict[str, Any]:
    """What an earlier build noted; nothing when there was none or its notes are damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reports(folder: Path) -> dict[str, str]:
    """Reports on what was placed and routed."""
    found = sorted({*folder.rglob("*timing_summary*routed*.rpt"), *folder.rglob("*kernel_util*routed*.rpt")})
    return {path.name: path.read_text(errors="replace") for path in found}


__all__ = ["SCRIPT_FILE", "STATE_FILE", "TARGETS", "Build", "Result", "Step", "missing_tools", "script_of",
           "steps_of", "tools_of"]
