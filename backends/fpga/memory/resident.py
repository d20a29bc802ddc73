"""Tables kept on chip: in the format of the product that reads them, in banks that each give a row per step.

Row ``g`` of the buffer (all segments, one behind the other) lies in bank ``g mod T``, blocks of rows that are reduced
together staying in one bank; ``T`` is a power of two, so bank and place are bits of ``g``. A bank holds what the
multipliers take: integers and the row's exponent, bfloat16 or binary32 numbers. It is filled from memory when the
host says that the table is another one, and a row that is appended is read back from memory once it is written there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.memory.layout import dealt_rows, wide_scan
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_graph import (
    Append,
    BufferRole,
    InnerProduct,
    Parallelism,
    Scan,
    StageGraph,
)
from hetcc.ir import DType

EXPONENT_BITS = 8


@dataclass(frozen=True, slots=True)
class Residency:
    """The banks of a table that is kept on chip."""

    row_bits: int
    """Of a row as it is held; a bank is as wide."""
    depth: int
    """Rows of a bank."""
    segment_depth: int
    """Of these, rows of one segment."""
    rows: int
    """Of all segments."""
    dealt: int
    """Neighbouring rows in one bank."""
    banks: int

    @property
    def bits(self) -> int:
        """Of all banks."""
        return self.row_bits * self.depth * self.banks


def is_resident(graph: StageGraph) -> bool:
    """Whether the scanned table is kept on chip."""
    parallel = graph.parallel or Parallelism()
    return parallel.block_banks + parallel.ultra_banks > 0


def resident_table(graph: StageGraph) -> str:
    """Name of the buffer that is kept on chip; empty when there is none."""
    return graph.of_kind(Scan)[0].table.buffer if is_resident(graph) else ""


def row_bits_of(product: InnerProduct, elements: int) -> int:
    """Bits of a row on chip."""
    bits = product.format.integer_bits
    if bits:
        return bits * elements + EXPONENT_BITS
    return elements * (16 if product.format is NumberFormat.BF16 else 32)


def residency_of(graph: StageGraph, together: int) -> Residency:
    """The banks of the scanned table when so many rows pass together.

    Args:
        graph: a kernel that ``resident_limit`` takes.
        together: rows per step, one from every bank.
    """
    wide = wide_scan(graph)
    assert wide is not None
    product = next(stage for stage in graph.of_kind(InnerProduct)
                   if isinstance(graph.stage(stage.source.stage), Scan))
    dealt = dealt_rows(graph)
    steps = math.ceil(math.ceil(wide.rows / dealt) / together) * dealt
    bits = row_bits_of(product, wide.row_bytes // 4)
    return Residency(bits, steps * wide.segments, steps, wide.rows * wide.segments, dealt, together)


def resident_limit(graph: StageGraph, together: int = 1) -> Rejected | None:
    """Why a table cannot be kept on chip with so many rows per step, or None; its size is a matter of the budget.

    Args:
        graph: the kernel.
        together: rows per step.
    """
    wide, scans = wide_scan(graph), graph.of_kind(Scan)
    if len(scans) != 1 or wide is None or wide.unit_rows > 1 or long_rows(graph) is not None:
        return Rejected("a table on chip is scanned alone, and its rows are whole words one behind the other")
    scan = scans[0]
    if not any(stage.source.stage == scan.name for stage in graph.of_kind(InnerProduct)):
        return Rejected("a table on chip is read by an inner product")
    if scan.element is not DType.FLOAT32:
        return Rejected("a table on chip comes from binary32 rows", "float32", scan.element.value)
    if graph.buffer(scan.table.buffer).role is not BufferRole.TABLE:
        return Rejected("what is kept on chip must stay the same between runs", "a cache",
                        graph.buffer(scan.table.buffer).role.value)
    elements, dealt = wide.row_bytes // 4, dealt_rows(graph)
    for what, count in (("elements of a row", elements), ("rows of a block", dealt), ("rows of a step", together)):
        if count & (count - 1):
            return Rejected(f"{what} that is kept on chip are a power of two", "a power of two", str(count))
    if wide.segments > 1 and wide.rows % (dealt * together):
        return Rejected("every part of a table on chip fills whole steps", f"a multiple of {dealt * together} rows",
                        str(wide.rows))
    return _append_limit(graph, scan.table.buffer, elements)


def _append_limit(graph: StageGraph, table: str, elements: int) -> Rejected | None:
    """New rows must begin where rows begin."""
    for stage in graph.of_kind(Append):
        strides = [stride for _, stride in stage.table.strides if stride >= elements]
        whole = not any(stride % elements for stride in (*strides, stage.row_stride, stage.table.offset))
        if stage.table.buffer == table and not whole:
            return Rejected("rows are appended to a table on chip as a whole", f"strides of {elements}",
                            str(stage.row_stride))
    return None


__all__ = ["EXPONENT_BITS", "Residency", "is_resident", "residency_of", "resident_limit", "resident_table",
           "row_bits_of"]
