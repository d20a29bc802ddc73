"""Form the clusters that are placed: fusion groups, the same for every device so that prices can be compared.

Each relevancy, retrieval and apply stage of a pipeline is one cluster (tuned kernels exist for them on every kind of
device). Elsewhere views follow their producer, and element-wise nodes, copies and reductions join the producers that
feed nothing else. Views of weights and constants are free: every region that needs one makes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import networkx

from hetcc.ir import Graph, Node, OperatorClass, Stage, TaggedGraph
from hetcc.ir.builder import in_order

_FUSES = frozenset({OperatorClass.ELEMENTWISE, OperatorClass.COPY, OperatorClass.REDUCTION, OperatorClass.CONCAT})
_STAGE_CLUSTERS = frozenset({Stage.RELEVANCY, Stage.RETRIEVAL, Stage.APPLY})


@dataclass(frozen=True)
class NodeGroup:
    """The nodes of one cluster, in program order."""

    name: str
    nodes: tuple[Node, ...]
    layer: str
    stage: Stage | None


@dataclass(frozen=True)
class Clustering:
    """All clusters of a graph in topological order, and the nodes that belong to none."""

    groups: tuple[NodeGroup, ...]
    free: Mapping[str, Node]
    """Nodes that every region makes for itself: views of external values and constants, by name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "free", MappingProxyType(dict(self.free)))


def form_clusters(tagged: TaggedGraph) -> Clustering:
    """Clusters of a tagged graph; the graph of clusters is acyclic."""
    graph = tagged.graph
    free = _free_nodes(graph)
    grouping = _Grouping(tagged, free)
    grouping.fuse()
    grouping.break_cycles()
    return Clustering(grouping.ordered(), free)


def _free_nodes(graph: Graph) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in graph.nodes:
        producers = [graph.producer.get(name) for name in node.inputs]
        external = all(producer is None or producer.name in found for producer in producers)
        is_view = node.operator_class is OperatorClass.VIEW and external
        is_constant = node.operator_class is OperatorClass.CREATE and not node.inputs
        if (is_view or is_constant) and not graph.results.intersection(node.outputs):
            found[node.name] = node
    return found


