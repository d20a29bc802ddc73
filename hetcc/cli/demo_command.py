"""``hetcc demo``: one model from capture to verified tokens, with the plan that wins and the one that is forced."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hetcc.capture.model import CapturedModel, CaptureRequest, Phase
from hetcc.cli.compile_command import shown_path
from hetcc.cli.output import Progress, print_result, progress_shown
from hetcc.cli.run_commands import RunsFpga, check_tokens, verify_phases
from hetcc.options import CompileOptions, EmissionOptions, PlacementChoice
from hetcc.plan.bundle import check_writable

if TYPE_CHECKING:
    from hetcc.api import Bundle
    from hetcc.runtime.engines import Engines
    from hetcc.runtime.verify import Verification

_EXAMPLES = """[bold]Examples[/bold]

hetcc demo

hetcc demo --output demo-output

hetcc demo --fpga rtl"""
_SETTINGS = (
    "num_hidden_layers=4 first_k_dense_replace=3 hidden_size=64 intermediate_size=96 moe_intermediate_size=32 "
    "num_attention_heads=4 num_key_value_heads=4 kv_lora_rank=32 q_lora_rank=48 qk_nope_head_dim=16 "
    "qk_rope_head_dim=8 v_head_dim=16 index_n_heads=4 index_head_dim=16 index_topk=32 n_routed_experts=8 "
    "num_experts_per_tok=2 n_group=2 topk_group=1 vocab_size=128")
REQUEST = CaptureRequest("deepseek_v32", (Phase.PREFILL, Phase.DECODE), context=256, prompt=64,
                         overrides=tuple((key, value) for key, _, value in
                                         (word.partition("=") for word in _SETTINGS.split())), weights="random:0")
FORCED = (("relevancy", "fpga"), ("retrieval", "fpga"))
_PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
_TOKENS = 8


@dataclass(frozen=True)
class _Made:
    """A plan of the demo, compiled."""

    name: str
    bundle: Bundle
    options: CompileOptions


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("demo", epilog=_EXAMPLES)(demo)


def demo(
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", metavar="DIR", help="Keep both bundles in this folder. Default: a temporary one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace bundles that are already there.")] = False,
    fpga: RunsFpga = "model",
) -> None:
    """Compile a small DeepSeek-V3.2 twice, run both plans on emulated devices, compare them with Hugging Face."""
    engines = _engines(fpga)
    with _folder(output) as folder:
        for name, _ in _plans():
            check_writable(_target(folder, name), replace=force)
        captured = _show_model()
        made = [_compile(captured, plan, folder, force, engines) for plan in _plans()]
        for plan in made:
            _show_plan(plan)
        results = [_verify(plan) for plan in made]
        _show_runs(made, results, engines)
        _show_tokens(made)
        print_result(_conclusion(made, results, engines))
        kept = f"Bundles: {shown_path(made[0].bundle.folder)}, {shown_path(made[1].bundle.folder)}" if output else \
            "The bundles were temporary; `hetcc demo --output DIR` keeps them."
        print_result(kept)


def _engines(fpga: str) -> Engines:
    """What runs the plans, if this machine has it.

    Raises:
        UserError: HET-U001, no such engine.
        ToolError: HET-T001, there is no Verilator.
    """
    from hetcc.backends.fpga import tools
    from hetcc.runtime.engines import Engines, check_fpga

    check_fpga(fpga)
    if fpga == "rtl":
        tools.require("verilator")
    return Engines(fpga=fpga)


@contextlib.contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="hetcc-demo-") as folder:
        yield Path(folder)


def _target(folder: Path, name: str) -> Path:
    return folder / f"plan-{name}"


def _plans() -> tuple[tuple[str, CompileOptions], ...]:
    """Plan (a), the optimum, and plan (b), which is told to use the FPGA. Only (b) is also compiled for gfx90a."""
    optimum = CompileOptions(REQUEST, emission=EmissionOptions(targets=("llvm-cpu",)))
    forced = replace(optimum, choice=PlacementChoice(forced=FORCED), emission=EmissionOptions())
    return ("a", optimum), ("b", forced)


def _show_model() -> CapturedModel:
    from hetcc.capture import capture

    print_result("[1/4] Model: DeepSeek-V3.2 of transformers, made small: 4 layers (3 dense, 1 mixture of experts), "
                 f"context {REQUEST.context},\n      32 entries selected per token, random weights. "
                 "Captured with torch.export, prefill and decode.\n")
    with progress_shown() as progress:
        return capture(REQUEST, progress)


def _compile(captured: CapturedModel, plan: tuple[str, CompileOptions], folder: Path, force: bool,
             engines: Engines) -> _Made:
    from hetcc.api import Bundle
    from hetcc.pipeline import compile_captured
    from hetcc.stopwatch import Stopwatch

    name, options = plan
    target = _target(folder, name)
    with progress_shown() as progress:
        def prefixed(message: str) -> None:
            progress(f"plan ({name}), {message}")

        compiled = compile_captured(captured, options, target, force=force, watch=Stopwatch(prefixed))
    return _Made(name, Bundle(target, compiled.summary, engines), options)


def _show_plan(made: _Made) -> None:
    from hetcc.report.summary import summary_lines
    from hetcc.report.tables import label_lines

    shown: tuple[str, ...] = ("nodes", "memory pipelines", "placement", "predicted step", "predicted energy")
    if made.name == "a":
        print_result(f"[2/4] Plan (a): the optimum against the '{made.options.baseline}' GPU baseline")
    else:
        words = " ".join(f"--place {pattern}={device}" for pattern, device in made.options.choice.forced)
        print_result(f"[3/4] Plan (b): told to use the FPGA with {words}")
        shown = shown[2:]
    for phase, summary in made.bundle.summary["phases"].items():
        rows = [row for row in summary_lines({**made.bundle.summary, **summary}) if row[0] in shown]
        print_result(f"{phase}\n{label_lines(rows)}")
    if made.name == "a":
        devices = sorted({region.device for phase in made.bundle.plan.phases for region in phase.regions})
        print_result("The optimum is the GPU alone: at this size the FPGA would cost more than it saves."
                     if devices == ["gpu"] else f"The optimum uses {', '.join(devices)}.")
    print_result("")


def _verify(made: _Made) -> list[Verification]:
    with made.bundle, progress_shown() as progress:
        def prefixed(message: str) -> None:
            progress(f"plan ({made.name}), {message}")

        return verify_phases(made.bundle, made.bundle.phases, prefixed)


def _show_runs(made: Sequence[_Made], results: Sequence[Sequence[Verification]], engines: Engines) -> None:
    """Print the comparison.

    Raises:
        UserError: HET-R001 or HET-R003, a plan does not give what it promised.
    """
    from hetcc.report.verification import verification_table

    devices = "an emulated GPU and a simulated FPGA" if engines.fpga == "rtl" else "emulated devices"
    print_result(f"[4/4] Both plans run on {devices}, compared with Hugging Face in eager mode")
    for plan, verified in zip(made, results, strict=True):
        print_result(f"plan ({plan.name})\n{verification_table(verified)}\n")
    for verified in results:
        for result in verified:
            result.require()


def _show_tokens(made: Sequence[_Made]) -> None:
    """Print what each plan and Hugging Face generate.

    Raises:
        UserError: HET-R001, they differ.
    """
    from hetcc.report.tables import label_lines

    with progress_shown() as progress:
        progress("generating with Hugging Face")
        reference = made[0].bundle.reference.generate(_PROMPT, _TOKENS)
        generated = [_generate(plan, progress) for plan in made]
    rows = [("prompt", _spell(_PROMPT)), ("Hugging Face", _spell(reference))]
    rows += [(f"plan ({plan.name})", _spell(tokens)) for plan, tokens in zip(made, generated, strict=True)]
    print_result(f"{_TOKENS} greedy tokens\n{label_lines(rows)}\n")
    for tokens in generated:
        check_tokens(tokens, reference, {})


def _generate(made: _Made, progress: Progress) -> list[int]:
    progress(f"plan ({made.name}), generate")
    with made.bundle:
        return made.bundle.generate(_PROMPT, _TOKENS)


def _spell(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def _conclusion(made: Sequence[_Made], results: Sequence[Sequence[Verification]], engines: Engines) -> str:
    """One line from the numbers, and what of all this is emulated."""
    every = [result for verified in results for result in verified]
    worst = max(result.relative_error for result in every)
    selections = sum(result.selections.compared for result in every)
    prediction = made[1].bundle.plan.phase("decode").prediction
    ratio = prediction.latency_s / prediction.gpu_only_latency_s
    verdict = f"{ratio:.2f}x the time" if ratio >= 1 else f"{1 / ratio:.2f}x faster"
    emulated, unused = ", the FPGA by the functional model of its kernels", ", Verilog of the kernels"
    if engines.fpga == "rtl":
        emulated, unused = ". Simulated: the FPGA, as the Verilog of its kernels, by Verilator", ""
    return (f"Conclusion: both plans compute what Hugging Face computes (relative error at most {worst:.0e}, "
            f"{selections} selections compared, {_TOKENS} of {_TOKENS} tokens equal);\n"
            f"with relevancy and retrieval on the FPGA a decode step of this model is predicted to take {verdict} "
            f"of the GPU alone.\n"
            f"Emulated: the GPU by IREE on this processor{emulated}. Predicted: all times and energies.\n"
            f"Compiled but not run: the same GPU code for gfx90a (plan (b)){unused}. Nothing was measured on a GPU or "
            "an FPGA.")
