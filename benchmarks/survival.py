"""What a plan pays to survive the loss of its FPGA, and what a doorbell saves it: all predicted, nothing is run.

    python benchmarks/survival.py [LAYERS] [CONTEXT]

DeepSeek-V3.2 at decode in bfloat16, relevancy and retrieval forced onto the FPGA (arXiv 2603.29002), planned without
code for an MI210 and a U55C with the published links. Memory is not looked at.
"""

from __future__ import annotations

import itertools
import sys

from hetcc.capture.model import CaptureRequest, Phase
from hetcc.ir import DType
from hetcc.options import CACHE_POLICIES, FPGA_LAUNCHES, CompileOptions, PlacementChoice
from hetcc.pipeline import compile_captured
from hetcc.stopwatch import Stopwatch

FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))


def main() -> None:
    """A row per policy and way to launch."""
    from hetcc.capture import capture

    layers, context = (int(word) for word in (sys.argv[1:3] + ["5", "131072"][len(sys.argv) - 1:]))
    request = CaptureRequest("deepseek_v32", (Phase.DECODE,), context=context, dtype=DType.BFLOAT16,
                             overrides=(("num_hidden_layers", str(layers)),))
    captured = capture(request)
    print(f"deepseek_v32, {layers} layers, {context:,} entries, bfloat16; predicted")
    print("| caches | FPGA launch | step | of it second copies | second copies | fault to next result, caches full |")
    print("|---|---|---|---|---|---|")
    for caches, launch in itertools.product(CACHE_POLICIES, FPGA_LAUNCHES):
        options = CompileOptions(request, choice=PlacementChoice(forced=FORCED, caches=caches), emit="never",
                                 ignore_capacity=True, robustness_samples=0, fpga_launch=launch)
        plan = compile_captured(captured, options, None, force=False, watch=Stopwatch()).plan.phase("decode")
        kept, spec = next(iter(plan.survival), None), plan.prediction
        second = sum(buffer.size_bytes for buffer in plan.buffers
                     if buffer.device == "host" and buffer.residency == "cache")
        print(f"| {caches} | {launch} | {spec.latency_s * 1e3:.3f} ms | "
              f"{(kept.shadow_time_s if kept else 0) * 1e6:.1f} us | {second / 2**20:.1f} MiB | "
              + (f"{kept.recovery_time_s:.4g} s |" if kept else "lost |"), flush=True)


if __name__ == "__main__":
    main()
