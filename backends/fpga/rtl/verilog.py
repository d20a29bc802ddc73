"""Verilog of a streaming core: every distinct unit once, and the core that instantiates them."""

from __future__ import annotations

import itertools
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.memory.layout import is_wide
from hetcc.backends.fpga.rtl.limits import check
from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph, row_words
from hetcc.copies import in_copies
from hetcc.errors import UserError
from hetcc.garbage import uncollected

if TYPE_CHECKING:
    from hetcc.backends.fpga.rtl.cores.top import StreamCore
    from hetcc.backends.fpga.rtl.units.library import Library

_SCRIPT = """\
proc -nomux -norom
memory_collect
attrmap -remove generator -remove top -remove src -remove amaranth.hierarchy -remove amaranth.decoding
attrmap -modattr -remove generator -remove top -remove src -remove amaranth.hierarchy -remove amaranth.decoding
write_verilog -norename kernel.v
"""
_LOOP = b"""\
  initial begin : %s
    integer at;
    for (at = 0; at < %d; at = at + 1)
      %s[at] = %s;
  end
"""
# A memory that begins as zeros: an assignment for each of its words, in order.
_ZEROS = re.compile(rb"  initial begin\n    (\S+ ?)\[0\] = (\d+'[hd]0+);\n((?:    \1\[\d+\] = \2;\n)+)  end\n")


def write(graph: StageGraph, kernel: str, lanes: int) -> bytes:
    """The Verilog text of a streaming core within the limits of ``limits.check``; equal graphs give equal bytes.

    Args:
        graph: the kernel.
        kernel: name of the top module.
        lanes: results of the first inner product per cycle (``choice.choose``).

    Raises:
        UserError: HET-F001, the graph is beyond the limits.
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    library, core = _core_of(graph, kernel, lanes)
    return _written(_Modules(library, {kernel: (core, core.ports())}))


def write_kernel(graph: StageGraph, kernel: str) -> bytes:
    """The Verilog text of a whole kernel: the shell (``rtl/shell.py``) with the streaming core inside.

    Args:
        graph: the kernel, as wide as its ``parallel`` says.
        kernel: name of the top module; the core is ``<kernel>_core``.

    Raises:
        UserError: HET-F001, the graph is beyond the limits.
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    from amaranth.hdl import Fragment

    from hetcc.backends.fpga.rtl.shell import Shell

    parallel = graph.parallel or Parallelism()
    with uncollected():
        library, core = _core_of(graph, kernel, parallel.lanes, parallel.together,
                                 whole_steps=is_wide(graph) is not None)
        ports = core.ports()
        # Elaborated here, so that its units are known and written beside it, the longest piece of work.
        elaborated = Fragment.get(core, None)
        shell = Shell(graph, library, core, kernel)
        return _written(_Modules(library, {f"{kernel}_core": (elaborated, ports), kernel: (shell, shell.ports())}))


def text_of(unit: Any, name: str, ports: tuple[Any, ...], library: Library) -> bytes:
    """The Verilog text of any one unit and of those it was made with.

    Args:
        unit: the top module.
        name: its name.
        ports: all its ports but clock and reset.
        library: where it placed units; ``shared``.

    Raises:
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    tools.require_yosys()
    return _written(_Modules(library, {name: (unit, ports)}))


def _core_of(graph: StageGraph, kernel: str, lanes: int, together: int = 1, *,
             whole_steps: bool = False) -> tuple[Library, StreamCore]:
    """A core; with ``whole_steps`` one beat brings all rows of a step."""
    beyond = check(graph)
    if beyond is not None:
        raise UserError("HET-F001", str(beyond), where=kernel, fix="it still runs in the functional model")
    tools.require_yosys()
    from hetcc.backends.fpga.rtl.cores.cores import core_of
    from hetcc.backends.fpga.rtl.units.library import Library

    library = Library(shared=True)
    words = row_words(graph) * together if whole_steps else None
    return library, core_of(graph, library, lanes, together, words)


class _Modules:
    """Netlists by module, as far as they are made."""

    def __init__(self, library: Library, given: dict[str, tuple[Any, tuple[Any, ...]]]) -> None:
        self._library, self.given = library, given
        self.texts: dict[str, str] = {}

    def missing(self) -> list[str]:
        """Modules that are known and have no netlist."""
        return [name for name in (*self.given, *self._library.modules) if name not in self.texts]

    def write(self, name: str) -> None:
        """Make the netlist of a module; units that it places are known then."""
        unit, ports = self.given[name] if name in self.given else self._library.modules[name]
        self.texts[name] = _netlist(unit, name, ports)

    def written_from(self, name: str) -> dict[str, str]:
        """The netlists of a module, unless there is one, and of all units that become known by it."""
        before = {*self.texts, *self.missing()} - {name}
        while new := [one for one in self.missing() if one not in before]:
            for one in new:
                self.write(one)
        return {one: text for one, text in self.texts.items() if one not in before}


def _written(modules: _Modules) -> bytes:
    """One file of the given modules and of all units they refer to, which are made on all processors."""
    from amaranth.hdl import UnusedElaboratable

    # What a copy of this process elaborates looks unused here.
    warnings.filterwarnings("ignore", category=UnusedElaboratable)
    names = modules.missing()
    for found in in_copies(lambda at: modules.written_from(names[at]), len(names), least=2):
        modules.texts |= found
    with tempfile.TemporaryDirectory(prefix="hetcc-rtl-") as name:
        folder = Path(name)
        reads = []
        for module, text in sorted(modules.texts.items()):
            (folder / f"{module}.il").write_text(text)
            reads.append(f"read_rtlil {module}.il\n")
        (folder / "write.ys").write_text("".join(reads) + _SCRIPT)
        tools.run_yosys("write.ys", folder)
        return _with_loops(_without_banner((folder / "kernel.v").read_bytes()))


def _netlist(unit: Any, name: str, ports: tuple[Any, ...]) -> str:
    from amaranth.back import rtlil

    return str(rtlil.convert(unit, name=name, ports=list(ports), emit_src=False))


def _without_banner(text: bytes) -> bytes:
    """The text without its first line, which names the version of the writer."""
    first, _, rest = text.partition(b"\n")
    return rest.lstrip(b"\n") if first.startswith(b"/*") else text


def _with_loops(text: bytes) -> bytes:
    """The text with a loop where every word of a memory is set to zero: less to read for people, and for compilers."""
    numbered = itertools.count()

    def loop(found: re.Match[bytes]) -> bytes:
        memory, zero, rest = found.groups()
        return _LOOP % (b"hetcc_zeros_%d" % next(numbered), rest.count(b"\n") + 1, memory, zero)

    return _ZEROS.sub(loop, text)


__all__ = ["text_of", "write", "write_kernel"]
