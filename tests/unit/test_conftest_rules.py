"""The shared test machinery itself: missing tools skip visibly or fail, golden files compare and update."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
NEEDS_TOOL = """
import pytest
@pytest.mark.requires_tool("no-such-program-anywhere")
def test_needs_it(): pass
"""
GOLDEN = """
def test_text(golden): golden("out.txt", "one\\n{word}\\n")
"""


LISTED = """
from pathlib import Path
from conftest import LONG_FILES
def test_they_exist(): assert [name for name in LONG_FILES if not (Path({tests!r}) / name).is_file()] == []
"""


def run_pytest(folder: Path, source: str, *arguments: str, require: str = "") -> subprocess.CompletedProcess[str]:
    """Run pytest on one test file in ``folder`` under a copy of the shared conftest."""
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_it.py").write_text(source, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  requires_tool(name): see conftest\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder)], cwd=folder,
        env={**os.environ, "HETCC_REQUIRE": require}, capture_output=True, text=True, check=False)


def test_a_missing_tool_skips_and_is_counted(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, NEEDS_TOOL)
    assert done.returncode == 0
    assert "NOT TESTED: 1 test(s) need no-such-program-anywhere" in done.stdout
    assert "1 skipped" in done.stdout


def test_a_missing_tool_that_is_required_fails(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, NEEDS_TOOL, require="other, no-such-program-anywhere")
    assert done.returncode == 1
    assert "HETCC_REQUIRE asks for it" in done.stdout


def test_golden_files_are_written_compared_and_reported(tmp_path: Path) -> None:
    assert "no golden file" in run_pytest(tmp_path, GOLDEN.format(word="two")).stdout
    assert run_pytest(tmp_path, GOLDEN.format(word="two"), "--update-golden").returncode == 0
    assert (tmp_path / "golden_files/it/test_text/out.txt").read_text(encoding="utf-8") == "one\ntwo\n"
    assert run_pytest(tmp_path, GOLDEN.format(word="two")).returncode == 0
    changed = run_pytest(tmp_path, GOLDEN.format(word="three"))
    assert changed.returncode == 1
    assert "-two" in changed.stdout
    assert "+three" in changed.stdout


def test_the_long_files_exist(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, LISTED.format(tests=str(CONFTEST.parent)))
    assert done.returncode == 0, done.stdout


def test_the_long_files_come_first(tmp_path: Path) -> None:
    """Also where they are named last."""
    (tmp_path / "tests/null").mkdir(parents=True)
    for name in ("test_a", "test_determinism"):
        (tmp_path / f"tests/null/{name}.py").write_text("def test_it(): pass\n", encoding="utf-8")
    done = run_pytest(tmp_path, "def test_it(): pass\n", "--collect-only")
    assert [line.split("::")[0] for line in done.stdout.splitlines() if "::" in line] == [
        "tests/null/test_determinism.py", "test_it.py", "tests/null/test_a.py"]
