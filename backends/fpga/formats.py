"""Numeric policies of a region: in which format the factors of inner products with a table are held.

``exact`` is binary32 throughout. ``quantised:FORMAT`` is never chosen unless it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from hetcc.backends.contract import EXACT, Rejected
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.numbers import Floats
from hetcc.backends.fpga.stages.operations import inner_products, select
from hetcc.backends.fpga.stages.packed import with_packed_weights
from hetcc.backends.fpga.stages.stage_graph import InnerProduct, Scan, StageGraph
from hetcc.errors import UserError
from hetcc.ir import DType

POLICIES: dict[str, NumberFormat] = {
    EXACT: NumberFormat.FP32,
    **{f"quantised:{form.value}": form for form in (NumberFormat.INT8, NumberFormat.INT16, NumberFormat.BF16)},
}
_ELEMENTS = {NumberFormat.FP32: DType.FLOAT32, NumberFormat.BF16: DType.BFLOAT16, NumberFormat.INT16: DType.INT16,
             NumberFormat.INT8: DType.INT8}
DESCRIPTIONS: dict[str, str] = {
    EXACT: "exact: binary32, nearest even, subnormals are zero, aligned pairwise sums",
    "quantised:bf16": "quantised:bf16: factors of products with the table rounded to bfloat16, binary32 sums",
    **{f"quantised:int{bits}": f"quantised:int{bits}: factors of products with the table are {bits}-bit integers times "
       "one power of two per row and per query vector; exact integer sums, then binary32" for bits in (8, 16)},
}


def format_of(policy: str) -> NumberFormat:
    """The operand format of a policy.

    Raises:
        UserError: HET-U001, no such policy.
    """
    if policy not in POLICIES:
        raise UserError("HET-U001", f"no numeric policy '{policy}'", fix=f"one of {', '.join(POLICIES)}")
    return POLICIES[policy]


def factor_type_of(policy: str) -> DType:
    """Element type of the factors of products with a table under a policy, whatever the table's is.

    Raises:
        UserError: HET-U001, no such policy.
    """
    return _ELEMENTS[format_of(policy)]


def with_policy(graph: StageGraph, policy: str) -> StageGraph | Rejected:
    """The same kernel with every inner product of table rows in the policy's format; other stages stay binary32.

    Raises:
        UserError: HET-U001, no such policy.
    """
    form = format_of(policy)
    if form is NumberFormat.FP32:
        return with_packed_weights(graph)
    stages = tuple(replace(stage, format=form) if isinstance(stage, InnerProduct)
                   and isinstance(graph.stage(stage.source.stage), Scan) else stage for stage in graph.stages)
    if stages == graph.stages:
        return Rejected("the policy asks for quantised products, but no inner product reads a table", policy, EXACT)
    return with_packed_weights(replace(graph, stages=stages))


def policy_of(graph: StageGraph) -> str:
    """The policy a kernel was made with."""
    used = {stage.format for stage in graph.of_kind(InnerProduct)} - {NumberFormat.FP32}
    return next((name for name, form in POLICIES.items() if form in used), EXACT)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How inner products in a format compare with binary64."""

    largest_error: float
    """Largest difference of a score, divided by the standard deviation of all scores."""
    typical_error: float
    """Root of the mean squared difference, divided by the same."""
    recall: float
    """Share of the k best scores by binary64 that are among the k best in the format."""


def accuracy(rows: Floats, vectors: Floats, form: NumberFormat, k: int) -> Accuracy:
    """Accuracy of a format on given data.

    Args:
        rows: ``[D, N]``, finite.
        vectors: ``[D, M]``, finite; one selection of k rows each.
        form: of both factors.
        k: entries selected.
    """
    exact = vectors.astype(numpy.float64).T @ rows.astype(numpy.float64)
    found = inner_products(numbers.flush(rows), numbers.flush(vectors), form)
    error = found.astype(numpy.float64) - exact
    spread = float(exact.std()) or 1.0
    shares = []
    for reference, scores in zip(exact, found, strict=True):
        best = set(numpy.argsort(-reference, kind="stable")[:k].tolist())
        shares.append(len(best & set(select(scores, k, True).tolist())) / k)
    return Accuracy(float(numpy.abs(error).max()) / spread, float(numpy.sqrt((error**2).mean())) / spread,
                    sum(shares) / len(shares))


__all__ = ["DESCRIPTIONS", "EXACT", "POLICIES", "Accuracy", "accuracy", "factor_type_of", "format_of",
           "policy_of", "with_policy"]
