"""Which core a stage graph gets: rows that pass as a whole, from memory or kept on chip, in slices, or in
beats of one word of memory.
"""

from __future__ import annotations

from hetcc.backends.fpga.memory.resident import is_resident
from hetcc.backends.fpga.rtl.cores.attention import WeightedSumCore
from hetcc.backends.fpga.rtl.cores.long_rows import LongRowCore
from hetcc.backends.fpga.rtl.cores.resident import ResidentCore
from hetcc.backends.fpga.rtl.cores.slices import SlicedCore
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.stages.long_rows import long_rows
from hetcc.backends.fpga.stages.slices import slice_words
from hetcc.backends.fpga.stages.stage_graph import StageGraph, WeightedSum


def core_of(graph: StageGraph, library: Library, lanes: int, together: int = 1,
            beat_words: int | None = None) -> StreamCore:
    """The streaming core of a kernel within the limits of ``limits.check``.

    Args:
        graph: the kernel.
        library: where units come from.
        lanes: results of the first inner product per cycle and row; long rows take all at once.
        together: rows per step.
        beat_words: 32-bit words of a beat; of long rows 16 for every row.
    """
    if is_resident(graph):
        return ResidentCore(graph, library, lanes)
    if graph.of_kind(WeightedSum):
        return WeightedSumCore(graph, library, lanes)
    if long_rows(graph) is not None:
        return LongRowCore(graph, library, together)
    if slice_words(graph):
        return SlicedCore(graph, library, together)
    return StreamCore(graph, library, lanes, together, beat_words)


__all__ = ["core_of"]
