"""Plain text tables: aligned columns that can be piped, compared and read without colours."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A header, a rule and the rows; every column as wide as its widest cell.

    Args:
        headers: column titles.
        rows: cells, as many per row as there are titles.
        right: positions of the columns aligned to the right.
    """
    cells = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [_line(row, widths, right) for row in cells]
    return "\n".join([lines[0], _GAP.join("-" * width for width in widths), *lines[1:]])


def label_lines(pairs: Sequence[tuple[str, str]]) -> str:
    """``label   text`` lines, indented, the texts under each other."""
    width = max((len(label) for label, _ in pairs), default=0)
    return "\n".join(f"  {label:<{width}}{_GAP}{text}".rstrip() for label, text in pairs)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    cells = (cell.rjust(width) if column in right else cell.ljust(width)
             for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
    return _GAP.join(cells).rstrip()
