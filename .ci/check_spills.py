"""Compiles every production configuration of every Triton kernel for AMD's GPUs; a spilled register is a failure.

``check_spills.py [TARGET ...]``; gfx90a by default. Code objects come from hetcc's cache when they are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from hetcc.backends.contract import Rejected
from hetcc.backends.gpu.kernels.compile import compile_launches
from hetcc.backends.gpu.kernels.production import production_launches
from hetcc.backends.gpu.resources import resources_of

DEFAULT_TARGETS = ("gfx90a",)


def findings(target: str) -> tuple[int, list[str]]:
    """How many code objects there are, and what is wrong with them."""
    launches = production_launches(target)
    objects = compile_launches([launch for _, launch in launches.values()], target)
    found = []
    for digest, (name, launch) in launches.items():
        made = objects[digest]
        where = f"{target}: {launch.module}.{launch.function} of '{name}'"
        if isinstance(made, Rejected):
            found.append(f"{where}: {made}")
            continue
        for kernel in resources_of(made.content, made.shared_bytes):
            if kernel.spills:
                found.append(f"{where}: {kernel.spilled_vector_registers} vector and {kernel.spilled_scalar_registers} "
                             f"scalar registers spilled, {kernel.stack_bytes} bytes of private memory per thread")
    return len(launches), found


def main(targets: Sequence[str]) -> int:
    """Prints what is wrong; 1 if anything is."""
    worst = 0
    for target in targets:
        start = time.perf_counter()
        count, found = findings(target)
        print(f"{target}: {count} code objects, {len(found)} of them spill or do not compile "
              f"({time.perf_counter() - start:.1f} s)")
        print("".join(f"  {line}\n" for line in found), end="")
        worst = worst or bool(found)
    return int(worst)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or DEFAULT_TARGETS))
