"""The only place of the GPU back end that runs programs: the importer and ``iree-compile``, as child processes.

A child that crashes, is killed or does not end in time gives an :class:`Outcome` with the reason; nothing is raised.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hetcc.errors import ToolError, UserError
from hetcc.store import text_digest

IMPORT_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 900.0
_PACKAGES = ("torch", "torch-mlir", "iree-base-compiler", "onnx")
_SOURCES = ("importer.py", "rewrites.py", "topk.py", "onnx_selection.py")
_REASON_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Target:
    """A device that ``iree-compile`` makes code for."""

    name: str
    flags: tuple[str, ...]
    emulates: bool = False
    """Whether the code runs on the host's processor in place of a GPU."""
    kernels: bool = True
    """Whether Triton kernels run what they match; otherwise one module runs all of a region."""
    code: str = ""
    """Target whose modules it runs, if not its own."""
    retries: tuple[tuple[str, ...], ...] = ()
    """Flags to try, one set after another, when kernels of a module keep registers in memory."""

    @property
    def module_target(self) -> Target:
        """The target that modules are compiled for."""
        return TARGETS[self.code] if self.code else self

    @property
    def engine(self) -> str:
        """What runs the code, said as it is."""
        return ENGINES.get(self.name, f"iree and triton {self.name}")


# IREE gives a skinny product as many threads as the odd part of its inner extent asks for; with 7168 or 5120 a thread
# then needs more registers than there are. Splitting the inner extent, or another pipeline, avoids it.
_SPLIT_PRODUCTS = tuple((f"--iree-dispatch-creation-split-matmul-reduction={share}",) for share in (4, 8))
_NO_DISTRIBUTION = ("--iree-codegen-llvmgpu-use-reduction-vector-distribution=false",)


def _hip(chip: str) -> Target:
    return Target(chip, ("--iree-hal-target-device=hip", f"--iree-rocm-target={chip}"),
                  retries=(*_SPLIT_PRODUCTS, _NO_DISTRIBUTION))


def _cuda(chip: str, code_for: str = "") -> Target:
    return Target(chip, ("--iree-hal-target-device=cuda", f"--iree-cuda-target={code_for or chip}"))


# A fixed baseline instead of "host": the same bytes on every machine of one architecture. x86-64-v3 is AVX2 with FMA,
# which every x86 server since 2015 has.
_BASELINES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("x86_64-unknown-linux-gnu", "x86-64-v3"),
    "aarch64": ("aarch64-unknown-linux-gnu", "generic"),
}


def _llvm_cpu() -> Target:
    machine = platform.machine()
    triple, baseline = _BASELINES.get(machine, (f"{machine}-unknown-linux-gnu", "generic"))
    flags = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu",
             f"--iree-llvmcpu-target-triple={triple}", f"--iree-llvmcpu-target-cpu={baseline}")
    return Target("llvm-cpu", flags, emulates=True, kernels=False)


TARGETS: Mapping[str, Target] = {
    target.name: target
    # IREE 3.13 does not know sm_90; what it emits is PTX for sm_89, which the driver translates for later chips.
    for target in (_hip("gfx90a"), _hip("gfx942"), _cuda("sm_80"), _cuda("sm_90", code_for="sm_89"), _llvm_cpu(),
                   Target("interpreter", (), True, code="llvm-cpu"))
}
ENGINES: Mapping[str, str] = {
    "llvm-cpu": "iree llvm-cpu (emulated gpu)", "interpreter": "iree llvm-cpu and triton interpreter (emulated gpu)",
}
COMMON_FLAGS = ("--iree-input-type=auto",)


def target_named(name: str) -> Target:
    """The target ``name``.

    Raises:
        UserError: HET-G001, there is no such target.
    """
    if name not in TARGETS:
        raise UserError("HET-G001", f"no GPU target is called '{name}'", fix="one of " + ", ".join(TARGETS))
    return TARGETS[name]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child process ended."""

    ok: bool
    reason: str = ""
    """Why it is not ok: what the program said, the signal, or the time limit."""


def run_child(arguments: Sequence[str], timeout_s: float, folder: Path | None = None,
              environment: Mapping[str, str] | None = None) -> Outcome:
    """Runs a program (in ``folder``) to its end; its whole process group is killed when the time is up.

    ``environment`` stands in for this process's own.
    """
    environment = {**(os.environ if environment is None else environment), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          env=environment, cwd=folder, start_new_session=True) as child:
        try:
            _, complaint = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(child)
            return Outcome(False, f"not finished after {timeout_s:g} s")
        except BaseException:
            _kill_group(child)
            raise
    if child.returncode == 0:
        return Outcome(True)
    if child.returncode < 0:
        with contextlib.suppress(ProcessLookupError):  # what it had started goes with it
            os.killpg(child.pid, signal.SIGKILL)
        return Outcome(False, f"crashed with {_signal_name(-child.returncode)}")
    return Outcome(False, _first_complaint(complaint.decode(errors="replace")) or f"exit status {child.returncode}")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _first_complaint(text: str) -> str:
    """The first line that says ``error``, without the path in front, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        before, mark, after = line.partition("error:")
        if mark and " " not in before.strip():
            return after.strip()[:_REASON_CHARACTERS]
    return lines[-1][:_REASON_CHARACTERS] if lines else ""


