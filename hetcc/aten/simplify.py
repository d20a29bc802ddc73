"""Tidying that only makes sense in the aten domain: fills that copy a shape, buffers filled slice by slice, results
that nothing computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hetcc.aten.build import AtenBuilder
from hetcc.ir import Graph, Node, Operand, Provenance, Role, live_nodes


@dataclass(frozen=True)
class _Slice:
    start: int
    stop: int
    source: str


_LIKE = {"zeros_like": 0, "ones_like": 1, "full_like": None}


def tidy(graph: Graph) -> Graph:
    """Everything this module does to a freshly converted graph."""
    return copy_passed_through(fold_slice_scatters(drop_empty_parts(spell_out_fills(graph))))


def copy_passed_through(graph: Graph) -> Graph:
    """Give every result a producer: an input, weight or cache that is returned, or kept in a cache, is copied.

    Otherwise the result would be whatever the name stands for when the step is over, which for a cache is its new
    contents. Outputs keep their order; a copied one is called ``NAME.copy``.
    """
    builder = AtenBuilder()
    passed = dict.fromkeys(name for name in (*graph.outputs, *(update.value for update in graph.updates
                                                               if update.value != update.cache))
                           if name not in graph.producer)
    if not passed:
        return graph
    copies = {name: replace(graph.values[name], name=f"{name}.copy", role=Role.ACTIVATION) for name in passed}
    nodes = [builder.copy(copy.name, name, copy, Provenance()) for name, copy in copies.items()]
    values = {**graph.values, **{copy.name: copy for copy in copies.values()}}
    updates = tuple(replace(update, value=copies[update.value].name)
                    if update.value in copies and update.value != update.cache else update for update in graph.updates)
    outputs = tuple(copies[name].name if name in copies else name for name in graph.outputs)
    return replace(graph, nodes=(*graph.nodes, *nodes), values=values, outputs=outputs, updates=updates)


def spell_out_fills(graph: Graph) -> Graph:
    """Replace ``zeros_like``, ``ones_like`` and ``full_like`` by ``full``, which depends on no tensor."""
    builder = AtenBuilder()
    nodes: list[Node] = []
    for node in graph.nodes:
        value = node.arguments[1] if node.operator.name == "full_like" else _LIKE.get(node.operator.name)
        is_fill = node.operator.name in _LIKE and isinstance(value, (bool, int, float))
        nodes.append(builder.fill(node.name, graph.values[node.outputs[0]], value, node.provenance)
                     if is_fill and isinstance(value, (bool, int, float)) else node)
    return replace(graph, nodes=tuple(nodes))


def drop_empty_parts(graph: Graph) -> Graph:
    """Leave out of ``cat`` what has no elements; of a single part that is left, the part itself takes its place.

    Partial rotary embeddings that turn out to be whole, and caches of length zero, make such parts. Does not touch: a
    ``cat`` of nothing but empty parts, one that joins a part twice; a result of the graph stays a ``cat`` of one part.
    """
    if all(value.type.elements for value in graph.values.values()):
        return graph
    builder = AtenBuilder()
    results = {*graph.outputs, *(update.value for update in graph.updates)}
    nodes: list[Node] = []
    renames: dict[str, str] = {}
    for before in graph.nodes:
        node = replace(before, inputs=tuple(renames.get(name, name) for name in before.inputs))
        parts = _operands_of_cat(node)
        full = tuple(name for name in parts if graph.type_of(name).elements)
        output = graph.values[node.outputs[0]] if node.outputs else None
        if output is None or not full or len(full) == len(parts) or len(set(full)) < len(full):
            nodes.append(node)
        elif len(full) == 1 and output.name not in results and graph.type_of(full[0]) == output.type:
            renames[output.name] = full[0]
        else:
            nodes.append(builder.concat(node.name, full, node.integer("axis"), output, node.provenance))
    return _without_dead_nodes(graph, nodes)


def _operands_of_cat(node: Node) -> tuple[str, ...]:
    """Names of the parts in their order; nothing for other operators."""
    if node.operator.name != "cat" or not isinstance(node.arguments[0], tuple):
        return ()
    return tuple(node.inputs[part.index] for part in node.arguments[0] if isinstance(part, Operand))


def fold_slice_scatters(graph: Graph) -> Graph:
    """Replace ``slice_scatter`` chains that cover an ``empty`` tensor by one ``cat``.

    Before: ``empty``, then one ``slice_scatter(_, copy(slice(_), part))`` per part. After: ``cat(parts)``.
    Does not touch: chains with gaps or overlaps, other steps than 1, or intermediate results used elsewhere.
    """
    builder = AtenBuilder()
    nodes: list[Node] = []
    for node in graph.nodes:
        parts = _parts(graph, node) if node.operator.name == "slice_scatter" else None
        if parts is None:
            nodes.append(node)
            continue
        output = graph.values[node.outputs[0]]
        folded = builder.concat(node.name, parts, node.integer("axis"), output, node.provenance)
        nodes.append(folded)
    return _without_dead_nodes(graph, nodes)


def _without_dead_nodes(graph: Graph, nodes: list[Node]) -> Graph:
    """``graph`` with those of ``nodes`` that a result needs."""
    results = (*graph.outputs, *(update.value for update in graph.updates))
    kept = live_nodes(nodes, results)
    used = {*graph.inputs, *graph.caches, *results, *(name for node in kept for name in (*node.inputs, *node.outputs))}
    return replace(graph, nodes=kept, values={name: value for name, value in graph.values.items() if name in used})


def _parts(graph: Graph, last: Node) -> tuple[str, ...] | None:
    """Sources of a complete chain that ends in ``last``, in axis order; None if it is no such chain."""
    filled, axis = last.outputs[0], last.integer("axis")
    extent = graph.type_of(filled).shape[axis]
    if any(user.operator.name == "slice_scatter" and user.attribute("axis") == axis and user.inputs[0] == filled
           for user in graph.consumers_of(filled)):
        return None
    found: list[_Slice] = []
    node: Node | None = last
    while node is not None and node.operator.name == "slice_scatter":
        piece = _slice_of(graph, node, axis, extent)
        if piece is None:
            return None
        found.append(piece)
        node = graph.producer.get(node.inputs[0])
    if node is None or node.attribute("function") != "empty":
        return None
    found.sort(key=lambda piece: piece.start)
    edges = [0, *(piece.stop for piece in found)]
    covers = all(piece.start == edge for piece, edge in zip(found, edges, strict=False)) and edges[-1] == extent
    return tuple(piece.source for piece in found) if covers else None


def _slice_of(graph: Graph, node: Node, axis: int, extent: int) -> _Slice | None:
    if node.integer("axis") != axis or len(node.inputs) != 2:
        return None
    numbers = [part for part in node.arguments[2:] if isinstance(part, int) and not isinstance(part, bool)]
    start, stop = (numbers[1] if len(numbers) > 1 else 0), min(numbers[2] if len(numbers) > 2 else extent, extent)
    step = numbers[3] if len(numbers) > 3 else 1
    source = node.inputs[1]
    producer = graph.producer.get(source)
    if producer is not None and producer.operator.name == "copy":
        last_operand = producer.arguments[1]
        if not isinstance(last_operand, Operand):
            return None
        copied = producer.inputs[last_operand.index]
        if graph.type_of(copied) != graph.type_of(source):
            return None
        source = copied
    return _Slice(start, stop, source) if step == 1 and start >= 0 else None
