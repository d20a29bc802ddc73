"""The streaming core that ends in a softmax with a weighted sum of another table's rows.

Three passes per instance, all from what the instance has on chip or reads once:

1. rows of the scored table pass as in ``top``; their scores go to a memory, and their maximum is kept;
2. rows of the values pass in beats of ``value_words``: the score of each row, less the maximum, becomes an exponential,
   which multiplies the elements of the beat; exponentials and products are folded over all rows;
3. every sum of products is divided by its sum of exponentials and leaves.

Scores that the core makes in several groups per row are taken in the same groups in the second pass, a beat at a time.
"""

from __future__ import annotations

import math
from typing import Any, cast

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hetcc.backends.fpga.costs.cycles import extent_product
from hetcc.backends.fpga.costs.cycles_attention import DIVIDE_LATENCY, EXPONENTIAL_LATENCY, VALUE_WORDS
from hetcc.backends.fpga.rtl.cores.point import Point
from hetcc.backends.fpga.rtl.cores.top import StreamCore
from hetcc.backends.fpga.rtl.memory.stream_output import place_stream_output
from hetcc.backends.fpga.rtl.units.divide import Divider
from hetcc.backends.fpga.rtl.units.exponential import Exponential
from hetcc.backends.fpga.rtl.units.fold import Fold
from hetcc.backends.fpga.rtl.units.fp32 import flushed, is_nan
from hetcc.backends.fpga.rtl.units.library import Library, delay, latency_of, sort_key
from hetcc.backends.fpga.rtl.units.merge import pulse
from hetcc.backends.fpga.stages.slices import other_tables
from hetcc.backends.fpga.stages.stage_graph import Access, Scan, StageGraph, WeightedSum


