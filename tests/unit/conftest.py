"""Bundles that the tests of the command line and the reports share; each is made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.captures import captures_shared
from corpus.command_line import TINY_LLAMA, TINY_SPARSE, CommandResult, hetcc, settings


@pytest.fixture
def captured_once() -> Iterator[None]:
    """Share captures during a test."""
    with captures_shared():
        yield


@pytest.fixture(scope="session")
def plan_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """A planning-only bundle with selections, relevancy and retrieval on the FPGA, and what its compile printed."""
    folder = tmp_path_factory.mktemp("plans") / "plan"
    with captures_shared():
        done = hetcc("compile", "deepseek_v32", *settings(TINY_SPARSE), "--context", 64, "--place", "relevancy=fpga",
                     "--place", "retrieval=fpga", "--json", "-o", folder)
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture(scope="session")
def code_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that runs: one decoder layer, one phase, code for this machine only."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    done = hetcc("compile", "llama", *settings(TINY_LLAMA), "--phase", "decode", "--context", 16, "--weights",
                 "random:0", "--target", "llvm-cpu", "--no-verilog", "-o", folder)
    assert done.code == 0, done.err
    return folder
