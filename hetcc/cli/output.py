"""Printing: JSON and text on stdout, progress and warnings on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

PIPE_CLOSED = 141
"""Exit code of a program whose reader has gone (128 and the number of SIGPIPE)."""
Progress = Callable[[str], None]
_WARNING = "warning:"


def print_json(document: Any) -> None:
    """A document on stdout, the only thing there when ``--json`` is given; numbers that are not finite become null."""
    print_result(json.dumps(_finite(document), indent=1, allow_nan=False, default=str))


def _finite(part: Any) -> Any:
    """The document with null for every number JSON cannot spell."""
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, Mapping):
        return {key: _finite(value) for key, value in part.items()}
    return [_finite(value) for value in part] if isinstance(part, list | tuple) else part


def print_result(text: str) -> None:
    """The main result, on stdout.

    Raises:
        Exit: whoever read the output has closed it, which is no error.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and must find it open.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE_CLOSED) from None


def tell(text: str) -> None:
    """Something beside the main result, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_shown() -> Iterator[Progress]:
    """A callback that shows what is going on: a status line on a terminal, elsewhere a line per stage."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _LinePerStage().tell
        return
    with console.status("starting") as status:
        def show(message: str) -> None:
            if message.startswith(_WARNING):
                console.print(message, style="yellow")
            else:
                status.update(message)

        yield show


class _LinePerStage:
    """Plain lines for logs: each stage once, however often its message changes; each warning once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, message: str) -> None:
        """Print the message unless its stage (what stands before the colon) was printed before."""
        stage = message if message.startswith(_WARNING) else message.partition(":")[0]
        if stage not in self._told:
            self._told.add(stage)
            tell(message)
