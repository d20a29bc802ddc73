"""Scores of memory entries as an operation: sizes, what is read and written, and which kernel on which target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Scalar, Tensor
from hetcc.backends.gpu.kernels.limits import (
    EXTENT_LIMIT,
    FLOATS,
    INTERPRETER,
    PROGRAMS_WANTED,
    checked_target,
    power_of_two,
    require,
)
from hetcc.ir import DType, TensorType

_STREAMING_PROGRAMS = 4 * PROGRAMS_WANTED


@dataclass(frozen=True, slots=True)
class IndexScores:
    """Score of each entry for each query: ``sum over h of weight[b,q,h] * worth(b,q,h,t) + mask``.

    The worth is ``scale * key[b,t,:] . query[b,q,h,:]``, or for ``bound`` the scaled sum over channels of
    ``max(q * minimum[b,t,d], q * maximum[b,t,d])`` (with minimum <= maximum), and with ``relu`` at least 0. Sums are
    float32.

    Raises:
        UserError: HET-G001, a size or type that the kernels do not take.
    """

    batch: int
    queries: int
    heads: int
    extent: int
    channels: int
    dtype: DType = DType.FLOAT16
    form: Literal["product", "bound"] = "product"
    relu: bool = False
    weight: DType | None = None
    """Type of the weights; None: every head counts once."""
    mask: tuple[int, int] | None = None
    """Batches and queries (1 or all) of the additive mask ``[., ., extent]``; None: no mask."""
    mask_dtype: DType = DType.FLOAT32
    scale: float = 1.0
    key_batches: int | None = None
    """1 if all batches share the keys; None: every batch has its own."""
    output: DType = DType.FLOAT32

    def __post_init__(self) -> None:
        sizes = (self.batch, self.queries, self.heads, self.extent, self.channels)
        require(min(sizes) >= 1, f"index scores of sizes {sizes}: each must be at least 1")
        require(self.extent <= EXTENT_LIMIT, f"index scores of {self.extent} entries; the limit is {EXTENT_LIMIT}")
        require(self.heads * self.channels < 1 << 24, f"{self.heads} heads of {self.channels} channels are too many")
        require(self.form in ("product", "bound"), f"no form '{self.form}' of index scores")
        types = [self.dtype, self.output, self.mask_dtype, self.weight or DType.FLOAT32]
        require(all(dtype in FLOATS for dtype in types), f"index scores of {[dtype.value for dtype in types]}")
        require(self.key_batches in (None, 1, self.batch), f"keys of {self.key_batches} batches for {self.batch}")
        if self.mask is not None:
            batches, queries = self.mask
            require(batches in (1, self.batch) and queries in (1, self.queries),
                    f"a mask of {batches} x {queries} rows for {self.batch} x {self.queries} rows of scores")

    @property
    def rows(self) -> int:
        """Rows of scores."""
        return self.batch * self.queries

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``query``, then ``key`` or ``minimum`` and ``maximum``, then ``weight`` and ``mask`` where there are any."""
        keys = TensorType((self.key_batches or self.batch, self.extent, self.channels), self.dtype)
        named = [("query", TensorType((self.batch, self.queries, self.heads, self.channels), self.dtype))]
        named += [("key", keys)] if self.form == "product" else [("minimum", keys), ("maximum", keys)]
        if self.weight is not None:
            named.append(("weight", TensorType((self.batch, self.queries, self.heads), self.weight)))
        if self.mask is not None:
            named.append(("mask", TensorType((*self.mask, self.extent), self.mask_dtype)))
        return tuple(named)

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """``scores``: ``[batch, queries, extent]``."""
        return (("scores", TensorType((self.batch, self.queries, self.extent), self.output)),)

    def plan(self, target: str) -> LaunchPlan:
        """One launch: keys that stream past one query, queries that stream past some keys, or a matrix product."""
        return LaunchPlan((self.launch(checked_target(target)),))

    def launch(self, target: str, cleared: int = 0) -> Launch:
        """The launch. It also fills a scratch buffer ``counts`` of ``cleared`` int32 with zeros."""
        if self.heads == 1:
            launch = self._launch_one(target) if self.queries == 1 else self._launch_flat(target)
        else:
            launch = self._launch_heads(target) if self.queries == 1 else self._launch_queries(target)
        share = power_of_two(-(-cleared // (launch.grid[0] * launch.grid[1])))
        return replace(launch, arguments=self._arguments(cleared > 0),
                       constants=(*launch.constants, ("COUNT", cleared), ("SHARE", share)))

    def _arguments(self, clears: bool) -> tuple[tuple[str, Tensor | Scalar], ...]:
        """Tensors in the kernels' order. What a kernel does not use is filled with something that exists."""
        given = {name: Tensor(name, kind.dtype) for name, kind in self.inputs}
        query = given["query"]
        low = given["key"] if self.form == "product" else given["minimum"]
        scores = Tensor("scores", self.output, written=True)
        counts = Tensor("counts", DType.INT32, written=True) if clears else scores
        return (("query", query), ("key", low), ("high_key", given.get("maximum", low)),
                ("weight", given.get("weight", query)), ("mask", given.get("mask", query)), ("scores", scores),
                ("counts", counts))

    def _constants(self, target: str) -> dict[str, int | float | bool | str]:
        batches, queries = self.mask or (1, 1)
        return {"EXTENT": self.extent, "CHANNELS": self.channels, "KEY_BATCHES": self.key_batches or self.batch,
                "MASK_BATCHES": batches, "MASK_QUERIES": queries, "SCALE": float(self.scale),
                "BOUND": self.form == "bound", "RELU": self.relu, "WEIGHTED": self.weight is not None,
                "MASKED": self.mask is not None, "WIDEN": target == INTERPRETER}

    def _tiles(self, target: str, columns: int) -> tuple[int, int, int]:
        """Entries, columns and channels of a tile: keys and queries of one tile fit the shared memory twice over."""
        column_tile = min(64, max(16, power_of_two(columns)))
        channel_tile = min(128, max(16, power_of_two(self.channels)))
        if target == INTERPRETER:
            return min(4096, max(16, power_of_two(self.extent))), column_tile, channel_tile
        wide = self.dtype == DType.FLOAT32
        if wide:
            channel_tile = min(32, channel_tile)
        return 64, column_tile, channel_tile

    def _whole(self, tile: int, channel_tile: int) -> bool:
        return self.extent % tile == 0 and self.channels % channel_tile == 0

    def _span(self, target: str, tile: int) -> int:
        """Entries of one program that streams keys."""
        if target == INTERPRETER:
            return -(-self.extent // tile) * tile
        programs = max(1, _STREAMING_PROGRAMS // self.rows)
        return max(1, -(-self.extent // (tile * programs))) * tile

    def _streamed(self, function: str, target: str, tiles: tuple[int, int, int],
                  extra: dict[str, int | float | bool | str]) -> Launch:
        tile, _, channel_tile = tiles
        span = self._span(target, tile)
        constants = self._constants(target) | extra | {
            "SPAN": span, "TILE": tile, "CHANNEL_TILE": channel_tile, "WHOLE": self._whole(tile, channel_tile)}
        del constants["MASK_QUERIES"]
        return Launch("scoring", function, (), tuple(constants.items()), (self.rows, -(-self.extent // span), 1), 4,
                      _stages(target))

    def _launch_one(self, target: str) -> Launch:
        return self._streamed("score_one", target, self._tiles(target, 1), {})

    def _launch_heads(self, target: str) -> Launch:
        tiles = self._tiles(target, self.heads)
        return self._streamed("score_heads", target, tiles, {"HEADS": self.heads, "HEAD_TILE": tiles[1]})

    def _launch_queries(self, target: str) -> Launch:
        tile, head_tile, channel_tile = self._tiles(target, self.heads)
        warps = 4
        if target != INTERPRETER and self.form == "product" and self.dtype != DType.FLOAT32:
            # Each query is read once per tile of keys: larger tiles, fewer bytes from the second-level cache.
            tile, warps = 2 * tile, 8
        parts = -(-self.extent // tile)
        groups = max(1, min(self.queries, _STREAMING_PROGRAMS // (parts * self.batch)))
        group = self.queries if target == INTERPRETER else -(-self.queries // groups)
        groups = -(-self.queries // group)
        constants = self._constants(target) | {
            "QUERIES": self.queries, "HEADS": self.heads, "GROUP": group, "GROUPS": groups,
            "ROW_GROUPS": self.batch * groups, "TILE": tile, "HEAD_TILE": head_tile, "CHANNEL_TILE": channel_tile,
            "WHOLE": self._whole(tile, channel_tile)}
        return Launch("scoring", "score_queries", (), tuple(constants.items()),
                      (self.batch * groups * parts, 1, 1), warps, _stages(target))

    def _launch_flat(self, target: str) -> Launch:
        tile, group, channel_tile = self._tiles(target, self.queries)
        if target == INTERPRETER:
            group = min(256, max(16, power_of_two(self.queries)))
        groups = -(-self.queries // group)
        constants = self._constants(target) | {
            "QUERIES": self.queries, "GROUP": group, "GROUPS": groups,
            "ROW_GROUPS": self.batch * groups, "TILE": tile, "CHANNEL_TILE": channel_tile,
            "WHOLE": self._whole(tile, channel_tile)}
        return Launch("scoring", "score_flat", (), tuple(constants.items()),
                      (self.batch * groups * -(-self.extent // tile), 1, 1), 4, _stages(target))


def _stages(target: str) -> int:
    """Tiles of keys in flight: AMD's pipeline goes through registers and 64 KiB of shared memory."""
    return 2 if target.startswith("gfx") else 3
