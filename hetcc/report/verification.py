"""Verified runs as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hetcc.report.tables import label_lines, text_table
from hetcc.runtime.verify import Verification


def verification_table(results: Sequence[Verification]) -> str:
    """A row per phase, then what executed each device's regions, in the devices' own words, and what was simulated."""
    rows = [[result.phase, "passed" if result.passed else "FAILED", str(result.steps), f"{result.relative_error:.1e}",
             f"{result.tolerance:.0e}", str(result.selections.compared), str(result.selections.equal),
             str(result.selections.ties), str(result.selections.wrong), shares_text(result.coverage.flops),
             shares_text(result.coverage.bytes_moved)] for result in results]
    table = text_table(["phase", "", "steps", "relative error", "limit", "selections", "equal", "ties", "wrong",
                        "flops on", "bytes on"], rows, right=range(2, 9))
    engines = dict.fromkeys((f"{device} is", engine) for result in results
                            for device, engine in sorted(result.engines.items()))
    problems = [("problem", f"{result.phase}: {problem}") for result in results
                for problem in result.coverage.problems]
    missing = [("missing", f"{result.phase}: {name}") for result in results for name in result.missing_outputs]
    simulated = [(f"simulated in {result.phase}", _simulated_text(result))
                 for result in results if result.simulated_runs]
    return f"{table}\n\n{label_lines([*engines, *simulated, *problems, *missing])}"


def _simulated_text(result: Verification) -> str:
    """Runs and cycles; kernels that were started and kernels that were rung are counted differently, so apart."""
    started, cycles = result.simulated_runs - result.doorbell_runs, result.simulated_cycles - result.doorbell_cycles
    found = [f"{started:,} runs of kernels, {cycles:,} cycles"] if started else []
    if result.doorbell_runs:
        found.append(f"{result.doorbell_runs:,} runs by doorbell, {result.doorbell_cycles:,} cycles from doorbell to "
                     "answer")
    return "; ".join(found)


def shares_text(shares: Mapping[str, float]) -> str:
    """``gpu 97.1 %, fpga 2.9 %``, the largest first."""
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{device} {100 * share:.3g} %" for device, share in ordered) or "-"
