"""The table of measurements as Markdown, from the JSON that a run writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = "hetcc-gpu-benchmarks/1"
HEADER = """# GPU kernels against PyTorch

Written by `benchmarks/gpu/run.py`; do not edit.
"""
COLUMNS = ("kernel", "size", "time", "spread", "bound", "share of roofline", "eager", "compiled", "SDPA",
           "over best PyTorch", "error", "goal")


def render(report: Mapping[str, Any]) -> str:
    """The page for a finished run."""
    machine, ceilings = report["machine"], report["ceilings"]
    lines = [
        HEADER,
        (f"Machine: {machine['device']}, {machine['runtime']}, torch {machine['torch']}, Triton {machine['triton']}, "
         f"kernels for `{report['target']}`."),
        f"Date: {report['date']}. Command: `{report['command']}`.",
        "",
        (f"Measured in the same run: device copy {ceilings['copy_bytes_per_s'] / 1e12:.2f} TB/s (read plus written), "
         f"bfloat16 matrix product {ceilings['matrix_flops_per_s'] / 1e12:.0f} Tflop/s, a recorded graph of one empty "
         f"kernel {ceilings['empty_s'] * 1e6:.1f} us."),
        "",
        explanation(),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *(row_text(row) for row in report["rows"]),
        "",
        summary(report["rows"]),
        "",
    ]
    return "\n".join(lines)


def explanation() -> str:
    """How to read the columns."""
    return (
        "Times are medians with the second-level cache flushed before each repeat, launches replayed from a recorded "
        "graph; `*` marks what cannot be recorded, where the host's launches count. Spread is the distance of the "
        "quartiles over the median. The bound is the least bytes (every input once, of caches what is selected) at "
        "the copy's speed or the operations at the matrix product's, whichever is longer; the share is bound over "
        "time. The error is relative, against PyTorch in float32.")


def row_text(row: Mapping[str, Any]) -> str:
    """One line of the table."""
    if "failure" in row:
        cells = [row["group"], row["size"], f"failed: {row['failure']}", *[""] * 8, "missed"]
        return "| " + " | ".join(cells) + " |"
    ours = row["times"]["triton"]
    others = [_time(row["times"].get(name), row["failures"].get(name)) for name in ("eager", "compiled", "sdpa")]
    best = best_other(row)
    cells = [
        row["group"], row["size"], _time(ours, None), f"{100 * spread(ours):.0f} %", _microseconds(row["bound_s"]),
        f"{100 * row['bound_s'] / ours['median_s']:.0f} %", *others,
        f"{best / ours['median_s']:.2f}x" if best is not None else "", f"{row['error']:.1e}", verdict(row),
    ]
    return "| " + " | ".join(cells) + " |"


def spread(timing: Mapping[str, Any]) -> float:
    """Distance of the quartiles over the median."""
    return float((timing["high_s"] - timing["low_s"]) / timing["median_s"])


def best_other(row: Mapping[str, Any]) -> float | None:
    """The best time of PyTorch."""
    return min((timing["median_s"] for name, timing in row["times"].items() if name != "triton"), default=None)


def verdict(row: Mapping[str, Any]) -> str:
    """Whether each goal of the row is met, with the goal; a wrong result meets none."""
    if not row["error"] <= row["tolerance"]:
        return "WRONG"
    ours, goal, best = row["times"]["triton"]["median_s"], row["goal"], best_other(row)
    checks = []
    if goal["share"] is not None:
        checks.append((f"{100 * goal['share']:.0f} % of roofline", row["bound_s"] / ours >= goal["share"]))
    if best is not None:
        checks.append((f"{goal['over_best']:g}x best", best / ours >= goal["over_best"]))
    if goal["over_compiled"] and "compiled" in row["times"]:
        ratio = row["times"]["compiled"]["median_s"] / ours
        checks.append((f"{goal['over_compiled']:g}x compiled", ratio >= goal["over_compiled"]))
    return ", ".join(f"{text}: {'met' if met else 'missed'}" for text, met in checks)


def summary(rows: list[Mapping[str, Any]]) -> str:
    """How many rows meet their goals."""
    verdicts = ["missed" if "failure" in row else verdict(row) for row in rows]
    met = sum("missed" not in text and text != "WRONG" for text in verdicts)
    return f"{met} of {len(rows)} rows meet all their goals; {sum(text == 'WRONG' for text in verdicts)} are wrong."


def _time(timing: Mapping[str, Any] | None, failure: str | None) -> str:
    if timing is None:
        return f"failed: {failure}" if failure else ""
    return _microseconds(timing["median_s"]) + ("" if timing["graph"] else "*")


def _microseconds(time_s: float) -> str:
    return f"{time_s * 1e6:.1f} us"
