"""What changing the order of products makes of attention over a latent memory, for one sequence and for two."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hetcc.ir.printer import print_graph
from hetcc.planning import normalize

from corpus.latent_graphs import latent_selection


@pytest.mark.parametrize("batch", [1, 2])
def test_latent_selection(batch: int, golden: Callable[[str, str], None]) -> None:
    """Narrowed to the selection first, then with the projections moved to the query and the result."""
    graph = latent_selection(batch)
    narrowed, _ = normalize(graph, without_rewrites=("reassociate",))
    after, report = normalize(graph)
    golden("narrowed.txt", print_graph(narrowed))
    golden("reassociated.txt", print_graph(after))
    assert [(rewrite.rule, rewrite.applied) for rewrite in report] == [
        ("narrow-to-selection", True), ("reassociate", True), ("reassociate", True)]
