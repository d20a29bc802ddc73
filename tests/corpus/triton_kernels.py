"""Small Triton kernels, as text that a test writes into a package of its own, and launches of them."""

from __future__ import annotations

from pathlib import Path

from hetcc.backends.gpu.kernels.launches import Launch, Scalar, Tensor
from hetcc.ir import DType

PACKAGE = "hetcc_test_kernels"
SOURCES = {
    "__init__": "",
    "shared": '''
import triton
import triton.language as tl


@triton.jit
def doubled(x):
    return x * 2
''',
    "good": '''
import triton
import triton.language as tl

from hetcc_test_kernels.shared import doubled


@triton.jit
def scale(x, y, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, doubled(tl.load(x + at, mask=at < n)) * factor, mask=at < n)


@triton.jit
def product(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    x = tl.load(a + m[:, None] * K + k[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    tl.store(c + m[:, None] * N + n[None, :], tl.dot(x, y))


@triton.jit
def share(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at)
    tl.store(y + at, values / tl.sum(values, 0))


@triton.jit
def numbers(x, a, b, c, d, e, f):
    tl.store(x, (a + b + c + d).to(tl.float32) + e + f)
''',
    "bad": '''
import triton
import triton.language as tl


@triton.jit
def wrong(x):
    tl.store(x, tl.arange(0, 3))


@triton.jit
def missing(x):
    tl.store(x, no_such_thing)
''',
    "crashing": '''
import os

os.abort()
''',
    "hanging": '''
import time

time.sleep(1000)
''',
}


def write_package(folder: Path) -> None:
    """Writes the package into a folder that is to be put on the path."""
    (folder / PACKAGE).mkdir(parents=True)
    for name, text in SOURCES.items():
        (folder / PACKAGE / f"{name}.py").write_text(text, encoding="utf-8")


X, Y = Tensor("x", DType.FLOAT32), Tensor("y", DType.FLOAT32, written=True)


def scale(block: int = 256, warps: int = 4, value: float = 1.5, grid: int = 1) -> Launch:
    """Elementwise."""
    return Launch("good", "scale", (("x", X), ("y", Y), ("n", Scalar(5)), ("factor", Scalar(value, "fp32"))),
                  (("BLOCK", block),), (grid, 1, 1), warps)


def product(size: int, depth: int, warps: int = 4) -> Launch:
    """Matrix product of one block."""
    half = Tensor("a", DType.FLOAT16)
    return Launch("good", "product", (("a", half), ("b", half), ("c", Y)), (("M", size), ("N", size), ("K", depth)),
                  (1, 1, 1), warps)


def share(block: int) -> Launch:
    """Each entry's share of the sum. Sixteen warps leave a thread 128 registers: 128 entries or more do not fit."""
    return Launch("good", "share", (("x", X), ("y", Y)), (("BLOCK", block),), (1, 1, 1), 16)


def numbers() -> Launch:
    """An argument of every size."""
    kinds = {"a": (1, "i8"), "b": (2, "i16"), "c": (3, "i64"), "d": (4, "i32"), "e": (0.5, "fp32"), "f": (0.5, "fp64")}
    scalars = tuple((name, Scalar(*kind)) for name, kind in kinds.items())
    return Launch("good", "numbers", (("x", Y), *scalars), (), (1, 1, 1))


def bad(function: str, module: str = "bad") -> Launch:
    """One of the kernels that go wrong."""
    return Launch(module, function, (("x", Y),), (), (1, 1, 1))
