"""``hetcc build``: the FPGA kernels of a bundle through the vendor's tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetcc.cli.output import print_json, print_result, progress_shown
from hetcc.errors import ToolError, UserError

if TYPE_CHECKING:
    from hetcc.backends.fpga.vendor.build import Result
    from hetcc.backends.fpga.vendor.plan import HardwarePlan
    from hetcc.backends.fpga.vendor.reports import Built

_EXAMPLES = """[bold]Examples[/bold]

hetcc build bundle --target hw_emu

hetcc build bundle --target hw --output built

hetcc predict llama --context 4096 --fpga built/u55c-built.toml"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("build", epilog=_EXAMPLES)(build)


def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder written by `hetcc compile`.")],
    target: Annotated[str, typer.Option("--target", metavar="hw_emu|hw",
                                        help="The vendor's simulation, or a bitstream.")] = "hw",
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", metavar="DIR", help="Where it is built, and goes on after an interruption. Default: "
        "BUNDLE-TARGET.")] = None,
    platform: Annotated[str, typer.Option("--platform", help="Vendor's platform. Default: that of the kernels.")] = "",
    fpga: Annotated[str, typer.Option("--fpga", metavar="NAME", help="Profile that the clock is written into. "
                                      "Default: that of the plan.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")] = False,
) -> None:
    """Package and link the FPGA kernels with vivado and v++, and read back clock and resources.

    Without these tools it writes everything they need and a script that runs them. No step is done twice for equal
    inputs.
    """
    from hetcc import api
    from hetcc.backends.fpga.vendor import build as vendor
    from hetcc.backends.fpga.vendor.plan import hardware_plan
    from hetcc.store import Store

    if target not in vendor.TARGETS:
        raise UserError("HET-U001", f"--target is '{target}'", fix=f"use one of {', '.join(vendor.TARGETS)}")
    opened = api.load(bundle)
    files = {f"fpga/{path}": content for path, content in opened.files.below("fpga").items()}
    planned = hardware_plan(files, str(opened.folder))
    folder = (output or opened.folder.with_name(f"{opened.folder.name}-{target}")).expanduser().absolute()
    steps = vendor.steps_of(planned.kernels, planned.packs, target, platform or planned.platform)
    _write(folder, {**planned.files, vendor.SCRIPT_FILE: vendor.script_of(steps)})
    missing = vendor.missing_tools(target)
    if missing:
        raise ToolError("HET-T001", f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not on PATH",
                        where=str(folder), fix=f"source the settings of AMD Vitis and repeat the command, or run "
                        f"`sh {vendor.SCRIPT_FILE}` in that folder where they are")
    with progress_shown() as progress:
        results = vendor.Build(folder, Store(), progress).run(steps)
    found = _read_back(folder, planned, results) if target == "hw" else {}
    profile = next((device.profile for device in opened.plan.devices if device.name == "fpga"), "")
    written = _write_profile(folder, fpga or profile, found)
    if as_json:
        print_json(_document(folder, planned, results, found, written))
    else:
        print_result(_text(folder, planned, results, found, written))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the inputs into the build's folder; what is there already keeps its time stamp.

    Raises:
        UserError: HET-B001, the folder holds something else, or cannot be written.
    """
    from hetcc.backends.fpga.vendor.build import SCRIPT_FILE

    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / SCRIPT_FILE).is_file())):
        raise UserError("HET-B001", f"'{folder}' exists and is no build", where=str(folder),
                        fix="choose another folder with --output")
    try:
        for path, content in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_file() or place.read_bytes() != content:
                place.write_bytes(content)
    except OSError as error:
        raise UserError("HET-B001", f"cannot write '{folder}': {error.strerror}", where=str(folder),
                        fix="choose another folder with --output") from error


def _read_back(folder: Path, planned: HardwarePlan, results: Sequence[Result]) -> dict[str, Built]:
    """What the reports say of every xclbin.

    Raises:
        ToolError: HET-T002, the linker wrote no xclbin.
    """
    from hetcc.backends.fpga.vendor.reports import built

    found = {}
    for result in results:
        name = result.step.folder
        if name not in planned.packs:
            continue
        try:
            found[name] = built((folder / result.step.writes).read_bytes(), result.reports)
        except ValueError as error:
            raise ToolError("HET-T002", f"{result.step.command[0]} wrote something else than an xclbin: {error}",
                            where=str(folder / result.step.writes)) from error
    return found


def _write_profile(folder: Path, name: str, found: Mapping[str, Built]) -> Path | None:
    """The device profile with the clock of the slowest xclbin; None when no file says one."""
    from hetcc.bench.built_profile import built_profile

    clocks = {pack: one.clock_hz for pack, one in found.items() if one.clock_hz is not None}
    if not clocks or not name:
        return None
    slowest = min(clocks, key=lambda pack: clocks[pack])
    identity, text = built_profile(name, clocks[slowest], slowest)
    path = folder / f"{identity}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _document(folder: Path, planned: HardwarePlan, results: Sequence[Result], found: Mapping[str, Built],
              written: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "folder": str(folder), "profile": str(written) if written else None,
        "steps": [{"name": one.step.name, "how": one.how, "time_s": one.time_s, "file": one.step.writes}
                  for one in results],
        "xclbins": {name: {"clock_hz": one.clock_hz, "timing": asdict(one.timing) if one.timing else None,
                           "kernels": {kernel: asdict(resources) for kernel, resources in one.kernels.items()}}
                    for name, one in found.items()},
        "estimated": {kernel: asdict(resources) for kernel, resources in planned.estimated.items()},
    }


def _text(folder: Path, planned: HardwarePlan, results: Sequence[Result], found: Mapping[str, Built],
          written: Path | None) -> str:
    from hetcc.report.tables import label_lines, text_table
    from hetcc.units import format_time

    rows = [[one.step.name, one.how, format_time(one.time_s) if one.time_s else "", one.step.writes] for one in results]
    blocks = [label_lines([("folder", str(folder)), *([("profile", str(written))] if written else [])]),
              text_table(["step", "", "took", "file"], rows, right=(2,))]
    for name, one in found.items():
        clock = f"{one.clock_hz / 1e6:.0f} MHz" if one.clock_hz else "not said"
        slack = f"{one.timing.worst_slack_ns:+.3f} ns" if one.timing else "no report"
        blocks.append(f"{name}: clock {clock}, worst slack {slack}\n" + _comparison(planned, name, one))
    return "\n\n".join(blocks)


def _comparison(planned: HardwarePlan, name: str, found: Built) -> str:
    """Estimated and built resources of every kernel of an xclbin."""
    from hetcc.backends.fpga.costs.unit_resources import NAMES
    from hetcc.report.tables import text_table

    rows = []
    for kernel in planned.packs[name]:
        real = found.kernels.get(kernel)
        rows.append([kernel, *(f"{getattr(planned.estimated[kernel], field):.0f} / "
                               + (f"{getattr(real, field):.0f}" if real else "-") for field in NAMES)])
    return text_table(["kernel (estimated / built)", *NAMES], rows, right=range(1, 6))
