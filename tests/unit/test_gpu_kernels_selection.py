"""The selection kernels, interpreted, against float64 numpy: scores, top-k, threshold compaction, and scored top-k."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hetcc.backends.gpu.kernels.interpreter import interpret
from hetcc.backends.gpu.kernels.limits import EXTENT_LIMIT, TARGETS
from hetcc.backends.gpu.kernels.operations_scores import IndexScores
from hetcc.backends.gpu.kernels.operations_selection import Compact, ScoreTopK, TopK
from hetcc.backends.gpu.memory import numpy_dtype_of
from hetcc.errors import UserError
from hetcc.ir import DType

Array = np.ndarray[Any, np.dtype[Any]]
F32, F16, BF16 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16


def reference_topk(values: Array, k: int, largest: bool = True) -> Array:
    """Indices by a stable sort: NaN above everything, the lowest index first among equals."""
    wide = values.astype(np.float64)
    missing = np.isnan(wide)
    keys = np.where(missing, 0.0, wide)
    order = np.stack([np.lexsort((np.arange(row.size), -row if largest else row, -lost if largest else lost))
                      for row, lost in zip(keys, missing.astype(int), strict=True)])
    return order[:, :k]


def check_topk(values: Array, k: int, largest: bool = True, index_dtype: DType = DType.INT64) -> None:
    rows, extent = values.shape
    dtype = DType(values.dtype.name)
    out = interpret(TopK(rows, extent, k, dtype, largest, index_dtype), {"values": values})
    expected = reference_topk(values, k, largest)
    assert out["chosen_indices"].dtype == numpy_dtype_of(index_dtype)
    np.testing.assert_array_equal(out["chosen_indices"], expected)
    chosen = np.take_along_axis(values, expected, 1)
    assert out["chosen_values"].tobytes() == chosen.tobytes(), "values come out to the bit"


def awkward(kind: str, rows: int, extent: int, seed: int = 0) -> Array:
    """Rows of float32 that selections get wrong."""
    values = np.random.default_rng(seed).standard_normal((rows, extent)).astype(np.float32)
    if kind == "tied":
        values = np.round(values)
    elif kind == "equal":
        values[:] = 0.25
    elif kind == "masked":
        values[:, extent // 7:] = -np.inf
    elif kind == "all masked":
        values[:] = -np.inf
    elif kind == "nan":
        values[:, ::13] = np.nan
        values[:, 5] = -np.float32(np.nan)
    elif kind == "zeros":
        values = np.where(np.arange(extent) % 2 == 0, 0.0, -0.0) * np.ones((rows, 1))
    elif kind == "infinite":
        values[:, ::3], values[:, 1::3] = np.inf, -np.inf
    elif kind == "tiny":
        values *= np.float32(1e-42)
    return np.ascontiguousarray(values.astype(np.float32))


KINDS = ("random", "tied", "equal", "masked", "all masked", "nan", "zeros", "infinite", "tiny")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "extent", "k"), [(3, 77, 13), (1, 6151, 900)], ids=["whole row", "parts"])
def test_topk_is_exact_whatever_the_values(kind: str, rows: int, extent: int, k: int) -> None:
    check_topk(awkward(kind, rows, extent), k)


@pytest.mark.parametrize(("rows", "extent", "k"), [
    (1, 1, 1), (2, 2, 1), (5, 64, 64), (1, 4096, 4096), (1, 4097, 4096), (3, 4099, 5), (1, 12288, 1), (2, 9000, 2048)])
def test_topk_of_any_size(rows: int, extent: int, k: int) -> None:
    check_topk(awkward("tied", rows, extent, extent), k)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int32", "int16", "int8", "uint8"])
@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
def test_topk_of_every_type(name: str, largest: bool) -> None:
    generator = np.random.default_rng(1)
    dtype = numpy_dtype_of(DType(name))
    if name.endswith("int8") or name.startswith("int"):
        limits = np.iinfo(dtype)
        values = generator.integers(limits.min, limits.max, (1, 4500), dtype, endpoint=True)
        values[0, :2] = limits.min, limits.max
    else:
        values = awkward("nan", 1, 4500).astype(dtype)
    check_topk(values, 400, largest, DType.INT32)


def test_smallest_puts_nan_last() -> None:
    check_topk(awkward("nan", 2, 60), 60, largest=False)


def test_many_rows_are_sorted_and_few_are_ranked() -> None:
    check_topk(awkward("tied", 34, 4200), 3)
    assert TopK(33, 5000, 9).plan("sm_90").launches[-1].function == "sort_rows"
    assert TopK(32, 5000, 9).plan("sm_90").launches[-1].function == "rank"


def test_plans_have_few_launches() -> None:
    def functions(operation: TopK | ScoreTopK) -> list[str]:
        return [launch.function for launch in operation.plan("gfx90a").launches]

    assert functions(TopK(1, 1 << 20, 4096)) == ["clear", *["count_digits"] * 4, "compact", "rank"]
    assert functions(TopK(1, 1 << 20, 4096, F16)) == ["clear", *["count_digits"] * 2, "compact", "rank"]
    assert functions(TopK(512, 131_072, 2048)) == ["select_row", "sort_rows"]
    assert functions(TopK(512, 256, 8)) == ["sort_rows"]
    scores = IndexScores(1, 1, 64, 131_072, 128, relu=True, weight=F32)
    assert functions(ScoreTopK(scores, 2048)) == ["score_heads", *["count_digits"] * 4, "compact", "rank"]


@pytest.mark.slow
@pytest.mark.parametrize(("extent", "k"), [(131_072, 2048), (1_000_003, 4096)])
def test_topk_of_long_rows(extent: int, k: int) -> None:
    check_topk(np.round(awkward("random", 1, extent), 3), k)


def reference_scores(operation: IndexScores, arrays: dict[str, Array]) -> Array:
    """The formula in float64."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    query = wide["query"]
    if operation.form == "bound":
        low, high = wide["minimum"][:, None, None], wide["maximum"][:, None, None]
        worth = np.maximum(query[..., None, :] * low, query[..., None, :] * high).sum(-1)
    else:
        worth = np.einsum("bqhd,btd->bqht", query, np.broadcast_to(
            wide["key"], (operation.batch, operation.extent, operation.channels)))
    worth = worth * operation.scale
    worth = np.maximum(worth, 0) if operation.relu else worth
    total = np.einsum("bqht,bqh->bqt", worth, wide.get("weight", np.ones(query.shape[:3])))
    return total + wide["mask"] if "mask" in wide else total