class _Grouping:
    """Union-find over nodes, with the consumers of each group at hand."""

    def __init__(self, tagged: TaggedGraph, free: Mapping[str, Node]) -> None:
        self.tagged = tagged
        self.graph = tagged.graph
        self.nodes = [node for node in self.graph.nodes if node.name not in free]
        self.free = free
        self.parent: dict[str, str] = {node.name: node.name for node in self.nodes}
        self.users: dict[str, set[str]] = {
            node.name: {user.name for output in node.outputs for user in self.graph.consumers_of(output)
                        if user.name not in free} for node in self.nodes}

    def find(self, name: str) -> str:
        root = name
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[name] != root:
            self.parent[name], name = root, self.parent[name]
        return root

    def join(self, first: str, second: str) -> None:
        """Merge the group of ``second`` into that of ``first``."""
        kept, gone = self.find(first), self.find(second)
        if kept != gone:
            self.parent[gone] = kept
            self.users[kept] |= self.users.pop(gone)

    def producers(self, node: Node) -> list[str]:
        found = (self.graph.producer.get(name) for name in node.inputs)
        return [producer.name for producer in found if producer is not None and producer.name not in self.free]

    def stage_key(self, node: Node) -> tuple[str, Stage] | None:
        tag = self.tagged.tags.get(node.name)
        return (tag.pipeline, tag.stage) if tag and tag.stage in _STAGE_CLUSTERS else None

    def fuse(self) -> None:
        """Stages first, then views to their producers, then element-wise nodes to producers they alone read."""
        first_of: dict[tuple[str, Stage], str] = {}
        for node in self.nodes:
            key = self.stage_key(node)
            if key is not None:
                self.join(first_of.setdefault(key, node.name), node.name)
        for node in self.nodes:
            if self.stage_key(node) is not None:
                continue
            producers = self.producers(node)
            if node.operator_class is OperatorClass.VIEW:
                self._follow_producer(node)
            elif node.operator_class in _FUSES:
                for producer in producers:
                    if self._feeds_only(producer, node):
                        self.join(producer, node.name)

    def _follow_producer(self, view: Node) -> None:
        """A view goes where its producer is; a view of an input that is a result of the program stands alone."""
        for producer in self.producers(view)[:1]:
            self.join(producer, view.name)

    def _feeds_only(self, producer: str, node: Node) -> bool:
        root, own = self.find(producer), self.find(node.name)
        if self.stage_key(self.graph.node_by_name[producer]) is not None or root == own:
            return False
        same_layer = self.graph.node_by_name[producer].provenance.layer == node.provenance.layer
        is_update = self.graph.node_by_name[root].operator_class is OperatorClass.CACHE_UPDATE
        outside = {self.find(user) for user in self.users[root]} - {root}
        return same_layer and not is_update and outside == {own}

    def edges(self) -> set[tuple[str, str]]:
        """Edges between groups."""
        return {(self.find(node.name), self.find(user)) for node in self.nodes for output in node.outputs
                for user in (consumer.name for consumer in self.graph.consumers_of(output))
                if user not in self.free and self.find(node.name) != self.find(user)}

    def break_cycles(self) -> None:
        """Take groups that wait for each other apart into single nodes (views stay with their producers)."""
        while True:
            network = networkx.DiGraph(self.edges())
            tangled = {name for component in networkx.strongly_connected_components(network) if len(component) > 1
                       for name in component}
            if not tangled:
                return
            members = [node for node in self.nodes if self.find(node.name) in tangled]
            for node in members:
                self.parent[node.name] = node.name
                self.users[node.name] = {user.name for output in node.outputs
                                         for user in self.graph.consumers_of(output) if user.name not in self.free}
            for node in members:
                if node.operator_class is OperatorClass.VIEW:
                    self._follow_producer(node)

    def ordered(self) -> tuple[NodeGroup, ...]:
        """Groups in topological order, each named after its most telling node."""
        members: dict[str, list[Node]] = {}
        for node in self.nodes:
            members.setdefault(self.find(node.name), []).append(node)
        stand_ins = []
        for root, nodes in members.items():
            made = {name for node in nodes for name in node.outputs}
            read = tuple(dict.fromkeys(name for node in nodes for name in self._roots(node) if name not in made))
            outputs = tuple(name for node in nodes for name in node.outputs)
            stand_ins.append(Node(root, nodes[0].operator, nodes[0].operator_class, read, outputs))
        return tuple(self._group(members[stand_in.name]) for stand_in in in_order(stand_ins))

    def _roots(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name in self.graph.producer
                and self.graph.producer[name].name not in self.free]

    def _group(self, nodes: list[Node]) -> NodeGroup:
        anchor = min(nodes, key=lambda node: (_RANK.get(node.operator_class, 9), nodes.index(node)))
        tag = self.tagged.tags.get(anchor.name)
        layers = {node.provenance.layer for node in nodes}
        layer = anchor.provenance.layer if len(layers) > 1 else layers.pop()
        return NodeGroup(anchor.name, tuple(nodes), layer, tag.stage if tag else None)


_RANK = {OperatorClass.TOPK: 0, OperatorClass.SORT: 0, OperatorClass.CACHE_UPDATE: 1, OperatorClass.SOFTMAX: 2,
         OperatorClass.MATMUL: 3, OperatorClass.ATTENTION: 3, OperatorClass.CONVOLUTION: 3, OperatorClass.GATHER: 4,
         OperatorClass.SCATTER: 4, OperatorClass.NORMALIZATION: 5, OperatorClass.REDUCTION: 6,
         OperatorClass.ELEMENTWISE: 7, OperatorClass.VIEW: 10}
