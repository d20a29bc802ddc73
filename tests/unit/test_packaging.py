"""The wheel is what people install: build it, install it away from the checkout, and use it there.

Third-party libraries come from the environment the tests run in (through a ``.pth`` file in a fresh environment), but
hetcc itself must come from the wheel, with every file in the place its import name says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
PACKAGES: list[str] = SETTINGS["packages"]
PACKAGE_DIR: dict[str, str] = SETTINGS["package-dir"]

INSTALLED_COMMAND = (
    "hetcc", "compile", "llama", "--set", "num_hidden_layers=1", "--set", "hidden_size=32",
    "--set", "intermediate_size=48", "--set", "num_attention_heads=2", "--set", "num_key_value_heads=2",
    "--set", "vocab_size=64", "--context", "16", "--output", "plan")
"""What is run with the installed wheel, in an empty folder."""
INSTALLED_COMMAND_MAKES: tuple[str, ...] = (
    "plan/plan.json", "plan/manifest.json", "plan/repro.sh", "plan/graphs/decode.json",
    "plan/reports/decode.explain.json")
"""Files that the command must leave in that folder."""

PROBE = """
import importlib, importlib.util, json, sys
files = {name: importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])}
bare = [name for name in ("passes", "cost_model", "backends")
        if name in sys.modules or importlib.util.find_spec(name) is not None]
print(json.dumps({"files": files, "bare": bare, "path": sys.path}))
"""


@dataclass(frozen=True)
class Installation:
    """A fresh environment with the wheel in it."""

    wheel_names: frozenset[str]
    """Paths inside the wheel."""
    source: Path
    """The copy of the checkout that the wheel was built from."""
    environment: Path
    site_packages: Path
    empty_folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the empty folder, with nothing that points back to the checkout."""
        program = self.environment / "bin" / command[0]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run([str(program), *command[1:]], cwd=self.empty_folder, env=variables, capture_output=True,
                              text=True, check=False)


def checked(*command: str) -> str:
    """Run a command that has to succeed; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Build the wheel from a copy (so that nothing is written into the checkout) and install it."""
    base = tmp_path_factory.mktemp("wheel test")
    source, wheels, environment, empty = (base / name for name in ("source", "wheels", "environment", "empty"))
    empty.mkdir()
    for folder in set(PACKAGE_DIR.values()):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    checked(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.glob("hetcc-*.whl")
    checked(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    site_packages = Path(checked(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    checked(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel))
    outside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "third_party.pth").write_text("\n".join(sorted(outside)) + "\n", encoding="utf-8")
    names = checked(sys.executable, "-m", "zipfile", "--list", str(wheel)).splitlines()[1:]
    return Installation(frozenset(line.split()[0] for line in names), source, environment, site_packages, empty)


def expected_in_wheel(source: Path) -> set[str]:
    """Where each file of the packages belongs in the wheel; Markdown stays behind."""
    return {(Path(*package.split(".")) / path.relative_to(source / folder)).as_posix()
            for package, folder in PACKAGE_DIR.items() for path in (source / folder).rglob("*")
            if path.is_file() and path.suffix != ".md"}


def test_every_file_is_in_the_wheel_at_its_import_name(installation: Installation) -> None:
    expected = expected_in_wheel(installation.source)
    present = {name for name in installation.wheel_names if not name.startswith("hetcc-")}
    assert expected - present == set(), "add it to [tool.setuptools.package-data]"
    assert present - expected == set()


def test_every_package_is_imported_from_the_wheel(installation: Installation) -> None:
    done = installation.run("python", "-I", "-c", PROBE, json.dumps(PACKAGES))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, file in found["files"].items():
        assert Path(file) == installation.site_packages.joinpath(*name.split("."), "__init__.py")
    assert found["bare"] == []
    assert not [entry for entry in found["path"] if Path(entry).resolve() == ROOT]


def test_the_installed_command_works(installation: Installation) -> None:
    done = installation.run(*INSTALLED_COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in INSTALLED_COMMAND_MAKES:
        assert (installation.empty_folder / name).exists(), f"no {name}\n{done.stdout}"