def arrays_for(operation: IndexScores, seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    arrays = {name: generator.standard_normal(kind.shape).astype(numpy_dtype_of(kind.dtype))
              for name, kind in operation.inputs}
    if "minimum" in arrays:
        low, high = arrays["minimum"], arrays["maximum"]
        arrays["minimum"], arrays["maximum"] = np.minimum(low, high), np.maximum(low, high)
    if "mask" in arrays:
        arrays["mask"] = np.where(arrays["mask"] > 0.5, -np.inf, arrays["mask"]).astype(arrays["mask"].dtype)
    return arrays


SCORES = {
    "one query, many heads": IndexScores(2, 1, 64, 301, 128, F16, relu=True, weight=F32, scale=0.125),
    "more heads and channels than a tile": IndexScores(1, 1, 70, 130, 200, F16, relu=True, weight=F16),
    "many queries": IndexScores(2, 5, 3, 130, 40, F32, relu=True, weight=F32, mask=(1, 5)),
    "many queries, large": IndexScores(1, 3, 65, 33, 130, F16, mask=(1, 1), mask_dtype=F16),
    "bfloat16": IndexScores(1, 2, 4, 100, 64, BF16, relu=True, weight=BF16),
    "flat": IndexScores(2, 20, 1, 130, 33, F32, mask=(2, 1), key_batches=1),
    "flat, weighted": IndexScores(1, 17, 1, 64, 16, F16, relu=True, weight=F32, mask=(1, 17)),
    "one query, one head": IndexScores(3, 1, 1, 257, 300, F32, mask=(1, 1), key_batches=1, relu=True, weight=F32),
    "a mask per batch": IndexScores(2, 1, 4, 70, 16, F32, mask=(2, 1)),
    "one head, a mask per batch": IndexScores(2, 1, 1, 70, 16, F32, mask=(2, 1), mask_dtype=BF16),
    "one of each": IndexScores(1, 1, 1, 1, 1, F32),
    "bound": IndexScores(2, 1, 1, 67, 128, F16, "bound", scale=2.0),
    "bound, many heads": IndexScores(1, 1, 32, 67, 64, F16, "bound", weight=F32),
    "bound, many queries and heads": IndexScores(1, 3, 8, 67, 200, F32, "bound", relu=True, mask=(1, 3)),
    "bound, many queries": IndexScores(1, 3, 1, 67, 64, F32, "bound"),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_formula(name: str) -> None:
    operation = SCORES[name]
    arrays = arrays_for(operation)
    scores = interpret(operation, arrays)["scores"]
    expected = reference_scores(operation, arrays)
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5 * operation.channels * operation.heads ** 0.5)


def test_nan_stays_nan_under_relu() -> None:
    operation = IndexScores(1, 1, 4, 20, 16, F32, relu=True, weight=F32)
    arrays = arrays_for(operation)
    arrays["key"][0, 3, 2] = np.nan
    assert np.flatnonzero(np.isnan(interpret(operation, arrays)["scores"])).tolist() == [3]


def test_narrow_scores_are_rounded_to_nearest_even() -> None:
    for output in (BF16, F16):
        wide = IndexScores(1, 1, 1, 500, 8, F32)
        arrays = arrays_for(wide)
        narrow = interpret(IndexScores(1, 1, 1, 500, 8, F32, output=output), arrays)["scores"]
        np.testing.assert_array_equal(narrow, interpret(wide, arrays)["scores"].astype(numpy_dtype_of(output)))


@pytest.mark.parametrize("scores", [
    IndexScores(1, 1, 8, 5003, 32, F32, relu=True, weight=F32, output=BF16),
    IndexScores(1, 1, 1, 4500, 16, F32, mask=(1, 1)),
    IndexScores(1, 2, 4, 4200, 16, F16, relu=True, weight=F32),
    IndexScores(2, 3, 1, 50, 16, F32, mask=(1, 3)),
], ids=["one query", "masked", "two queries", "short"])
def test_scored_topk_is_topk_of_the_scores(scores: IndexScores) -> None:
    arrays = arrays_for(scores, 3)
    if "mask" in arrays:
        arrays["mask"][..., 10:] = -np.inf
    expected = interpret(scores, arrays)["scores"].reshape(scores.rows, scores.extent)
    order = reference_topk(expected, 40)
    out = interpret(ScoreTopK(scores, 40), arrays)
    np.testing.assert_array_equal(out["chosen_indices"].reshape(scores.rows, 40), order)
    chosen = np.take_along_axis(expected, order, 1)
    np.testing.assert_array_equal(out["chosen_values"].reshape(scores.rows, 40), chosen)


@pytest.mark.slow
def test_scored_topk_at_production_size() -> None:
    scores = IndexScores(1, 1, 64, 131_072, 128, F16, relu=True, weight=F32)
    arrays = arrays_for(scores)
    out = interpret(ScoreTopK(scores, 2048), arrays)
    expected = reference_scores(scores, arrays).reshape(1, -1)
    chosen = set(out["chosen_indices"].ravel().tolist())
    assert len(chosen & set(reference_topk(expected, 2048).ravel().tolist())) >= 2046


@pytest.mark.parametrize("strict", [True, False], ids=["above", "at least"])
@pytest.mark.parametrize("kind", ["random", "tied", "nan", "all masked"])
def test_compaction_keeps_index_order(kind: str, strict: bool) -> None:
    values = awkward(kind, 2, 6151, 4)
    limits = np.array([1.0, -np.inf], np.float32)
    out = interpret(Compact(2, 6151, 900, strict=strict), {"values": values, "threshold": limits})
    for row in range(2):
        passing = np.flatnonzero(values[row] > limits[row] if strict else values[row] >= limits[row])
        assert out["count"][row] == passing.size
        kept = passing[:900]
        np.testing.assert_array_equal(out["chosen_indices"][row, :kept.size], kept)
        assert (out["chosen_indices"][row, kept.size:] == -1).all()


@pytest.mark.parametrize(("dtype", "limit"), [(BF16, 0.5), (F16, -0.25), (DType.INT8, 3.5)])
def test_compaction_with_a_constant_threshold(dtype: DType, limit: float) -> None:
    values = (np.random.default_rng(2).standard_normal((1, 50)) * 4).astype(numpy_dtype_of(dtype))
    out = interpret(Compact(1, 50, 70, dtype, False, limit, DType.INT32), {"values": values})
    passing = np.flatnonzero(values[0].astype(np.float64) >= limit)
    assert out["chosen_indices"][0].tolist() == [*passing.tolist(), *[-1] * (70 - passing.size)]
    assert out["count"].tolist() == [passing.size]


def refusals() -> dict[str, Any]:
    scores = IndexScores(1, 1, 1, 100, 8)
    return {
        "k above n": lambda: TopK(1, 10, 11), "k above the limit": lambda: TopK(1, 10_000, 4097),
        "no k": lambda: TopK(1, 10, 0), "too long": lambda: TopK(1, EXTENT_LIMIT + 1, 5),
        "type of values": lambda: TopK(1, 10, 1, DType.FLOAT64),
        "type of indices": lambda: TopK(1, 9, 1, F32, True, F32),
        "infinite": lambda: Compact(1, 10, 4, DType.INT8, threshold=float("inf")),
        "k above n of scores": lambda: ScoreTopK(scores, 101), "no capacity": lambda: Compact(1, 10, 0),
        "type to compact": lambda: Compact(1, 10, 4, DType.BOOL), "no heads": lambda: IndexScores(1, 1, 0, 10, 8),
        "form": lambda: IndexScores(1, 1, 1, 10, 8, form="cosine"),  # type: ignore[arg-type]
        "type of keys": lambda: IndexScores(1, 1, 1, 10, 8, DType.INT8),
        "mask": lambda: IndexScores(4, 1, 1, 10, 8, mask=(2, 1)),
        "keys": lambda: IndexScores(4, 1, 1, 10, 8, key_batches=2),
        "target": lambda: TopK(1, 10, 1).plan("gfx1100"),
    }


@pytest.mark.parametrize("name", refusals())
def test_sizes_that_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="HET-G001"):
        refusals()[name]()


