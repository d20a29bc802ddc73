"""``hetcc explain``: why everything is where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hetcc.cli.output import print_json, print_result

if TYPE_CHECKING:
    from hetcc.api import Bundle
    from hetcc.report.explanation import Explained

_EXAMPLES = """[bold]Examples[/bold]

hetcc explain bundle

hetcc explain bundle model.layers.0.self_attn.indexer/topk --phase decode

hetcc explain bundle r00003_fpga --json"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("explain", epilog=_EXAMPLES)(explain)


def explain(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder written by `hetcc compile`.")],
    name: Annotated[str | None, typer.Argument(
        metavar="[NODE|CLUSTER|REGION]", help="What to explain, or a piece of its name. Default: the whole plan.")
    ] = None,
    phase: Annotated[str | None, typer.Option(
        "--phase", help="Phase to explain; default: all, or the main one for a name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")] = False,
) -> None:
    """Say why the plan is as it is: stages, prices on each device, what crosses, margins, what would flip it."""
    from hetcc import api
    from hetcc.report import explanation, explanation_text

    opened = api.load(bundle)
    if name is None:
        phases = (phase,) if phase else opened.phases
        answers = {item: explanation.overview(_explained(opened, item)) for item in phases}
        if as_json:
            print_json({"phases": answers})
        else:
            print_result("\n\n".join(explanation_text.overview_text(answer) for answer in answers.values()))
        return
    explained = _explained(opened, phase or main_phase_of(opened))
    kind, found = explanation.find_name(name, explained)
    answer = (explanation.region_answer(found, explained) if kind == "region"
              else explanation.cluster_answer(found, name, explained))
    if as_json:
        print_json(answer)
    else:
        print_result(explanation_text.region_text(answer) if kind == "region"
                     else explanation_text.cluster_text(answer))


def main_phase_of(bundle: Bundle) -> str:
    """The phase that is meant when none is named."""
    from hetcc.report.explanation import main_phase
    from hetcc.report.summary import MAIN_PHASES

    return main_phase(bundle.phases, MAIN_PHASES)


def _explained(bundle: Bundle, phase: str) -> Explained:
    from hetcc.report.code import code_of_regions
    from hetcc.report.explanation import Explained
    from hetcc.report.hardware_text import hardware_of_regions
    from hetcc.report.packing_text import PACKING_FILE

    plan = bundle.plan.phase(phase)
    packing = json.loads(bundle.files.read(PACKING_FILE)) if PACKING_FILE in bundle.files.paths else None
    return Explained(plan, bundle.explanation(phase), bundle.tagged(phase),
                     code_of_regions(bundle.plan, plan, bundle.files.read), packing,
                     hardware_of_regions(plan, bundle.files.read))
