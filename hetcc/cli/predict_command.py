"""``hetcc predict``: what a plan would bring, at one size or many, without generating code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetcc.capture.model import CaptureRequest, Phase
from hetcc.cli import compile_command as shared
from hetcc.cli.output import print_json, print_result, progress_shown
from hetcc.errors import UserError
from hetcc.ir import DType
from hetcc.options import ROBUSTNESS_DRAWS, CompileOptions, EmissionOptions, PlacementChoice
from hetcc.plan.problem import Objective
from hetcc.units import format_bytes, format_count, format_energy, format_time

if TYPE_CHECKING:
    from hetcc.predict import Prediction
    from hetcc.predict.ranges import Figure

_EXAMPLES = """[bold]Examples[/bold]

hetcc predict deepseek_v32 --dtype bfloat16 --context 131072

hetcc predict llama --batch 1,8 --context 4096,32768 --baseline as-published

hetcc predict workload:flat-inner-product --context 1000000

hetcc predict --list"""
ModelName = Annotated[str, typer.Argument(
    metavar="MODEL|workload:NAME", help="As for `hetcc compile`, or a built-in workload; see --list.")]
Batches = Annotated[str, typer.Option("--batch", metavar="N[,N...]", help="Sequences per step.")]
Contexts = Annotated[str, typer.Option("--context", metavar="N[,N...]", help="Entries each cache holds.")]
Fresh = Annotated[bool, typer.Option(
    "--fresh", help="Capture and prove anew instead of using what the cache ($HETCC_CACHE) holds.")]
Listed = Annotated[bool, typer.Option("--list", help="List the built-in workloads.")]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("predict", epilog=_EXAMPLES)(predict)


def predict(  # the signature is the command's interface: one line per option
    model: ModelName = "", phase: Annotated[Phase | None, typer.Option("--phase", help="Default: decode.")] = None,
    batch: Batches = "1", context: Contexts = "1024", prompt: shared.Prompt = 0, dtype: shared.ElementType = "float32",
    settings: shared.Settings = None, gpu: shared.Gpu = "mi210", fpga: shared.Fpga = "u55c",
    baseline: shared.Baseline = "tuned", link: shared.Link = "published", time_weight: shared.TimeWeight = 1.0,
    energy_weight: shared.EnergyWeight = 0.0, partitioner: shared.Partitioner = "optimal",
    place: shared.Places = None, no_rewrite: shared.NoRewrites = None, draws: shared.Draws = ROBUSTNESS_DRAWS,
    policy: shared.Policy = "exact", fresh: Fresh = False, listed: Listed = False, as_json: shared.AsJson = False,
) -> None:
    """Predict latency, speed-up, energy and placement with their ranges, at one size or many."""
    if listed:
        _list_workloads(as_json)
        return
    if not model:
        raise UserError("HET-U001", "no model is named", fix="hetcc predict MODEL, or hetcc predict --list")
    batches, contexts = _numbers(batch, "--batch"), _numbers(context, "--context")
    pairs = tuple(shared.key_value(word, "--set", "KEY=VALUE") for word in settings or ())
    forced = tuple(shared.key_value(word, "--place", "PATTERN=DEVICE", last=True) for word in place or ())
    request = CaptureRequest(model, (phase,) if phase else (), batches[0], contexts[0], min(prompt, *contexts),
                             DType(dtype), pairs)
    options = CompileOptions(request, gpu, fpga, baseline=baseline, links=link, choice=PlacementChoice(
        partitioner, forced, None, Objective(time_weight, energy_weight)), without_rewrites=tuple(no_rewrite or ()),
        emission=EmissionOptions(policy=policy), fresh=fresh)
    found = _predict(options, batches, contexts, draws)
    if as_json:
        print_json({"kind": "predicted", "model": model, "gpu": gpu, "fpga": fpga, "baseline": baseline, "link": link,
                    "dtype": dtype, "policy": policy, "predictions": [one.to_json() for one in found]})
    else:
        print_result(prediction_text(found[0], options) if len(found) == 1 else table_text(found, options))


def _predict(options: CompileOptions, batches: Sequence[int], contexts: Sequence[int], draws: int) -> Any:
    from hetcc.pipeline import device_set
    from hetcc.predict import predict_sizes

    devices = device_set(options)
    options = replace(options, request=options.request.located())
    with progress_shown() as progress:
        return predict_sizes(options, devices, batches, contexts, samples=draws, progress=progress)


def _numbers(text: str, option: str) -> list[int]:
    """Whole numbers separated by commas, each once, in the order given.

    Raises:
        UserError: HET-U001, something else is there; HET-C003, a number below one.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() for word in words):
        raise UserError("HET-U001", f"{option} is '{text}', not whole numbers separated by commas",
                        fix=f"write {option} 1,4,16")
    numbers = list(dict.fromkeys(int(word) for word in words))
    if min(numbers) < 1:
        raise UserError("HET-C003", f"{option} is {min(numbers)}; it must be at least 1",
                        fix=f"give {option} positive numbers")
    return numbers


