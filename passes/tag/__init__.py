"""Tag the memory pipeline of a graph (arXiv 2603.29002) by dataflow alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hetcc.ir import Graph, OperatorClass, TaggedGraph
from hetcc.ir.axes import ValueAxis
from hetcc.passes.tag.selections import find_selections, trace_back
from hetcc.passes.tag.stages import TagBoard, tag_attention, tag_selection


@dataclass(frozen=True)
class TagMemoryPipeline:
    """Find Prepare, Relevancy, Retrieval and Apply.

    Before: a graph. After: the same graph with a stage and its evidence for every node of a memory pipeline.
    Does not touch: the graph; nodes outside memory pipelines, expert routing among them, stay untagged.
    """

    name: ClassVar[str] = "tag-memory-pipeline"

    def run(self, graph: Graph) -> TaggedGraph:
        """Tag ``graph``."""
        board = TagBoard(graph)
        for selection in find_selections(graph):
            tag_selection(board, selection)
        for node in graph.nodes:
            if node.operator_class is not OperatorClass.SOFTMAX or board.has(node):
                continue
            trace = trace_back(graph, ValueAxis(node.inputs[0], node.integer("axis")))
            if trace.memory:
                tag_attention(board, node, trace)
        return TaggedGraph(graph, {node.name: board.tags[node.name] for node in graph.nodes if board.has(node)})
