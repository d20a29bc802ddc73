"""Selections as operations: exact top-k, threshold compaction, and scores with the top-k of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Scalar, Tensor
from hetcc.backends.gpu.kernels.limits import (
    EXTENT_LIMIT,
    INTERPRETER,
    PROGRAMS_WANTED,
    Constants,
    checked_target,
    power_of_two,
    require,
)
from hetcc.backends.gpu.kernels.operations_scores import IndexScores
from hetcc.ir import DType, TensorType

K_LIMIT = 4096
"""Candidates that one program sorts in its registers."""
_BITS_AND_INFINITY = {
    DType.FLOAT32: (32, 0x7F800000), DType.FLOAT16: (16, 0x7C00), DType.BFLOAT16: (16, 0x7F80),
    DType.INT32: (32, 0), DType.INT16: (16, 0), DType.INT8: (8, 0), DType.UINT8: (8, 0),
}
_DIGIT_BITS = 8
_BINS = 1 << _DIGIT_BITS
_WHOLE_ROW_EXTENT = 4096
"""Rows up to this extent are sorted whole, in one launch."""
_SPAN_AT_LEAST = 2048
_TILE = 4096
_SORTED_AT_ONCE = 1024
"""Entries that a program sorts, in several rows where these are short."""
_RANKED_ROWS = 32
"""With so few rows the candidates are ranked by many programs; with more, each row is sorted by one."""


@dataclass(frozen=True, slots=True)
class Order:
    """How entries of a type are turned into codes."""

    dtype: DType
    largest: bool = True

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return _BITS_AND_INFINITY[self.dtype][0]

    @property
    def passes(self) -> int:
        """Digits of a code."""
        return self.bits // _DIGIT_BITS

    @property
    def constants(self) -> Constants:
        """As the kernels take it."""
        bits, infinity = _BITS_AND_INFINITY[self.dtype]
        signed = self.dtype != DType.UINT8
        return (("BITS", bits), ("INFINITY", infinity), ("SIGNED", signed), ("LARGEST", self.largest))


@dataclass(frozen=True, slots=True)
class Split:
    """A row cut into parts of equal span, each done by one program in tiles."""

    extent: int
    span: int
    tile: int

    @property
    def parts(self) -> int:
        """Programs per row."""
        return -(-self.extent // self.span)

    @property
    def compact_tile(self) -> int:
        """Entries of a tile where running counts are kept for each."""
        return self.tile if self.tile > _TILE else min(self.tile, _TILE // 2)

    @property
    def warps(self) -> int:
        """Enough threads that each holds at most 16 entries of a tile."""
        return 8 if self.tile > 1024 else 4


def split_of(rows: int, extent: int, target: str) -> Split:
    """Parts such that all rows together make about :data:`PROGRAMS_WANTED` programs."""
    wanted = max(1, PROGRAMS_WANTED // rows)
    if target == INTERPRETER:
        wanted = 3 if rows <= 2 else 1
    span = max(_SPAN_AT_LEAST, -(-extent // wanted))
    tile = min(1 << 18 if target == INTERPRETER else _TILE, power_of_two(span))
    return Split(extent, -(-span // tile) * tile, tile)


@dataclass(frozen=True, slots=True)
class TopK:
    """The ``k`` largest (or smallest) entries of each row, in order; equal ones by index, lowest first.

    NaN is larger than everything, -0.0 equals 0.0; values come out as they went in, to the bit.

    Raises:
        UserError: HET-G001, a size or type that the kernels do not take, or ``k`` above the extent.
    """

    rows: int
    extent: int
    k: int
    dtype: DType = DType.FLOAT32
    largest: bool = True
    index_dtype: DType = DType.INT64

    def __post_init__(self) -> None:
        require(self.rows >= 1 and self.k >= 1, f"a top-k of {self.rows} rows and k = {self.k}: both at least 1")
        require(self.extent <= EXTENT_LIMIT, f"a top-k of {self.extent} entries; the limit is {EXTENT_LIMIT}")
        require(self.k <= min(self.extent, K_LIMIT),
                f"k = {self.k} of {self.extent} entries; the limits are {K_LIMIT} and the number of entries")
        require(self.dtype in _BITS_AND_INFINITY, f"a top-k of {self.dtype.value}")
        require(self.index_dtype in (DType.INT32, DType.INT64), f"indices of type {self.index_dtype.value}")

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``values``: ``[rows, extent]``."""
        return (("values", TensorType((self.rows, self.extent), self.dtype)),)

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``chosen_values`` and ``chosen_indices``: ``[rows, k]``."""
        return (("chosen_values", TensorType((self.rows, self.k), self.dtype)),
                ("chosen_indices", TensorType((self.rows, self.k), self.index_dtype)))

    @property
    def order(self) -> Order:
        """How entries become codes."""
        return Order(self.dtype, self.largest)

    def plan(self, target: str) -> LaunchPlan:
        """One launch for short rows, two for many rows, four and the digits of the type for few long ones."""
        split = split_of(self.rows, self.extent, checked_target(target))
        if self.extent <= _WHOLE_ROW_EXTENT:
            return LaunchPlan((self._sort(target, whole_row=True),))
        if split.parts == 1:
            launches = (self._select_row(target, split), self._sorting(target))
            return LaunchPlan(launches, self._buffers("selected", split))
        passes = tuple(self._count(split, number) for number in range(self.order.passes))
        return LaunchPlan((self._clear(), *passes, self._compact(split), self._sorting(target)),
                          self._buffers("selected counts state tails above", split))

    def is_split(self, target: str) -> bool:
        """Whether several programs share a row; the first launch then clears ``counts``."""
        return self.extent > _WHOLE_ROW_EXTENT and split_of(self.rows, self.extent, target).parts > 1

    @property
    def counters(self) -> int:
        """Entries of ``counts``, which are zero before the first pass."""
        return self.order.passes * self.rows * _BINS

    def _clear(self) -> Launch:
        return Launch("radix_select", "clear", (("buffer", self._tensor("counts")),),
                      (("COUNT", self.counters), ("TILE", 1024)), (-(-self.counters // 1024), 1, 1))

    def _types(self, split: Split | None) -> dict[str, TensorType]:
        parts = split.parts if split else 1
        passes = self.order.passes
        return {"selected": TensorType((self.rows, self.k), DType.INT64),
                "counts": TensorType((passes, self.rows, _BINS), DType.INT32),
                "state": TensorType((passes + 1, self.rows, 2), DType.INT32),
                "tails": TensorType((self.rows, parts, _BINS), DType.INT32),
                "above": TensorType((self.rows, parts), DType.INT32)}

    def _buffers(self, names: str, split: Split | None = None) -> tuple[tuple[str, TensorType], ...]:
        return tuple((name, self._types(split)[name]) for name in names.split())

    def _tensor(self, name: str, written: bool = True) -> Tensor:
        types = self._types(None) | dict(self.inputs) | dict(self.outputs)
        return Tensor(name, types[name].dtype, written)

    def _arguments(self, read: str, written: str) -> tuple[tuple[str, Tensor], ...]:
        names = [(name, False) for name in read.split()] + [(name, True) for name in written.split()]
        return tuple((name, self._tensor(name, is_written)) for name, is_written in names)

    def _count(self, split: Split, number: int) -> Launch:
        last = number == self.order.passes - 1
        constants = (("K", self.k), ("ROWS", self.rows), ("EXTENT", self.extent), ("SPAN", split.span),
                     ("PARTS", split.parts), ("TILE", split.tile), ("PASS", number), ("LAST", last),
                     *self.order.constants)
        return Launch("radix_select", "count_digits", self._arguments("values", "counts state tails above"), constants,
                      (self.rows, split.parts, 1), split.warps)

    def _compact(self, split: Split) -> Launch:
        constants = (("K", self.k), ("ROWS", self.rows), ("EXTENT", self.extent), ("SPAN", split.span),
                     ("PARTS", split.parts), ("PARTS_PADDED", power_of_two(split.parts)), ("TILE", split.compact_tile),
                     ("PASSES", self.order.passes), *self.order.constants)
        arguments = (*self._arguments("values counts", "state"), *self._arguments("tails above", "selected"))
        return Launch("radix_select", "compact", arguments, constants, (self.rows, split.parts, 1), split.warps)

    def _select_row(self, target: str, split: Split) -> Launch:
        tile = split.tile
        if target != INTERPRETER:
            # Each entry of a tile costs mask registers, of which a wave of AMD's has about a hundred.
            tile = min(tile, 1024 if target.startswith("gfx") else 2048)
        constants = (("K", self.k), ("EXTENT", self.extent), ("TILE", tile), ("PASSES", self.order.passes),
                     *self.order.constants)
        return Launch("radix_select", "select_row", self._arguments("values", "selected"), constants, (self.rows, 1, 1),
                      8)

    def _sorting(self, target: str) -> Launch:
        if self.rows > _RANKED_ROWS:
            return self._sort(target, whole_row=False)
        tile = min(power_of_two(self.k), 512 if target == INTERPRETER else 32)
        others = min(power_of_two(self.k), 2048 if target == INTERPRETER else 128)
        constants = (("K", self.k), ("EXTENT", self.extent), ("TILE", tile), ("OTHERS", others))
        return Launch("radix_select", "rank", self._arguments("values selected", "chosen_values chosen_indices"),
                      constants, (self.rows, -(-self.k // tile), 1))

    def _sort(self, target: str, whole_row: bool) -> Launch:
        axes = power_of_two(max(2, self.extent if whole_row else self.k)).bit_length() - 1
        block = 1 << 16 if target == INTERPRETER else _SORTED_AT_ONCE
        row_axes = max(0, min(block >> axes, power_of_two(self.rows)).bit_length() - 1)
        constants = (("K", self.k), ("ROWS", self.rows), ("EXTENT", self.extent), ("AXES", axes),
                     ("ROW_AXES", row_axes), ("WHOLE_ROW", whole_row), *self.order.constants)
        values = Tensor("values", self.dtype)
        arguments = (("values", values), ("selected", values if whole_row else self._tensor("selected", False)),
                     *self._arguments("", "chosen_values chosen_indices"))
        return Launch("radix_select", "sort_rows", arguments, constants, (-(-self.rows >> row_axes), 1, 1),
                      16 if axes >= 12 else 8 if axes >= 11 else 4)


@dataclass(frozen=True, slots=True)
class Compact:
    """Indices of the entries above (or at least) a threshold, in index order, and their number.

    What does not fit the capacity is dropped, but counted; slots behind the last index hold -1. NaN never passes.

    Raises:
        UserError: HET-G001, a size or type that the kernels do not take.
    """

    rows: int
    extent: int
    capacity: int
    dtype: DType = DType.FLOAT32
    strict: bool = True
    """Above the threshold; otherwise at least the threshold."""
    threshold: float | None = None
    """The threshold of all rows; None: an input ``[rows]``."""
    index_dtype: DType = DType.INT64

    def __post_init__(self) -> None:
        require(min(self.rows, self.extent, self.capacity) >= 1, "a compaction needs rows, entries and a capacity")
        require(max(self.extent, self.capacity) <= EXTENT_LIMIT,
                f"a compaction of {self.extent} entries into {self.capacity}; the limit is {EXTENT_LIMIT}")
        require(self.dtype in _BITS_AND_INFINITY, f"a compaction of {self.dtype.value}")
        require(self.dtype.is_floating or math.isfinite(self.threshold or 0.0), "an infinite threshold of integers")
        require(self.index_dtype in (DType.INT32, DType.INT64), f"indices of type {self.index_dtype.value}")

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``values``: ``[rows, extent]``; ``threshold``: ``[rows]`` unless it is a constant."""
        values = (("values", TensorType((self.rows, self.extent), self.dtype)),)
        return values if self.threshold is not None else (*values, ("threshold", TensorType((self.rows,), self.dtype)))

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``chosen_indices``: ``[rows, capacity]``; ``count``: ``[rows]``, int32."""
        return (("chosen_indices", TensorType((self.rows, self.capacity), self.index_dtype)),
                ("count", TensorType((self.rows,), DType.INT32)))

    def plan(self, target: str) -> LaunchPlan:
        """Two launches: counts per part, then every part knows its first slot."""
        split = split_of(self.rows, self.extent, checked_target(target))
        values = Tensor("values", self.dtype)
        limit = values if self.threshold is not None else Tensor("threshold", self.dtype)
        limits: Constants = (("CONSTANT", self.threshold is not None), ("LIMIT", self._limit()),
                             ("STRICT", self.strict), ("FLOATING", self.dtype.is_floating))
        sizes: Constants = (("EXTENT", self.extent), ("SPAN", split.span), ("PARTS", split.parts))
        grid = (self.rows, split.parts, 1)
        counting = Launch("threshold_select", "count_passing",
                          (("values", values), ("threshold", limit), ("counts", Tensor("counts", DType.INT32, True))),
                          (*sizes, ("TILE", split.tile), *limits), grid, split.warps)
        storing = Launch("threshold_select", "store_passing",
                         (("values", values), ("threshold", limit), ("counts", Tensor("counts", DType.INT32)),
                          ("indices_out", Tensor("chosen_indices", self.index_dtype, True)),
                          ("total_out", Tensor("count", DType.INT32, True))),
                         (*sizes, ("PARTS_PADDED", power_of_two(split.parts)), ("TILE", split.compact_tile),
                          ("CAPACITY", self.capacity), ("SHARE", -(-self.capacity // split.parts)), *limits),
                         grid, split.warps)
        return LaunchPlan((counting, storing), (("counts", TensorType((self.rows, split.parts), DType.INT32)),))

    def _limit(self) -> float | int:
        limit = float(self.threshold or 0.0)
        if self.dtype.is_floating:
            return limit
        return math.floor(limit) if self.strict else math.ceil(limit)


@dataclass(frozen=True, slots=True)
class ScoreTopK:
    """Index scores and the top-k of each row, which is exactly :class:`TopK` of the scores in their output type.

    The scores are scratch. The scoring kernel also clears what the selection counts in.

    Raises:
        UserError: HET-G001, as the two operations.
    """

    scores: IndexScores
    k: int
    largest: bool = True
    index_dtype: DType = DType.INT64

    def __post_init__(self) -> None:
        self.selection.plan(INTERPRETER)

    @property
    def selection(self) -> TopK:
        """The top-k of the scores."""
        return TopK(self.scores.rows, self.scores.extent, self.k, self.scores.output, self.largest, self.index_dtype)

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """Those of the scores."""
        return self.scores.inputs

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``chosen_values`` and ``chosen_indices``: ``[batch, queries, k]``."""
        shape = (self.scores.batch, self.scores.queries, self.k)
        return (("chosen_values", TensorType(shape, self.scores.output)),
                ("chosen_indices", TensorType(shape, self.index_dtype)))

    def plan(self, target: str) -> LaunchPlan:
        """Scoring, then the launches of the top-k, without the one that clears."""
        selection = self.selection
        whole = selection.plan(target)
        if selection.is_split(target):
            launches = (self.scores.launch(target, selection.counters), *whole.launches[1:])
        else:
            launches = (self.scores.launch(target), *whole.launches)
        scores = (("scores", self.scores.outputs[0][1]),)
        return LaunchPlan(tuple(_with_scores(launch) for launch in launches), (*scores, *whole.scratch))


def _with_scores(launch: Launch) -> Launch:
    """The launch on scratch: what a selection calls ``values`` are the ``scores``."""
    return replace(launch, arguments=tuple((parameter, _scores_for_values(passed))
                                           for parameter, passed in launch.arguments))


def _scores_for_values(passed: Tensor | Scalar) -> Tensor | Scalar:
    if isinstance(passed, Tensor) and passed.name == "values":
        return replace(passed, name="scores")
    return passed
