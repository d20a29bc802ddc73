"""What a kernel operation is for everybody who does not write Triton: launches in order, and the scratch they share.

All sizes are known when a region is compiled, so a launch fixes its grid and every constant. Tensors are dense and
row-major; a launch names them, and whoever runs it knows where they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol

from hetcc.ir import DType, TensorType

TRITON_TYPES = {
    DType.FLOAT32: "fp32", DType.FLOAT16: "fp16", DType.BFLOAT16: "bf16", DType.INT64: "i64", DType.INT32: "i32",
    DType.INT16: "i16", DType.INT8: "i8", DType.UINT8: "u8", DType.BOOL: "i1",
}
ALIGNMENT_BYTES = 16
"""Every tensor starts at a multiple of this many bytes; kernels are compiled for that."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a launch reads or writes: its role in the operation, or the name of a scratch buffer."""

    name: str
    dtype: DType
    written: bool = False

    @property
    def triton_type(self) -> str:
        """Pointer type in a Triton signature."""
        return f"*{TRITON_TYPES[self.dtype]}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number handed over at every launch; numbers known at compile time are constants instead."""

    value: int | float
    triton_type: str = "i32"


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a Triton function."""

    module: str
    """File of ``hetcc.backends.gpu.kernels`` that holds the function, without ``.py``."""
    function: str
    arguments: tuple[tuple[str, Tensor | Scalar], ...]
    """(parameter, what is passed) for the parameters that are not constants, in the function's order."""
    constants: tuple[tuple[str, int | float | bool | str], ...]
    """(parameter, value) for the ``tl.constexpr`` parameters."""
    grid: tuple[int, int, int]
    warps: int = 4
    stages: int = 2

    @property
    def code_digest(self) -> str:
        """Equal for launches that run the same code object: grid and scalars' values do not count."""
        facts = {**asdict(self), "grid": None, "arguments": [
            (parameter, passed.triton_type) for parameter, passed in self.arguments]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """An operation on one target: launches in order. A later launch sees what an earlier one wrote."""

    launches: tuple[Launch, ...]
    scratch: tuple[tuple[str, TensorType], ...] = ()
    """Buffers that live during the operation. Their contents are arbitrary at the start."""


class KernelOperation(Protocol):
    """A frozen dataclass of sizes, types and options that some kernels compute together."""

    @property
    def inputs(self) -> tuple[tuple[str, TensorType], ...]:
        """(role, type) of what it reads."""
        ...

    @property
    def outputs(self) -> tuple[tuple[str, TensorType], ...]:
        """(role, type) of what it writes."""
        ...

    def plan(self, target: str) -> LaunchPlan:
        """Launches for a GPU target (``gfx90a``, ``gfx942``, ``sm_80``, ``sm_90``) or for ``interpreter``."""
        ...
