"""FAKE. Stands on PATH where ``v++`` and ``emconfigutil`` would: checks its inputs, links nothing.

Instead of an xclbin it copies the file ``made.xclbin`` beside this one, and it writes reports of made-up figures in the
documented form. A file ``fail`` beside this one makes it fail once.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

TIMING = """\
------------------------------------------------------------------------------------------------
| Design Timing Summary
| ---------------------
------------------------------------------------------------------------------------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)
    -------      -------  ---------------------  -------------------      -------      -------
     -0.217      -12.500                     93               123456        0.010        0.000
"""
USED = """\
+----------------------+----------------+----------------+-------------+-------------+--------------+
| Name                 | LUT            | LUTAsMem       | REG         | BRAM        | URAM         | DSP        |
+----------------------+----------------+----------------+-------------+-------------+--------------+
| Platform             | 120000 [  9%]  | 10 [  0%]      | 200000 [ 7%]| 200 [ 10%]  |   0 [  0%]   |  10 [  0%] |
| User Budget          | 1184000 [100%] | 10 [100%]      | 2400000[100%]| 1800 [100%]| 960 [100%]   | 9014 [100%]|
|    Used Resources    |  50000 [  4%]  | 10 [  0%]      | 40000 [ 2%] |  9 [  0%]   |   0 [  0%]   | 144 [  2%] |
"""


def link(arguments: list[str]) -> int:
    """As ``v++ --link`` is called by ``hetcc build``."""
    value = {name: arguments[arguments.index(name) + 1] for name in ("--target", "--platform", "--config", "--output")}
    objects = [Path(word) for word in arguments if word.endswith(".xo")]
    names = []
    for path in objects:
        if not path.is_file() or not path.read_text().startswith("FAKE XO "):
            sys.stdout.write(f"ERROR: {path} is no kernel object\n")
            return 1
        names.append(path.read_text().split()[2])
    config = Path(value["--config"]).read_text()
    if sorted(re.findall(r"^nk=(\w+):1:", config, re.MULTILINE)) != sorted(names):
        sys.stdout.write(f"ERROR: the configuration is not that of {names}\n")
        return 1
    shutil.copyfile(Path(__file__).parent / "made.xclbin", value["--output"])
    if value["--target"] == "hw":
        reports = Path("_x/reports/link/imp")
        reports.mkdir(parents=True, exist_ok=True)
        (reports / "impl_1_hw_bb_locked_timing_summary_routed.rpt").write_text(TIMING)
        rows = "".join(f"| {name} | 1000 [ 1%] | 1 [ 0%] | 2000 [ 1%] | 1.5 [ 0%] | 4 [ 0%] | 64 [ 1%] |\n"
                       f"|    {name}_1 | 999 [ 1%] | 1 [ 0%] | 1999 [ 1%] | 1 [ 0%] | 3 [ 0%] | 63 [ 1%] |\n"
                       for name in names)
        (reports / "impl_1_kernel_util_routed.rpt").write_text(USED + rows)
    return 0


def main(tool: str, arguments: list[str]) -> int:
    """Run as the named tool."""
    here = Path(__file__).parent
    with (here / "calls.log").open("a") as log:
        log.write(f"{tool} {' '.join(arguments)}\n")
    if arguments == ["--version"]:
        sys.stdout.write(f"FAKE {tool} 1.0 (no such product)\n")
        return 0
    if (here / "fail").exists():
        (here / "fail").unlink()
        sys.stdout.write("ERROR: told to fail\n")
        return 1
    if tool == "emconfigutil":
        Path("emconfig.json").write_text('{"fake": true}\n')
        return 0
    return link(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
