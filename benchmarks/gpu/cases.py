"""What is measured: kernel operations, the same in PyTorch, the least work of each, and what is aimed at."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import baselines

from hetcc.backends.gpu.kernels.launches import KernelOperation
from hetcc.backends.gpu.kernels.operations_attention import (
    AttentionSizes,
    BlockSparseAttention,
    DecodeAttention,
    GatherAttention,
)
from hetcc.backends.gpu.kernels.operations_pooling import PagePool
from hetcc.backends.gpu.kernels.operations_scores import IndexScores
from hetcc.backends.gpu.kernels.operations_selection import Compact, ScoreTopK, TopK
from hetcc.ir import DType, TensorType

BFLOAT16 = DType.BFLOAT16
LONG, LONGER = 131072, 1 << 20
"""Tokens of a cache."""
INDEX_HEADS, INDEX_SIZE = 64, 128
ABOVE = 2.5
"""Threshold of the compaction: 0.6 % of normally distributed values pass."""
Baseline = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """An operation, and where its tensors stand when that is not under the name of the role."""

    operation: KernelOperation
    names: tuple[tuple[str, str], ...] = ()

    def name(self, role: str) -> str:
        """Name of the tensor of a role."""
        return dict(self.names).get(role, role)


@dataclass(frozen=True)
class Goal:
    """What is aimed at on an H200."""

    share: float | None = None
    """Of the roofline: bound over time."""
    over_best: float = 1.0
    """Best time of PyTorch over the time."""
    over_compiled: float = 0.0
    """Time of ``torch.compile`` over the time."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    group: str
    size: str
    steps: tuple[Step, ...]
    result: str
    """The output that is compared with PyTorch in float32."""
    flops: float
    eager: Baseline
    fused: Baseline | None = None
    """With ``scaled_dot_product_attention``."""
    goal: Goal = field(default_factory=Goal)
    quick: bool = False
    """Part of the short run."""

    @property
    def name(self) -> str:
        """Unique among the cases."""
        return f"{self.group}: {self.size}"

    @property
    def inputs(self) -> dict[str, tuple[TensorType, Step]]:
        """Tensors that no step makes, by name, and a step that reads each."""
        made: set[str] = set()
        found: dict[str, tuple[TensorType, Step]] = {}
        for step in self.steps:
            found |= {step.name(role): (kind, step) for role, kind in step.operation.inputs
                      if step.name(role) not in made | set(found)}
            made |= {step.name(role) for role, _ in step.operation.outputs}
        return found

    @property
    def outputs(self) -> dict[str, TensorType]:
        """Tensors that steps make, by name."""
        return {step.name(role): kind for step in self.steps for role, kind in step.operation.outputs}


def make_inputs(case: Case, torch: Any, device: str, seed: int = 0) -> dict[str, Any]:
    """Random inputs; the indices of one row differ from each other."""
    generator = torch.Generator(device=device).manual_seed(seed)
    tensors = {}
    for name, (kind, step) in case.inputs.items():
        if name == "indices":
            rows = torch.rand(math.prod(kind.shape[:-1]), _limit(step.operation), device=device, generator=generator)
            tensors[name] = rows.topk(kind.shape[-1]).indices.reshape(kind.shape)
        else:
            made = torch.randn(kind.shape, device=device, generator=generator, dtype=torch.float32)
            tensors[name] = made.to(getattr(torch, kind.dtype.value))
    return tensors


