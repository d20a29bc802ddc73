"""Memories of the stationary operands: filled before the first row, read for every group of lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.rtl.units.blocks import factor_of
from hetcc.backends.fpga.rtl.units.fp32 import flushed
from hetcc.backends.fpga.rtl.units.library import Library
from hetcc.backends.fpga.rtl.units.quantise import to_bfloat16
from hetcc.backends.fpga.stages.loads import Load
from hetcc.backends.fpga.stages.number_format import NumberFormat


class HeldWords(Elaboratable):
    """Groups of ``parts`` granules, written a granule at a time and read a group at a time.

    Args:
        bits: of a granule.
        parts: granules of a group.
        groups: how many.
    """

    def __init__(self, bits: int, parts: int, groups: int) -> None:
        self._bits, self._parts, self._groups = bits, parts, groups
        self.write = Signal()
        self.write_group = Signal(range(max(groups, 2)))
        self.write_place = Signal(range(max(parts, 2)))
        self.granule = Signal(bits)
        self.group = Signal(range(max(groups, 2)))
        self.data = Signal(bits * parts)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        m.submodules.words = memory = Memory(shape=self._bits * self._parts, depth=self._groups, init=[])
        write, read = memory.write_port(granularity=self._bits), memory.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self.write_group), write.data.eq(self.granule.replicate(self._parts)),
                     write.en.eq(Mux(self.write, 1 << self.write_place, 0)), read.addr.eq(self.group),
                     self.data.eq(read.data)]
        return m


@dataclass(frozen=True)
class HeldPort:
    """Where groups of words are read."""

    addr: Any
    data: Any


def loaded_memories(m: Module, library: Library, load: Load, width: int, active: Any, words: Any,
                    form: NumberFormat | None, start: Any) -> list[HeldPort]:
    """Words of an operand, one lane's words side by side, filled as they come; a memory for every ``width``-th lane.

    Args:
        m: where they go.
        library: makes them.
        load: the operand.
        width: lanes that are read at a time, a power of two.
        active: whether words of this operand come.
        words: the binary32 words that come, the first of a granule in the lowest bits.
        form: of the factors that are held, a floating point one; None for the words as they come.
        start: before the first.
    """
    groups, parts = load.lanes // width, load.fast // load.granule
    at_lane, within = Signal(range(load.lanes + 1)), Signal(range(parts + 1))
    # Counters instead of a division: lanes pass slowest, granules of a lane fastest.
    with m.If(start):
        m.d.sync += [at_lane.eq(0), within.eq(0)]
    with m.Elif(active):
        with m.If(within == parts - 1):
            m.d.sync += [within.eq(0), at_lane.eq(at_lane + 1)]
        with m.Else():
            m.d.sync += within.eq(within + 1)
    # Where all lanes are read at once their number need not be a power of two.
    turn = at_lane if groups == 1 else at_lane & (width - 1)
    held = Cat(*(_held(words.word_select(at, 32), form) for at in range(load.granule)))
    given = Signal(len(held))
    m.d.comb += given.eq(held)
    write_group = Signal(range(max(groups, 2)))
    m.d.comb += write_group.eq(at_lane >> (width.bit_length() - 1) if groups > 1 else 0)
    ports = []
    for lane in range(width):
        group = Signal(range(max(groups, 2)))
        data = library.place(
            m, f"hetcc_held{parts}x{len(given)}_{groups}", lambda: HeldWords(len(given), parts, groups),
            {"write": active & (turn == lane), "write_group": write_group,
             "write_place": within[:(max(parts, 2) - 1).bit_length()], "granule": given, "group": group}, ("data",))[0]
        ports.append(HeldPort(group, data))
    return ports


def _held(word: Any, form: NumberFormat | None) -> Any:
    """A binary32 word as it is held."""
    if form is None:
        return flushed(word)
    return factor_of(to_bfloat16(word) if form is NumberFormat.BF16 else flushed(word), form.float_bits)


def incoming_vector(m: Module, core: Any, depth: int, beat: Any) -> tuple[Any, Any]:
    """The words of a stationary vector put together as they come, and the pulse after its last ones.

    Args:
        m: where it goes.
        core: the streaming core, for its ``load_*`` ports; vectors are its first load.
        depth: words of a vector.
        beat: number of the granule that comes.
    """
    load = core.loads[0]
    parts = depth // load.granule
    vector, complete, at = Signal(32 * depth), Signal(), Signal(range(max(parts, 2)))
    taken = core.load_valid & core.load_ready & (beat < load.beats)
    words = Cat(*(flushed(core.load_data.word_select(number, 32)) for number in range(load.granule)))
    with m.If(taken):
        m.d.sync += [vector.eq(Cat(vector, words)[32 * load.granule:]), at.eq(Mux(at == parts - 1, 0, at + 1))]
    with m.If(core.start):
        m.d.sync += at.eq(0)
    m.d.sync += complete.eq(taken & (at == parts - 1) & ~core.start)
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


__all__ = ["converted_memories", "incoming_vector", "loaded_memories"]
