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
    simulated = [(f"simulated in {result.phase}",
                  f"{result.simulated_runs:,} runs of kernels, {result.simulated_cycles:,} cycles")
                 for result in results if result.simulated_runs]
    return f"{table}\n\n{label_lines([*engines, *simulated, *problems, *missing])}"


def shares_text(shares: Mapping[str, float]) -> str:
    """``gpu 97.1 %, fpga 2.9 %``, the largest first."""
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{device} {100 * share:.3g} %" for device, share in ordered) or "-"
