"""``hetcc simulate``: a plan on a simulated machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hetcc.cli.explain_command import main_phase_of
from hetcc.cli.output import print_json, print_result, tell
from hetcc.errors import UserError
from hetcc.units import format_energy, format_time

if TYPE_CHECKING:
    from hetcc.simulate import Simulation

_SHOWN_SHARE = 0.0005
_EXAMPLES = """[bold]Examples[/bold]

hetcc simulate bundle

hetcc simulate bundle --requests 8 --launch queued

hetcc simulate bundle --trace trace.json   (open it at https://ui.perfetto.dev)"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("simulate", epilog=_EXAMPLES)(simulate)


def simulate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder written by `hetcc compile`; a plan will do.")
                      ],
    phase: Annotated[str | None, typer.Option("--phase", help="Phase to simulate; default: the main one.")] = None,
    requests: Annotated[int, typer.Option("--requests", help="Independent requests in flight.")] = 1,
    launch: Annotated[Literal["blocking", "queued"], typer.Option(
        "--launch", help="queued: the host runs ahead of the devices.")] = "blocking",
    gpu_streams: Annotated[int, typer.Option("--gpu-streams", help="Regions the GPU runs at the same time.")] = 1,
    fpga_kernels: Annotated[int, typer.Option("--fpga-kernels", help="Kernels the FPGA runs at the same time.")] = 1,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="Write a trace for Perfetto.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")] = False,
) -> None:
    """Run a plan on a simulated machine: what overlaps, what queues, what a step and many requests take."""
    from hetcc import api
    from hetcc.simulate import SimulationOptions, simulate_phase

    opened = api.load(bundle)
    options = SimulationOptions(requests, launch, gpu_streams, fpga_kernels)
    simulation = simulate_phase(opened.plan, phase or main_phase_of(opened), options)
    if trace is not None:
        _write_trace(trace, simulation)
    if as_json:
        predicted = opened.plan.phase(simulation.phase).prediction
        print_json({**simulation.to_json(), "trace": str(trace) if trace else None,
                    "predicted": {"latency_s": predicted.latency_s, "energy_j": predicted.energy_j}})
    else:
        print_result(simulation_text(simulation, shutil.get_terminal_size((100, 24)).columns))


def _write_trace(file: Path, simulation: Simulation) -> None:
    from hetcc.simulate.trace_events import trace_text

    try:
        file.write_text(trace_text(simulation), encoding="utf-8")
    except OSError as error:
        raise UserError("HET-B001", f"cannot write '{file}': {error.strerror}", where=str(file),
                        fix="choose another file with --trace") from error
    tell(f"wrote {file}")


def simulation_text(simulation: Simulation, width: int) -> str:
    """What a person reads: numbers, where the time goes, the timeline."""
    from hetcc.report.tables import label_lines
    from hetcc.simulate.timeline import timeline_text

    document = simulation.to_json()
    energy = document["energy_j"]
    pairs: list[tuple[str, str]] = [("first request" if simulation.options.requests > 1 else "one request",
                                    format_time(document["latency_s"]))]
    if simulation.options.requests > 1:
        pairs += [("all requests", (f"{simulation.options.requests} in {format_time(document['makespan_s'])}, mean "
                                    f"latency {format_time(document['mean_latency_s'])}")),
                  ("throughput", f"{document['throughput_sequences_per_s']:.4g} sequence steps/s")]
    idle = ", ".join(f"{device} {format_energy(joules)}" for device, joules in energy["idle"].items())
    pairs += [
        ("bounds", (f"longest chain of waits {format_time(document['critical_path_s'])}, nothing overlapped "
                    f"{format_time(document['serial_s'])}")),
        ("energy", (f"{format_energy(energy['per_request'])} per request: {format_energy(energy['dynamic'])} dynamic "
                    f"in all, at rest {idle}")),
        ("time goes to", _shares(document["bottleneck"])),
    ]
    head = f"{simulation.phase}, simulated ({simulation.options.launch} launches)"
    return f"{head}\n{label_lines(pairs)}\n\n{timeline_text(simulation, width)}"


def _shares(bottleneck: dict[str, Any]) -> str:
    shown = [(label, share) for label, share in bottleneck["shares"].items() if share >= _SHOWN_SHARE]
    return ", ".join(f"{label} {share:.1%}" for label, share in shown[:5]) or "nothing"
