"""Attention of few queries over a cache as kernel operations: dense, over chosen entries, over chosen blocks.

All three compute, per batch entry, query head and query, ``softmax(scale * q . keys + mask) values`` over the entries
the query may see, in float32. Query heads of one group (``query_heads / cache_heads`` in a row) share a cache head.
With a rope part the score is ``q . key + q_rope . key_rope``; with ``shared_value`` the key is the value too: together
that is latent attention with absorbed projections (one cache head for all query heads).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from hetcc.backends.gpu.kernels.attention_tiles import Cut, cut, joining_block, padded
from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Tensor
from hetcc.backends.gpu.kernels.limits import FLOATS, INTERPRETER, Constants, require
from hetcc.ir import DType, TensorType

_DENSE, _TOKENS, _BLOCKS = 0, 1, 2
"""``SELECTION`` of ``attention.py``."""
_MODULE = "attention"


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """Extents of query and cache."""

    batch: int
    query_heads: int
    cache_heads: int
    queries: int
    """New positions per batch entry; they are the last ones of the cache's valid part."""
    cached: int
    """Entries the cache has room for."""
    key_size: int
    value_size: int
    dtype: DType
    """Of query, cache and output."""
    rope_size: int = 0
    """Extent of a second part of query and key that is not in the value; 0: there is none."""
    shared_value: bool = False
    """Keys are the values too."""

    def __post_init__(self) -> None:
        """Checks the limits.

        Raises:
            UserError: HET-G001.
        """
        extents = (self.batch, self.query_heads, self.cache_heads, self.queries, self.cached, self.key_size,
                   self.value_size)
        require(min(extents) > 0 and self.rope_size >= 0, f"attention needs positive extents, these are {extents}")
        require(self.query_heads % self.cache_heads == 0,
                f"{self.query_heads} query heads are no multiple of {self.cache_heads} cache heads")
        require(self.dtype in FLOATS, f"attention kernels take float32, float16, bfloat16, not {self.dtype.value}")
        require(max(self.key_size, self.value_size) <= 512 and self.rope_size <= 128,
                f"keys and values hold up to 512 elements and a rope part up to 128, here {self.key_size}, "
                f"{self.value_size}, {self.rope_size}")
        require(not self.shared_value or self.key_size == self.value_size, "a key that is the value has its size")
        require(self.cached * max(self.key_size, self.value_size) < 1 << 31, "a cache head has 2**31 elements or more")
        require(self.batch * self.cache_heads < 1 << 16, "batch x cache heads is 65536 or more")

    @property
    def group(self) -> int:
        """Query heads per cache head."""
        return self.query_heads // self.cache_heads

    @property
    def row(self) -> tuple[int, int]:
        """Elements of a key or value row, the longer one, padded; bytes of an element."""
        return padded(max(self.key_size, self.value_size)), self.dtype.size_bytes

    @property
    def tensors(self) -> tuple[tuple[str, TensorType], ...]:
        """Roles and types of query and cache."""
        query, cache = (self.batch, self.query_heads, self.queries), (self.batch, self.cache_heads, self.cached)
        types = [("query", (*query, self.key_size)), ("keys", (*cache, self.key_size))]
        if self.rope_size:
            types += [("query_rope", (*query, self.rope_size)), ("keys_rope", (*cache, self.rope_size))]
        if not self.shared_value:
            types += [("values", (*cache, self.value_size))]
        return tuple((role, TensorType(shape, self.dtype)) for role, shape in types)

    @property
    def output(self) -> tuple[tuple[str, TensorType], ...]:
        """Role and type of the result."""
        shape = (self.batch, self.query_heads, self.queries, self.value_size)
        return (("output", TensorType(shape, self.dtype)),)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What the softmax does beside the obvious."""

    scale: float | None = None
    """Factor of the scores; None: ``1 / sqrt(key_size + rope_size)``."""
    mask: TensorType | None = None
    """Additive mask ``[batch or 1, query heads or 1, queries, width]`` with width = slots, or = cached with
    ``mask_by_entry``; -inf hides an entry."""
    mask_by_entry: bool = False
    """The mask's last axis is the cache entry, also when entries are selected."""
    lengths: DType | None = None
    """With an integer type there is an input ``lengths[batch]``: later entries are not seen."""
    causal: bool = False
    """Query ``i`` sees entries up to ``length - queries + i``."""
    masked_rows: Literal["nan", "zero"] = "nan"
    """Result of a query that sees nothing: NaN as softmax of -inf in torch, or zeros as its fused attention gives."""


@dataclass(frozen=True, slots=True)
class _Selection:
    kind: int
    count: int
    """Indices per row of the selection."""
    block: int = 1
    heads: int = 1
    query_block: int = 1
    type: TensorType | None = None

    @property
    def slots(self) -> int:
        return self.count * self.block


