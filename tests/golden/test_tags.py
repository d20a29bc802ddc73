"""What the tag pass says of one small graph per mechanism."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hetcc.ir import Stage
from hetcc.ir.printer import print_graph
from hetcc.passes.tag import TagMemoryPipeline

from corpus.graphs import SMALL_GRAPHS

Golden = Callable[[str, str], None]
STAGES = {
    "sparse_selection": {Stage.PREPARE, Stage.RELEVANCY, Stage.RETRIEVAL, Stage.APPLY},
    "threshold_selection": {Stage.PREPARE, Stage.RELEVANCY, Stage.RETRIEVAL, Stage.APPLY},
    "expert_routing": set(),
    "dense_attention": {Stage.PREPARE, Stage.RELEVANCY, Stage.APPLY},
    "attention_with_sink": {Stage.PREPARE, Stage.RELEVANCY, Stage.APPLY},
    "table_lookup": {Stage.RELEVANCY, Stage.RETRIEVAL, Stage.APPLY},
    "page_bounds": {Stage.RELEVANCY, Stage.RETRIEVAL, Stage.APPLY},
    "longest_entries": set(),
}


@pytest.mark.parametrize("name", list(SMALL_GRAPHS))
def test_stages(name: str, golden: Golden) -> None:
    tagged = TagMemoryPipeline().run(SMALL_GRAPHS[name]())
    assert {tag.stage for tag in tagged.tags.values()} == STAGES[name]
    assert len(tagged.pipelines()) == bool(STAGES[name])
    golden("tagged.txt", print_graph(tagged.graph, tagged.tags))
    evidence = [f"{node}: {tag.stage.value} of {tag.pipeline}\n" + "".join(f"  {fact}\n" for fact in tag.evidence)
                for node, tag in sorted(tagged.tags.items())]
    golden("evidence.txt", "".join(evidence))