class WeightedSumCore(StreamCore):
    """The hardware of a stage graph with a weighted sum.

    Args:
        graph: the kernel.
        library: where units come from.
        lanes: results of the first inner product per cycle.
    """

    def __init__(self, graph: StageGraph, library: Library, lanes: int) -> None:
        super().__init__(graph, library, lanes)
        self._sum = cast(WeightedSum, graph.of_kind(WeightedSum)[0])
        self.value_scan = cast(Scan, graph.stage(self._sum.values.stage))
        self._width = extent_product(graph, self.value_scan.lanes)
        self.value_words = min(VALUE_WORDS, self._width)
        self.value_beats = math.ceil(self._width / self.value_words)
        # The values come on the last side port.
        self.own_sides = len(self.sides) - 1
        self.side_data[-1] = self.value_data = Signal(32 * self.value_words, name=f"side{self.own_sides}_data")
        self.value_valid, self.value_ready = self.side_valid[-1], self.side_ready[-1]

    def beats_of(self, scan: Scan) -> tuple[int, int, int]:
        """See :class:`StreamCore`."""
        return ((self._width, self.value_words, self.value_beats) if scan == self.value_scan
                else super().beats_of(scan))

    def _find_sides(self) -> list[Access]:
        return [*super()._find_sides(), *(scan.table for scan in other_tables(self._graph))]

    def _finish(self, m: Module, points: dict[str, Point]) -> None:
        point = points[self._sum.source.stage]
        self._count, self._groups = len(point.values), point.groups
        scored, memory, largest = self._keep_scores(m, point)
        self._leave(m, largest, *self._weigh(m, scored, memory, largest))

    # ---- first pass

    def _keep_scores(self, m: Module, point: Point) -> tuple[Any, Any, Any]:
        """Scores into a memory, their maxima into registers.

        Returns:
            whether all have come, the read port of the memory, and the maxima by group.
        """
        total = self.rows * self._groups
        memory = Memory(shape=32 * self._count, depth=max(total, 2), init=[])
        m.submodules.scores = memory
        write, read = memory.write_port(), memory.read_port(domain="sync")
        at, group, first, scored = Signal(range(total + 1)), Signal(range(max(self._groups, 2))), Signal(), Signal()
        arrives = point.valid & self.busy
        row = Cat(*point.values)
        m.d.comb += [write.addr.eq(at), write.data.eq(row), write.en.eq(arrives)]
        largest = [Signal(32 * self._count, name=f"largest{number}") for number in range(self._groups)]
        chosen = Array(largest)[group]
        better = [self._larger(chosen.word_select(lane, 32), value) for lane, value in enumerate(point.values)]
        with m.If(self.start):
            m.d.sync += [at.eq(0), group.eq(0), first.eq(1), scored.eq(0)]
        with m.Elif(arrives):
            m.d.sync += [at.eq(at + 1), group.eq(Mux(group == self._groups - 1, 0, group + 1)),
                         chosen.eq(Mux(first, row, Cat(*better)))]
            with m.If(group == self._groups - 1):
                m.d.sync += first.eq(0)
            with m.If(at == total - 1):
                m.d.sync += scored.eq(1)
        return scored, read, Array(largest)

    @staticmethod
    def _larger(left: Any, right: Any) -> Any:
        return Mux(is_nan(left) | is_nan(right), 0x7FC00000, Mux(sort_key(left) >= sort_key(right), left, right))

    # ---- second pass

    def _weigh(self, m: Module, scored: Any, memory: Any, largest: Any) -> tuple[Any, Any, Any, Any]:
        """Exponentials and their products with the values, folded; (valid, sums) of the latter and of the former."""
        issue, beat, group, beats = self._walk(m, scored, memory)
        score = memory.data
        place = delay(m, group, 1)
        differences = [self._library.binary(m, "sub", score.word_select(lane, 32),
                                            largest[place].word_select(lane, 32)) for lane in range(self._count)]
        terms = [self._library.place(m, "hetcc_exponential", Exponential, {"a": difference}, ("result",))[0]
                 for difference in differences]
        cycles = 1 + latency_of("sub") + EXPONENTIAL_LATENCY
        there = pulse(m, issue, cycles, self.start)
        first_beat = delay(m, beat == 0, cycles)
        words = [flushed(beats.word_select(at, 32)) for at in range(self.value_words)]
        words = [delay(m, word, cycles - 1) for word in words]
        products = [self._library.binary(m, "mul", term, word) for term in terms for word in words]
        sums = self._folded(m, "sums", self._groups * self.value_beats, products,
                            pulse(m, there, latency_of("mul"), self.start))
        totals = self._folded(m, "totals", self._groups, terms, there & first_beat)
        return (*sums, *totals)

    def _folded(self, m: Module, name: str, contexts: int, values: list[Any], valid: Any) -> tuple[Any, Any]:
        """Values of all rows added up, for each context and place: (valid, sums)."""
        found = self._library.place(
            m, f"hetcc_fold_{name}", lambda: Fold(self._library, self.rows, contexts, len(values)),
            {"clear": self.start, "valid": valid, "values": Cat(*values)}, Fold.OUTPUTS)
        return found[0], found[1]

    def _walk(self, m: Module, scored: Any, memory: Any) -> tuple[Any, Any, Any, Any]:
        """Rows, their beats, and the groups of scores for each beat; (issue, beat, group, the beat's words later)."""
        row, beat = Signal(range(self.rows + 1)), Signal(range(self.value_beats + 1))
        group, base = Signal(range(max(self._groups, 2))), Signal(range(self.rows * self._groups + 1))
        issue, last_group, last_beat = Signal(), Signal(), Signal()
        m.d.comb += [
            issue.eq(scored & self.value_valid & (row != self.rows) & ~self.start),
            last_group.eq(group == self._groups - 1), last_beat.eq(beat == self.value_beats - 1),
            self.value_ready.eq(issue & last_group), memory.addr.eq(base + group)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), beat.eq(0), group.eq(0), base.eq(0)]
        with m.Elif(issue):
            m.d.sync += group.eq(Mux(last_group, 0, group + 1))
            with m.If(last_group):
                m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
                with m.If(last_beat):
                    m.d.sync += [row.eq(row + 1), base.eq(base + self._groups)]
        return issue, beat, group, delay(m, self.value_data, 1)

    # ---- third pass

    def _leave(self, m: Module, largest: Any, sums_valid: Any, sums: Any, totals_valid: Any, totals: Any) -> None:
        """Quotients, elements of a row fastest."""
        entries = self._groups * self.value_beats
        memory = Memory(shape=len(sums), depth=max(entries, 2), init=[])
        m.submodules.sums = memory
        write, read = memory.write_port(), memory.read_port(domain="sync")
        stored, kept = Signal(range(entries + 1)), Signal(range(self._groups + 1))
        m.d.comb += [write.addr.eq(stored), write.data.eq(sums), write.en.eq(sums_valid)]
        held = Array([Signal(len(totals), name=f"totals{number}") for number in range(self._groups)])
        with m.If(self.start):
            m.d.sync += [stored.eq(0), kept.eq(0)]
        with m.Else():
            m.d.sync += [stored.eq(stored + sums_valid), kept.eq(kept + totals_valid)]
            with m.If(totals_valid):
                m.d.sync += held[kept].eq(totals)
        left, room, send = Signal(range(self.candidates + 1)), Signal(), Signal()
        word, beat, lane, group, entry = self._order(m, send)
        m.d.comb += [send.eq((stored == entries) & (left != 0) & room & ~self.start), read.addr.eq(entry)]
        with m.If(self.start):
            m.d.sync += left.eq(self.candidates)
        with m.Elif(send):
            m.d.sync += left.eq(left - 1)
        word, lane, group = (delay(m, value, 1) for value in (word, lane, group))
        dividend = read.data.word_select(lane * self.value_words + word, 32)
        result = self._library.place(m, "hetcc_fp32_divide", Divider,
                                     {"a": dividend, "b": held[group].word_select(lane, 32)}, ("result",))[0]
        if self._sum.zero_when_masked:
            # The largest of scores that are all minus infinity.
            masked = largest[group].word_select(lane, 32) == 0xFF800000
            result = Mux(delay(m, masked, DIVIDE_LATENCY), 0, result)
        valid = pulse(m, send, 1 + DIVIDE_LATENCY, self.start)
        del beat
        m.d.comb += room.eq(place_stream_output(m, self, [result], valid, 1 + DIVIDE_LATENCY, 1, self.candidates))

    def _order(self, m: Module, advance: Any) -> tuple[Any, ...]:
        """Counters over the results: word of a beat, beat, lane and group, and the entry that holds the word."""
        word, beat = Signal(range(self.value_words + 1)), Signal(range(self.value_beats + 1))
        lane, group = Signal(range(self._count + 1)), Signal(range(max(self._groups, 2)))
        entry = Signal(range(max(self._groups * self.value_beats, 2)))
        short = self._width - (self.value_beats - 1) * self.value_words
        ends = word == Mux(beat == self.value_beats - 1, short, self.value_words) - 1
        with m.If(self.start):
            m.d.sync += [word.eq(0), beat.eq(0), lane.eq(0), group.eq(0), entry.eq(0)]
        with m.Elif(advance):
            m.d.sync += word.eq(Mux(ends, 0, word + 1))
            with m.If(ends & (beat != self.value_beats - 1)):
                m.d.sync += [beat.eq(beat + 1), entry.eq(entry + self._groups)]
            with m.Elif(ends & (lane != self._count - 1)):
                m.d.sync += [beat.eq(0), lane.eq(lane + 1), entry.eq(group)]
            with m.Elif(ends):
                m.d.sync += [beat.eq(0), lane.eq(0), group.eq(group + 1), entry.eq(group + 1)]
        return word, beat, lane, group, entry


__all__ = ["WeightedSumCore"]
