"""Memories of the stationary operands: filled before the first row, read for every group of lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.quantise import to_bfloat16
from hetcc.backends.fpga.stages.stage_graph import Access, InnerProduct, Lookup, Map, NumberFormat, StageGraph


@dataclass(frozen=True)
class Load:
    """One stationary operand: ``words`` 32-bit words, ``fast`` of them per lane."""

    operand: Access
    lanes: int
    fast: int

    @property
    def words(self) -> int:
        """How many words the host sends."""
        return self.lanes * self.fast


def loops_of(graph: StageGraph, operand: Any) -> tuple[str, ...]:
    """Loops over a stationary operand's words, slowest first, in the order the core takes them."""
    for stage in graph.stages:
        if isinstance(stage, InnerProduct) and stage.stationary is operand:
            return (*stage.lanes, *stage.over)
        if isinstance(stage, Lookup) and stage.table is operand:
            return stage.over
        if isinstance(stage, Map) and any(part is operand for part in stage.operands):
            return stage.lanes
    return ()


def loaded_memory(m: Module, core: Any, load: Load, width: int, lane: int, base: int, word: Any, taken: Any,
                  form: NumberFormat) -> Any:
    """Words of every ``width``-th lane, one lane's words side by side, filled as they come; its read port.

    Args:
        m: where it goes.
        core: the streaming core, for ``start`` and ``load_data``.
        load: the operand.
        width: lanes that are read at a time, a power of two.
        lane: which of them.
        base: number of the operand's first word among all that are loaded.
        word: number of the word that comes.
        taken: whether one comes.
        form: binary32, or bfloat16 into which words are rounded.
    """
    groups = load.lanes // width
    given = flushed(core.load_data) if form is NumberFormat.FP32 else to_bfloat16(core.load_data)
    memory = Memory(shape=len(given) * load.fast, depth=groups, init=[])
    m.submodules += memory
    port = memory.write_port(granularity=len(given))
    offset = Signal.like(word)
    m.d.comb += offset.eq(word - base)
    at_lane = Signal(range(load.lanes + 1))
    within = Signal(range(load.fast + 1))
    # Counters instead of a division: lanes pass slowest, words of a lane fastest.
    active = taken & (word >= base) & (word < base + load.words)
    with m.If(core.start):
        m.d.sync += [at_lane.eq(0), within.eq(0)]
    with m.Elif(active):
        with m.If(within == load.fast - 1):
            m.d.sync += [within.eq(0), at_lane.eq(at_lane + 1)]
        with m.Else():
            m.d.sync += within.eq(within + 1)
    # Where all lanes are read at once their number need not be a power of two.
    mine = active & ((at_lane if groups == 1 else at_lane & (width - 1)) == lane)
    m.d.comb += [port.addr.eq(at_lane >> (width.bit_length() - 1) if groups > 1 else 0),
                 port.data.eq(given.replicate(load.fast)),
                 port.en.eq(Mux(mine, 1 << within, 0))]
    return memory.read_port(domain="comb")


def incoming_vector(m: Module, core: Any, depth: int, word: Any) -> tuple[Any, Any]:
    """The words of a stationary vector put together as they come, and the pulse after its last one.

    Args:
        m: where it goes.
        core: the streaming core, for its ``load_*`` ports; vectors are its first load.
        depth: words of a vector.
        word: number of the word that comes.
    """
    vector, complete, at = Signal(32 * depth), Signal(), Signal(range(depth))
    taken = core.load_valid & core.load_ready & (word < core.loads[0].words)
    with m.If(taken):
        m.d.sync += [vector.eq(Cat(vector, flushed(core.load_data))[32:]),
                     at.eq(Mux(at == depth - 1, 0, at + 1))]
    with m.If(core.start):
        m.d.sync += at.eq(0)
    m.d.sync += complete.eq(taken & (at == depth - 1) & ~core.start)
    return vector, complete


def converted_memories(m: Module, load: Load, width: int, vector: Any, valid: Any, start: Any) -> list[Any]:
    """Memories of stationary vectors, filled with whole ones in lane order; their read ports.

    Args:
        m: where they go.
        load: the operand.
        width: lanes that are read at a time, a power of two.
        vector: a converted vector.
        valid: whether it comes.
        start: before the first.
    """
    lane = Signal(range(load.lanes + 1))
    with m.If(start):
        m.d.sync += lane.eq(0)
    with m.Elif(valid):
        m.d.sync += lane.eq(lane + 1)
    ports = []
    for at in range(width):
        memory = Memory(shape=len(vector), depth=load.lanes // width, init=[])
        m.submodules += memory
        port = memory.write_port()
        m.d.comb += [port.addr.eq(lane >> (width.bit_length() - 1)), port.data.eq(vector),
                     port.en.eq(valid & ((lane & (width - 1)) == at))]
        ports.append(memory.read_port(domain="comb"))
    return ports


__all__ = ["Load", "converted_memories", "incoming_vector", "loaded_memory", "loops_of"]
