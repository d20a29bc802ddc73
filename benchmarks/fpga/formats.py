"""Accuracy of the operand formats against binary64: error of the scores, and recall of the selection.

    python benchmarks/fpga/formats.py
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.formats import accuracy
from hetcc.backends.fpga.stages.number_format import NumberFormat

ROWS, DEPTH, QUERIES, K = 131_072, 128, 4, 2048


def data(kind: str) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    """Rows ``[D, N]`` and queries ``[D, M]``."""
    random = numpy.random.default_rng(1)
    rows, queries = random.standard_normal((DEPTH, ROWS)), random.standard_normal((DEPTH, QUERIES))
    if kind == "a few large channels":
        rows[:4] *= 20
    if kind == "heavy tails":
        rows = random.standard_t(2, (DEPTH, ROWS))
    return rows.astype(numpy.float32), queries.astype(numpy.float32)


def main() -> None:
    """Print one line per kind of data and format."""
    print(f"{ROWS} rows of {DEPTH}, {QUERIES} queries, k = {K}; errors in standard deviations of the scores")
    print("data  format  largest error  typical error  recall")
    for kind in ("normal", "a few large channels", "heavy tails"):
        rows, queries = data(kind)
        for form in NumberFormat:
            found = accuracy(rows, queries, form, K)
            print(f"{kind}  {form.value}  {found.largest_error:.1e}  {found.typical_error:.1e}  {found.recall:.4f}")


if __name__ == "__main__":
    main()
