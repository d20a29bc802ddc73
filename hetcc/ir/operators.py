"""What an operator does, in the small closed vocabulary that tagging, cost and regions share.

A node keeps its source operator (so that an executable program can be rebuilt from it) and one
``OperatorClass`` with normalised attributes (so that passes need not know where it came from).
Attributes by class; ``axis`` and ``axes`` are never negative, ``data``/``indices``/``updates``/``lhs``/``rhs``/
``bias``/``input`` are positions in ``Node.inputs``:

=============  ==========================================================================================
VIEW           kind: reshape | permute (permutation) | expand | unsqueeze | squeeze | slice (axis, start,
               stop, step) | select (axis, index) | split (axis) | alias
ELEMENTWISE    function: add, sub, mul, div, pow, neg, relu, exp, rsqrt, sigmoid, where, le, cast, ...
REDUCTION      function: sum, mean, max, min, any, all, argmax; axes; keepdims
SOFTMAX        axis
NORMALIZATION  axes
MATMUL         lhs, rhs, bias (absent if none): ``[..., M, K] x [..., K, N]``
ATTENTION      query, key, value, mask (positions; mask absent if none); where the operator does nothing beside it:
               scale (absent: 1 / sqrt of the width), causal (from the first entry on), masked_rows: nan | zero
GATHER         data, indices, axis, mode: rows (whole slices at flat indices) | along (element by element)
SCATTER        data, indices, updates (absent for a constant), axis, mode: along | rows
CACHE_UPDATE   data, indices, updates, axis: rows of ``data`` replaced at ``indices``
TOPK           input, axis, k, largest; outputs are (values, indices)
SORT           input, axis, descending; outputs are (values, indices)
COMPACTION     input, capacity, fill: positions ``[capacity, rank]`` of the entries that are not zero, in row-major
               order; what does not fit is dropped, and rows behind the last position hold ``fill``
CONCAT         axis
COPY           nothing: same elements in a new buffer
CREATE         function: full | arange | empty | constant
CUMULATIVE     axis, function
CONVOLUTION    nothing
OPAQUE         nothing: known to no table; priced from its bytes and run by the host
=============  ==========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OperatorClass(Enum):
    """The closed set of operator classes; see the module text for their attributes."""

    VIEW = "view"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    SOFTMAX = "softmax"
    NORMALIZATION = "normalization"
    MATMUL = "matmul"
    ATTENTION = "attention"
    GATHER = "gather"
    SCATTER = "scatter"
    CACHE_UPDATE = "cache_update"
    TOPK = "topk"
    SORT = "sort"
    COMPACTION = "compaction"
    CONCAT = "concat"
    COPY = "copy"
    CREATE = "create"
    CUMULATIVE = "cumulative"
    CONVOLUTION = "convolution"
    OPAQUE = "opaque"

    @property
    def moves_no_data(self) -> bool:
        """Whether the node only renames or re-strides what its producer wrote."""
        return self is OperatorClass.VIEW


@dataclass(frozen=True, slots=True)
class SourceOperator:
    """The operator as its own domain spells it, enough to rebuild an executable program."""

    domain: str
    """``aten`` or ``onnx``."""
    name: str
    """For example ``topk`` or ``TopK``."""
    overload: str = ""
    """The aten overload (``default``); empty for onnx."""

    def __str__(self) -> str:
        return ".".join(part for part in (self.domain, self.name, self.overload) if part)
