"""``hetcc export``: the priced graph and the plan's schema for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from hetcc.cli.explain_command import main_phase_of
from hetcc.cli.output import print_result, tell
from hetcc.errors import UserError

_EXAMPLES = """[bold]Examples[/bold]

hetcc export bundle --format json -o placement.json
(edit the devices under "placement", then `hetcc compile MODEL --placement placement.json`)

hetcc export bundle --format text | less

hetcc export bundle --format dot | dot -Tsvg > plan.svg

hetcc export --format schema"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("export", epilog=_EXAMPLES)(export)


def export(
    bundle: Annotated[Path | None, typer.Argument(
        metavar="BUNDLE", help="Folder written by `hetcc compile`; not needed for the schema.")] = None,
    form: Annotated[Literal["json", "text", "dot", "graphml", "schema"], typer.Option(
        "--format", help="json: prices and placement; text: the graph, a line a node; dot, graphml: the placement as a "
        "picture; schema: of plan.json.")
    ] = "json",
    phase: Annotated[str | None, typer.Option("--phase", help="Phase to export; default: the main one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
) -> None:
    """Write the priced graph with its placement, or the schema of plan.json."""
    text = _schema_text() if form == "schema" else _graph_text(bundle, form, phase)
    if output is None:
        print_result(text.rstrip("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError("HET-B001", f"cannot write '{output}': {error.strerror}", where=str(output),
                        fix="choose another file with --output") from error
    tell(f"wrote {output}")


def _schema_text() -> str:
    from hetcc.report.export import plan_schema_text

    return plan_schema_text()


def _graph_text(bundle: Path | None, form: str, phase: str | None) -> str:
    from hetcc import api
    from hetcc.ir.printer import print_graph
    from hetcc.passes.place import export as pictures
    from hetcc.report.export import placement_document

    if bundle is None:
        raise UserError("HET-U001", f"--format {form} needs a bundle", fix="hetcc export BUNDLE --format " + form)
    opened = api.load(bundle)
    name = phase or main_phase_of(opened)
    problem, placement = opened.problem(name), opened.placement(name)
    if form == "text":
        tagged = opened.tagged(name)
        homes = {node: placement.device_of[cluster] for node, cluster in problem.cluster_of_node.items()}
        return print_graph(tagged.graph, tagged.tags, homes)
    if form == "dot":
        return pictures.problem_to_dot(problem, placement.device_of)
    if form == "graphml":
        return pictures.problem_to_graphml(problem, placement.device_of)
    return json.dumps(placement_document(problem, placement), indent=1) + "\n"
