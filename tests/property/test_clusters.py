"""Clusters of random programs: nothing is lost, nothing is placed twice, nothing waits for itself."""

from __future__ import annotations

from collections import Counter

import networkx
from hypothesis import given, settings

from hetcc.ir import OperatorClass, TaggedGraph
from hetcc.passes.clusters import form_clusters

from corpus.random_graphs import tagged_graphs


@given(tagged_graphs())
@settings(max_examples=120)
def test_clusters_partition_and_order_the_graph(tagged: TaggedGraph) -> None:
    graph = tagged.graph
    clustering = form_clusters(tagged)
    counts = Counter(node.name for group in clustering.groups for node in group.nodes)
    counts.update(list(clustering.free))
    assert counts == Counter(node.name for node in graph.nodes)
    position = {node.name: place for place, group in enumerate(clustering.groups) for node in group.nodes}
    for node in graph.nodes:
        for user in (user for output in node.outputs for user in graph.consumers_of(output)):
            if node.name in position and user.name in position:
                assert position[node.name] <= position[user.name], "groups are in topological order"
    network = networkx.DiGraph((position[node.name], position[user.name]) for node in graph.nodes
                               for output in node.outputs for user in graph.consumers_of(output)
                               if node.name in position and user.name in position
                               and position[node.name] != position[user.name])
    assert networkx.is_directed_acyclic_graph(network)


@given(tagged_graphs())
@settings(max_examples=100)
def test_what_is_free_and_what_follows(tagged: TaggedGraph) -> None:
    graph = tagged.graph
    clustering = form_clusters(tagged)
    group_of = {node.name: group.name for group in clustering.groups for node in group.nodes}
    assert len(set(group_of.values())) == len(clustering.groups), "names of groups are unique"
    for node in clustering.free.values():
        assert not graph.results.intersection(node.outputs), "a result has to be computed somewhere"
        assert node.operator_class in (OperatorClass.VIEW, OperatorClass.CREATE)
        producers = [graph.producer[name].name for name in node.inputs if name in graph.producer]
        assert all(name in clustering.free for name in producers)
    for group in clustering.groups:
        order = [graph.nodes.index(node) for node in group.nodes]
        assert order == sorted(order), "nodes of a group are in program order"
        assert group.name in {node.name for node in group.nodes}
    for node in graph.nodes:
        if node.operator_class is not OperatorClass.VIEW or node.name in clustering.free or node.name in tagged.tags:
            continue
        for name in node.inputs:
            producer = graph.producer.get(name)
            if producer is not None and producer.name in group_of:
                assert group_of[producer.name] == group_of[node.name], "a view is where its producer is"
