"""mypy over the import names.

Folders such as ``passes/`` are imported as ``hetcc.passes``; mypy knows no package-dir map. So the map is laid out as
links under ``build/typecheck`` and mypy is run on the package ``hetcc`` there. Further arguments go to mypy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "typecheck"


def lay_out() -> None:
    """Make ``build/typecheck/hetcc`` a folder of links that looks as the installed package does."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package_dir: dict[str, str] = settings["tool"]["setuptools"]["package-dir"]
    shutil.rmtree(TREE, ignore_errors=True)
    package = TREE / "hetcc"
    package.mkdir(parents=True)
    for entry in (ROOT / package_dir["hetcc"]).iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name, folder in package_dir.items():
        if name != "hetcc":
            (package / name.removeprefix("hetcc.")).symlink_to(ROOT / folder)


def main() -> int:
    """Lay the tree out and run mypy on it."""
    lay_out()
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
               "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "hetcc", *sys.argv[1:]]
    return subprocess.run(command, cwd=TREE, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
