"""Printing: JSON and text on stdout, progress and warnings on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[str], None]
_WARNING = "warning:"


def print_json(document: Any) -> None:
    """A document on stdout, the only thing there when ``--json`` is given."""
    print(json.dumps(document, indent=1, allow_nan=False, default=str))


def print_result(text: str) -> None:
    """The main result, on stdout."""
    print(text)


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
