"""Sorting hardware without feedback through long paths: a network that sorts one row, and a merger of sorted runs.

An *entry* is one unsigned number whose order is the order wanted (see ``topk``); a *row* is ``width`` entries side by
side, the largest first. Both units take a row per cycle at most and never stall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import sorter_stages

WRITE_TO_READ = 2
"""Cycles after a row was offered until it can be merged: written, then read into the head register."""


def sorting_network(width: int) -> list[list[tuple[int, int]]]:
    """Batcher's odd-even merge sort of a power of two: pairs (larger to, smaller to) of every stage."""
    stages = []
    block = 1
    while block < width:
        step = block
        while step >= 1:
            pairs = []
            for start in range(step % block, width - step, 2 * step):
                for at in range(start, min(start + step, width - step)):
                    if at // (2 * block) == (at + step) // (2 * block):
                        pairs.append((at, at + step))
            stages.append(pairs)
            step //= 2
        block *= 2
    return stages


def merging_network(width: int) -> list[list[tuple[int, int]]]:
    """Sorts a row that is bitonic (also one that was rotated)."""
    stages = []
    step = width // 2
    while step >= 1:
        stages.append([(at, at + step) for at in range(width) if not at & step])
        step //= 2
    return stages


def network(m: Module, entries: Sequence[Any], stages: Sequence[Sequence[tuple[int, int]]]) -> list[Any]:
    """A pipelined comparison network: one register per stage."""
    row = list(entries)
    for pairs in stages:
        registers = [Signal(len(entry)) for entry in row]
        chosen: list[Any] = list(row)
        for high, low in pairs:
            ordered = row[high] >= row[low]
            chosen[high], chosen[low] = Mux(ordered, row[high], row[low]), Mux(ordered, row[low], row[high])
        m.d.sync += [register.eq(value) for register, value in zip(registers, chosen, strict=True)]
        row = registers
    return row


def pulse(m: Module, value: Any, cycles: int, clear: Any) -> Any:
    """One bit some cycles later; ``clear`` empties the way."""
    for _ in range(cycles):
        later = Signal()
        m.d.sync += later.eq(value & ~clear)
        value = later
    return value


class RowSorter(Elaboratable):
    """Sorts each row, ``sorter_stages(width)`` cycles later."""

    def __init__(self, width: int, bits: int) -> None:
        self._width = width
        self._bits = bits
        self.row = Signal(width * bits)
        self.result = Signal(width * bits)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        stages = sorting_network(self._width)
        assert len(stages) == sorter_stages(self._width)
        entries = [self.row.word_select(at, self._bits) for at in range(self._width)]
        m.d.comb += self.result.eq(Cat(*network(m, entries, stages)))
        return m