def _limit(operation: KernelOperation) -> int:
    """How many things there are to choose from."""
    if isinstance(operation, BlockSparseAttention):
        return -(-operation.sizes.cached // operation.block_size)
    assert isinstance(operation, GatherAttention)
    return operation.sizes.cached


def least_bytes(case: Case, tensors: Mapping[str, Any]) -> int:
    """Each input once, of a cache only what some query selects, and each result that nobody reads afterwards once."""
    read = {step.name(role) for step in case.steps for role, _ in step.operation.inputs}
    total = sum(kind.size_bytes for name, kind in case.outputs.items() if name not in read)
    for name, (kind, step) in case.inputs.items():
        role = next(role for role, _ in step.operation.inputs if step.name(role) == name)
        operation = step.operation
        if isinstance(operation, GatherAttention | BlockSparseAttention) and role in ("keys", "keys_rope", "values"):
            rows = _selected_rows(operation, tensors.get(step.name("indices")))
            total += rows * kind.shape[-1] * kind.dtype.size_bytes
        else:
            total += kind.size_bytes
    return total


def _selected_rows(operation: GatherAttention | BlockSparseAttention, indices: Any) -> int:
    """Different cache rows, over batch entries and cache heads, that ``indices`` name; all they could, if unknown."""
    sizes = operation.sizes
    block = operation.block_size if isinstance(operation, BlockSparseAttention) else 1
    if indices is None:
        return sizes.batch * sizes.cache_heads * min(sizes.cached, operation.selected * block * sizes.queries)
    per_head = indices.reshape(sizes.batch, -1, *indices.shape[-2:])
    different = sum(int(per_head[batch, head].unique().numel()) for batch in range(sizes.batch)
                    for head in range(per_head.shape[1]))
    return different * block * (sizes.cache_heads // per_head.shape[1])


def all_cases() -> list[Case]:
    """The table, row by row."""
    return [*scoring(LONG), *scoring(LONGER), page_scores(LONGER // 64), *selections(),
            *(score_selection(tokens, 2048, tokens == LONG) for tokens in (LONG, LONGER)),
            *(latent_gather(queries, LONG, 2048) for queries in (1, 64, 256)),
            *(grouped_gather(queries, LONG, 2048) for queries in (1, 64, 256)),
            *(block_sparse(queries, LONG, 64, 32) for queries in (1, 64, 256)),
            dense(LONG), *(pooling(LONG, page, kind) for page, kind in ((64, "mean"), (16, "bounds"))),
            region(LONG, 2048)]


def scoring(tokens: int, heads: int = INDEX_HEADS, size: int = INDEX_SIZE) -> Iterator[Case]:
    """Weighted ReLU inner products of one query with every index key."""
    operation = _index(tokens, heads, size)
    yield Case("index scoring", f"{tokens} tokens, {heads} heads x {size}", (Step(operation),), "scores",
               2.0 * tokens * heads * size, baselines.index_scores, goal=Goal(0.8 if tokens >= LONGER else 0.6),
               quick=tokens <= LONG)


def _index(tokens: int, heads: int, size: int) -> IndexScores:
    return IndexScores(1, 1, heads, tokens, size, BFLOAT16, relu=True, weight=BFLOAT16)


def page_scores(pages: int, heads: int = 32, size: int = 128) -> Case:
    """Upper bounds of one query's inner products with the keys of each page."""
    operation = IndexScores(1, 1, heads, pages, size, BFLOAT16, form="bound")
    return Case("page bounds", f"{pages} pages, {heads} heads x {size}", (Step(operation),), "scores",
                4.0 * pages * heads * size, baselines.page_bounds)


def selections() -> Iterator[Case]:
    """Top-k and threshold compaction of one row."""
    for tokens in (LONG, LONGER):
        for k in (512, 2048, 4096):
            yield selection(tokens, k)
        yield compaction(tokens)


def selection(tokens: int, k: int) -> Case:
    """Exact top-k of one row of float32."""
    return Case("top-k", f"{k} of {tokens}", (Step(TopK(1, tokens, k)),), "chosen_values", 0.0,
                functools.partial(baselines.topk, k=k), quick=(tokens, k) == (LONG, 2048))


def compaction(tokens: int) -> Case:
    """Indices above a threshold."""
    operation = Compact(1, tokens, tokens // 16, threshold=ABOVE)
    return Case("threshold", f"above {ABOVE} of {tokens}", (Step(operation),), "count", 0.0,
                functools.partial(baselines.compact, threshold=ABOVE))


def score_selection(tokens: int, k: int, quick: bool = False, heads: int = INDEX_HEADS) -> Case:
    """Scoring and top-k as one operation."""
    return Case("scoring + top-k", f"{k} of {tokens}, {heads} heads x {INDEX_SIZE}",
                (Step(ScoreTopK(_index(tokens, heads, INDEX_SIZE), k)),), "chosen_values",
                2.0 * tokens * heads * INDEX_SIZE, functools.partial(baselines.score_topk, k=k),
                goal=Goal(over_compiled=2.0), quick=quick)


def latent_gather(queries: int, tokens: int, k: int, heads: int = 128, latent: int = 512, rope: int = 64) -> Case:
    """Latent attention over selected tokens."""
    sizes = AttentionSizes(1, heads, 1, queries, tokens, latent, latent, BFLOAT16, rope, True)
    return Case("gather, latent", f"{queries} queries, {k} of {tokens}, {heads} heads x ({latent} + {rope})",
                (Step(GatherAttention(sizes, k)),), "output", 2.0 * queries * heads * k * (2 * latent + rope),
                baselines.latent_attention, baselines.latent_attention_fused, Goal(0.7 if queries >= 64 else None),
                quick=queries <= 64)


def _grouped(queries: int, tokens: int, heads: int, cache_heads: int, size: int) -> AttentionSizes:
    return AttentionSizes(1, heads, cache_heads, queries, tokens, size, size, BFLOAT16)


def grouped_gather(queries: int, tokens: int, k: int, heads: int = 32, cache_heads: int = 8, size: int = 128) -> Case:
    """Grouped-query attention over selected tokens."""
    operation = GatherAttention(_grouped(queries, tokens, heads, cache_heads, size), k)
    return Case("gather, grouped", f"{queries} queries, {k} of {tokens}, {heads}/{cache_heads} heads x {size}",
                (Step(operation),), "output", 4.0 * queries * heads * k * size, baselines.grouped_attention,
                baselines.grouped_attention_fused, Goal(0.7 if queries >= 64 else None), quick=queries == 64)


def block_sparse(queries: int, tokens: int, block: int, selected: int, heads: int = 32, cache_heads: int = 8,
                 size: int = 128) -> Case:
    """Grouped-query attention over selected blocks, chosen per cache head."""
    operation = BlockSparseAttention(_grouped(queries, tokens, heads, cache_heads, size), block, selected)
    return Case("block-sparse", f"{queries} queries, {selected} blocks of {block} of {tokens}, "
                f"{heads}/{cache_heads} heads x {size}", (Step(operation),), "output",
                4.0 * queries * heads * selected * block * size,
                functools.partial(baselines.grouped_attention, block=block),
                functools.partial(baselines.grouped_attention_fused, block=block),
                Goal(0.7 if queries >= 64 else None), quick=queries == 64)


def dense(tokens: int, heads: int = 32, cache_heads: int = 8, size: int = 128) -> Case:
    """Attention of one query over the whole cache."""
    operation = DecodeAttention(_grouped(1, tokens, heads, cache_heads, size))
    return Case("dense decode", f"{tokens} tokens, {heads}/{cache_heads} heads x {size}", (Step(operation),), "output",
                4.0 * heads * tokens * size, baselines.dense_attention, baselines.dense_attention_fused, quick=True)


def pooling(tokens: int, page: int, kind: str, heads: int = 8, size: int = 128) -> Case:
    """Pooling of all pages of a cache."""
    operation = PagePool(1, heads, tokens, size, page, kind, BFLOAT16)  # type: ignore[arg-type]
    return Case("page pooling", f"{kind}, {tokens} tokens, pages of {page}, {heads} heads x {size}",
                (Step(operation),), operation.outputs[-1][0], 0.0,
                functools.partial(baselines.pool, page=page, kind=kind))


def region(tokens: int, k: int, index_heads: int = INDEX_HEADS, heads: int = 128, latent: int = 512,
           rope: int = 64) -> Case:
    """A whole memory pipeline of one query: scoring, top-k, latent attention over what was selected."""
    select = Step(ScoreTopK(_index(tokens, index_heads, INDEX_SIZE), k), (("query", "index_query"),))
    attend = Step(GatherAttention(AttentionSizes(1, heads, 1, 1, tokens, latent, latent, BFLOAT16, rope, True), k),
                  (("indices", "chosen_indices"),))
    flops = 2.0 * tokens * index_heads * INDEX_SIZE + 2.0 * heads * k * (2 * latent + rope)
    return Case("whole region", f"score, select {k} of {tokens}, attend", (select, attend), "output", flops,
                functools.partial(baselines.selected_latent_attention, k=k), quick=True)
