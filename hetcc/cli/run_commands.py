"""``hetcc run`` and ``hetcc generate``: what a bundle does on this machine, and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetcc.cli.output import Progress, print_json, print_result, progress_shown
from hetcc.errors import HetccError, UserError

if TYPE_CHECKING:
    from hetcc.api import Bundle
    from hetcc.backends.fpga.xrt.faults import Fault
    from hetcc.runtime.verify import Verification

_RUN_EXAMPLES = """[bold]Examples[/bold]

hetcc run bundle

hetcc run bundle --verify --history 100 --steps 4

hetcc run bundle --gpu interpreter --verify

hetcc run bundle --phase decode --verify --json"""
_GENERATE_EXAMPLES = """[bold]Examples[/bold]

hetcc generate bundle --tokens 8 --ids 1,2,3

hetcc generate bundle --tokens 32 --ids-file prompt.txt --check"""

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder written by `hetcc compile`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
RunsGpu = Annotated[str, typer.Option(
    "--gpu", metavar="TARGET", help="Whose code to run: llvm-cpu or interpreter, which are emulated, or the chip of a "
    "card in this machine (gfx90a, gfx942, sm_80, sm_90). Default: what the bundle has for emulation.")]
RunsFpga = Annotated[str, typer.Option(
    "--fpga", metavar="model|rtl", help="What runs the FPGA's kernels: the bit-exact functional model, or the emitted "
    "Verilog, simulated cycle by cycle with Verilator.")]
Faults = Annotated[list[str] | None, typer.Option(
    "--fault", metavar="N:KIND", help="Let the N-th run of the emulated FPGA fail, to see what becomes of the request: "
    "error, abort, timeout, noresponse, hang or lost; with :late after its work is done. Repeatable.")]
_EMULATED = "{} on this machine's processor; its times say nothing about the devices"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("run", epilog=_RUN_EXAMPLES)(run)
    app.command("generate", epilog=_GENERATE_EXAMPLES)(generate)


def run(
    bundle: BundleFolder,
    phase: Annotated[list[str] | None, typer.Option("--phase", help="Phase to run; repeatable. Default: all.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with the original model, run eagerly.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the random tokens.")] = 0,
    history: Annotated[int | None, typer.Option(
        "--history", min=0, help="Tokens already in the caches; with --verify. Default: half of the context.")] = None,
    steps: Annotated[int | None, typer.Option(
        "--steps", min=1, help="Decode steps. Default: 1, with --verify 3.")] = None,
    gpu: RunsGpu = "",
    fpga: RunsFpga = "model",
    fault: Faults = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle with random tokens, on emulated devices unless told otherwise, and say what ran where."""
    from hetcc import api
    from hetcc.runtime.engines import Engines

    if history is not None and not verify:
        raise UserError("HET-U001", "--history is for --verify; a plain run starts with empty caches",
                        fix="give --verify too, or leave --history out")
    opened = api.load(bundle, Engines(gpu, fpga, _faults(fault)))
    phases = tuple(phase) if phase else opened.phases
    for name in phases:
        opened.plan.phase(name)
    with opened, progress_shown() as progress:
        if verify:
            results = verify_phases(opened, phases, progress, seed=seed, history=history, steps=steps or 3)
        else:
            document = {name: _run_phase(opened, name, seed, steps or 1, progress) for name in phases}
    if verify:
        report_verification(opened, results, as_json=as_json)
    elif as_json:
        print_json({"bundle": str(bundle), "verified": False, "phases": document, "recoveries": _recoveries(opened)})
    else:
        print_result(_run_text(document, _what_is_emulated(opened)))


def verify_phases(bundle: Bundle, phases: Sequence[str], progress: Progress, *, seed: int = 0,
                  history: int | None = None, steps: int = 3) -> list[Verification]:
    """Run and compare each phase."""
    results = []
    for name in phases:
        progress(f"verify {name}: running it and the reference")
        results.append(bundle.verify(name, seed=seed, history=history, steps=steps))
    return results


def report_verification(bundle: Bundle, results: Sequence[Verification], *, as_json: bool) -> None:
    """Print what was compared.

    Raises:
        UserError: HET-R001 or HET-R003, something is not as promised; what was found is printed first, or in the
            error's details for ``--json``.
    """
    from hetcc.report.verification import verification_table

    document = {"bundle": str(bundle.folder), "verified": all(result.passed for result in results),
                "phases": {result.phase: result.to_json() for result in results}, "recoveries": _recoveries(bundle)}
    if not as_json:
        print_result(f"{verification_table(results)}\n\n{_what_is_emulated(bundle)}")
    for result in results:
        try:
            result.require()
        except HetccError as error:
            error.details.update(document)
            raise
    if as_json:
        print_json(document)


def _faults(words: list[str] | None) -> tuple[Fault, ...]:
    from hetcc.backends.fpga.xrt.faults import Fault

    return tuple(Fault.parse(word) for word in words or ())


def _recoveries(bundle: Bundle) -> list[dict[str, Any]]:
    """Requests that went on without a device; they were announced on stderr."""
    return [one.to_json() for one in bundle.session.recoveries]


def _what_is_emulated(bundle: Bundle) -> str:
    """Which devices of the run were not the real ones."""
    from hetcc.backends.gpu.tools import ENGINES

    fpga = "emulated" if bundle.session.engines.fpga == "model" else "simulated"
    gpu_emulated = bundle.session.engines.gpu in ENGINES
    if gpu_emulated and fpga == "emulated":
        return _EMULATED.format("GPU and FPGA are emulated")
    return _EMULATED.format(f"The GPU is emulated and the FPGA {fpga}" if gpu_emulated else f"The FPGA is {fpga}")


