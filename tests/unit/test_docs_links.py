"""What the documents and the messages point at exists: pages, headings, commands, options."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for folder in (".", "docs", "docs/*", "backends", "benchmarks", "passes", "cost_model", "tests")
               for path in ROOT.glob(f"{folder}/*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The fragment names that GitHub gives the headings of a page."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "errors.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} does not exist"
        if fragment:
            assert fragment in anchors_of(target), f"{link}: no such heading"


def product_texts() -> list[tuple[str, str]]:
    """Path and text of each Python file of the packages."""
    folders = ("hetcc", "passes", "cost_model", "backends")
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def test_pages_that_messages_name_exist() -> None:
    named = {(path, page) for path, text in product_texts() for page in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert [f"{path} names {page}" for path, page in sorted(named) if not (ROOT / page).exists()] == []


@cache
def help_of(*command: str) -> str:
    """The help text of a command."""
    program = Path(sysconfig.get_path("scripts")) / "hetcc"
    done = subprocess.run([str(program), *command, "--help"], capture_output=True, text=True, check=False,
                          env={**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands_named(text: str) -> set[str]:
    """The commands that a text tells its reader to type, as in ``hetcc compile``; always between backticks."""
    return set(re.findall(r"`hetcc ([a-z]+)\b", text))


def test_commands_that_documents_and_messages_name_exist() -> None:
    texts = product_texts() + [(page.name, page.read_text(encoding="utf-8")) for page in PAGES]
    named = sorted({(command, path) for path, text in texts for command in commands_named(text)})
    known = help_of()
    assert [f"{path}: hetcc {command}" for command, path in named if not re.search(rf"\b{command}\b", known)] == []


def test_options_that_the_error_page_names_exist() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    options = sorted(set(re.findall(r"(--[a-z][a-z-]+)", page)))
    known = help_of() + "".join(help_of(command) for command in sorted(commands_named(page) | {"compile"}))
    assert [option for option in options if option not in known] == []
