"""What decides the bytes of a Triton code object, and the child processes that make them.

Everything that runs a program is in ``backends/gpu/tools.py``; this module says with which environment and on what.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hetcc.backends.gpu import tools
from hetcc.errors import InternalError, ToolError, UserError

PACKAGE = "hetcc.backends.gpu.kernels"
CHILD = f"{PACKAGE}.compile_child"


@dataclass(frozen=True, slots=True)
class TritonTarget:
    """A chip Triton makes code for, and the limits that a launch on it has to keep."""

    name: str
    backend: str
    """Triton's word: ``hip`` or ``cuda``."""
    threads_per_warp: int
    shared_limit_bytes: int
    """Most shared memory one block may have: AMD CDNA2 and CDNA3 ISA guides (64 KiB of LDS); CUDA programming guide,
    table of compute capabilities (163 KiB for 8.0, 227 KiB for 9.0)."""

    @property
    def kind(self) -> str:
        """Kind of code object, which is also the file name's ending."""
        return "hsaco" if self.backend == "hip" else "cubin"


TARGETS: Mapping[str, TritonTarget] = {target.name: target for target in (
    TritonTarget("gfx90a", "hip", 64, 64 << 10), TritonTarget("gfx942", "hip", 64, 64 << 10),
    TritonTarget("sm_80", "cuda", 32, 163 << 10), TritonTarget("sm_90", "cuda", 32, 227 << 10))}
LAUNCH_THREADS_LIMIT = 1024
"""Most threads one block may have on every target."""

# Triton reads these and may then make other code. A child gets none of them, so that code objects do not depend on a
# person's settings.
_STEERING_PREFIXES = ("TRITON_", "AMDGCN_", "NVPTX_", "MLIR_", "LLVM_", "DISABLE_", "PTXAS_", "USE_IR_LOC",
                      "ALLOW_LHS_TMEM", "DUMP_MIR", "SWAP_MIR")


def triton_target(name: str) -> TritonTarget:
    """The target ``name``.

    Raises:
        UserError: HET-G001, Triton makes no code for it.
    """
    if name not in TARGETS:
        raise UserError("HET-G001", f"Triton makes no code objects for '{name}'", fix="one of " + ", ".join(TARGETS))
    return TARGETS[name]


@cache
def triton_version() -> str:
    """Version of the installed Triton.

    Raises:
        ToolError: HET-T001, it is not installed.
    """
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        raise ToolError("HET-T001", "the package triton is not installed", fix="pip install 'hetcc[gpu]'") from None


def child_environment(cache_folder: Path) -> dict[str, str]:
    """Environment of a compiling child: no Triton settings but a cache of its own and no line information.

    Line information would put the paths of the kernel sources into the code objects.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING_PREFIXES)}
    return {**kept, "TRITON_CACHE_DIR": str(cache_folder), "TRITON_DISABLE_LINE_INFO": "1", "OMP_NUM_THREADS": "1"}


def run_compiling_child(request: Path, cache_folder: Path, timeout_s: float) -> tools.Outcome:
    """Compiles what a request file lists, one after another, in one child process."""
    return tools.run_python(CHILD, [str(request)], timeout_s, child_environment(cache_folder))


@cache
def sources_digest(module: str, package: str = PACKAGE) -> str:
    """Digest of the text of a kernel module and of all modules of its package that it imports, however indirectly.

    Raises:
        UserError: HET-G001, there is no such module.
    """
    texts: dict[str, bytes] = {}
    waiting = [f"{package}.{module}"]
    while waiting:
        name = waiting.pop()
        if name in texts:
            continue
        path = _file_of(name, package)
        if path is None:
            if not texts:
                raise UserError("HET-G001", f"there is no kernel module '{name}'")
            continue
        texts[name] = path.read_bytes()
        waiting += [found for found in _imported(texts[name], package) if found not in texts]
    facts = "".join(f"{name}:{hashlib.sha256(texts[name]).hexdigest()};" for name in sorted(texts))
    return hashlib.sha256(facts.encode()).hexdigest()


def _file_of(name: str, package: str) -> Path | None:
    """File of a module of a package; found by its name, because looking for it the usual way may import others."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, *name.removeprefix(f"{package}.").split(".")).with_suffix(".py")
        if path.is_file():
            return path
    return None


def _imported(text: bytes, package: str) -> list[str]:
    """Names below ``package`` that the text imports; ``from package.a import b`` gives ``package.a`` and ``.a.b``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.startswith(package + ".")]


@cache
def child_digest() -> str:
    """Digest of the code that calls Triton and writes down what came out."""
    digest = hashlib.sha256()
    for name in (CHILD, f"{PACKAGE}.code_object"):
        path = _file_of(name, PACKAGE)
        if path is None:
            raise InternalError("HET-I001", f"the module {name} has no file")
        digest.update(path.read_bytes())
    return digest.hexdigest()
