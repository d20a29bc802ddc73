"""The four stages of the memory pipeline and the evidence on which a node was given one (arXiv 2603.29002)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from hetcc.ir.graph import Graph


class Stage(Enum):
    """A stage of the memory pipeline."""

    PREPARE = "prepare"
    RELEVANCY = "relevancy"
    RETRIEVAL = "retrieval"
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class Tag:
    """Why a node belongs to a stage of one pipeline."""

    stage: Stage
    pipeline: str
    """Name of the node the pipeline was found from (its selection, or its attention when nothing is selected)."""
    evidence: tuple[str, ...]
    """The facts the tag rests on, one sentence each."""


@dataclass(frozen=True)
class TaggedGraph:
    """A graph and the stage of every node that belongs to a memory pipeline."""

    graph: Graph
    tags: Mapping[str, Tag]
    """Tag by node name; nodes outside every memory pipeline are absent."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    def stage_of(self, node_name: str) -> Stage | None:
        """The stage of a node, or None."""
        tag = self.tags.get(node_name)
        return tag.stage if tag else None

    def pipelines(self) -> tuple[str, ...]:
        """Names of the pipelines found, in program order of their first node."""
        tagged = (self.tags.get(node.name) for node in self.graph.nodes)
        return tuple(dict.fromkeys(tag.pipeline for tag in tagged if tag is not None))
