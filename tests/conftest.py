"""What all tests share: golden files, programs that may be missing, fixed seeds.

* ``golden("name.txt", text)`` compares text with ``golden_files/<test module>/<test>/name.txt`` beside the test;
  ``--update-golden`` writes it instead.
* ``@pytest.mark.requires_tool("verilator")`` skips a test without that program or library, and the summary counts what
  was skipped. ``HETCC_REQUIRE="verilator libxrt1"`` turns those skips into failures; CI sets it.
"""

from __future__ import annotations

import ctypes.util
import difflib
import functools
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("hetcc", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("hetcc")

GOLDEN_FOLDER = "golden_files"
LONG_FILES = ("null/test_determinism.py", "null/test_full_size.py", "null/test_survival.py",
              "null/test_plans_on_host.py", "unit/test_predict.py", "null/test_dense_models.py",
              "null/test_sparse_models.py", "property/test_fpga_functional.py", "unit/test_gpu_numbers.py",
              "unit/test_gpu_emit.py", "unit/test_gpu_parts.py", "unit/test_gpu_compile_kernels.py",
              "null/test_policies.py")
"""They come first: a file of one long test that is begun last keeps one process busy and leaves the others idle."""
MISSING_TOOL = re.compile(r"(\S+) is not (?:on PATH|installed)$")
LIBRARIES = {"libxrt1": "xrt_coreutil"}
"""Tools that are shared libraries, by the name of their package, and what the linker calls them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``."""
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_configure() -> None:
    """Keep every library off the network."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests of the long files first; the others stay as they are."""
    folder = config.rootpath / "tests"
    places = {folder / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def required_tools() -> frozenset[str]:
    """The tools whose absence is a failure here, from ``HETCC_REQUIRE`` (names separated by spaces or commas)."""
    return frozenset(filter(None, re.split(r"[\s,]+", os.environ.get("HETCC_REQUIRE", ""))))


@functools.cache
def missing(tool: str) -> str:
    """What to say of a tool that is not here; empty if it is."""
    if tool in LIBRARIES:
        return "" if ctypes.util.find_library(LIBRARIES[tool]) else f"{tool} is not installed"
    return "" if shutil.which(tool) else f"{tool} is not on PATH"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test whose tool is missing."""
    for marker in item.iter_markers("requires_tool"):
        for tool in filter(missing, marker.args):
            if tool in required_tools():
                pytest.fail(f"{missing(tool)} and HETCC_REQUIRE asks for it", pytrace=False)
            pytest.skip(missing(tool))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run, for want of which tool."""
    reasons = (report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])
               if isinstance(report.longrepr, tuple))
    counts = Counter(found.group(1) for found in map(MISSING_TOOL.search, reasons) if found)
    for tool, count in sorted(counts.items()):
        terminalreporter.write_line(f"NOT TESTED: {count} test(s) need {tool}, which is not here", yellow=True)


@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Every test starts from the same state of Python's random module; numpy and torch are seeded where used."""
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """A function that compares a text with the golden file of this test, or writes it under ``--update-golden``."""
    test_name = re.sub(r"[^\w.-]+", "_", request.node.name).strip("_")
    folder = request.path.parent / GOLDEN_FOLDER / request.path.stem.removeprefix("test_") / test_name
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        path: Path = folder / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no golden file {path.relative_to(request.config.rootpath)}; run `make golden`", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            difference = "\n".join(difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "now",
                                                        lineterm=""))
            pytest.fail(f"{path.relative_to(request.config.rootpath)} differs:\n{difference}", pytrace=False)

    return compare
