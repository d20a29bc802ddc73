"""Attention and pooling kernels in Triton's interpreter against float64 numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetcc.backends.gpu.kernels.interpreter import interpret, interpret_plan
from hetcc.backends.gpu.kernels.launches import KernelOperation, LaunchPlan, Tensor
from hetcc.backends.gpu.kernels.operations_attention import (
    AttentionOptions,
    AttentionSizes,
    BlockSparseAttention,
    DecodeAttention,
    GatherAttention,
)
from hetcc.backends.gpu.kernels.operations_pooling import PagePool
from hetcc.errors import UserError
from hetcc.ir import DType, TensorType

pytest.importorskip("triton", reason="the gpu extra is not installed")

Array = np.ndarray[Any, np.dtype[Any]]
Attention = DecodeAttention | GatherAttention | BlockSparseAttention
F32, F16 = DType.FLOAT32, DType.FLOAT16
TOLERANCE = {F32: 2e-6, F16: 4e-3}
"""Relative to the largest magnitude. In float16 the weights of the values are float16 too."""
TARGETS = ("gfx90a", "gfx942", "sm_80", "sm_90")

GQA = AttentionSizes(batch=1, query_heads=4, cache_heads=2, queries=3, cached=50, key_size=24, value_size=40, dtype=F32)
BATCHED = replace(GQA, batch=2, cache_heads=1)
LATENT = AttentionSizes(batch=1, query_heads=20, cache_heads=1, queries=2, cached=70, key_size=64, value_size=64,
                        dtype=F32, rope_size=16, shared_value=True)
NEGATIVE = float("-inf")


def kind_of(operation: object) -> str:
    """Name of a test's operation."""
    return type(operation).__name__


def feeds(operation: Attention, seed: int) -> dict[str, Array]:
    """Random inputs; indices may repeat."""
    random = np.random.default_rng(seed)
    limit = operation.sizes.cached
    if isinstance(operation, BlockSparseAttention):
        limit = -(-limit // operation.block_size)
    made: dict[str, Array] = {}
    for role, kind in operation.inputs:
        if role == "indices":
            made[role] = random.integers(0, limit, kind.shape).astype(kind.dtype.value)
        elif role == "lengths":
            made[role] = random.integers(operation.sizes.queries, operation.sizes.cached + 1, kind.shape).astype(
                kind.dtype.value)
        else:
            made[role] = random.standard_normal(kind.shape).astype(kind.dtype.value)
            if role == "mask":
                made[role][random.random(kind.shape) < 0.3] = NEGATIVE
    return made


def slots_of(operation: Attention, arrays: dict[str, Array], batch: int, head: int, query: int) -> Array:
    """Cache entries of a query head's slots; -1 for none."""
    if isinstance(operation, DecodeAttention):
        return np.arange(operation.sizes.cached)
    indices = arrays["indices"]
    cache_head = head // operation.sizes.group if operation.per_cache_head else 0
    if isinstance(operation, GatherAttention):
        chosen = indices[batch, cache_head, query] if indices.ndim == 4 else indices[batch, query]
        return np.where((chosen >= 0) & (chosen < operation.sizes.cached), chosen, -1)
    chosen = indices[batch, cache_head, query // operation.query_block][:, None]
    entries = chosen * operation.block_size + np.arange(operation.block_size)
    return np.where((chosen >= 0) & (entries < operation.sizes.cached), entries, -1).reshape(-1)


def reference(operation: Attention, arrays: dict[str, Array]) -> Array:
    """The operation in float64, one query head at a time."""
    sizes, options = operation.sizes, operation.options
    scale = (sizes.key_size + sizes.rope_size) ** -0.5 if options.scale is None else options.scale
    values = arrays["keys"] if sizes.shared_value else arrays["values"]
    output = np.zeros(operation.outputs[0][1].shape)
    for batch, head, query in np.ndindex(*output.shape[:3]):
        entries = slots_of(operation, arrays, batch, head, query)
        length = int(arrays["lengths"][batch]) if "lengths" in arrays else sizes.cached
        seen = (entries >= 0) & (entries < length)
        if options.causal:
            seen &= entries <= length - sizes.queries + query
        place = (batch, head // sizes.group, np.maximum(entries, 0))
        scores = arrays["keys"][place].astype(np.float64) @ arrays["query"][batch, head, query].astype(np.float64)
        if sizes.rope_size:
            scores += arrays["keys_rope"][place].astype(np.float64) @ arrays["query_rope"][batch, head, query]
        scores *= scale
        if options.mask is not None:
            mask = np.broadcast_to(arrays["mask"], (sizes.batch, sizes.query_heads, *arrays["mask"].shape[2:]))
            row = mask[batch, head, query].astype(np.float64)
            scores = scores + (row[np.maximum(entries, 0)] if options.mask_by_entry else row)
        weights = np.exp(scores - scores[seen].max(initial=NEGATIVE)) if seen.any() else np.zeros_like(scores)
        weights = np.where(seen & (scores > NEGATIVE), weights, 0.0)
        if weights.sum() > 0:
            output[batch, head, query] = (weights / weights.sum()) @ values[place].astype(np.float64)
        else:
            output[batch, head, query] = np.nan if options.masked_rows == "nan" else 0.0
    return output


def check(operation: Attention, arrays: dict[str, Array], target: str = "interpreter") -> Array:
    """Runs the operation and compares; returns the output."""
    output = np.full(operation.outputs[0][1].shape, -7.0, operation.sizes.dtype.value)
    interpret_plan(operation.plan(target), arrays | {"output": output})
    with np.errstate(invalid="ignore"):
        expected = reference(operation, arrays)
    assert np.array_equal(np.isnan(output), np.isnan(expected))
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCE[operation.sizes.dtype] * scale)
    return output


OPERATIONS: tuple[Attention, ...] = (
    DecodeAttention(GQA),
    DecodeAttention(LATENT),
    DecodeAttention(GQA, AttentionOptions(scale=0.3, lengths=DType.INT64, causal=True)),
    GatherAttention(BATCHED, 37),
    GatherAttention(LATENT, 33, AttentionOptions(lengths=DType.INT32, causal=True)),
    GatherAttention(GQA, 21, index_dtype=DType.INT32, per_cache_head=True),
    BlockSparseAttention(GQA, 16, 3),
    BlockSparseAttention(GQA, 7, 4, AttentionOptions(causal=True), query_block=2, per_cache_head=False),
    BlockSparseAttention(BATCHED, 32, 2, AttentionOptions(lengths=DType.INT32)),
)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS, ids=kind_of)
def test_random_inputs(operation: Attention, splits: int) -> None:
    divided = replace(operation, splits=splits)
    check(divided, feeds(divided, seed=splits), "gfx90a")


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "interpreter"])
def test_every_target_computes_the_same(target: str) -> None:
    operation = GatherAttention(LATENT, 40) if target == "sm_90" else DecodeAttention(GQA, splits=1)
    check(operation, feeds(operation, seed=5), target)


