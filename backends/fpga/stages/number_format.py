"""How the factors of an inner product are held."""

from __future__ import annotations

from enum import Enum


class NumberFormat(Enum):
    """How the factors of an inner product with the table are held; see docs/fpga_stages.md, "Number formats"."""

    FP32 = "fp32"
    """As they are: the policy ``exact``."""
    BF16 = "bf16"
    """Rounded to bfloat16; their products are added like those of binary32."""
    INT16 = "int16"
    """Integers times one power of two per row and per stationary vector; added exactly."""
    INT8 = "int8"

    @property
    def integer_bits(self) -> int:
        """Bits of an integer format, 0 of a floating point one."""
        return {"int16": 16, "int8": 8}.get(self.value, 0)

    @property
    def float_bits(self) -> int:
        """Bits of a floating point format, 0 of an integer one."""
        return {"fp32": 32, "bf16": 16}.get(self.value, 0)


__all__ = ["NumberFormat"]
