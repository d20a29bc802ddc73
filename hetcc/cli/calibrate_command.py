"""``hetcc calibrate``: a profile of the device that is here, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetcc.cli import compile_command as shared
from hetcc.cli.output import print_json, print_result, progress_shown
from hetcc.errors import UserError
from hetcc.units import format_time

if TYPE_CHECKING:
    from hetcc.bench.calibration import Calibration

_DEVICES = ("cpu", "hip", "cuda")
_EXAMPLES = """[bold]Examples[/bold]

hetcc calibrate --output my.toml

hetcc calibrate --quick --class projection --class matmul

hetcc predict llama --context 4096 --gpu my.toml --baseline measured"""
DeviceKind = Annotated[str, typer.Option(
    "--device", metavar="cpu|hip|cuda", help="What to measure: this machine's processor, an AMD or an NVIDIA card.")]
Template = Annotated[str, typer.Option(
    "--gpu", metavar="NAME", help="Profile that lends what is not measured; needed for a card. Default for cpu: host.")]
Kinds = Annotated[list[str] | None, typer.Option(
    "--class", metavar="NAME", help="Operator class; repeatable. Default: all.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer sizes and repeats.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.toml", help="Where the profile goes.")]
NoSteps = Annotated[bool, typer.Option("--no-steps", help="Leave out whole decode steps.")]
BudgetSeconds = Annotated[float, typer.Option("--budget", help="Seconds of measuring. Default: 120, or 20 if quick.")]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("calibrate", epilog=_EXAMPLES)(calibrate)


def calibrate(
    device: DeviceKind = "cpu", gpu: Template = "", kinds: Kinds = None, quick: Quick = False, output: Output = None,
    no_steps: NoSteps = False, budget: BudgetSeconds = 0.0, as_json: shared.AsJson = False,
) -> None:
    """Measure microbenchmarks here, fit a device profile to them, and check it on sizes it has not seen."""
    from hetcc.bench.calibration import Request, facts_of
    from hetcc.bench.calibration import calibrate as run

    if device not in _DEVICES:
        raise UserError("HET-U001", f"--device is '{device}'", fix=f"use one of {', '.join(_DEVICES)}")
    if output is not None and output.suffix != ".toml":
        raise UserError("HET-U001", f"--output is '{output}'", fix="name a file that ends in .toml")
    if output is not None and not output.parent.is_dir():
        raise UserError("HET-B001", f"there is no folder '{output.parent}'", where=str(output))
    request = Request(device, gpu, tuple(kinds or ()), quick, not no_steps, budget or (20.0 if quick else 120.0),
                      f"hetcc calibrate --device {device}" + (" --quick" if quick else ""))
    found = _run(run, facts_of, request)
    if output is not None:
        _write(found, output)
    if as_json:
        print_json(calibration_json(found))
    else:
        print_result(calibration_text(found) + (f"\nwritten: {output}" if output is not None else ""))


def _run(run: Any, facts_of: Any, request: Any) -> Calibration:
    import datetime

    from hetcc.bench.cases import cases
    from hetcc.bench.engine import open_engine

    cases(request.kinds)  # a misspelt class is refused before anything is opened
    target = facts_of(request, datetime.datetime.now(tz=datetime.UTC).date()).code_target
    engine = open_engine(request.device, target)
    with progress_shown() as progress:
        found: Calibration = run(request, engine, progress)
    return found


def _write(found: Calibration, output: Path) -> None:
    from hetcc.cost_model.profile_text import profile_text

    head = "Written by hetcc calibrate. Numbers only; every one says where it comes from."
    try:
        output.write_text(profile_text(found.profile, head), encoding="utf-8")
    except OSError as error:
        raise UserError("HET-B001", f"the profile cannot be written: {error.strerror}", where=str(output)) from error


def calibration_json(found: Calibration) -> dict[str, Any]:
    """Everything that was measured and fitted."""
    return {
        "kind": "measured", "profile": found.profile, "clock": found.clock, "repeats": found.rounds,
        "load": list(found.load), "seconds": found.seconds, "refused": found.refused,
        "roofline": {"launch_s": found.roofline.launch_s, "bandwidth_bytes_per_s": found.roofline.bandwidth,
                     "peak_flops_per_s": found.roofline.peak},
        "checks": [{"class": one.kind, "fitted": one.fitted, "held_out": one.held, "mean_error": one.error,
                    "worst_error": one.worst, "roofline_mean_error": one.roofline_error, "repeat_spread": one.spread,
                    "target": one.target, "within_target": one.within_target, "halves_roofline": one.halves_roofline}
                   for one in found.checks],
        "cases": [{"class": one.kind, "name": one.name, "fitted": one.fitted, "measured_s": one.time_s,
                   "repeat_spread": one.spread, "predicted_s": one.predicted_s, "roofline_s": one.roofline_s}
                  for one in found.residuals],
    }


def calibration_text(found: Calibration) -> str:
    """The profile in a few numbers, and the errors on sizes that were held out."""
    from hetcc.report.tables import label_lines, text_table

    draft = found.draft
    head = label_lines([
        ("device", found.facts.title),
        ("launch", f"{format_time(draft.region_s)} per region, {format_time(draft.launch_s)} per kernel"),
        ("memory", f"{draft.bandwidth / 1e9:.2f} GB/s, from the cache {draft.cache_bandwidth / 1e9:.2f} GB/s"),
        ("clock", f"{found.clock}; up to {found.rounds} repeats, load {found.load[0]:.1f} to {found.load[1]:.1f}"),
    ])
    rows = [[one.kind, f"{one.fitted}", f"{one.held}", _percent(one.error), _percent(one.worst), _percent(one.spread),
             _percent(one.target), _percent(one.roofline_error), _verdict(one.within_target, one.halves_roofline)]
            for one in found.checks]
    table = text_table(["class", "fitted", "held out", "error", "worst", "spread", "target", "roofline", ""], rows,
                       right=range(1, 8))
    lines = [head, "errors on held-out sizes: mean of |predicted - measured| / measured", table]
    lines += [f"not measured: {name}: {reason}" for name, reason in found.refused.items()]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f}%"


def _verdict(within: bool, halves: bool) -> str:
    missed = [text for ok, text in ((within, "over the target"), (halves, "not half the roofline's")) if not ok]
    return ", ".join(missed) or "met"