def _list_workloads(as_json: bool) -> None:
    from hetcc.report.tables import text_table
    from hetcc.workloads import WORKLOADS

    if as_json:
        print_json({name: {"what": workload.what, "settings": dict(workload.settings), "source": workload.source}
                    for name, workload in WORKLOADS.items()})
        return
    rows = [[f"workload:{name}", workload.what, " ".join(f"{key}={value}" for key, value in workload.settings)]
            for name, workload in WORKLOADS.items()]
    print_result(text_table(["name", "what", "settings (--set)"], rows))


def prediction_text(found: Prediction, options: CompileOptions) -> str:
    """One size: every figure with its range, where the stages are, how sure the placement is."""
    from hetcc.report.explanation_text import robustness_lines
    from hetcc.report.tables import label_lines

    moved = f", {format_bytes(found.link_bytes)} over the link" if found.link_bytes else ""
    stages = "; ".join(f"{stage} " + ", ".join(f"{device} {share:.0%}" for device, share in shares.items())
                       for stage, shares in found.stages.items())
    pairs = [
        ("devices", f"gpu {options.gpu}, fpga {options.fpga}; baseline '{options.baseline}'"),
        ("step", _ranged(found.latency_s, format_time)),
        ("the GPU alone", _ranged(found.gpu_only_latency_s, format_time)),
        ("speed-up", _ranged(found.speedup, _times)),
        ("of memory processing", (f"{_ranged(found.memory_speedup, _times)}; it takes "
                                  f"{_ranged(found.memory_share, _percent)} of the GPU's time")),
        ("energy", _ranged(found.energy_j, format_energy)),
        ("energy, GPU over plan", _ranged(found.energy_ratio, _times)),
        ("placement", stages + moved),
        ("memory", "fits" if found.fits else "DOES NOT FIT"),
    ]
    if found.placement.reconfiguration.time_s:
        loads = format_time(found.placement.reconfiguration.time_s)
        pairs.insert(2, ("loading xclbins", f"{loads} of the step (assumed): not all kernels share one"))
    if found.robustness is not None:
        pairs += robustness_lines(asdict(found.robustness))
    return f"{found.phase}, batch {found.batch}, context {found.context}, predicted\n" + label_lines(pairs)


def table_text(found: Sequence[Prediction], options: CompileOptions) -> str:
    """Many sizes: a row each, in two tables so that either fits in 80 columns."""
    from hetcc.report.tables import text_table

    sizes = [f"{one.batch} x {one.context}" for one in found]
    times = [[size, _ranged_time(one.latency_s), _ranged(one.speedup, _times), _ranged(one.memory_speedup, _times)]
             for size, one in zip(sizes, found, strict=True)]
    places = [[size, _percent(one.memory_share.likely), _times(one.energy_ratio.likely),
               _percent(one.robustness.stays_optimal) if one.robustness else "-", "yes" if one.fits else "no",
               _where(one)] for size, one in zip(sizes, found, strict=True)]
    captured = sum(one.captured for one in found)
    head = (f"{found[0].phase}, predicted: likely [low, high]\n"
            f"gpu {options.gpu}, fpga {options.fpga}, baseline '{options.baseline}'; speed-ups against the GPU alone\n"
            f"{captured} of {len(found)} sizes captured, the others follow from them")
    return "\n\n".join([
        head, text_table(["batch x context", "step", "speed-up", "of memory processing"], times),
        text_table(["batch x context", "memory", "energy", "sure", "fits", "on the FPGA"], places),
        ("memory: share of the GPU's time that processes memory\n"
         "energy: that of the GPU alone over that of the plan\n"
         "sure: share of the draws of all uncertain numbers that keep the placement")])


def _where(one: Prediction) -> str:
    """Stages on the FPGA, with their share if it is not all, and whether kernels are loaded in every step."""
    found = [stage if shares["fpga"] == 1 else f"{stage} {shares['fpga']:.0%}"
             for stage, shares in one.stages.items() if shares.get("fpga")]
    loads = one.placement.reconfiguration.time_s
    return (", ".join(found) or "-") + (f"; loading {format_time(loads)}" if loads else "")


def _ranged_time(time: Figure) -> str:
    """A time and its range in one unit."""
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
                        if time.likely >= scale), ("ns", 1e-9))
    spelled = [f"{one / scale:.3g}" if one < 1000 * scale else f"{one / scale:.0f}"
               for one in (time.likely, time.low, time.high)]
    return f"{spelled[0]} [{spelled[1]}, {spelled[2]}] {unit}"


def _ranged(figure: Figure, spell: Any) -> str:
    if figure.low == figure.high:
        return str(spell(figure.likely))
    return f"{spell(figure.likely)} [{spell(figure.low)}, {spell(figure.high)}]"


def _times(value: float) -> str:
    return f"{format_count(float(f'{value:.3g}'))}x"


def _percent(value: float) -> str:
    return f"{value:.0%}"
