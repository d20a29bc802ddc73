"""Calibrates this machine's processor and writes docs/calibration.md: errors on held-out sizes, case by case.

Run: python benchmarks/calibration.py [--budget SECONDS] [--profile my.toml]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hetcc.bench.calibration import STEP, Calibration, Request, calibrate, processor_name
from hetcc.bench.check import Check, Residual
from hetcc.bench.engine import CpuEngine
from hetcc.cost_model.profile_text import profile_text
from hetcc.units import format_time

PAGE = Path(__file__).resolve().parents[1] / "docs" / "calibration.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of measuring")
    parser.add_argument("--profile", type=Path, help="write the profile too")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    found = calibrate(Request(budget_s=given.budget, command="hetcc calibrate --device cpu"), CpuEngine(),
                      lambda message: print(message, file=sys.stderr))
    if given.profile:
        given.profile.write_text(profile_text(found.profile), encoding="utf-8")
    given.page.write_text(page(found, processor_name(), given.budget), encoding="utf-8")
    return 0


def page(found: Calibration, processor: str, budget_s: float) -> str:
    """The page of one run."""
    lines = [
        "# A calibration, measured", "",
        ("Written by `python benchmarks/calibration.py`; what is measured and how is in "
         "[the cost model](cost_model.md#calibration)."), "",
        (f"* measured on {found.facts.date}, one thread of {processor}, code by IREE for `llvm-cpu`, on a machine with "
         "other work"),
        f"* command: `hetcc calibrate --device cpu --budget {budget_s:g}`",
        (f"* clock: {found.clock}; up to {found.rounds} repeats of a program; one-minute load {found.load[0]:.1f} "
         f"before and {found.load[1]:.1f} after measuring"),
        (f"* fitted: launch {format_time(found.draft.region_s)} per region and {format_time(found.draft.launch_s)} per "
         f"kernel, {found.draft.bandwidth / 1e9:.2f} GB/s from memory, {found.draft.cache_bandwidth / 1e9:.2f} GB/s "
         "from the cache; times fractions of each class"),
        (f"* roofline, fitted to the same times: launch {format_time(found.roofline.launch_s)} per kernel, "
         f"{found.roofline.bandwidth / 1e9:.2f} GB/s, {found.roofline.peak / 1e9:.2f} Gflop/s"), "",
        "## Errors on sizes that were not fitted", "",
        ("Error is the mean of the relative errors without their signs. The target is the larger of 10% and 1.5 "
         "spreads; the error should also be at most half of the roofline's."), "",
        "| class | fitted | held out | error | worst | repeat spread | target | roofline | |",
        "|---|---|---|---|---|---|---|---|---|", *(_check_row(check) for check in found.checks), "",
        *(f"Not measured: {name}: {reason}\n" for name, reason in found.refused.items()),
        "## Every case", "", "| case | | measured | spread | error | roofline |", "|---|---|---|---|---|---|",
        *(_case_row(one) for one in found.residuals)]
    return "\n".join(lines) + "\n"


def _check_row(check: Check) -> str:
    missed = [text for ok, text in ((check.within_target, "over the target"),
                                    (check.halves_roofline, "not half the roofline's")) if not ok]
    numbers = " | ".join(f"{share:.1%}" for share in (check.error, check.worst, check.spread, check.target,
                                                      check.roofline_error))
    return f"| {check.kind} | {check.fitted} | {check.held} | {numbers} | {', '.join(missed) or 'met'} |"


def _case_row(one: Residual) -> str:
    name = f"{STEP} {one.name}" if one.kind == STEP else one.name
    return (f"| {name} | {'fitted' if one.fitted else 'held out'} | {format_time(one.time_s)} | {one.spread:.1%} | "
            f"{one.error:+.1%} | {one.roofline_error:+.1%} |")


if __name__ == "__main__":
    raise SystemExit(main())
