"""The application: which commands there are, and what becomes of every way a command can end."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException

import hetcc
from hetcc.cli import (
    build_command,
    calibrate_command,
    compile_command,
    demo_command,
    explain_command,
    export_command,
    machine_commands,
    predict_command,
    run_commands,
    simulate_command,
)
from hetcc.cli.output import print_json
from hetcc.errors import ExitCode, HetccError, InternalError, UserError

INTERRUPTED = 130
COMMANDS = (compile_command, run_commands, explain_command, predict_command, simulate_command, calibrate_command,
            export_command, build_command,
            machine_commands, demo_command)
_EXAMPLES = """[bold]Begin with[/bold]

hetcc demo

hetcc compile llama --set num_hidden_layers=2 --context 256 -o plan

hetcc explain plan

Exit codes: 0 done, 1 a bug in hetcc, 2 change the request, 3 not supported, 4 does not fit or cannot be placed,
5 a tool is missing, 6 results differ from what was promised."""


def build_app() -> typer.Typer:
    """All commands as one application."""
    app = typer.Typer(name="hetcc", no_args_is_help=False, add_completion=False, rich_markup_mode="rich",
                      pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]})

    @app.callback(invoke_without_command=True, epilog=_EXAMPLES)
    def front(
        ctx: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    ) -> None:
        """Compile LLM inference for a GPU and an FPGA together: find its memory pipeline, place it, say why."""
        if version:
            print(f"hetcc {hetcc.__version__}")
            raise typer.Exit
        if ctx.invoked_subcommand is None:
            print(ctx.get_help())

    for group in COMMANDS:
        group.add_to(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but an exit code leaves this function."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _invoke(words)
    except HetccError as error:
        return _fail(error, as_json="--json" in words)
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _invoke(words: list[str]) -> int:
    """Run the command; everything that goes wrong becomes a ``HetccError``."""
    app = build_app()
    try:
        with warnings.catch_warnings():
            if not os.environ.get("HETCC_DEBUG"):
                # What torch and transformers warn their own callers of says nothing to the person at the terminal.
                warnings.simplefilter("ignore")
            result: Any = app(words, standalone_mode=False)
    except HetccError:
        raise
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except ClickException as error:
        command = f"hetcc {words[0]}" if words and words[0] in _names(app) else "hetcc"
        raise UserError("HET-U001", error.format_message().rstrip("."), fix=f"{command} --help") from error
    except Exception as error:
        raise InternalError("HET-I001", f"{type(error).__name__}: {error}", where=_place_of(error),
                            fix="please report this with the command line; HETCC_DEBUG=1 shows the whole way to it"
                            ) from error
    return result if isinstance(result, int) else ExitCode.OK


def _names(app: typer.Typer) -> set[str]:
    return {command.name for command in app.registered_commands if command.name}


def _place_of(error: Exception) -> str:
    """Module, line and function in which an exception was raised, without folders."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "typer" not in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else ""


def _fail(error: HetccError, *, as_json: bool) -> int:
    """Tell people and programs about an error."""
    # A usage error may come before any option was understood, so --json is looked for among the words themselves.
    if as_json:
        print_json({**error.details, "error": error.to_json()})
    if os.environ.get("HETCC_DEBUG"):
        traceback.print_exception(error)
    else:
        print(error.render(), file=sys.stderr)
    return int(error.exit_code)
