"""``hetcc devices`` and ``hetcc doctor``: what can be planned for, and what this machine can do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hetcc.cli.output import print_json, print_result
from hetcc.errors import ToolError
from hetcc.ir import DType
from hetcc.units import format_bytes, format_count, format_time

_DEVICES_EXAMPLES = """[bold]Examples[/bold]

hetcc devices

hetcc devices mi210

hetcc devices --json"""
_DOCTOR_EXAMPLES = """[bold]Examples[/bold]

hetcc doctor

hetcc doctor --json"""
_SHOWN_TYPES = (DType.FLOAT32, DType.FLOAT16)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("devices", epilog=_DEVICES_EXAMPLES)(devices)
    app.command("doctor", epilog=_DOCTOR_EXAMPLES)(doctor)


def devices(
    name: Annotated[str | None, typer.Argument(
        metavar="[NAME|FILE.toml]", help="Show every number of this profile with its source.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the device profiles and how certain their numbers are."""
    from hetcc.cost_model.device import list_devices, load_device
    from hetcc.report.devices import quantities_of

    if name is not None:
        profile = load_device(name)
        if as_json:
            print_json(profile.model_dump(mode="json", by_alias=True))
        else:
            print_result(f"{profile.name}: {profile.title}\n\n" + _quantity_table(quantities_of(profile)))
        return
    profiles = {item: load_device(item) for item in list_devices()}
    if as_json:
        print_json({item: profile.model_dump(mode="json", by_alias=True) for item, profile in profiles.items()})
    else:
        print_result(_profile_table(profiles))


def _profile_table(profiles: dict[str, Any]) -> str:
    from hetcc.cost_model.transfer import load_link_sets
    from hetcc.report.devices import provenance_counts
    from hetcc.report.tables import text_table

    rows = []
    for name, profile in profiles.items():
        peaks = ", ".join(f"{dtype.value} {format_count(rate.value)}flop/s" for dtype, rate in
                          profile.matrix_flops_per_s.items() if dtype in _SHOWN_TYPES)
        streaming = profile.streaming
        if streaming is not None:
            peaks = f"{streaming.dsp_count.value:.0f} DSPs at {format_count(streaming.clock_hz.value)}Hz"
        sources = ", ".join(f"{kind} {count}" for kind, count in provenance_counts(profile).items())
        rows.append([name, profile.kind.value, profile.title, format_bytes(profile.memory.capacity_bytes.value),
                     f"{format_count(profile.memory.bandwidth_bytes_per_s.value)}B/s", peaks,
                     f"{profile.power.idle_w.value:.3g} W",
                     format_time(profile.baseline().region_launch_s.value), ", ".join(profile.baselines), sources])
    note = "\n\nEvery number has a range and a source; `hetcc devices NAME` shows them.\n\n"
    note += text_table(["link", "title"], [[found.name, found.title] for found in load_link_sets()])
    return text_table(["name", "kind", "title", "memory", "bandwidth", "matrix peak", "idle", "launch", "baselines",
                       "numbers by source"], rows, right=(3, 4, 6, 7)) + note


def _quantity_table(quantities: list[tuple[str, Any]]) -> str:
    from hetcc.report.tables import text_table

    rows = [[path, f"{item.value:.6g}", f"{item.low:.6g} to {item.high:.6g}", item.unit, item.kind.value, item.source]
            for path, item in quantities]
    return text_table(["number", "value", "range", "unit", "kind", "source"], rows, right=(1,))


def doctor(as_json: AsJson = False) -> None:
    """Check which tools this machine has, what each is for, and how to get what is missing."""
    from hetcc.cli.tools_found import check_tools
    from hetcc.report.tables import text_table

    tools = check_tools()
    missing = [tool for tool in tools if tool.required and not tool.found]
    document = {"ok": not missing, "tools": [tool.to_json() for tool in tools]}
    if not as_json:
        rows = [[tool.name, "found" if tool.found else ("MISSING" if tool.required else "not found"),
                 tool.version or "-", tool.needed_for, "" if tool.found else tool.how_to_get] for tool in tools]
        print_result(text_table(["tool", "", "version", "needed for", "how to get it"], rows))
    if missing:
        error = ToolError("HET-T001", f"planning needs {', '.join(tool.name for tool in missing)}",
                          fix=missing[0].how_to_get)
        error.details.update(document)
        raise error
    if as_json:
        print_json(document)
