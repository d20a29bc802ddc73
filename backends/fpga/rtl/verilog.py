"""Verilog of a streaming core: every distinct unit once, and the core that instantiates them."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetcc.backends.fpga import tools
from hetcc.backends.fpga.memory.layout import is_wide
from hetcc.backends.fpga.rtl.limits import check
from hetcc.backends.fpga.stages.stage_graph import Parallelism, StageGraph, row_words
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
    return _written({kernel: _netlist(core, kernel, core.ports())}, library)


def write_kernel(graph: StageGraph, kernel: str) -> bytes:
    """The Verilog text of a whole kernel: the shell (``rtl/shell.py``) with the streaming core inside.

    Args:
        graph: the kernel, as wide as its ``parallel`` says.
        kernel: name of the top module; the core is ``<kernel>_core``.

    Raises:
        UserError: HET-F001, the graph is beyond the limits.
        ToolError: HET-T001, no yosys; HET-T002, it failed.
    """
    from hetcc.backends.fpga.rtl.shell import Shell

    parallel = graph.parallel or Parallelism()
    with uncollected():
        library, core = _core_of(graph, kernel, parallel.lanes, parallel.together,
                                 whole_steps=is_wide(graph) is not None)
        shell = Shell(graph, library, core, kernel)
        texts = {kernel: _netlist(shell, kernel, shell.ports()),
                 f"{kernel}_core": _netlist(core, f"{kernel}_core", core.ports())}
        return _written(texts, library)


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
    return _written({name: _netlist(unit, name, ports)}, library)


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


def _written(texts: dict[str, str], library: Library) -> bytes:
    """One file of the given modules and of all units they refer to."""
    # Units may themselves refer to units, so look again until no new name appears.
    while missing := [name for name in library.modules if name not in texts]:
        for name in missing:
            unit, ports = library.modules[name]
            texts[name] = _netlist(unit, name, ports)
    with tempfile.TemporaryDirectory(prefix="hetcc-rtl-") as name:
        folder = Path(name)
        reads = []
        for module in sorted(texts):
            (folder / f"{module}.il").write_text(texts[module])
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
