"""Measures the Triton kernels against PyTorch on the GPU of this machine; writes a JSON and docs/gpu_benchmarks.md.

Run: python benchmarks/gpu/run.py [--quick] [--only TEXT] [--no-compile] [--render JSON]

Without a GPU it says so and ends with status 3; nothing is written. A wrong result ends it with status 1.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cases
import launch
import measure
import table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gpu_benchmarks.md"
RESULTS = Path(__file__).resolve().parent / "results.json"
NO_GPU = 3
TOLERANCE = 1e-2
"""Relative, for results of bfloat16 operands."""
REPEATS, QUICK_REPEATS = 50, 15


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few sizes, two minutes; prints only, unless --out")
    parser.add_argument("--only", default="", help="cases whose name holds this text; prints only, unless --out")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="folder for results.json and gpu_benchmarks.md")
    parser.add_argument("--render", type=Path, help="only write the page of an earlier run's JSON")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    """Runs the benchmark; the exit status."""
    options = arguments(given)
    if options.render:
        report = json.loads(options.render.read_text(encoding="utf-8"))
        PAGE.write_text(table.render(report), encoding="utf-8")
        return 0
    torch = usable_torch()
    if torch is None:
        print("no GPU: torch sees none on this machine, so nothing was measured and the table stays as it is",
              file=sys.stderr)
        return NO_GPU
    chosen = [case for case in cases.all_cases() if options.only in case.name and (case.quick or not options.quick)]
    report = run(chosen, torch, options)
    page = table.render(report)
    print(page)
    whole = not options.quick and not options.only and not options.no_compile
    if options.out or whole:
        results = options.out / RESULTS.name if options.out else RESULTS
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (options.out / PAGE.name if options.out else PAGE).write_text(page, encoding="utf-8")
    return int(any("failure" in row or table.verdict(row) == "WRONG" for row in report["rows"]))


def usable_torch() -> Any:
    """PyTorch if it has a GPU, else None."""
    import torch

    return torch if torch.cuda.is_available() else None


def run(chosen: list[cases.Case], torch: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Measures the cases, one after the other."""
    stopwatch = measure.Stopwatch(torch, QUICK_REPEATS if options.quick else REPEATS)
    ceilings, target = stopwatch.ceilings(), launch.target_of(torch)
    print(f"{torch.cuda.get_device_name(0)}: {ceilings}", file=sys.stderr)
    rows = []
    for case in chosen:
        row = measure_case(case, torch, stopwatch, ceilings, target, not options.no_compile)
        rows.append(row)
        print(table.row_text(row), file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return {"schema": table.SCHEMA, "machine": machine(torch), "target": target, "ceilings": asdict(ceilings),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": shlex.join(["python", "benchmarks/gpu/run.py", *sys.argv[1:]]), "rows": rows}


def machine(torch: Any) -> dict[str, str]:
    """What the numbers belong to."""
    import triton

    runtime = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return {"device": str(torch.cuda.get_device_name(0)), "runtime": runtime, "torch": str(torch.__version__),
            "triton": str(triton.__version__)}


def measure_case(case: cases.Case, torch: Any, stopwatch: measure.Stopwatch, ceilings: measure.Ceilings, target: str,
                 compiles: bool, device: str = "cuda") -> dict[str, Any]:
    """One row: times, error against float32, bound and goal. A contestant that fails leaves its message."""
    import triton

    row: dict[str, Any] = {"group": case.group, "size": case.size, "goal": asdict(case.goal), "tolerance": TOLERANCE,
                           "times": {}, "failures": {}}
    errors = (RuntimeError, NotImplementedError, triton.TritonError)
    try:
        tensors = cases.make_inputs(case, torch, device)
        start = contestant(case, tensors, torch, target, device)
        start()
        row["error"] = measure.relative_error(tensors[case.result], expected(case, tensors, torch))
        row["bytes"], row["flops"] = cases.least_bytes(case, tensors), case.flops
        row["bound_s"] = measure.bound_s(row["bytes"], row["flops"], ceilings)
        row["times"]["triton"] = asdict(stopwatch.time(start))
    except errors as error:
        return {**row, "failure": one_line(error)}
    for name, function in rivals(case, torch, compiles).items():
        try:
            row["times"][name] = asdict(stopwatch.time(lambda function=function: function(tensors)))
        except errors as error:
            row["failures"][name] = one_line(error)
            gc.collect()
            torch.cuda.empty_cache()
    return row


def contestant(case: cases.Case, tensors: dict[str, Any], torch: Any, target: str,
               device: str) -> Callable[[], None]:
    """A function that runs the case's kernels; adds outputs (poisoned) and scratch to ``tensors``."""
    starts = []
    for name, kind in case.outputs.items():
        tensors[name] = poisoned(kind, torch, device)
    for step in case.steps:
        plan = step.operation.plan(target)
        roles = [role for role, _ in (*step.operation.inputs, *step.operation.outputs)]
        scratch = {name: poisoned(kind, torch, device) for name, kind in plan.scratch}
        starts.append(launch.bind(plan, {role: tensors[step.name(role)] for role in roles} | scratch))

    def start() -> None:
        for each in starts:
            each()

    return start


def poisoned(kind: Any, torch: Any, device: str) -> Any:
    """A tensor that shows where nothing was written."""
    dtype = getattr(torch, kind.dtype.value)
    return torch.full(kind.shape, float("nan") if dtype.is_floating_point else -1, dtype=dtype, device=device)


def expected(case: cases.Case, tensors: Mapping[str, Any], torch: Any) -> Any:
    """PyTorch's result with float32 operands."""
    widened = {name: tensors[name].float() if tensors[name].is_floating_point() else tensors[name]
               for name in case.inputs}
    return case.eager(widened)[case.result]


def rivals(case: cases.Case, torch: Any, compiles: bool) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """PyTorch's ways to compute the case."""
    found: dict[str, Callable[[Mapping[str, Any]], Any]] = {"eager": case.eager}
    if compiles:
        torch.compiler.reset()
        found["compiled"] = torch.compile(case.eager, dynamic=False)
    if case.fused is not None:
        found["sdpa"] = case.fused
    return found


def one_line(error: Exception) -> str:
    """The start of a message, fit for a table cell."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120].replace("|", "/")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