def test_wrong_arrays_are_refused() -> None:
    for arrays in ({}, {"values": np.zeros((1, 9), np.float32)}, {"values": np.zeros((1, 10), ml_dtypes.bfloat16)}):
        with pytest.raises(UserError, match="HET-R002"):
            interpret(TopK(1, 10, 1), arrays)


@pytest.mark.parametrize("target", TARGETS)
def test_plans_name_what_they_read_and_write(target: str) -> None:
    operations = [TopK(1, 131_072, 64), TopK(300, 9000, 7), Compact(3, 70_000, 5), *SCORES.values(),
                  *(ScoreTopK(scores, 1) for scores in SCORES.values())]
    for operation in operations:
        plan = operation.plan(target)
        types = dict(operation.inputs) | dict(operation.outputs) | dict(plan.scratch)
        for launch in plan.launches:
            assert all(types[passed.name].dtype == passed.dtype for _, passed in launch.arguments)
            assert launch.grid[0] < 1 << 31 and max(launch.grid[1:]) <= 65_535 and min(launch.grid) >= 1
        written = {passed.name for launch in plan.launches for _, passed in launch.arguments if passed.written}
        assert written == set(dict(operation.outputs)) | set(dict(plan.scratch))


def test_interpreting_leaves_compiled_kernels_alone() -> None:
    code = ("import numpy as np, triton\n"
            "from hetcc.backends.gpu.kernels import radix_select as compiled\n"
            "from hetcc.backends.gpu.kernels.interpreter import interpret\n"
            "from hetcc.backends.gpu.kernels.operations_selection import TopK\n"
            "before = triton.language.sum\n"
            "out = interpret(TopK(1, 5, 2), {'values': np.array([[1, 5, 2, 5, 0]], np.float32)})\n"
            "assert out['chosen_indices'].tolist() == [[1, 3]], out\n"
            "from hetcc.backends.gpu.kernels import radix_select as again\n"
            "assert again is compiled and type(again.rank) is triton.JITFunction\n"
            "assert triton.language.sum is before and not triton.knobs.runtime.interpret\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
