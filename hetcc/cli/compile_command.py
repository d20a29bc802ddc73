"""``hetcc compile``: from the words on the command line to compile options, and from the summary to a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hetcc.capture.model import CaptureRequest, Phase
from hetcc.cli.output import print_json, print_result, progress_shown
from hetcc.errors import UserError
from hetcc.ir import DType
from hetcc.options import ROBUSTNESS_DRAWS, CompileOptions, EmissionOptions, PlacementChoice
from hetcc.plan.problem import Objective

_MODEL, _PRICES, _PLACING, _CODE = "Model", "Devices and prices", "Placement", "Code and output"
_EXAMPLES = """[bold]Examples[/bold]

hetcc compile llama --set num_hidden_layers=2 --context 512 -o plan

hetcc compile deepseek_v32 --phase decode --context 131072 --ignore-capacity -o plan

hetcc compile ./my-model --phase prefill --phase decode --weights checkpoint -o bundle

hetcc compile deepseek_v32 --place relevancy=fpga --place retrieval=fpga --baseline as-published -o forced

hetcc compile encoder.onnx --partitioner mine.py:Mine -o plan"""

ModelName = Annotated[str, typer.Argument(
    metavar="MODEL", help="Model type of transformers, hub id, folder, path.py:factory, .pt2 or .onnx file.")]
Phases = Annotated[list[Phase] | None, typer.Option(
    "--phase", help="Step to compile; repeatable. Default: decode, or encode for encoders.", rich_help_panel=_MODEL)]
Batch = Annotated[int, typer.Option("--batch", help="Sequences per step.", rich_help_panel=_MODEL)]
Context = Annotated[int, typer.Option("--context", help="Entries each cache holds.", rich_help_panel=_MODEL)]
Prompt = Annotated[int, typer.Option(
    "--prompt", help="Tokens of one prefill step; 0: the smaller of the context and 128.", rich_help_panel=_MODEL)]
ElementType = Annotated[Literal["float32", "float16", "bfloat16", "float64"], typer.Option(
    "--dtype", help="Element type of the model.", rich_help_panel=_MODEL)]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", help="Change a setting of the configuration; repeatable.", rich_help_panel=_MODEL)]
Weights = Annotated[str, typer.Option(
    "--weights", metavar="DIR|checkpoint|random:SEED",
    help="Where the weights come from; without them the bundle is a plan that cannot run.", rich_help_panel=_MODEL)]
Gpu = Annotated[str, typer.Option("--gpu", help="Profile of the GPU; see `hetcc devices`.", rich_help_panel=_PRICES)]
Fpga = Annotated[str, typer.Option("--fpga", help="Profile of the FPGA.", rich_help_panel=_PRICES)]
Baseline = Annotated[str, typer.Option(
    "--baseline", help="GPU kernels to price: tuned, or as-published.", rich_help_panel=_PRICES)]
Link = Annotated[str, typer.Option(
    "--link", metavar="NAME", help="Links between the devices; `hetcc devices` lists them.",
    rich_help_panel=_PRICES)]
TimeWeight = Annotated[float, typer.Option(
    "--time-weight", help="Weight of seconds in the objective.", rich_help_panel=_PRICES)]
EnergyWeight = Annotated[float, typer.Option(
    "--energy-weight", help="Weight of joules in the objective.", rich_help_panel=_PRICES)]
IgnoreCapacity = Annotated[bool, typer.Option(
    "--ignore-capacity", help="Plan even if it does not fit the memories.", rich_help_panel=_PRICES)]
Draws = Annotated[int, typer.Option(
    "--robustness", metavar="DRAWS", min=0,
    help="Draw all uncertain numbers this often to see how sure the placement is; 0: do not.",
    rich_help_panel=_PLACING)]
Partitioner = Annotated[str, typer.Option(
    "--partitioner", metavar="NAME|module:Class|path.py:Class", help="Who places.", rich_help_panel=_PLACING)]
Places = Annotated[list[str] | None, typer.Option(
    "--place", metavar="PATTERN=DEVICE",
    help="Force a stage, or the clusters and nodes a pattern matches, onto a device; repeatable.",
    rich_help_panel=_PLACING)]
PlacementFile = Annotated[Path | None, typer.Option(
    "--placement", metavar="FILE", help="Use this placement (see `hetcc export --format json`).",
    rich_help_panel=_PLACING)]
FpgaLaunch = Annotated[Literal["start", "doorbell"], typer.Option(
    "--fpga-launch", help="How FPGA kernels are made to run, which is priced and recorded in the plan: started for "
    "every region, or running all the time and told by a word in memory.", rich_help_panel=_PRICES)]
Caches = Annotated[Literal["single", "shadowed", "recomputable"], typer.Option(
    "--caches", help="What becomes of the caches of an FPGA that is lost: single loses them and the request; for the "
    "others the bundle holds a plan without the FPGA, and appended rows are also sent to the host, or all steps are "
    "made again.", rich_help_panel=_PLACING)]
Emit = Annotated[Literal["auto", "always", "never"], typer.Option(
    "--emit", help="Generate code; auto: when there are weights.", rich_help_panel=_CODE)]
Targets = Annotated[list[str] | None, typer.Option(
    "--target", metavar="TARGET",
    help="GPU target of the code; repeatable. Default: that of the GPU's profile, and llvm-cpu to run here.",
    rich_help_panel=_CODE)]
NoRewrites = Annotated[list[str] | None, typer.Option(
    "--no-rewrite", metavar="NAME",
    help="Leave out a rewriting pass: narrow-to-selection, or reassociate (the order of products); repeatable.",
    rich_help_panel=_MODEL)]
Policy = Annotated[Literal["exact", "quantised:int8", "quantised:int16", "quantised:bf16"], typer.Option(
    "--policy", help="Factors of the FPGA's products with tables: exact keeps them in fp32; the others round them, so "
    "results change.", rich_help_panel=_CODE)]
NoVerilog = Annotated[bool, typer.Option(
    "--no-verilog", help="Leave out the Verilog of the FPGA's kernels.", rich_help_panel=_CODE)]
OnUnsupported = Annotated[Literal["fallback", "warn", "error"], typer.Option(
    "--on-unsupported", help="What to do when only the host can run a node.", rich_help_panel=_CODE)]
Output = Annotated[Path | None, typer.Option(
    "--output", "-o", metavar="DIR", help="Folder to write. Default: named after the model and phases, here.",
    rich_help_panel=_CODE)]
Fresh = Annotated[bool, typer.Option(
    "--fresh", help="Use nothing that earlier compiles left in the cache ($HETCC_CACHE): capture, prove and compile "
    "anew, and try again what a compiler refused.", rich_help_panel=_CODE)]
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that is already there.", rich_help_panel=_CODE)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compile", epilog=_EXAMPLES)(compile_)


def compile_(  # the signature is the command's interface: one line per option
    model: ModelName, phase: Phases = None, batch: Batch = 1, context: Context = 1024, prompt: Prompt = 0,
    dtype: ElementType = "float32", settings: Settings = None, weights: Weights = "", no_rewrite: NoRewrites = None,
    gpu: Gpu = "mi210", fpga: Fpga = "u55c", baseline: Baseline = "tuned", link: Link = "published",
    time_weight: TimeWeight = 1.0, energy_weight: EnergyWeight = 0.0, ignore_capacity: IgnoreCapacity = False,
    partitioner: Partitioner = "optimal", place: Places = None, placement: PlacementFile = None,
    draws: Draws = ROBUSTNESS_DRAWS, caches: Caches = "single",
    fpga_launch: FpgaLaunch = "start", emit: Emit = "auto", target: Targets = None,
    policy: Policy = "exact", no_verilog: NoVerilog = False,
    on_unsupported: OnUnsupported = "warn", output: Output = None, fresh: Fresh = False, force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Plan a model, and generate its code when there are weights; writes one bundle."""
    request = CaptureRequest(model, tuple(phase or ()), batch, context, prompt, DType(dtype),
                             tuple(key_value(word, "--set", "KEY=VALUE") for word in settings or ()), weights)
    forced = tuple(key_value(word, "--place", "PATTERN=DEVICE", last=True) for word in place or ())
    options = CompileOptions(
        request, gpu, fpga, baseline=baseline, links=link, ignore_capacity=ignore_capacity,
        robustness_samples=draws, emit=emit,
        choice=PlacementChoice(partitioner, forced, placement, Objective(time_weight, energy_weight),
                               caches),
        emission=EmissionOptions(tuple(target or ()), not no_verilog, on_unsupported, policy),
        without_rewrites=tuple(no_rewrite or ()), fpga_launch=fpga_launch, fresh=fresh)
    _compile(options, output or default_output(request), force=force, as_json=as_json)


