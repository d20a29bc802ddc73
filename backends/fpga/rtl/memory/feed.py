"""From the stripes of a table to the rows of one step, and from a stream of single elements to those of one step.

What is a group, a unit and a step is told in ``layout``.
"""

from __future__ import annotations

import math
from typing import Any

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal

from hetcc.backends.fpga.memory.layout import portion_words
from hetcc.backends.fpga.rtl.memory.axi import BEAT_BITS


class GroupFeeder(Elaboratable):
    """Hands on a unit of one group in every step.

    Words come from as many neighbouring stripes at a time as divides the words of a unit (``layout.portion_words``),
    beginning behind the stripe where the last ones ended; where that is not the whole unit, portions are collected.
    Stripes may run ahead into the next segment, portions may not: a segment begins at the first stripe.

    Args:
        unit_words: words of a unit, or of what the core takes of it at a time.
        stripes: of the group.
        segment_words: of a segment in all stripes of the group; None where no word of the next one comes before
            ``clear``.
    """

    INPUTS = ("clear", "beat_valid", "beat_data", "take")
    OUTPUTS = ("beat_ready", "valid", "data")

    def __init__(self, unit_words: int, stripes: int, segment_words: int | None = None) -> None:
        self._words, self._stripes, self._segment_words = unit_words, stripes, segment_words
        self.clear = Signal()
        """Before the first step of a segment."""
        self.beat_valid = Signal(stripes)
        self.beat_ready = Signal(stripes)
        self.beat_data = Signal(BEAT_BITS * stripes)
        self.valid = Signal()
        self.take = Signal()
        """Only when ``valid``."""
        self.data = Signal(BEAT_BITS * unit_words)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        words = portion_words(self._words, self._stripes)
        valid, take, data = Signal(), Signal(), Signal(BEAT_BITS * words)
        self._turn(m, words, valid, take, data)
        depth = self._words // words
        if depth == 1:
            m.d.comb += [self.valid.eq(valid), take.eq(self.take), self.data.eq(data)]
            return m
        count = Signal(range(depth + 1))
        m.d.comb += [self.valid.eq(count == depth),
                     take.eq(valid & (~self.valid | self.take) & self._open(m, words, take) & ~self.clear)]
        m.d.sync += count.eq(Mux(self.take, 0, count) + take)
        with m.If(take):
            m.d.sync += self.data.eq(Cat(self.data, data)[BEAT_BITS * words:])
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        return m

    def _open(self, m: Module, words: int, take: Any) -> Any:
        """Whether portions of the segment are left."""
        if self._segment_words is None:
            return Const(1, 1)
        portions = self._segment_words // words
        left = Signal(range(portions + 1))
        with m.If(self.clear):
            m.d.sync += left.eq(portions)
        with m.Elif(take):
            m.d.sync += left.eq(left - 1)
        return left != 0

    def _turn(self, m: Module, words: int, valid: Any, take: Any, data: Any) -> None:
        """A word from each of ``words`` neighbouring stripes."""
        count = self._stripes
        turns = count // math.gcd(count, words)
        turn = Signal(range(max(turns, 2)))
        beats = [self.beat_data.word_select(at, BEAT_BITS) for at in range(count)]
        for at in range(turns):
            chosen = [(at * words + word) % count for word in range(words)]
            mask = sum(1 << stripe for stripe in chosen)
            with m.If(turn == at):
                m.d.comb += [valid.eq((self.beat_valid & mask) == mask), self.beat_ready.eq(Mux(take, mask, 0)),
                             data.eq(Cat(*(beats[stripe] for stripe in chosen)))]
        with m.If(self.clear):
            m.d.sync += turn.eq(0)
        with m.Elif(take):
            m.d.sync += turn.eq(Mux(turn == turns - 1, 0, turn + 1))


class Regrouper(Elaboratable):
    """Elements that come ``given`` at a time leave ``taken`` at a time; the last ones of a segment by themselves.

    Args:
        given: elements of an input; they divide a segment.
        taken: elements of an output.
        segment: elements of a segment.
        bits: of an element.
    """

    INPUTS = ("valid", "data", "out_ready")
    OUTPUTS = ("ready", "out_valid", "out_data")

    def __init__(self, given: int, taken: int, segment: int, bits: int = 32) -> None:
        self._given, self._taken, self._segment, self._bits = given, taken, segment, bits
        self.valid = Signal()
        self.ready = Signal()
        self.data = Signal(given * bits)
        self.out_valid = Signal()
        self.out_ready = Signal()
        self.out_data = Signal(taken * bits)

    def elaborate(self, _platform: Any) -> Module:
        """See the class."""
        m = Module()
        given, taken, bits = self._given, self._taken, self._bits
        # Room for an input behind what is left when an output is due: neither waits for the other.
        places = 2 * taken - 1 + given
        held, count = Signal(places * bits), Signal(range(places + 1))
        missing = Signal(range(self._segment + 1), init=self._segment)
        leaves, arrives, last = Signal(), Signal(), Signal()
        kept = Signal.like(count)
        m.d.comb += [
            self.out_valid.eq((count >= taken) | ((missing == 0) & (count != 0))),
            self.out_data.eq(held[:taken * bits]),
            self.ready.eq((missing != 0) & (count < 2 * taken)), arrives.eq(self.valid & self.ready),
            leaves.eq(self.out_valid & self.out_ready), last.eq(leaves & (missing == 0) & (count <= taken)),
            kept.eq(Mux(leaves, Mux(count >= taken, count - taken, 0), count)),
        ]
        m.d.sync += [count.eq(kept + Mux(arrives, given, 0)),
                     missing.eq(Mux(last, self._segment, missing - Mux(arrives, given, 0)))]
        with m.If(leaves):
            m.d.sync += held.eq(held >> (taken * bits))
        step = math.gcd(given, taken)
        for first in range(0, 2 * taken, step):
            with m.If(arrives & (kept == first)):
                m.d.sync += held[first * bits:(first + given) * bits].eq(self.data)
        return m


__all__ = ["GroupFeeder", "Regrouper"]
