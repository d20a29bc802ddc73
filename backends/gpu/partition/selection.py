"""Recognises selections: a top-k, and the index scores in front of it as far as they are ones the kernels compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hetcc.backends.gpu.kernels.operations_scores import IndexScores
from hetcc.backends.gpu.kernels.operations_selection import ScoreTopK, TopK
from hetcc.backends.gpu.partition.patterns import Chain, Match, Reader, Rows
from hetcc.errors import UserError
from hetcc.ir import DType, Node


@dataclass(frozen=True, slots=True)
class _Scores:
    """What scores the entries that are selected from."""

    chain: Chain
    """From the scores back to ``product`` or to the sum over heads."""
    product: Node
    """Of queries and keys."""
    nodes: tuple[Node, ...]
    heads: int = 1
    scale: float = 1.0
    relu: bool = False
    weight: str = ""


def match_selection(reader: Reader, topk: Node, minimum_entries: int) -> Match | None:
    """The top-k as one kernel operation, with its scores if they match.

    Args:
        reader: the program.
        topk: a node of that class.
        minimum_entries: selections from fewer entries are left to the general compiler.
    """
    scores = str(topk.operand("input"))
    shape = reader.shape(scores)
    if not shape or topk.integer("axis") != len(shape) - 1 or shape[-1] < minimum_entries:
        return None
    try:
        return _scored(reader, topk, scores) or _alone(reader, topk, scores)
    except UserError:  # the kernels do not take these sizes or types
        return None


def _alone(reader: Reader, topk: Node, scores: str) -> Match | None:
    shape = reader.shape(scores)
    base = reader.in_order(scores, reader.dtype(scores))
    operation = TopK(math.prod(shape[:-1]), shape[-1], topk.integer("k"), reader.dtype(scores), _largest(topk),
                     reader.dtype(topk.outputs[1]))
    return Match(operation, (topk.name,), (("values", base or scores),), _results(topk))


def _scored(reader: Reader, topk: Node, scores: str) -> Match | None:
    found = _heads(reader, reader.walk(scores))
    if found is None or not reader.encloses((*found.nodes, topk), topk.outputs):
        return None
    for dtype in (DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32):
        match = _with_operands(reader, topk, found, dtype)
        if match is not None:
            return match
    return None


def _largest(topk: Node) -> bool:
    return topk.attribute("largest", True) is True


def _results(topk: Node) -> tuple[tuple[str, str], ...]:
    return (("chosen_values", topk.outputs[0]), ("chosen_indices", topk.outputs[1]))


def _heads(reader: Reader, chain: Chain) -> _Scores | None:
    """Scores that are one product, or a weighted sum over the heads of a product's rectified results."""
    last = reader.graph.producer.get(chain.origin)
    if last is None:
        return None
    if last.attribute("function") == "sum":
        return _summed(reader, chain, last)
    if reader.product(chain.origin) is None:
        return None
    weight, worth = reader.sides(last)
    inner = _rectified(reader, worth)
    if inner is not None and reader.shape(weight)[-2:-1] == (1,):
        heads = reader.shape(worth)[-2]
        return _joined(reader, chain, (last,), inner, heads, weight)
    return _Scores(chain, last, (*chain.nodes, last), scale=chain.scale)


def _summed(reader: Reader, chain: Chain, last: Node) -> _Scores | None:
    """``sum over heads of relu(product) * weight``, heads on the axis before the entries."""
    rank = len(reader.shape(last.inputs[0]))
    scaled = reader.graph.producer.get(last.inputs[0])
    if last.attribute("axes") != (rank - 2,) or scaled is None or scaled.attribute("function") != "mul" or \
            len(scaled.inputs) != 2:
        return None
    for worth, weight in (scaled.inputs, scaled.inputs[::-1]):
        inner = _rectified(reader, worth)
        if inner is not None and reader.shape(weight)[-1:] == (1,):
            heads = reader.shape(worth)[-2]
            return _joined(reader, chain, (last, scaled), inner, heads, weight)
    return None


def _rectified(reader: Reader, value: str) -> tuple[Chain, Node, Chain] | None:
    """Back from ``value`` over a ReLU to a product: (after the ReLU, the ReLU, before it)."""
    after = reader.walk(value, masks=False)
    relu = reader.graph.producer.get(after.origin)
    if relu is None or relu.attribute("function") != "relu":
        return None
    before = reader.walk(relu.inputs[0], masks=False)
    return (after, relu, before) if reader.product(before.origin) is not None else None


def _joined(reader: Reader, chain: Chain, last: tuple[Node, ...], inner: tuple[Chain, Node, Chain], heads: int,
            weight: str) -> _Scores | None:
    """Constant factors move into the ReLU, which only positive ones may."""
    after, relu, before = inner
    outer = chain.scale * after.scale
    if outer <= 0:
        return None
    product = reader.graph.producer[before.origin]
    nodes = (*chain.nodes, *last, *after.nodes, relu, *before.nodes, product)
    return _Scores(chain, product, nodes, heads, outer * before.scale, True, weight)


def _with_operands(reader: Reader, topk: Node, found: _Scores, dtype: DType) -> Match | None:
    query, keys = reader.sides(found.product)
    base = reader.in_order(query, dtype)
    rows = reader.matrices(keys, transposed=True, dtype=dtype)
    if base is None or rows is None:
        return None
    sizes = _sizes(reader, topk, found, rows)
    if sizes is None:
        return None
    scores, mask = _masked(reader, found, replace(sizes, dtype=dtype))
    if scores is None:
        return None
    inputs = {"query": base, "key": rows.base}
    if found.weight:
        weight = reader.in_order(found.weight)
        if weight is None:
            return None
        inputs["weight"] = weight
        scores = replace(scores, weight=reader.dtype(weight))
    if mask:
        inputs["mask"] = mask
    operation = ScoreTopK(scores, topk.integer("k"), _largest(topk), reader.dtype(topk.outputs[1]))
    nodes = tuple(dict.fromkeys(node.name for node in (*found.nodes, topk)))
    return Match(operation, nodes, tuple(inputs.items()), _results(topk))


def _sizes(reader: Reader, topk: Node, found: _Scores, keys: Rows) -> IndexScores | None:
    """Batches, queries and heads, from how often keys repeat and from the rows of the product."""
    product = reader.shape(found.product.outputs[0])
    channels = reader.shape(reader.sides(found.product)[0])[-1]
    shape = reader.shape(str(topk.operand("input")))
    rows, extent = math.prod(shape[:-1]), shape[-1]
    if product[-1] != extent or math.prod(product[:-1]) != rows * found.heads or product[-2] % found.heads:
        return None
    queries = keys.repeats * (product[-2] // found.heads)
    if keys.stack * queries != rows:
        return None
    return IndexScores(keys.stack, queries, found.heads, extent, channels, relu=found.relu, scale=found.scale,
                       output=reader.dtype(str(topk.operand("input"))))


def _masked(reader: Reader, found: _Scores, scores: IndexScores) -> tuple[IndexScores | None, str]:
    if not found.chain.mask:
        return scores, ""
    mask = reader.mask(found.chain, (scores.batch, scores.queries, scores.extent))
    if mask is None:
        return None, ""
    batches, queries, _ = mask[1].shape
    return replace(scores, mask=(batches, queries), mask_dtype=mask[1].dtype), mask[0]