@pytest.mark.parametrize("operation", [OPERATIONS[1], OPERATIONS[3], OPERATIONS[6]], ids=kind_of)
def test_half_precision(operation: Attention) -> None:
    narrow = replace(operation, sizes=replace(operation.sizes, dtype=F16))
    check(narrow, feeds(narrow, seed=2))


def test_bfloat16_on_the_interpreter() -> None:
    """Its products of bfloat16 are wrong, so operands are widened there."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    operation = GatherAttention(replace(LATENT, dtype=DType.BFLOAT16), 33)
    arrays = feeds(replace(operation, sizes=LATENT), seed=12)
    narrow = {role: array if role == "indices" else array.astype(ml_dtypes.bfloat16)
              for role, array in arrays.items()}
    output = interpret(operation, narrow)["output"].astype(np.float64)
    widened = {role: array.astype(np.float64) if role != "indices" else array for role, array in narrow.items()}
    np.testing.assert_allclose(output, reference(operation, widened), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("batches", "heads"), [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_masks_of_every_shape(batches: int, heads: int) -> None:
    options = AttentionOptions(mask=TensorType((batches, heads, 3, 50 if batches == heads else 37), F32))
    masked: Attention = GatherAttention(BATCHED, 37, options, splits=2) if batches != heads else DecodeAttention(
        BATCHED, options, splits=2)
    check(masked, feeds(masked, seed=batches + heads), "gfx90a")


def test_a_mask_over_the_cache_follows_the_indices() -> None:
    options = AttentionOptions(mask=TensorType((1, 1, 3, 50), F32), mask_by_entry=True)
    for operation in (GatherAttention(GQA, 37, options), BlockSparseAttention(GQA, 16, 3, options)):
        check(operation, feeds(operation, seed=9))


@pytest.mark.parametrize(("masked_rows", "splits"), [("nan", 2), ("zero", 1), ("zero", 2)])
def test_a_fully_masked_row(masked_rows: Any, splits: int) -> None:
    options = AttentionOptions(mask=TensorType((2, 1, 3, 70), F32), masked_rows=masked_rows)
    operation = GatherAttention(BATCHED, 70, options, splits=splits)
    arrays = feeds(operation, seed=3)
    arrays["mask"][1, 0, 2] = NEGATIVE
    arrays["indices"][0, 1] = -1
    output = check(operation, arrays, "gfx90a")
    empty = output[1, :, 2], output[0, :, 1]
    assert all(np.isnan(rows).all() if masked_rows == "nan" else (rows == 0).all() for rows in empty)
    assert np.isfinite(output[0, :, 0]).all()


def test_the_lowest_float_in_a_mask_is_not_minus_infinity() -> None:
    """Hugging Face hides entries with the lowest finite number; a row of them gives the mean of the values."""
    operation = DecodeAttention(GQA, AttentionOptions(mask=TensorType((1, 1, 3, 50), F32)), splits=2)
    arrays = feeds(operation, seed=4)
    arrays["mask"][:] = np.finfo(np.float32).min
    output = check_mean(operation, arrays)
    assert np.isfinite(output).all()


def check_mean(operation: Attention, arrays: dict[str, Array]) -> Array:
    output = np.zeros(operation.outputs[0][1].shape, np.float32)
    interpret_plan(operation.plan("gfx90a"), arrays | {"output": output})
    mean = arrays["values"].astype(np.float64).mean(2, keepdims=True).repeat(operation.sizes.group, axis=1)
    np.testing.assert_allclose(output, np.broadcast_to(mean, output.shape), atol=1e-5)
    return output


def test_one_selected_entry_is_its_value() -> None:
    operation = GatherAttention(BATCHED, 1)
    arrays = feeds(operation, seed=6)
    output = check(operation, arrays)
    np.testing.assert_array_equal(output[1, 3, 2], arrays["values"][1, 0, arrays["indices"][1, 2, 0]])


def test_equal_scores_weigh_the_same_and_duplicates_count_twice() -> None:
    operation = GatherAttention(GQA, 3)
    arrays = feeds(operation, seed=7)
    arrays["query"][:] = 0.0
    arrays["indices"][:] = np.array([5, 5, 11])
    output = check(operation, arrays)
    expected = (2 * arrays["values"][0, 0, 5] + arrays["values"][0, 0, 11]) / 3
    np.testing.assert_allclose(output[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [-1, 50, 2**32 + 3])
def test_an_index_outside_the_cache_is_no_entry(bad: int) -> None:
    operation = GatherAttention(GQA, 20)
    arrays = feeds(operation, seed=8)
    arrays["indices"][..., 3:7] = bad
    check(operation, arrays)
    blocks = BlockSparseAttention(GQA, 32, 3, splits=1)
    arrays = feeds(blocks, seed=8)
    arrays["indices"][..., 1] = bad
    check(blocks, arrays, "sm_90")


def test_large_scores_do_not_overflow() -> None:
    operation = DecodeAttention(GQA, AttentionOptions(scale=1000.0), splits=3)
    output = check(operation, feeds(operation, seed=10), "gfx90a")
    assert np.isfinite(output).all()


def test_lengths_shorter_than_a_tile_and_longer_than_the_cache() -> None:
    operation = DecodeAttention(BATCHED, AttentionOptions(lengths=DType.INT32), splits=2)
    arrays = feeds(operation, seed=11)
    for lengths in ((3, 75), (32, 33)):
        arrays["lengths"][:] = lengths
        check(operation, arrays, "gfx90a")


@pytest.mark.parametrize("seed", [20, 21])
def test_sizes_at_random(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(2):
        group, cache_heads = int(random.integers(1, 20)), int(random.integers(1, 3))
        sizes = AttentionSizes(1, group * cache_heads, cache_heads, int(random.integers(1, 4)),
                               int(random.integers(1, 130)), int(random.integers(1, 70)), int(random.integers(1, 70)),
                               F32, int(random.integers(0, 20)))
        splits = int(random.integers(1, 3))
        operations: tuple[Attention, ...] = (
            DecodeAttention(sizes, splits=splits),
            GatherAttention(sizes, int(random.integers(1, 150)), splits=splits),
            BlockSparseAttention(sizes, int(random.integers(1, 40)), int(random.integers(1, 6)),
                                 query_block=int(random.integers(1, 4)), splits=splits),
        )
        operation = operations[int(random.integers(3))]
        check(operation, feeds(operation, seed), "sm_80")


@pytest.mark.parametrize("target", TARGETS)
def test_plans_fill_the_card_and_name_every_argument(target: str) -> None:
    llama = AttentionSizes(1, 32, 8, 1, 131072, 128, 128, DType.BFLOAT16)
    latent = AttentionSizes(1, 128, 1, 1, 131072, 512, 512, DType.BFLOAT16, 64, True)
    for operation in (DecodeAttention(llama), GatherAttention(latent, 2048), BlockSparseAttention(llama, 64, 32)):
        plan = operation.plan(target)
        assert len(plan.launches) == 2
        assert np.prod(plan.launches[0].grid) >= 100
        assert_complete(operation, plan)
    some = GatherAttention(replace(latent, queries=64), 2048).plan("gfx90a")
    assert some.launches[0].grid == (128, 1, 3)  # 128 programs on 104 units would leave most of them idle for a round
    many = GatherAttention(replace(latent, queries=256), 2048).plan(target)
    assert len(many.launches) == 1
    assert many.scratch == ()


def assert_complete(operation: KernelOperation, plan: LaunchPlan) -> None:
    """Every tensor of every launch is an input, an output or scratch, and every output is written."""
    known = {role for role, _ in (*operation.inputs, *operation.outputs)} | {name for name, _ in plan.scratch}
    tensors = [passed for launch in plan.launches for _, passed in launch.arguments if isinstance(passed, Tensor)]
    assert {tensor.name for tensor in tensors} <= known
    assert {role for role, _ in operation.outputs} <= {tensor.name for tensor in tensors if tensor.written}


@pytest.mark.parametrize(("change", "message"), [
    ({"query_heads": 7}, "no multiple"), ({"dtype": DType.INT32}, "float16"), ({"key_size": 513}, "512"),
    ({"cached": 0}, "positive"), ({"shared_value": True}, "has its size"), ({"rope_size": 129}, "rope"),
    ({"cached": 1 << 30}, "2\\*\\*31"), ({"batch": 40000}, "65536"),
])
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        replace(GQA, **change)
    assert raised.value.code == "HET-G001"


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="a mask is float"):
        GatherAttention(GQA, 37, AttentionOptions(mask=TensorType((1, 1, 3, 75), F32)))
    with pytest.raises(UserError, match="int32 or int64"):
        GatherAttention(GQA, 37, index_dtype=DType.UINT8)
    with pytest.raises(UserError, match="0 selected"):
        GatherAttention(GQA, 0)
    with pytest.raises(UserError, match="1024"):
        BlockSparseAttention(GQA, 2048, 1)
    with pytest.raises(UserError, match="target"):
        DecodeAttention(GQA).plan("gfx1")


@pytest.mark.parametrize("kind", ["mean", "min", "max", "bounds"])
@pytest.mark.parametrize(("cached", "size", "page", "dtype"), [
    (50, 24, 16, F32), (64, 128, 16, F16), (7, 5, 1, F32), (9, 300, 200, F32), (131, 33, 100, F32), (1, 1, 4, F16),
])
def test_page_pooling(kind: Any, cached: int, size: int, page: int, dtype: DType) -> None:
    operation = PagePool(2, 2, cached, size, page, kind, dtype)
    keys = np.random.default_rng(page).standard_normal((2, 2, cached, size)).astype(dtype.value)
    keys[0, 0, 0, 0] = NEGATIVE if kind in ("min", "bounds") else 1.0
    outputs = {role: np.full(found.shape, -7.0, dtype.value) for role, found in operation.outputs}
    interpret_plan(operation.plan("gfx90a"), {"keys": keys, **outputs})
    pages = [keys[:, :, first:first + page].astype(np.float64) for first in range(0, cached, page)]
    how = {"mean": np.mean, "min": np.min, "max": np.max, "minimum": np.min, "maximum": np.max}
    for role, output in outputs.items():
        expected = np.stack([how[kind if role == "output" else role](rows, axis=2) for rows in pages], 2)
        tolerance = {F32: 1e-6, F16: 1e-3}[dtype] if kind == "mean" else 0.0
        np.testing.assert_allclose(output.astype(np.float64), expected, rtol=0, atol=tolerance)
    again = interpret(operation, {"keys": keys})
    assert all(np.allclose(again[role], output, atol=1e-2) for role, output in outputs.items())


def test_impossible_pooling_is_refused() -> None:
    with pytest.raises(UserError, match="positive"):
        PagePool(1, 1, 8, 0, 4, "mean", F32)
    with pytest.raises(UserError, match="pooling is"):
        PagePool(1, 1, 8, 8, 4, "median", F32)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="float32"):
        PagePool(1, 1, 8, 8, 4, "mean", DType.INT64)
