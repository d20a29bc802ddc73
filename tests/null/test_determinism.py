"""The same compile gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import hetcc
from corpus.tiny import tiny
from hetcc.capture.model import Phase
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
options = CompileOptions(tiny("deepseek_v32", Phase.DECODE, num_hidden_layers=1),
                         choice=PlacementChoice(forced=(("relevancy", "fpga"), ("retrieval", "fpga"))),
                         emission=EmissionOptions(("gfx90a",), verilog=False))
hetcc.compile(options, sys.argv[1], progress=print)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_compiles_are_byte_identical(tmp_path: Path) -> None:
    """Processes with different hash seeds: two with caches of their own, and one with the full cache of the first."""
    bundles, told = [], []
    for seed, cache in (("1", "first"), ("2", "second"), ("3", "first")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "HETCC_CACHE": str(tmp_path / cache),
                       "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
        folder = tmp_path / f"bundle{seed}"
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], env=environment, check=True, timeout=300,
                              cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        bundles.append(contents(folder))
        told.append("read from the cache" in done.stdout)
    assert told == [False, False, True]
    for other in bundles[1:]:
        assert bundles[0].keys() == other.keys()
        assert [path for path in bundles[0] if bundles[0][path] != other[path]] == []
    assert any(path.endswith(".vmfb") for path in bundles[0])
    assert any(path.startswith("fpga/") for path in bundles[0])
