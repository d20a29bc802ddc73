"""Recognises attention by its softmax: between products, over a whole memory or over what was gathered from it.

Scores may be the sum of two products, of a content part and a position part of query and key: that is latent attention
with its projections absorbed into the query, where the content part is the value too. Literal factors may stand on
either operand of a product, as torch spreads the scale of its fused attention; what that does with queries that see
nothing (zeros instead of NaN), and its casts to single precision and back, are recognised too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from hetcc.backends.gpu.partition.attended import Attended, Memory, operation_of
from hetcc.backends.gpu.partition.patterns import Chain, Match, Reader, Rows, is_cast
from hetcc.ir import DType, Node, Operand, OperatorClass


@dataclass(frozen=True, slots=True)
class _Around:
    """A softmax, the one or two products in front of it and the one behind."""

    scores: Chain
    products: tuple[Node, ...]
    second: Node
    nodes: tuple[Node, ...]
    dims: tuple[int, int, int, int]
    masked_rows: Literal["nan", "zero"]

    @property
    def rows(self) -> int:
        """Queries of all heads and sequences."""
        return math.prod(self.dims[:3])


def match_attention(reader: Reader, softmax: Node, minimum_entries: int) -> Match | None:
    """The attention around ``softmax`` as one kernel operation, if it is one.

    Args:
        reader: the program.
        softmax: a node of that class.
        minimum_entries: attention over fewer entries is left to the general compiler.
    """
    around = _around(reader, softmax)
    if around is None or around.dims[-1] < minimum_entries:
        return None
    mask = reader.mask(around.scores, around.dims) if around.scores.mask else None
    if around.scores.mask and (mask is None or mask[1].shape[2] != around.dims[2]):
        return None
    for output, passed in _results(reader, around.second):
        found = _memory(reader, around, reader.dtype(output))
        if found is not None:
            memory, factor = found
            return operation_of(reader, Attended(around.dims, (*around.nodes, *passed), output, memory,
                                                 around.scores.scale * factor, mask, around.masked_rows))
    return None


def _around(reader: Reader, softmax: Node) -> _Around | None:
    shape = reader.shape(softmax.outputs[0])
    if len(shape) < 2 or softmax.integer("axis") != len(shape) - 1:
        return None
    scores = reader.walk(softmax.inputs[0])
    products = _products(reader, scores.origin)
    behind = _behind(reader, softmax)
    if products is None or behind is None:
        return None
    passed, weights, second, masked_rows = behind
    if second.operand("bias") is not None or reader.sides(second)[0] != weights:
        return None
    dims = (math.prod(shape[:-3]), shape[-3] if len(shape) > 2 else 1, shape[-2], shape[-1])
    inner, summed = products
    nodes = (*scores.nodes, *summed, *inner, softmax, *passed, second)
    around = _Around(scores, inner, second, nodes, dims, masked_rows)
    stacked = all(reader.shape(product.outputs[0])[-1] == dims[3] and _rows(reader, product) == around.rows
                  for product in inner) and _rows(reader, second) == around.rows
    return around if stacked else None


def _rows(reader: Reader, product: Node) -> int:
    return math.prod(reader.shape(product.outputs[0])[:-1])


def _behind(reader: Reader, softmax: Node,
            ) -> tuple[tuple[Node, ...], str, Node, Literal["nan", "zero"]] | None:
    """The nodes between the softmax and the product behind it, their last value, that product, and what they do."""
    weights = softmax.outputs[0]
    passed, second = reader.forward(weights)
    zeroing: tuple[Node, ...] = ()
    if second is not None and second.attribute("function") == "where":
        weights = passed[-1].outputs[0] if passed else weights
        found = _zeroing(reader, softmax, second, weights)
        if found is None:
            return None
        zeroing, weights = (*passed, *found, second), second.outputs[0]
        passed, second = reader.forward(weights)
    if second is None or second.operator_class is not OperatorClass.MATMUL:
        return None
    last = passed[-1].outputs[0] if passed else weights
    return (*zeroing, *passed), last, second, "zero" if zeroing else "nan"


def _zeroing(reader: Reader, softmax: Node, chooser: Node, weights: str) -> tuple[Node, ...] | None:
    """The test in ``where(every score of the row is -inf, 0, weights)``."""
    if chooser.arguments != (Operand(0), Operand(1), Operand(2)) or chooser.inputs[2] != weights \
            or reader.shape(chooser.outputs[0]) != reader.shape(weights):
        return None
    zero = reader.graph.producer.get(chooser.inputs[1])
    if zero is None or zero.attribute("function") != "full" or zero.inputs or not _is_zero(zero):
        return None
    test: list[Node] = []
    value = chooser.inputs[0]
    for function in ("not", "any", "not", "eq"):
        node = reader.graph.producer.get(value)
        if node is None or node.attribute("function") != function or len(node.inputs) != 1:
            return None
        test.append(node)
        value = node.inputs[0]
    last = len(reader.shape(value)) - 1
    whole_rows = test[1].attribute("axes") == (last,) and test[1].attribute("keepdims") is True
    return tuple(test) if whole_rows and test[3].arguments == (Operand(0), -math.inf) and (
        value == softmax.inputs[0]) else None


def _is_zero(created: Node) -> bool:
    """Whether a node without inputs makes zeros: its value is the last of its arguments."""
    number = created.arguments[-1] if created.arguments else None
    return isinstance(number, int | float) and not isinstance(number, bool) and number == 0


def _results(reader: Reader, second: Node) -> Iterator[tuple[str, tuple[Node, ...]]]:
    """What may be taken as the result: the product cast to a narrower type, if it is that and nothing else; itself."""
    product = second.outputs[0]
    passed, _ = reader.forward(product)
    casts = [place for place, node in enumerate(passed) if is_cast(node)]
    if casts and reader.dtype(product) is DType.FLOAT32:
        narrowed = passed[:casts[0] + 1]
        if reader.dtype(narrowed[-1].outputs[0]) in (DType.FLOAT16, DType.BFLOAT16):
            yield narrowed[-1].outputs[0], narrowed
    yield product, ()


def _products(reader: Reader, origin: str) -> tuple[tuple[Node, ...], tuple[Node, ...]] | None:
    """The products that make scores, and the nodes that add two of them."""
    single = reader.product(origin)
    if single is not None:
        return (single,), ()
    parts = reader.summands(origin)
    if parts is None:
        return None
    found = [reader.product(part.origin) for part in parts]
    if found[0] is None or found[1] is None:
        return None
    adding = reader.graph.producer[origin]
    return (found[0], found[1]), (adding, *parts[0].nodes, *parts[1].nodes)


def _memory(reader: Reader, around: _Around, dtype: DType) -> tuple[Memory, float] | None:
    """Queries, keys and values of the result's type, and the factor on them; keys and values have as many heads."""
    values = reader.matrices(reader.sides(around.second)[1], transposed=False, dtype=dtype)
    if values is None:
        return None
    parts: list[tuple[str, Rows, int]] = []
    factors: set[float] = set()
    for product in around.products:
        query, keys = reader.sides(product)
        base = reader.scaled_in_order(query, dtype)
        rows = reader.matrices(keys, transposed=True, dtype=dtype, scaled=True)
        if base is None or rows is None or not _fits(reader, around, product, rows, values):
            return None
        parts.append((base[0], replace(rows, factor=1.0), reader.shape(query)[-1]))
        factors.add(base[1] * rows.factor)
    if len(factors) != 1:
        return None
    # The part of a key that is the value comes first, else the longer one.
    parts.sort(key=lambda part: (part[1] != values, -part[2]))
    return Memory(tuple(part[0] for part in parts), tuple(part[1] for part in parts), values,
                  tuple(part[2] for part in parts)), factors.pop()


def _fits(reader: Reader, around: _Around, product: Node, keys: Rows, values: Rows) -> bool:
    """Whether each matrix of keys serves whole heads of one sequence, the same as its matrix of values."""
    batch, _, queries, _ = around.dims
    served = reader.shape(product.outputs[0])[-2] * keys.repeats
    return (keys.stack == values.stack and keys.stack % batch == 0 and served % queries == 0
            and keys.stack * served == around.rows)
