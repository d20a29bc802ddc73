"""From a selection (or a dense attention) to the four stages around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hetcc.ir import Graph, Node, OperatorClass, Stage, Tag
from hetcc.ir.axes import Follow, ValueAxis, contracted, destinations, sources
from hetcc.passes.tag.selections import Selection, Trace

_FOLLOWERS = frozenset({OperatorClass.VIEW, OperatorClass.COPY})


@dataclass
class TagBoard:
    """Tags as they are found; the first tag a node gets is kept."""

    graph: Graph
    tags: dict[str, Tag] = field(default_factory=dict)

    def put(self, node: Node, stage: Stage, pipeline: str, *evidence: str) -> None:
        """Tag ``node`` unless it is tagged."""
        self.tags.setdefault(node.name, Tag(stage, pipeline, evidence))

    def has(self, node: Node) -> bool:
        """Whether the node is tagged."""
        return node.name in self.tags


def tag_selection(board: TagBoard, selection: Selection) -> None:
    """Tag the pipeline around one selection."""
    pipeline = selection.node.name
    _tag_relevancy(board, selection.trace, pipeline, selection.reason)
    board.put(selection.node, Stage.RETRIEVAL, pipeline, selection.reason)
    chosen = _tag_followers(board, selection.node, pipeline)
    _tag_apply(board, chosen, pipeline)
    _tag_preparation(board, selection.trace.updates, pipeline)


def tag_attention(board: TagBoard, softmax: Node, trace: Trace) -> None:
    """Tag dense attention over a cache: a memory pipeline in which nothing is selected."""
    pipeline = softmax.name
    reason = "softmax over an axis of " + ", ".join(sorted({origin.value for origin in trace.memory}))
    _tag_relevancy(board, trace, pipeline, reason)
    board.put(softmax, Stage.APPLY, pipeline, reason)
    _tag_apply(board, [ValueAxis(softmax.outputs[0], softmax.integer("axis"))], pipeline)
    _tag_preparation(board, trace.updates, pipeline)


def _tag_relevancy(board: TagBoard, trace: Trace, pipeline: str, reason: str) -> None:
    for node in trace.path:
        board.put(node, Stage.RELEVANCY, pipeline, "lies between the memory and the selection", reason)


def _tag_followers(board: TagBoard, node: Node, pipeline: str) -> list[ValueAxis]:
    """Tag what only reshapes or converts the selection, and return the selected axes after it."""
    graph = board.graph
    axis = node.attribute("axis")
    frontier = [ValueAxis(output, axis if isinstance(axis, int) else len(graph.type_of(output).shape) - 1)
                for output in node.outputs]
    finished = list(frontier)
    while frontier:
        position = frontier.pop()
        for consumer in graph.consumers_of(position.value):
            is_cast = consumer.attribute("function") == "cast"
            if consumer.operator_class not in _FOLLOWERS and not is_cast:
                continue
            board.put(consumer, Stage.RETRIEVAL, pipeline, f"only converts the selection {node.name}")
            following = destinations(graph, consumer, position, Follow.MEMORY)
            frontier.extend(following)
            finished.extend(following)
    return finished


def _tag_apply(board: TagBoard, chosen: Iterable[ValueAxis], pipeline: str) -> None:
    """Forward from the selection until the memory axis is summed away, then back into what is summed with it."""
    graph = board.graph
    stack = list(chosen)
    seen = set(stack)
    carriers: list[tuple[Node, ValueAxis]] = []
    while stack:
        position = stack.pop()
        for node in graph.consumers_of(position.value):
            if board.has(node) and board.tags[node.name].stage is not Stage.APPLY:
                continue
            board.put(node, Stage.APPLY, pipeline, f"uses the selected axis of {position.value}")
            for following in _after_use(graph, node, position):
                carriers.append((node, following))
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
            if position in contracted(graph, node):
                carriers.append((node, position))
    _tag_operands(board, carriers, pipeline)


def _after_use(graph: Graph, node: Node, position: ValueAxis) -> list[ValueAxis]:
    """Where the memory axis is after ``node`` used ``position``."""
    is_index = node.operand("indices") == position.value
    if is_index and node.operator_class is OperatorClass.SCATTER:
        return [ValueAxis(node.outputs[0], node.integer("axis"))]
    return destinations(graph, node, position, Follow.MEMORY)


def _tag_operands(board: TagBoard, carriers: list[tuple[Node, ValueAxis]], pipeline: str) -> None:
    """Tag the values that carry the memory axis into the nodes that use it (keys and values of the attention)."""
    graph = board.graph
    stack: list[ValueAxis] = []
    for node, position in carriers:
        if position.value in node.outputs:
            stack.extend(sources(graph, node, position.axis, Follow.MEMORY))
        else:
            stack.extend(contracted(graph, node))
    seen = set(stack)
    updates = {producer.name: producer for producer in _gathered_updates(graph, carriers)}
    while stack:
        position = stack.pop()
        producer = graph.producer.get(position.value)
        if producer is None:
            continue
        if producer.operator_class is OperatorClass.CACHE_UPDATE:
            updates[producer.name] = producer
            continue
        elsewhere = producer.provenance.layer != graph.node_by_name[pipeline].provenance.layer
        if elsewhere or board.tags.get(producer.name, _APPLY).stage is not Stage.APPLY:
            continue
        following = sources(graph, producer, position.axis, Follow.MEMORY)
        if following:
            board.put(producer, Stage.APPLY, pipeline, f"brings the memory axis of {position.value} to its use")
        for step in following:
            if step not in seen:
                seen.add(step)
                stack.append(step)
    _tag_preparation(board, updates.values(), pipeline)


def _gathered_updates(graph: Graph, carriers: list[tuple[Node, ValueAxis]]) -> list[Node]:
    """Updates of the caches from which selected entries are gathered."""
    tables = (graph.producer.get(node.operand("data") or "") for node, _ in carriers
              if node.operator_class is OperatorClass.GATHER)
    return [node for node in tables if node is not None and node.operator_class is OperatorClass.CACHE_UPDATE]


_APPLY = Tag(Stage.APPLY, "", ())


def _tag_preparation(board: TagBoard, updates: Iterable[Node], pipeline: str) -> None:
    """Tag the cache updates and everything that is computed for this pipeline alone."""
    graph = board.graph
    layer = graph.node_by_name[pipeline].provenance.layer
    for update in updates:
        board.put(update, Stage.PREPARE, pipeline, f"writes the memory {update.operand('data')}")
    own = [name for name, tag in board.tags.items() if tag.pipeline == pipeline and tag.stage is not Stage.APPLY]
    members = set(own)
    pending = [graph.node_by_name[name] for name in own
               if board.tags[name].stage in (Stage.PREPARE, Stage.RELEVANCY)]
    while pending:
        node = pending.pop()
        for name in node.inputs:
            producer = graph.producer.get(name)
            if producer is None or board.has(producer) or producer.provenance.layer != layer:
                continue
            users = [consumer for output in producer.outputs for consumer in graph.consumers_of(output)]
            if all(user.name in members for user in users) and not graph.results.intersection(producer.outputs):
                stage = Stage.RELEVANCY if _reads_scores(board, producer, pipeline) else Stage.PREPARE
                board.put(producer, stage, pipeline, f"is computed only for {node.name}")
                members.add(producer.name)
                pending.append(producer)


def _reads_scores(board: TagBoard, node: Node, pipeline: str) -> bool:
    """Whether the node works on what relevancy computes (the largest score of a softmax, say), not on the query."""
    producers = (board.graph.producer.get(name) for name in node.inputs)
    tags = (board.tags.get(producer.name) for producer in producers if producer is not None)
    return any(tag is not None and tag.stage is Stage.RELEVANCY and tag.pipeline == pipeline for tag in tags)