def _run_phase(bundle: Bundle, phase: str, seed: int, steps: int, progress: Progress) -> dict[str, Any]:
    """Run steps of a phase from empty caches; what came out and where it was computed."""
    from hetcc.runtime.sample import random_inputs

    plan, graph = bundle.plan.phase(phase), bundle.tagged(phase).graph
    count = steps if phase == "decode" else 1
    if phase == "decode" and count > plan.context:
        raise UserError("HET-R002", f"{count} steps need more than the {plan.context} entries of the cache",
                        fix="lower --steps")
    progress("loading the programs")
    bundle.session.reset()
    progress(f"run {phase}")
    for step in range(count):
        trace = bundle.run(phase, random_inputs(plan, graph, seed + step))
    return {
        "steps": count, "coverage": trace.coverage().to_json(),
        "outputs": {name: {"shape": list(array.shape), "dtype": str(array.dtype)}
                    for name, array in trace.outputs.items()},
        "engines": {record.device: record.engine for record in trace.records if record.engine},
        "measured_time_s": trace.measured_time_s, "simulated_cycles": trace.simulated_cycles,
        "doorbell_cycles": trace.doorbell_cycles,
    }


def _run_text(document: dict[str, Any], emulated: str) -> str:
    from hetcc.report.tables import label_lines
    from hetcc.report.verification import shares_text

    blocks = []
    for phase, found in document.items():
        rows = [(name, f"{entry['dtype']}{entry['shape']}") for name, entry in found["outputs"].items()]
        rows += [("flops ran on", shares_text(found["coverage"]["flops"])),
                 ("bytes moved on", shares_text(found["coverage"]["bytes"]))]
        rows += [(f"{device} is", engine) for device, engine in found["engines"].items()]
        if found["simulated_cycles"]:
            rung = f", of them {found['doorbell_cycles']} from doorbells to answers" if found["doorbell_cycles"] else ""
            rows.append(("simulated FPGA cycles", f"{found['simulated_cycles']} (last step){rung}"))
        rows += [("problem", problem) for problem in found["coverage"]["problems"]]
        blocks.append(f"{phase}: {found['steps']} step{'s' if found['steps'] > 1 else ''}\n" + label_lines(rows))
    return "\n\n".join([*blocks, emulated])


def generate(
    bundle: BundleFolder,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to generate.")],
    ids: Annotated[str | None, typer.Option("--ids", metavar="1,2,3", help="Token ids of the prompt.")] = None,
    ids_file: Annotated[Path | None, typer.Option(
        "--ids-file", metavar="FILE", help="File with the token ids, separated by commas or white space.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare with greedy generation of Hugging Face.")] = False,
    gpu: RunsGpu = "",
    fault: Faults = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt greedily, on emulated devices unless told otherwise."""
    from hetcc import api
    from hetcc.runtime.engines import Engines

    prompt = _prompt_ids(ids, ids_file)
    opened = api.load(bundle, Engines(gpu, faults=_faults(fault)))
    with opened, progress_shown() as progress:
        progress("loading the programs")
        generated = opened.generate(prompt, tokens, progress)
        reference = _reference_tokens(opened, prompt, tokens, progress) if check else None
    document: dict[str, Any] = {"prompt": prompt, "generated": generated, "recoveries": _recoveries(opened)}
    if reference is not None:
        document |= {"reference": reference, "equal": reference == generated}
    if not as_json:
        print_result(",".join(map(str, generated)))
    check_tokens(generated, reference, document)
    if as_json:
        print_json(document)


def check_tokens(generated: Sequence[int], reference: Sequence[int] | None, document: dict[str, Any]) -> None:
    """Refuse tokens that differ from the reference's.

    Raises:
        UserError: HET-R001.
    """
    if reference is None or list(generated) == list(reference):
        return
    first = next(index for index, pair in enumerate(zip(generated, reference, strict=True)) if pair[0] != pair[1])
    error = UserError("HET-R001", f"token {first + 1} of {len(reference)} is {generated[first]}, Hugging Face "
                      f"generates {reference[first]}", fix="`hetcc run BUNDLE --verify` shows how far off it is")
    error.details.update(document)
    raise error


def _reference_tokens(bundle: Bundle, prompt: list[int], tokens: int, progress: Progress) -> list[int]:
    progress("generating with Hugging Face")
    reference: list[int] = bundle.reference.generate(prompt, tokens)
    return reference


def _prompt_ids(ids: str | None, ids_file: Path | None) -> list[int]:
    """Token ids of either option.

    Raises:
        UserError: HET-U001, neither or both are given; HET-R002, what is given is no list of numbers.
    """
    if (ids is None) == (ids_file is None):
        raise UserError("HET-U001", "the prompt is missing" if ids is None else "both --ids and --ids-file are given",
                        fix="give --ids 1,2,3 or --ids-file FILE")
    where = "--ids" if ids_file is None else str(ids_file)
    try:
        text = ids if ids_file is None else ids_file.read_text(encoding="utf-8")
        return [int(word) for word in (text or "").replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise UserError("HET-R002", f"the prompt cannot be read: {error}", where=where,
                        fix="write token ids as 1,2,3") from error
