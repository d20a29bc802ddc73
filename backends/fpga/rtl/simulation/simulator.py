"""Builds simulators of emitted Verilog: Verilator, the C++ compiler, and the cache of what they made.

A wide kernel has hundreds or thousands of equal units. ``structure.control_file`` makes Verilator write each of them
once; what runs every cycle is compiled with optimisation and what runs once without, in a few pieces of some size, as
many at a time as there are processors. Programs and Verilator's own library are kept in the cache
(``hetcc.store``), addressed by everything they are made from.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.rtl.simulation.structure import control_file
from hetcc.store import Store, key_of

_VERILATE = ("-fno-inline", "--output-split", "0", "-Wno-fatal", "-Wno-lint", "-Wno-style")
# What runs every cycle, and what runs once. A higher level takes longer than it saves in runs of a second.
_FAST, _SLOW = "-O1", "-O0"
_PIECE_BYTES = 1_000_000
"""Of C++ per compiler run: the headers take about as long as a tenth of that."""
_ONCE = re.compile(r"__Slow|__Syms|__ConstPool")
_MAKEFILE = """\
.DEFAULT_GOAL := {program}
VM_DEFAULT_RULES := 0
VM_SC := 0
VERILATOR_ROOT := {root}
include {program}_classes.mk
include $(VERILATOR_ROOT)/include/verilated.mk
FLAGS := $(CXXFLAGS) $(CPPFLAGS) {folders} -w
LIBRARY := $(addprefix of_verilator_, $(addsuffix .o, $(VM_GLOBAL_FAST) $(VM_GLOBAL_SLOW)))
of_verilator_%.o: $(VERILATOR_ROOT)/include/%.cpp
\t$(CXX) $(FLAGS) {fast} -c -o $@ $<
{library}fast%.o: fast%.cc
\t$(CXX) $(FLAGS) {fast} -c -o $@ $<
slow%.o: slow%.cc
\t$(CXX) $(FLAGS) {slow} -c -o $@ $<
{program}: {objects} library.o
\t$(LINK) $(LDFLAGS) -o $@ $^ $(LOADLIBES) $(LDLIBS) $(LIBS)
"""
_LIBRARY_RULE = "library.o: $(LIBRARY)\n\t$(LINK) -r -nostdlib -o $@ $^\n"


@dataclass(frozen=True)
class _Toolchain:
    """The programs a simulator is made with."""

    root: Path
    """Where Verilator's headers and makefiles are."""
    versions: tuple[str, ...]


def build_simulator(verilog: bytes, top: str, bench: str, folder: Path, *, program: str = "Vkernel",
                    timeout_s: float = 600.0, store: Store | None = None) -> None:
    """Build the simulator of a module; the program is ``<folder>/obj/<program>``.

    Args:
        verilog: the emitted file.
        top: its top module.
        bench: C++ with ``main``, which includes ``<program>.h``.
        folder: where to build.
        program: its name, and that of Verilator's class.
        timeout_s: after which Verilator or the compilers have failed.
        store: where programs are kept; none when absent.

    Raises:
        ToolError: HET-T001 without verilator or make, HET-T002 when one fails.
    """
    tools.require("verilator")
    text = verilog.decode()
    control = control_file(text, top)
    key = key_of("fpga-simulator", text, top, bench, control, program, _VERILATE, _FAST, _SLOW, _PIECE_BYTES,
                 _MAKEFILE, _toolchain().versions)
    built = folder / "obj"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    if _restored(store, key, built / program):
        (built / program).chmod(0o755)
        return
    (folder / "kernel.v").write_bytes(verilog)
    (folder / "bench.cpp").write_text(bench)
    (folder / "units.vlt").write_text(control)
    hierarchical = ("--hierarchical",) if "\nhier_block " in control else ()
    tools.run(["verilator", "--cc", "--exe", *hierarchical, *_VERILATE, "--top-module", top, "--prefix", program,
               "--Mdir", "obj", "units.vlt", "kernel.v"], folder, timeout_s)
    _compile(folder, program, timeout_s, store)
    _keep(store, key, built / program)


def _compile(folder: Path, program: str, timeout_s: float, store: Store | None) -> None:
    """The C++ compiler over what Verilator wrote."""
    built, toolchain = folder / "obj", _toolchain()
    listed = (built / f"{program}_classes.mk").read_text().partition("VM_GLOBAL_FAST")[2]
    key = key_of("verilator-library", listed, _FAST, _MAKEFILE, _LIBRARY_RULE, toolchain.versions)
    known = _restored(store, key, built / "library.o")
    folders = [built, *sorted(path for path in built.iterdir() if path.is_dir())]
    pieces = [("fast", [folder / "bench.cpp"])]
    for part in folders:
        files = sorted(part.glob("*.cpp"))
        pieces += [("slow", piece) for piece in _pieces([file for file in files if _ONCE.search(file.name)])]
        pieces += [("fast", piece) for piece in _pieces([file for file in files if not _ONCE.search(file.name)])]
    objects = []
    for at, (kind, piece) in enumerate(pieces):
        lines = "".join(f'#include "{os.path.relpath(file, built)}"\n' for file in piece)
        (built / f"{kind}{at}.cc").write_text(lines)
        objects.append(f"{kind}{at}.o")
    (built / "build.mk").write_text(_MAKEFILE.format(
        program=program, root=toolchain.root, fast=_FAST, slow=_SLOW, objects=" ".join(objects),
        folders=" ".join(f"-I{path.name}" for path in folders[1:]), library="" if known else _LIBRARY_RULE))
    tools.run(["make", "-f", "build.mk", "-j", str(os.cpu_count() or 1)], built, timeout_s)
    if not known:
        _keep(store, key, built / "library.o")


def _pieces(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The files in their order, in groups of some size."""
    piece: list[Path] = []
    size = 0
    for file in files:
        length = file.stat().st_size
        if piece and size + length > _PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(file)
        size += length
    if piece:
        yield piece


@functools.cache
def _toolchain() -> _Toolchain:
    """What is installed."""
    here = Path.cwd()
    root = Path(tools.run(["verilator", "--getenv", "VERILATOR_ROOT"], here).strip())
    compiler = re.search(r"^CXX *= *(\S+)", (root / "include" / "verilated.mk").read_text(), re.MULTILINE)
    versions = [tools.run(["verilator", "--version"], here), platform.machine(), *platform.libc_ver()]
    if compiler is not None:
        versions.append(tools.run([compiler[1], "--version"], here))
    return _Toolchain(root, tuple(versions))


def _restored(store: Store | None, key: str, target: Path) -> bool:
    """Whether the file was in the cache, and now is where it belongs."""
    kept = store.get(key) if store is not None else None
    if kept is None:
        return False
    try:
        target.write_bytes(zlib.decompress(kept))
    except zlib.error:
        return False
    return True


def _keep(store: Store | None, key: str, file: Path) -> None:
    if store is not None:
        store.put(key, zlib.compress(file.read_bytes(), 1))


__all__ = ["build_simulator"]
