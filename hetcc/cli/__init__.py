"""The command line: a thin layer over the Python API that parses, shows progress, prints, and names errors."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows ``hetcc``; by default those of this process.

    Returns:
        the exit code, see ``hetcc.errors.ExitCode``; 130 after Ctrl-C.
    """
    from hetcc.cli.app import run

    return run(arguments)
