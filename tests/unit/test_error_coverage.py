"""No error code is dead, and each has a test that leads to it."""

from __future__ import annotations

from pathlib import Path

from hetcc.errors import ERROR_KINDS

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_FOLDERS = ("hetcc", "passes", "cost_model", "backends")
ABOUT_ERRORS_THEMSELVES = {"test_error_coverage.py", "test_error_docs.py"}


def codes_mentioned(*folders: str) -> set[str]:
    """The codes that the Python files under ``folders`` name, the table of errors apart."""
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))
             if path != ROOT / "hetcc/errors.py" and path.name not in ABOUT_ERRORS_THEMSELVES]
    return {code for code in ERROR_KINDS if any(f'"{code}"' in text or f"'{code}'" in text for text in texts)}


def test_each_code_is_raised_somewhere() -> None:
    dead = set(ERROR_KINDS) - codes_mentioned(*PRODUCT_FOLDERS)
    assert not dead, f"raised nowhere, so remove or raise: {sorted(dead)}"


def test_each_code_is_tested_somewhere() -> None:
    untested = set(ERROR_KINDS) - codes_mentioned("tests")
    assert not untested, f"no test names the code; show the input that leads to it: {sorted(untested)}"
