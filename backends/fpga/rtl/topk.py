"""Exact top-k at one candidate per cycle, whatever the data: a row of cells that keep the better and pass the worse on.

A cell compares what arrives with what it holds. The first cell whose entry is worse takes the candidate and pushes its
own entry on; from then on every cell just takes what is pushed. Candidates come in index order and only a strictly
better one is taken, so that among equals the lower index stays in front. After the last candidate has passed all
cells, the entries stand sorted in the row and are shifted out at its head.
"""

from __future__ import annotations

from typing import Any

from amaranth import Elaboratable, Module, Mux, Signal

from hetcc.backends.fpga.rtl.library import Library, sort_key

INDEX_BITS = 20
CELLS_PER_BLOCK = 16


class CellBlock(Elaboratable):
    """Some neighbouring cells; ``*_in`` comes from the better side, ``back_*`` from the worse side when draining."""

    def __init__(self, cells: int, largest: bool) -> None:
        self._cells = cells
        self._largest = largest
        self.valid_in = Signal()
        self.push_in = Signal()
        self.value_in = Signal(32)
        self.index_in = Signal(INDEX_BITS)
        self.valid_out = Signal()
        self.push_out = Signal()
        self.value_out = Signal(32)
        self.index_out = Signal(INDEX_BITS)
        self.clear = Signal()
        self.drain = Signal()
        self.back_valid = Signal()
        self.back_value = Signal(32)
        self.back_index = Signal(INDEX_BITS)
        self.head_valid = Signal()
        self.head_value = Signal(32)
        self.head_index = Signal(INDEX_BITS)

    def _key(self, value: Any) -> Any:
        key = sort_key(value)
        return (key if self._largest else ~key)[:32]

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        moving: tuple[Any, ...] = (self.valid_in, self.push_in, self.value_in, self.index_in)
        held = [(Signal(name=f"valid{at}"), Signal(32, name=f"value{at}"), Signal(INDEX_BITS, name=f"index{at}"))
                for at in range(self._cells)]
        behind = [*held[1:], (self.back_valid, self.back_value, self.back_index)]
        for (valid, value, index), after in zip(held, behind, strict=True):
            moving = self._cell(m, moving, (valid, value, index), after)
        m.d.comb += [
            self.valid_out.eq(moving[0]), self.push_out.eq(moving[1]),
            self.value_out.eq(moving[2]), self.index_out.eq(moving[3]),
            self.head_valid.eq(held[0][0]), self.head_value.eq(held[0][1]), self.head_index.eq(held[0][2]),
        ]
        return m

    def _cell(self, m: Module, moving: tuple[Any, ...], held: tuple[Any, ...],
              after: tuple[Any, ...]) -> tuple[Any, ...]:
        arrives, push, new_value, new_index = moving
        valid, value, index = held
        better = self._key(new_value) > self._key(value)
        take = arrives & (push | ~valid | better)
        out_valid, out_push, out_value, out_index = Signal(), Signal(), Signal(32), Signal(INDEX_BITS)
        with m.If(self.clear):
            m.d.sync += [valid.eq(0), out_valid.eq(0)]
        with m.Elif(self.drain):
            m.d.sync += [valid.eq(after[0]), value.eq(after[1]), index.eq(after[2]), out_valid.eq(0)]
        with m.Else():
            with m.If(take):
                m.d.sync += [valid.eq(1), value.eq(new_value), index.eq(new_index)]
            m.d.sync += [out_valid.eq(arrives & (valid | ~take)), out_push.eq(take),
                         out_value.eq(Mux(take, value, new_value)), out_index.eq(Mux(take, index, new_index))]
        return out_valid, out_push, out_value, out_index


class TopKUnit(Elaboratable):
    """k cells in blocks.

    ``clear`` empties it, ``valid/value`` offer candidates in index order, ``drain`` shifts ``head_*`` on.
    """

    def __init__(self, library: Library, k: int, largest: bool) -> None:
        self._library = library
        self._k = k
        self._largest = largest
        self.clear = Signal()
        self.drain = Signal()
        self.valid = Signal()
        self.value = Signal(32)
        self.head_value = Signal(32)
        self.head_index = Signal(INDEX_BITS)
        self.accepted = Signal(INDEX_BITS + 1)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        sizes = [CELLS_PER_BLOCK] * (self._k // CELLS_PER_BLOCK)
        sizes += [self._k % CELLS_PER_BLOCK] if self._k % CELLS_PER_BLOCK else []
        with m.If(self.clear):
            m.d.sync += self.accepted.eq(0)
        with m.Elif(self.valid):
            m.d.sync += self.accepted.eq(self.accepted + 1)
        backs = [(Signal(), Signal(32), Signal(INDEX_BITS)) for _ in sizes] + [(0, 0, 0)]
        moving: tuple[Any, ...] = (self.valid, 0, self.value, self.accepted[:INDEX_BITS])
        for at, cells in enumerate(sizes):
            ports = ("valid_in", "push_in", "value_in", "index_in", "back_valid", "back_value", "back_index")
            inputs = dict(zip(ports, (*moving, *backs[at + 1]), strict=True))
            found = self._library.place(
                m, f"hetcc_topk_cells{cells}{'' if self._largest else '_smallest'}",
                lambda cells=cells: CellBlock(cells, self._largest),  # type: ignore[misc]
                {**inputs, "clear": self.clear, "drain": self.drain},
                ("valid_out", "push_out", "value_out", "index_out", "head_valid", "head_value", "head_index"))
            moving = found[:4]
            m.d.comb += [signal.eq(value) for signal, value in zip(backs[at], found[4:], strict=True)]
        m.d.comb += [self.head_value.eq(backs[0][1]), self.head_index.eq(backs[0][2])]
        return m


__all__ = ["CELLS_PER_BLOCK", "INDEX_BITS", "CellBlock", "TopKUnit"]