class _Side:
    """One input of a merger: a memory per column, each with a reading position and a head register of its own."""

    def __init__(self, m: Module, width: int, bits: int, rows: int, name: str) -> None:
        depth = 2 * rows
        positions = range(depth)
        self.write_row = Signal(positions, name=f"{name}_write")
        self.heads, self.positions, self._ports = [], [], []
        self._writes = []
        for column in range(width):
            memory = Memory(shape=bits, depth=depth, init=[])
            m.submodules[f"{name}{column}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="sync")
            position = Signal(positions, name=f"{name}_position{column}")
            self.heads.append(read.data)
            self.positions.append(position)
            self._ports.append(read)
            self._writes.append(write)

    def store(self, m: Module, enable: Any, row: Any, bits: int) -> None:
        """Write a row when enabled."""
        for column, write in enumerate(self._writes):
            m.d.comb += [write.addr.eq(self.write_row), write.data.eq(row.word_select(column, bits)),
                         write.en.eq(enable)]

    def advance(self, m: Module, column: int, taken: Any, restart: Any, target: Any, clear: Any) -> None:
        """Move a column's reading position; its head register follows one cycle later."""
        following = Signal.like(self.positions[column])
        m.d.comb += following.eq(Mux(clear, 0, Mux(restart, target, self.positions[column] + taken)))
        m.d.sync += self.positions[column].eq(following)
        m.d.comb += [self._ports[column].addr.eq(following), self._ports[column].en.eq(1)]


class RunMerger(Elaboratable):
    """Merges pairs of sorted runs of ``rows`` rows into one of ``2 * rows``; or keeps the best ``rows`` rows of all.

    Column ``i`` of one run is compared with column ``width - 1 - i`` of the other, and the larger entry is taken. As
    every column then moves on by itself, these are always the ``width`` largest entries left, in bitonic order, which
    a merging network sorts; only one comparison lies between two steps. Each run's columns have a memory that holds
    two runs: a reading position whose top bit is not that of the current run has used its run up.

    Args:
        width: entries per row, a power of two.
        bits: of an entry.
        rows: rows of a run, a power of two.
        keep: keep a running list of the best ``rows`` rows instead.
    """

    def __init__(self, width: int, bits: int, rows: int, keep: bool) -> None:
        self._width, self._bits, self._rows, self._keep = width, bits, rows, keep
        self.clear = Signal()
        self.valid_in = Signal()
        self.row_in = Signal(width * bits)
        self.valid_out = Signal()
        self.row_out = Signal(width * bits)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        side_a = _Side(m, self._width, self._bits, self._rows, "a")
        side_b = _Side(m, self._width, self._bits, self._rows, "b")
        step, last = self._steps(m, self._write(m, side_a, side_b))
        parity, first = Signal(), Signal(init=1)
        with m.If(self.clear):
            m.d.sync += [parity.eq(0), first.eq(1)]
        with m.Elif(step & last):
            m.d.sync += [parity.eq(~parity), first.eq(0)]
        chosen = self._choose(m, side_a, side_b, step, last, parity, first)
        made = network(m, chosen, merging_network(self._width))
        latency = (self._width - 1).bit_length()
        taken = pulse(m, step, 1, self.clear)
        m.d.comb += [self.valid_out.eq(pulse(m, taken, latency, self.clear)), self.row_out.eq(Cat(*made))]
        return m

    def _write(self, m: Module, side_a: _Side, side_b: _Side) -> tuple[Any, Any]:
        """Store arriving rows; pulses: a row of the second run is readable, and it is the run's last."""
        if self._keep:
            side_b.store(m, self.valid_in, self.row_in, self._bits)
            side_a.store(m, self.valid_out, self.row_out, self._bits)
            # The list that comes out of run r is read with run r + 1, whose half of the memory is the other one.
            with m.If(self.clear):
                m.d.sync += [side_a.write_row.eq(self._rows), side_b.write_row.eq(0)]
            with m.Else():
                m.d.sync += [side_a.write_row.eq(side_a.write_row + self.valid_out),
                             side_b.write_row.eq(side_b.write_row + self.valid_in)]
            arrives, place = self.valid_in, side_b.write_row
            ends = arrives & ((place & (self._rows - 1)) == self._rows - 1)
        else:
            second, place = Signal(), Signal(range(max(self._rows, 2)))
            ends_run = place == self._rows - 1
            with m.If(self.clear):
                m.d.sync += [second.eq(0), place.eq(0), side_a.write_row.eq(0), side_b.write_row.eq(0)]
            with m.Elif(self.valid_in):
                m.d.sync += [place.eq(Mux(ends_run, 0, place + 1)), second.eq(second ^ ends_run),
                             side_a.write_row.eq(side_a.write_row + ~second),
                             side_b.write_row.eq(side_b.write_row + second)]
            side_a.store(m, self.valid_in & ~second, self.row_in, self._bits)
            side_b.store(m, self.valid_in & second, self.row_in, self._bits)
            arrives = self.valid_in & second
            ends = arrives & ends_run
        return (pulse(m, arrives, WRITE_TO_READ, self.clear), pulse(m, ends, WRITE_TO_READ, self.clear))

    def _steps(self, m: Module, arrived: tuple[Any, Any]) -> tuple[Any, Any]:
        """When to take a row, and whether it is the last of this pair of runs.

        A row of the second run allows one step; its last row also those in which the first run is used up.
        """
        readable, ends = arrived
        total = self._rows if self._keep else 2 * self._rows
        credit, at = Signal(range(self._rows + 2)), Signal(range(max(total, 2)))
        step, last = Signal(), Signal()
        m.d.comb += [step.eq(readable | (credit != 0)), last.eq(at == total - 1)]
        more = 0 if self._keep else Mux(ends, self._rows, 0)
        with m.If(self.clear):
            m.d.sync += [credit.eq(0), at.eq(0)]
        with m.Else():
            m.d.sync += credit.eq(credit + readable + more - step)
            with m.If(step):
                m.d.sync += at.eq(Mux(last, 0, at + 1))
        return step, last

    def _choose(self, m: Module, side_a: _Side, side_b: _Side, step: Any, last: Any, parity: Any,
                first: Any) -> list[Any]:
        chosen = []
        width = self._width
        restart = step & last if self._keep else 0
        target = Mux(parity, 0, self._rows)
        for column in range(width):
            other = width - 1 - column
            left, right = side_a.heads[column], side_b.heads[other]
            if self._keep:
                take_left = Signal()
                m.d.comb += take_left.eq(~first & (left > right))
            else:
                take_left = Signal()
                m.d.comb += take_left.eq((side_a.positions[column][-1] == parity) & (
                    (side_b.positions[other][-1] != parity) | (left > right)))
            side_a.advance(m, column, step & take_left, restart, target, self.clear)
            side_b.advance(m, other, step & ~take_left, restart, target, self.clear)
            register = Signal(self._bits)
            m.d.sync += register.eq(Mux(take_left, left, right))
            chosen.append(register)
        return chosen


__all__ = ["RowSorter", "RunMerger", "merging_network", "network", "pulse", "sorting_network"]
