"""FAKE. Stands on PATH where Vivado would: takes its command line, checks what it would read, packages nothing.

It reads the Tcl script as far as it must to know which files are named, and writes a file that says it is fake.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run as Vivado is run by ``hetcc build``."""
    with (Path(__file__).parent / "calls.log").open("a") as log:
        log.write(f"vivado {' '.join(arguments)}\n")
    if arguments == ["-version"]:
        sys.stdout.write("FAKE Vivado 1.0 (no such product)\n")
        return 0
    script = Path(arguments[arguments.index("-source") + 1]).read_text()
    for pattern in (r"add_files (\S+)", r"-kernel_xml (\S+)"):
        name = re.search(pattern, script)
        if name is None or not Path(name[1]).is_file():
            sys.stdout.write(f"ERROR: the script names no file for {pattern}\n")
            return 1
    top = re.search(r"set_property top (\S+)", script)
    written = re.search(r"-xo_path (\S+)", script)
    verilog = Path("kernel.v").read_text()
    if top is None or written is None or f"module {top[1]}(" not in verilog:
        sys.stdout.write(f"ERROR: kernel.v has no module {top and top[1]}\n")
        return 1
    Path(written[1]).write_text(f"FAKE XO {top[1]} {hashlib.sha256(verilog.encode()).hexdigest()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
