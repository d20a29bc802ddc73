"""Every Triton kernel in the configurations that count: sizes of published models at 131,072 and a million tokens.

``.ci/check_spills.py`` compiles them for the GPUs of AMD and fails when a register is spilled.
"""

from __future__ import annotations

from collections.abc import Iterator

from hetcc.backends.gpu.kernels.launches import KernelOperation, Launch
from hetcc.backends.gpu.kernels.operations_attention import (
    AttentionOptions,
    AttentionSizes,
    BlockSparseAttention,
    DecodeAttention,
    GatherAttention,
)
from hetcc.backends.gpu.kernels.operations_pooling import PagePool
from hetcc.backends.gpu.kernels.operations_scores import IndexScores
from hetcc.backends.gpu.kernels.operations_selection import Compact, ScoreTopK, TopK
from hetcc.ir import DType, TensorType

LONG, LONGER = 131072, 1 << 20
"""Tokens of a cache."""
_BF16, _FP16, _FP32 = DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32


def production_operations() -> tuple[tuple[str, KernelOperation], ...]:
    """(name, operation), names unique."""
    return (*_scores(), *_selections(), *_attention(), *_pooling())


def production_launches(target: str) -> dict[str, tuple[str, Launch]]:
    """Distinct launches of the production operations on a target, by code digest, each with its first operation."""
    found: dict[str, tuple[str, Launch]] = {}
    for name, operation in production_operations():
        for launch in operation.plan(target).launches:
            found.setdefault(launch.code_digest, (name, launch))
    return found


def _scores() -> Iterator[tuple[str, KernelOperation]]:
    """DeepSeek-V3.2's indexer (64 heads of 128), one head, and bounds of pages of 64 tokens."""
    for dtype in (_BF16, _FP16, _FP32):
        for queries in (1, 64):
            yield f"index scores, {dtype.value}, {queries} queries", IndexScores(
                1, queries, 64, LONG, 128, dtype, relu=True, weight=dtype)
    yield "index scores, masked", IndexScores(1, 1, 64, LONG, 128, _BF16, relu=True, weight=_FP32, mask=(1, 1))
    yield "inner products", IndexScores(1, 1, 1, LONGER, 128, _BF16)
    yield "inner products, float32", IndexScores(1, 1, 1, LONGER, 128, _FP32)
    yield "page bounds", IndexScores(1, 1, 32, LONGER // 64, 128, _BF16, form="bound")


def _selections() -> Iterator[tuple[str, KernelOperation]]:
    for extent in (LONG, LONGER):
        for k in (64, 2048, 4096):
            yield f"top {k} of {extent}", TopK(1, extent, k)
        yield f"entries above a threshold of {extent}", Compact(1, extent, 4096)
        scores = IndexScores(1, 1, 64, extent, 128, _BF16, relu=True, weight=_BF16)
        yield f"scores and top 2048 of {extent}", ScoreTopK(scores, 2048)
    yield "top 8 of 256 experts", TopK(64, 256, 8)
    yield "top 2048 of many rows", TopK(64, LONG, 2048, _BF16)
    yield "smallest 64", TopK(8, 4096, 64, _FP16, largest=False, index_dtype=DType.INT32)


def _attention() -> Iterator[tuple[str, KernelOperation]]:
    """Latent attention of DeepSeek-V3.2 (512 and 64) and grouped heads of Llama-3.1-8B (32 on 8, 128)."""
    for dtype in (_BF16, _FP16):
        for queries in (1, 64):
            latent = AttentionSizes(1, 128, 1, queries, LONG, 512, 512, dtype, rope_size=64, shared_value=True)
            grouped = AttentionSizes(1, 32, 8, queries, LONG, 128, 128, dtype)
            named = f"{dtype.value}, {queries} queries"
            yield f"latent gather attention, {named}", GatherAttention(latent, 2048)
            yield f"grouped gather attention, {named}", GatherAttention(grouped, 2048)
            block = BlockSparseAttention(grouped, 64, 32, query_block=min(queries, 16))
            yield f"block-sparse attention, {named}", block
        decode = AttentionSizes(8, 32, 8, 1, LONG, 128, 128, dtype)
        yield f"decode attention, {dtype.value}", DecodeAttention(decode, AttentionOptions(lengths=DType.INT64))
    single = AttentionSizes(1, 32, 8, 1, LONG, 128, 128, _FP32)
    yield "decode attention, float32", DecodeAttention(single)
    masked = AttentionOptions(mask=TensorType((1, 1, 1, LONG), _FP32))
    yield "decode attention, masked", DecodeAttention(AttentionSizes(1, 32, 8, 1, LONG, 128, 128, _BF16), masked)
    grouped, latent = (AttentionSizes(8, 32, 8, 1, LONG, 128, 128, _BF16),
                       AttentionSizes(8, 128, 1, 1, LONG, 512, 512, _BF16, rope_size=64, shared_value=True))
    by_sequence = AttentionOptions(mask=TensorType((8, 1, 1, 2048), _BF16))
    yield "latent gather attention, 8 sequences, masked", GatherAttention(latent, 2048, by_sequence)
    yield "grouped gather attention, 8 sequences, by head", GatherAttention(grouped, 2048, per_cache_head=True)
    zeros = AttentionOptions(mask=TensorType((8, 1, 1, LONG), _BF16), masked_rows="zero")
    yield "decode attention, masked, zeros where nothing is seen", DecodeAttention(grouped, zeros)


def _pooling() -> Iterator[tuple[str, KernelOperation]]:
    yield "page means", PagePool(1, 8, LONG, 128, 64, "mean", _BF16)
    yield "page bounds of keys", PagePool(1, 8, LONG, 128, 16, "bounds", _BF16)