class _Attention(ABC):
    """What the operations share: they differ in which entries a query attends to."""

    __slots__ = ()
    sizes: AttentionSizes
    options: AttentionOptions
    splits: int | None

    def __post_init__(self) -> None:
        """Checks the limits.

        Raises:
            UserError: HET-G001.
        """
        _check(self.sizes, self.options, self._selection)

    @property
    @abstractmethod
    def _selection(self) -> _Selection:
        """The entries."""

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """Query, cache, ``indices`` if entries are selected, and what the options add."""
        return _inputs(self.sizes, self.options, self._selection)

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``output [batch, query heads, queries, value size]``."""
        return self.sizes.output

    def plan(self, target: str) -> LaunchPlan:
        """Launches for ``target``."""
        return _plan(self.sizes, self.options, self._selection, self.splits, target)


@dataclass(frozen=True, slots=True)
class DecodeAttention(_Attention):
    """Attention over the whole cache."""

    sizes: AttentionSizes
    options: AttentionOptions = field(default_factory=AttentionOptions)
    splits: int | None = None
    """Shares of the entries that run beside each other; None: the plan decides."""

    @property
    def _selection(self) -> _Selection:
        return _Selection(_DENSE, self.sizes.cached, query_block=self.sizes.queries)


@dataclass(frozen=True, slots=True)
class GatherAttention(_Attention):
    """Attention over ``indices[batch, queries, selected]``, or ``[batch, cache heads, queries, selected]``.

    An index that is negative or past the cache (or past ``lengths``) is no entry. One listed twice counts twice.
    """

    sizes: AttentionSizes
    selected: int
    options: AttentionOptions = field(default_factory=AttentionOptions)
    index_dtype: DType = DType.INT64
    per_cache_head: bool = False
    splits: int | None = None

    @property
    def _selection(self) -> _Selection:
        heads = (self.sizes.cache_heads,) if self.per_cache_head else ()
        shape = (self.sizes.batch, *heads, self.sizes.queries, self.selected)
        return _Selection(_TOKENS, self.selected, heads=math.prod(heads), type=TensorType(shape, self.index_dtype))


@dataclass(frozen=True, slots=True)
class BlockSparseAttention(_Attention):
    """Attention over ``indices[batch, cache heads or 1, query blocks, selected]``, numbers of blocks of the cache.

    Indices behave as in :class:`GatherAttention`. The last block of the cache may be short.
    """

    sizes: AttentionSizes
    block_size: int
    """Entries per block."""
    selected: int
    """Blocks per block of queries."""
    options: AttentionOptions = field(default_factory=AttentionOptions)
    query_block: int = 1
    """Queries that share a selection."""
    index_dtype: DType = DType.INT64
    per_cache_head: bool = True
    splits: int | None = None

    def __post_init__(self) -> None:
        require(1 <= self.block_size <= 1024, f"blocks hold 1 to 1024 entries, not {self.block_size}")
        require(self.query_block >= 1, f"a query block holds {self.query_block} queries")
        _Attention.__post_init__(self)

    @property
    def _selection(self) -> _Selection:
        heads = self.sizes.cache_heads if self.per_cache_head else 1
        shape = (self.sizes.batch, heads, -(-self.sizes.queries // self.query_block), self.selected)
        return _Selection(_BLOCKS, self.selected, self.block_size, heads, self.query_block,
                          TensorType(shape, self.index_dtype))


def _check(sizes: AttentionSizes, options: AttentionOptions, selection: _Selection) -> None:
    require(0 < selection.slots < 1 << 31, f"{selection.slots} selected entries")
    integers = (DType.INT32, DType.INT64)
    require(selection.type is None or selection.type.dtype in integers, "indices are int32 or int64")
    require(options.lengths in (None, *integers), "lengths are int32 or int64")
    require(options.masked_rows in ("nan", "zero"), f"masked rows give nan or zero, not '{options.masked_rows}'")
    if options.mask is None:
        return
    width = sizes.cached if options.mask_by_entry else selection.slots
    shape = options.mask.shape
    fits = (len(shape) == 4 and shape[0] in (1, sizes.batch) and shape[1] in (1, sizes.query_heads)
            and shape[2:] == (sizes.queries, width))
    require(fits and options.mask.dtype in FLOATS,
            f"a mask is float [{sizes.batch} or 1, {sizes.query_heads} or 1, {sizes.queries}, {width}], "
            f"not {options.mask}")


def _inputs(sizes: AttentionSizes, options: AttentionOptions, selection: _Selection,
            ) -> tuple[tuple[str, TensorType], ...]:
    inputs = list(sizes.tensors)
    if selection.type is not None:
        inputs.append(("indices", selection.type))
    if options.mask is not None:
        inputs.append(("mask", options.mask))
    if options.lengths is not None:
        inputs.append(("lengths", TensorType((sizes.batch,), options.lengths)))
    return tuple(inputs)


def _plan(sizes: AttentionSizes, options: AttentionOptions, selection: _Selection, splits: int | None,
          target: str) -> LaunchPlan:
    query_blocks = -(-sizes.queries // selection.query_block)
    group_rows = min(selection.query_block, sizes.queries) * sizes.group
    pieces = cut(target, sizes.row, sizes.batch * sizes.cache_heads * query_blocks, group_rows, selection.slots,
                 options.mask is not None, splits)
    rows = sizes.batch * sizes.query_heads * sizes.queries
    scratch: tuple[tuple[str, TensorType], ...] = ()
    if pieces.splits > 1:
        scratch = (("partial", TensorType((rows, pieces.splits, sizes.value_size), DType.FLOAT32)),
                   ("weight", TensorType((rows, pieces.splits, 2), DType.FLOAT32)))
    inputs = _inputs(sizes, options, selection)
    attend = Launch(_MODULE, "attend", _arguments(inputs, sizes, pieces),
                    (*_constants(sizes, options, selection, pieces), ("WIDEN", target == INTERPRETER)),
                    (query_blocks * pieces.row_tiles, sizes.batch * sizes.cache_heads, pieces.splits),
                    pieces.tile.warps, pieces.tile.stages)
    if pieces.splits == 1:
        return LaunchPlan((attend,))
    return LaunchPlan((attend, _combine(sizes, options, pieces, rows)), scratch)


def _arguments(inputs: tuple[tuple[str, TensorType], ...], sizes: AttentionSizes, pieces: Cut,
               ) -> tuple[tuple[str, Tensor], ...]:
    """Every pointer the kernel has; those this variant never follows point to the query."""
    present = {role: Tensor(role, kind.dtype) for role, kind in inputs}
    if "indices" in present:
        present["selection"] = present["indices"]
    if pieces.splits == 1:
        present["output"] = Tensor("output", sizes.dtype, written=True)
    else:
        present |= {name: Tensor(name, DType.FLOAT32, written=True) for name in ("partial", "weight")}
    parameters = ("query", "query_rope", "keys", "keys_rope", "values", "mask", "selection", "lengths", "output",
                  "partial", "weight")
    return tuple((parameter, present.get(parameter, present["query"])) for parameter in parameters)


def _constants(sizes: AttentionSizes, options: AttentionOptions, selection: _Selection, pieces: Cut) -> Constants:
    scale = 1.0 / math.sqrt(sizes.key_size + sizes.rope_size) if options.scale is None else float(options.scale)
    mask_kind = 0 if options.mask is None else 2 if options.mask_by_entry else 1
    mask_shape = (1, 1) if options.mask is None else options.mask.shape[:2]
    return (
        ("SCALE", scale), ("HEADS", sizes.query_heads), ("CACHE_HEADS", sizes.cache_heads),
        ("QUERIES", sizes.queries), ("CACHED", sizes.cached), ("KEY", sizes.key_size), ("ROPE", sizes.rope_size),
        ("VALUE", sizes.value_size), ("SHARED_VALUE", sizes.shared_value), ("SELECTION", selection.kind),
        ("SELECTED", selection.count), ("SELECTED_BLOCK", selection.block), ("SELECTION_HEADS", selection.heads),
        ("QUERY_BLOCK", min(selection.query_block, sizes.queries)), ("MASK", mask_kind),
        ("MASK_BATCHES", mask_shape[0]), ("MASK_HEADS", mask_shape[1]), ("HAS_LENGTHS", options.lengths is not None),
        ("CAUSAL", options.causal), ("ZERO_MASKED", options.masked_rows == "zero"), ("SPLITS", pieces.splits),
        ("SPLIT_SLOTS", pieces.split_slots), ("BLOCK_M", pieces.rows), ("BLOCK_N", pieces.tile.entries),
        ("BLOCK_KEY", padded(sizes.key_size)), ("BLOCK_ROPE", padded(max(1, sizes.rope_size))),
        ("BLOCK_VALUE", padded(sizes.value_size)),
    )


def _combine(sizes: AttentionSizes, options: AttentionOptions, pieces: Cut, rows: int) -> Launch:
    shares, columns = joining_block(pieces.splits, sizes.value_size)
    return Launch(
        _MODULE, "combine",
        (("partial", Tensor("partial", DType.FLOAT32)), ("weight", Tensor("weight", DType.FLOAT32)),
         ("output", Tensor("output", sizes.dtype, written=True))),
        (("SPLITS", pieces.splits), ("VALUE", sizes.value_size), ("ZERO_MASKED", options.masked_rows == "zero"),
         ("BLOCK_SPLITS", shares), ("BLOCK_VALUE", columns)),
        (rows, -(-sizes.value_size // columns), 1), 4, 1)