@cache
def iree_compile_path() -> str:
    """The ``iree-compile`` of the iree-base-compiler package.

    Raises:
        ToolError: HET-T001, the package is not installed.
    """
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("iree.compiler")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            program = Path(folder) / "_mlir_libs" / "iree-compile"
            if program.is_file():
                return str(program)
    raise ToolError("HET-T001", "iree-compile is not installed", fix="pip install 'hetcc[gpu]'")


def require_tools() -> None:
    """Checks that GPU code can be made on this machine.

    Raises:
        ToolError: HET-T001, a package is missing.
    """
    iree_compile_path()
    for package in _PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ToolError("HET-T001", f"the package {package} is not installed",
                            fix="pip install 'hetcc[gpu]'") from None


@cache
def toolchain_identity() -> str:
    """Versions of all that decides the bytes: the packages, and hetcc's own importer by the digest of its text."""
    versions = ",".join(f"{name}={importlib.metadata.version(name)}" for name in _PACKAGES)
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    rebuild = importlib.util.find_spec("hetcc.aten.rebuild")
    origins = [str(folder / name) for name in _SOURCES] + ([rebuild.origin] if rebuild and rebuild.origin else [])
    for origin in origins:
        digest.update(Path(origin).read_bytes())
    digest.update(text_digest("onnx").encode())
    return f"{versions},importer={digest.hexdigest()[:16]}"


def run_importer(pairs: Sequence[tuple[Path, Path]], timeout_s: float = IMPORT_TIMEOUT_S) -> Outcome:
    """Imports regions (file in, MLIR file out) one after another in one child process."""
    paths = [str(path) for pair in pairs for path in pair]
    return run_child([sys.executable, "-m", "hetcc.backends.gpu.importer", *paths], timeout_s)


def run_python(module: str, arguments: Sequence[str], timeout_s: float,
               environment: Mapping[str, str] | None = None) -> Outcome:
    """Runs a module of hetcc as a program in a child process."""
    return run_child([sys.executable, "-m", module, *arguments], timeout_s, environment=environment)


def run_compiler(source: Path, destination: Path, target: Target, timeout_s: float = COMPILE_TIMEOUT_S,
                 program: str = "", extra: Sequence[str] = ()) -> Outcome:
    """Compiles MLIR to a module for ``target``; ``program`` stands in for iree-compile in tests.

    The compiler runs where the source is: the name it is given ends up in the module.
    """
    arguments = [program or iree_compile_path(), source.name, *COMMON_FLAGS, *target.flags, *extra,
                 *_linker_flags(), "-o", str(destination)]
    outcome = run_child(arguments, timeout_s, source.parent)
    if outcome.ok and not destination.is_file():
        return Outcome(False, "the compiler wrote no module")
    return outcome


@cache
def ptxas_path() -> str | None:
    """The ``ptxas`` that the Triton wheel carries, or None."""
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("triton")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            program = Path(folder) / "backends" / "nvidia" / "bin" / "ptxas"
            if program.is_file():
                return str(program)
    return None


def run_ptxas(text: bytes, chip: str, timeout_s: float = 120.0) -> bytes | None:
    """The cubin that ptxas makes of PTX, or None where there is no ptxas or it does not take the text."""
    program = ptxas_path()
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="hetcc-ptxas-") as folder:
        source, destination = Path(folder) / "kernels.ptx", Path(folder) / "kernels.cubin"
        source.write_bytes(text)
        arguments = [program, f"--gpu-name={chip}", source.name, "-o", str(destination)]
        outcome = run_child(arguments, timeout_s, Path(folder))
        return destination.read_bytes() if outcome.ok and destination.is_file() else None


_linker_lock = threading.Lock()


@cache
def _linked(linker: Path) -> Path:
    """Another name of the linker, in a folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="hetcc-linker-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / linker.name
    link.symlink_to(linker)
    return link


def _linker_flags() -> tuple[str, ...]:
    """Names the linker by a path without white space, because IREE hands that path to a shell as it is.

    Every target needs it: constants are folded by code for the host.
    """
    linker = Path(iree_compile_path()).with_name("iree-lld")
    if len(str(linker).split()) == 1:
        return ()
    with _linker_lock:  # compilers are started from several threads, and a cache alone would link twice
        return (f"--iree-llvmcpu-embedded-linker-path={_linked(linker)}",)


PROBE = """func.func @main(%0: tensor<4xf32>) -> tensor<4xf32> {
  %1 = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %2 = math.exp %1 : tensor<4xf32>
  %3 = arith.addf %0, %2 : tensor<4xf32>
  return %3 : tensor<4xf32>
}
"""


def probe_compiler(targets: Sequence[Target], folder: Path) -> None:
    """Tells a compiler that does not work here from one that does not take a region.

    Raises:
        ToolError: HET-T002, it does not even compile an addition.
    """
    source = folder / "probe.mlir"
    source.write_text(PROBE, encoding="utf-8")
    for target in targets:
        outcome = run_compiler(source, folder / f"probe.{target.name}.vmfb", target)
        if not outcome.ok:
            raise ToolError("HET-T002", f"iree-compile does not work on this machine for {target.name}: "
                            f"{outcome.reason}", fix="reinstall with: pip install --force-reinstall 'hetcc[gpu]'")
