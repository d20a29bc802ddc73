"""What the plan executor costs beside the compiled code: microseconds per step of a plan on the emulated devices.

A three-layer Llama of 64 channels is compiled for the processor and a decode step is run many times. What is counted
is everything around the invocations of compiled modules: feeding inputs, looking up values, making lists of
arguments, binding results, recording, fetching outputs, as when text is generated (torch operators are not counted).
The smallest of many runs is the figure, because other work on a shared machine only ever adds.

Run: python benchmarks/executor.py [--runs N]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy
from iree.runtime import VmContext

from hetcc import api
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.options import CompileOptions, EmissionOptions

SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 128}


def bundle(folder: Path) -> Any:
    """The compiled model."""
    request = CaptureRequest("llama", (Phase.DECODE,), context=64, weights="random:0",
                             overrides=tuple((key, str(value)) for key, value in SIZES.items()))
    return api.compile(CompileOptions(request, emission=EmissionOptions(("llvm-cpu",))), folder / "bundle")


def overhead_s(compiled: Any, runs: int) -> tuple[float, int]:
    """Smallest seconds outside compiled code in one run of a step, and the number of plan steps in it."""
    session, phase = compiled.session, compiled.plan.phase("decode")
    inputs = {spec.name: numpy.zeros(spec.shape, spec.dtype) for spec in phase.inputs}
    inside = [0.0]
    invoke = VmContext.invoke

    def timed(self: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = invoke(self, *arguments)
        inside[0] += time.perf_counter() - started
        return result

    VmContext.invoke = timed
    try:
        best = float("inf")
        for _ in range(runs):
            session.reset()  # a cache of 64 entries is soon full
            inside[0] = 0.0
            started = time.perf_counter()
            session.run("decode", inputs, counting=False)
            best = min(best, time.perf_counter() - started - inside[0])
    finally:
        VmContext.invoke = invoke
    return best, len(phase.steps)


def main() -> int:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, steps = overhead_s(bundle(Path(folder)), chosen.runs)
    print(f"{date.today().isoformat()}, {platform.machine()}: {seconds / steps * 1e6:.1f} us per plan step outside "
          f"compiled code ({steps} steps, smallest of {chosen.runs} runs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
