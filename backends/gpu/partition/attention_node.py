"""Attention that a program has as one operator: torch's fused attention where it was kept, ONNX ``Attention``."""

from __future__ import annotations

import math

from hetcc.backends.gpu.partition.attended import Attended, Mask, Memory, operation_of
from hetcc.backends.gpu.partition.patterns import Match, Reader
from hetcc.backends.gpu.partition.strides import broadcast
from hetcc.ir import Node, TensorType


def match_attention_node(reader: Reader, node: Node, minimum_entries: int) -> Match | None:
    """One operator of class ATTENTION as a kernel operation, if its attributes say all that it does.

    Args:
        reader: the program.
        node: of that class.
        minimum_entries: attention over fewer entries is left to the general compiler.
    """
    query, keys, values = (str(node.operand(name)) for name in ("query", "key", "value"))
    shape, entries = reader.shape(query), reader.shape(keys)[-2] if len(reader.shape(keys)) > 1 else 0
    masked_rows = node.attribute("masked_rows")
    if masked_rows not in ("nan", "zero") or len(shape) < 3 or entries < minimum_entries:
        return None
    dims = (math.prod(shape[:-3]), shape[-3], shape[-2], entries)
    causal = bool(node.attribute("causal", False))
    if causal and dims[2] != entries:
        return None  # the operator counts queries from the first entry, the kernel back from the last
    memory = _memory(reader, node, query, keys, values)
    masked = "mask" in dict(node.attributes)
    mask = _mask(reader, node, (*shape[:-1], entries), dims) if masked else None
    if memory is None or (masked and mask is None):
        return None
    scale = node.attribute("scale")
    return operation_of(reader, Attended(dims, (node,), node.outputs[0], memory,
                                         float(scale) if isinstance(scale, int | float) else None, mask,
                                         "zero" if masked_rows == "zero" else "nan", causal))


def _memory(reader: Reader, node: Node, query: str, keys: str, values: str) -> Memory | None:
    dtype, shape = reader.dtype(node.outputs[0]), reader.shape(query)
    base = reader.in_order(query, dtype)
    rows = reader.matrices(keys, transposed=False, dtype=dtype)
    summed = reader.matrices(values, transposed=False, dtype=dtype)
    batch, heads = math.prod(shape[:-3]), shape[-3]
    leading = {reader.shape(each)[:-2] for each in (keys, values)}
    if base is None or rows is None or summed is None or len(leading) != 1:
        return None
    stacked, = leading
    fits = (stacked[:-1] == shape[:-3] and rows.stack == summed.stack and rows.stack % batch == 0
            and heads % stacked[-1] == 0)
    return Memory((base,), (rows,), summed, (shape[-1],)) if fits else None


def _mask(reader: Reader, node: Node, scores: tuple[int, ...], dims: tuple[int, ...]) -> Mask:
    """The added mask, one row for each query; None for other masks (of booleans, short ones)."""
    mask = str(node.operand("mask"))
    if not reader.dtype(mask).is_floating or len(reader.shape(mask)) > len(scores):
        return None
    found = reader.find(mask, lambda look: broadcast(look, scores, dims, reader.elements(look.base)))
    if found is None or found[1][2:] != dims[2:]:
        return None
    return found[0], TensorType(found[1], reader.dtype(found[0]))
