"""How much work a node is: counted from shapes alone, before anybody asks how fast a device does it.

Conventions, one per operator class:

* a multiply-add is two flops; bias, masks and softmax inside attention are not counted (as in ``torch.utils``);
* views are free, and an operand that is a view is read at the size of the smallest value on its way to memory, so a
  broadcast view is read at its unexpanded size and a slice at the size of the slice;
* a gather reads the rows it takes, not the table; a cache update reads and writes the rows it replaces;
* top-k and sort compare but do no arithmetic: zero flops, one read of the input, one write of the outputs;
* a gather from a parameter that only matrix products read is an indexed read by the product (mixture of experts in
  batched form): the gather is free, and the product reads the gathered rows, or the table if that is smaller -- every
  distinct expert at most once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hetcc.ir import DType, Graph, Node, OperatorClass, Role

SOFTMAX_FLOPS_PER_ELEMENT = 5
"""Maximum, subtract, exponential, sum, divide."""
NORMALIZATION_FLOPS_PER_ELEMENT = 5
"""Mean, subtract, square, sum, scale."""
_ELEMENTWISE_FLOPS = {"cast": 0, "copy": 0, "fill": 0, "where": 0,
                      "tanh": 4, "sigmoid": 4, "softplus": 3, "silu": 5, "gelu": 8}
"""Flops per output element of functions that select, move or take several operations; all others count one."""


@dataclass(frozen=True, slots=True)
class Product:
    """The shape of matrix products: ``batch`` times ``[rows, depth] x [depth, columns]``."""

    batch: int
    rows: int
    columns: int
    depth: int
    is_projection: bool = False
    """Whether one operand is a weight."""

    @property
    def narrow(self) -> int:
        """The shorter side of the result: how often each element of the larger operand is used."""
        return min(self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Work:
    """Arithmetic and memory traffic; adds up. How it is cut does not, and is no part of how much it is."""

    flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    elements: int = 0
    """Scalars that pass through, for units that take so many per cycle: the larger of what is read and written."""
    product: Product | None = field(default=None, compare=False)
    """Of matrix products whose shape is known."""
    selected: int = field(default=0, compare=False)
    """Entries that a selection keeps."""
    reads: tuple[tuple[int, str], ...] = field(default=(), compare=False)
    """(bytes, value in memory) of what is read."""
    recent: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """(bytes, distance) of reads of values that were touched ``distance`` bytes of traffic ago (``reuse``)."""
    resident: tuple[int, int] = field(default=(0, 0), compare=False)
    """Bytes of the reads that a streaming device may keep in block RAM and in ultra RAM between steps."""
    factors: DType | None = field(default=None, compare=False)
    """What a streaming device multiplies in, where its back end says so: its hardware or a numeric policy has a type
    of its own."""

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes_read + other.bytes_read,
                    self.bytes_written + other.bytes_written, self.elements + other.elements)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Flops per byte; infinite for flops without traffic, zero for no work."""
        if self.bytes_moved:
            return self.flops / self.bytes_moved
        return math.inf if self.flops else 0.0

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is computed and nothing moves."""
        return not (self.flops or self.bytes_moved)


def work_of(node: Node, graph: Graph, *, held: Collection[str] = (), unwritten: Collection[str] = ()) -> Work:
    """The work of one node.

    Args:
        node: a node of ``graph``.
        graph: where the types and producers of its operands are.
        held: values that need not be read from memory, because the program that contains the node has just made them.
        unwritten: values that need not be written to memory, because nobody outside that program reads them.
    """
    if node.operator_class is OperatorClass.VIEW or is_indexed_read(node, graph):
        return Work()
    reads = _READS.get(node.operator_class, _read_operands)(node, graph, held)
    writes = _written(node, graph, unwritten)
    flops = _FLOPS.get(node.operator_class, _no_flops)(node, graph)
    # An updated cache is an output in name only: the rows that do not change do not pass.
    made = () if node.operator_class is OperatorClass.CACHE_UPDATE else node.outputs
    passing = [graph.type_of(name).elements for name in (*_streamed(node), *made)]
    product = _product(node, graph) if node.operator_class is OperatorClass.MATMUL else None
    selected = graph.type_of(node.outputs[0]).elements if node.operator_class is OperatorClass.TOPK else 0
    stored = tuple((size, storage_of(name, graph)) for name, size in reads if size)
    return Work(flops, sum(size for _, size in reads), writes, max(passing, default=0), product, selected, stored)


def works_of(nodes: Iterable[Node], graph: Graph,
             factors: Mapping[str, DType] | None = None) -> tuple[tuple[Work, OperatorClass, DType], ...]:
    """The work of nodes that run as one program: what passes between them stays out of memory.

    Args:
        nodes: some of ``graph``.
        graph: where they are.
        factors: by node, what a streaming device multiplies in if it is not the type of the operands.

    Returns:
        per node that does anything: its work, class, and the element type it computes in.
    """
    inside = tuple(nodes)
    made = {name for node in inside for name in node.outputs}
    names = {node.name for node in inside}
    escaping = {
        base for node in inside for name in node.outputs
        if name in graph.results or any(reader.name not in names for reader in graph.consumers_of(name))
        for base in _view_chain(name, graph)
    }
    # An updated cache is the whole cache, and that is in memory however few rows were new.
    caches = {name for node in inside if node.operator_class is OperatorClass.CACHE_UPDATE for name in node.outputs}
    held = {name for name in made if _view_chain(name, graph)[-1] in made - caches}
    unwritten = made - escaping
    counted = ((work_of(node, graph, held=held, unwritten=unwritten), node) for node in inside)
    types = factors or {}
    return tuple((replace(work, factors=types[node.name]) if node.name in types else work, node.operator_class,
                  compute_type(node, graph)) for work, node in counted if not work.is_nothing)


def total_work(graph: Graph) -> Work:
    """The work of all nodes, each run on its own."""
    total = Work()
    for node in graph.nodes:
        total += work_of(node, graph)
    return total


def compute_type(node: Node, graph: Graph) -> DType:
    """The element type arithmetic is done in: that of the first floating-point operand, else of the first output."""
    for name in (*node.inputs, *node.outputs):
        if graph.type_of(name).dtype.is_floating:
            return graph.type_of(name).dtype
    return graph.type_of(node.outputs[0]).dtype if node.outputs else DType.FLOAT32


def is_indexed_read(node: Node, graph: Graph) -> bool:
    """Whether the node gathers rows of a parameter for matrix products alone, which then read them in place."""
    if node.operator_class is not OperatorClass.GATHER or node.attribute("mode", "rows") != "rows":
        return False
    table = node.operand("data")
    if table is None or graph.values[_view_chain(table, graph)[-1]].role is not Role.PARAMETER:
        return False
    readers = list(_readers_through_views(node.outputs[0], graph))
    return bool(readers) and all(reader.operator_class is OperatorClass.MATMUL for reader in readers)


def _view_chain(name: str, graph: Graph) -> list[str]:
    """``name`` and what it is a view of, up to a value that is in memory."""
    chain = [name]
    while True:
        producer = graph.producer.get(chain[-1])
        if producer is None or producer.operator_class is not OperatorClass.VIEW or not producer.inputs:
            return chain
        chain.append(producer.inputs[0])


def storage_of(name: str, graph: Graph) -> str:
    """The value in memory that ``name`` shows: views are followed, and an updated cache is the cache."""
    producer = graph.producer.get(name)
    while producer is not None and producer.inputs:
        if producer.operator_class is OperatorClass.CACHE_UPDATE:
            name = producer.operand("data") or producer.inputs[0]
        elif producer.operator_class is OperatorClass.VIEW:
            name = producer.inputs[0]
        else:
            break
        producer = graph.producer.get(name)
    return name


def _readers_through_views(name: str, graph: Graph) -> Iterable[Node]:
    """Nodes that read the elements of ``name``, views left out; ``graph`` results count as none."""
    waiting = [name]
    while waiting:
        for reader in graph.consumers_of(waiting.pop()):
            if reader.operator_class is OperatorClass.VIEW:
                waiting.extend(reader.outputs)
            else:
                yield reader


def _bytes_of(name: str, graph: Graph, held: Collection[str]) -> int:
    """Bytes that reading the value moves."""
    chain = _view_chain(name, graph)
    if any(link in held for link in chain):
        return 0
    size_bytes = min(graph.type_of(link).size_bytes for link in chain)
    gather = graph.producer.get(chain[-1])
    if gather is not None and is_indexed_read(gather, graph):
        table, indices = gather.operand("data"), gather.operand("indices")
        size_bytes = min(size_bytes, _bytes_of(table, graph, held)) if table is not None else size_bytes
        size_bytes += _bytes_of(indices, graph, held) if indices is not None else 0
    return size_bytes


Reads = list[tuple[str, int]]
"""(value in memory, bytes) per operand that is read."""


def _read_operands(node: Node, graph: Graph, held: Collection[str]) -> Reads:
    return [(name, _bytes_of(name, graph, held)) for name in dict.fromkeys(node.inputs)]


def _read_gathered(node: Node, graph: Graph, held: Collection[str]) -> Reads:
    """The rows or elements taken, and all that says which."""
    data = node.operand("data") or node.inputs[0]
    taken = 0
    if not any(link in held for link in _view_chain(data, graph)):
        taken = graph.type_of(node.outputs[0]).elements * graph.type_of(data).dtype.size_bytes
    return [(data, taken), *((name, _bytes_of(name, graph, held)) for name in dict.fromkeys(node.inputs)
                             if name != data)]


def _read_updates(node: Node, graph: Graph, held: Collection[str]) -> Reads:
    """The new rows and where they go; the rest of the cache is not touched."""
    names = (node.operand("updates"), node.operand("indices"))
    return [(name, _bytes_of(name, graph, held)) for name in names if name is not None]


def _read_elementwise(node: Node, graph: Graph, held: Collection[str]) -> Reads:
    """All operands, unless the node only takes the shape of one."""
    return [] if node.attribute("function") == "fill" else _read_operands(node, graph, held)


def _read_nothing(node: Node, graph: Graph, held: Collection[str]) -> Reads:
    del node, graph, held
    return []


def _product(node: Node, graph: Graph) -> Product | None:
    """Leading axes count as rows if the right operand has none of its own, else as so many products."""
    left, right = node.operand("lhs") or node.inputs[0], node.operand("rhs") or node.inputs[-1]
    depth_of, result = graph.type_of(left).shape, graph.type_of(node.outputs[0]).shape
    if not depth_of or not result or not graph.type_of(node.outputs[0]).elements:
        return None
    projection = any(_is_weight(name, graph) for name in (left, right))
    columns = result[-1] if len(result) > 1 else 1
    rows = result[-2] if len(result) > 1 else result[-1]
    batch = math.prod(result[:-2])
    if len(graph.type_of(right).shape) <= 2:
        batch, rows = 1, batch * rows
    return Product(batch, rows, columns, max(depth_of[-1], 1), projection)


def _is_weight(name: str, graph: Graph) -> bool:
    root = _view_chain(name, graph)[-1]
    producer = graph.producer.get(root)
    return graph.values[root].role.is_weight or (producer is not None and is_indexed_read(producer, graph))


def _written(node: Node, graph: Graph, unwritten: Collection[str]) -> int:
    if node.operator_class is OperatorClass.CACHE_UPDATE:
        updates = node.operand("updates")
        return graph.type_of(updates).size_bytes if updates is not None else 0
    return sum(graph.type_of(name).size_bytes for name in node.outputs if name not in unwritten)


def _streamed(node: Node) -> tuple[str, ...]:
    """Operands whose every element passes through the node."""
    if node.operator_class in (OperatorClass.GATHER, OperatorClass.CACHE_UPDATE):
        names = (node.operand("indices"), node.operand("updates"))
        return tuple(name for name in names if name is not None)
    return node.inputs


def _no_flops(node: Node, graph: Graph) -> int:
    del node, graph
    return 0


def _outputs(node: Node, graph: Graph) -> int:
    return sum(graph.type_of(name).elements for name in node.outputs)


def _largest_input(node: Node, graph: Graph) -> int:
    return max((graph.type_of(name).elements for name in node.inputs), default=0)


def _matmul_flops(node: Node, graph: Graph) -> int:
    """``2 * batch * M * N * K``: every output element is a sum over the last axis of the left operand."""
    left = node.operand("lhs") or node.inputs[0]
    shape = graph.type_of(left).shape
    return 2 * graph.type_of(node.outputs[0]).elements * (shape[-1] if shape else 1)


def _attention_flops(node: Node, graph: Graph) -> int:
    """Both products, for every query and every key: ``2 * queries * keys * (key width + value width)``."""
    query, key, value = (graph.type_of(node.operand(name) or node.inputs[position]).shape
                         for position, name in enumerate(("query", "key", "value")))
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _convolution_flops(node: Node, graph: Graph) -> int:
    """Every output element sums over the kernel of its channel: ``weight elements / output channels``."""
    weight = graph.type_of(node.inputs[1])
    return 2 * graph.type_of(node.outputs[0]).elements * (weight.elements // max(weight.shape[0], 1))


def _elementwise_flops(node: Node, graph: Graph) -> int:
    return _outputs(node, graph) * _ELEMENTWISE_FLOPS.get(str(node.attribute("function", "")), 1)


_FLOPS: dict[OperatorClass, Callable[[Node, Graph], int]] = {
    OperatorClass.MATMUL: _matmul_flops,
    OperatorClass.ATTENTION: _attention_flops,
    OperatorClass.CONVOLUTION: _convolution_flops,
    OperatorClass.ELEMENTWISE: _elementwise_flops,
    OperatorClass.REDUCTION: _largest_input,
    OperatorClass.CUMULATIVE: _largest_input,
    OperatorClass.SOFTMAX: lambda node, graph: SOFTMAX_FLOPS_PER_ELEMENT * _outputs(node, graph),
    OperatorClass.NORMALIZATION: lambda node, graph: NORMALIZATION_FLOPS_PER_ELEMENT * _outputs(node, graph),
}
"""Classes that are absent do no arithmetic."""
_READS: dict[OperatorClass, Callable[[Node, Graph, Collection[str]], Reads]] = {
    OperatorClass.GATHER: _read_gathered,
    OperatorClass.CACHE_UPDATE: _read_updates,
    OperatorClass.CREATE: _read_nothing,
    OperatorClass.ELEMENTWISE: _read_elementwise,
}
"""Classes that are absent read all their operands, each once."""