def _compile(options: CompileOptions, output: Path, *, force: bool, as_json: bool) -> None:
    from hetcc import api

    with progress_shown() as progress:
        bundle = api.compile(options, output, force=force, progress=progress)
    if as_json:
        print_json(bundle.summary)
    else:
        print_result(compile_text(dict(bundle.summary), shown_path(bundle.folder), bundle.plan.is_executable))


def default_output(request: CaptureRequest) -> Path:
    """The folder for a request that names none: the model and its phases, in the current folder."""
    stem = re.sub(r"\.(pt2|onnx)$|\.py(?=:)", "", request.model.rstrip("/").rpartition("/")[2])
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"
    return Path("-".join([name, *(phase.value for phase in request.phases)]) + ".hetcc")


def shown_path(folder: Path) -> str:
    """A folder as one would type it here."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def compile_text(summary: dict[str, Any], folder: str, is_executable: bool) -> str:
    """What a person reads after a compile: a table per phase, where the bundle is, and what to do next."""
    from hetcc.report.summary import summary_lines
    from hetcc.report.tables import label_lines

    blocks = []
    for name, phase in summary["phases"].items():
        blocks.append(f"{name}\n" + label_lines(summary_lines({**summary, **phase})))
    follow = [f"hetcc explain {folder}"]
    if is_executable:
        follow.append(f"hetcc run {folder} --verify")
    kind = "plan and code" if is_executable else "plan only; --weights adds what is needed to run it"
    blocks.append(label_lines([("bundle", f"{folder} ({kind})"), *(("next", line) for line in follow)]))
    return "\n\n".join(blocks)


def key_value(word: str, option: str, form: str, *, last: bool = False) -> tuple[str, str]:
    """``KEY=VALUE`` split at the first ``=``, or at the last one.

    Raises:
        UserError: HET-U001, it is no pair.
    """
    first, sign, second = word.rpartition("=") if last else word.partition("=")
    if not sign or not first or not second:
        raise UserError("HET-U001", f"{option} is '{word}', not of the form {form}", fix=f"write {option} {form}")
    return first, second
