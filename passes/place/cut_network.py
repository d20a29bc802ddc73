"""A minimum-cut problem over yes/no variables, built from whole arrays of terms and solved exactly in integers.

Every variable is on the *source* side or on the *sink* side. Terms are the ones a cut can express: a price for a side,
a price if one variable is on the source and another on the sink side, and a price if *any* of several is on a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetcc.errors import InternalError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]
    Floats = NDArray[numpy.float64]
    Flags = NDArray[numpy.bool_]

_SCALED_TOTAL = float(1 << 58)
"""Finite capacities are scaled to this sum: with one never-cut arc on top it stays below 2**63."""


@dataclass(frozen=True)
class Cut:
    """A minimum cut."""

    on_source_side: Flags
    """Side of each variable; the largest source side among the minimum cuts."""
    value: float
    """At most the minimum, at least the minimum less ``rounding``."""
    rounding: float
    """What rounding capacities down to integers took away, at most."""
    slack_to_sink: Floats
    """A lower limit of what moving the variable to the sink side adds to ``value``."""


class CutNetwork:
    """Collects terms; ``solve`` finds the sides with the least sum."""

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.constant = 0.0
        self._count = variables
        self._on_source: list[tuple[Integers, Floats]] = []
        self._on_sink: list[tuple[Integers, Floats]] = []
        self._arcs: list[tuple[Integers, Integers, Floats]] = []

    def pay_on_source(self, variables: Integers, prices: Floats) -> None:
        """Pay for each variable that is on the source side."""
        self._on_source.append((variables, prices))

    def pay_on_sink(self, variables: Integers, prices: Floats) -> None:
        """Pay for each variable that is on the sink side."""
        self._on_sink.append((variables, prices))

    def separate(self, sources: Integers, sinks: Integers, prices: Floats) -> None:
        """Pay for each pair whose first is on the source and whose second is on the sink side; infinity forbids it."""
        chosen = prices > 0.0
        self._arcs.append((sources[chosen], sinks[chosen], prices[chosen]))

    def any_on_source(self, groups: Integers, members: Integers) -> tuple[Integers, Integers]:
        """For each group a variable that is on the source side if any member is.

        Args:
            groups: group number of each entry.
            members: variable of each entry; no variable twice in a group.

        Returns:
            the distinct groups, rising, and the variable of each.
        """
        return self._any(groups, members, source=True)

    def any_on_sink(self, groups: Integers, members: Integers) -> tuple[Integers, Integers]:
        """As ``any_on_source``, for the sink side."""
        return self._any(groups, members, source=False)

    def _any(self, groups: Integers, members: Integers, source: bool) -> tuple[Integers, Integers]:
        import numpy

        distinct, first, where, sizes = numpy.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        indicator = members[first]
        several = numpy.flatnonzero(sizes > 1)
        indicator[several] = self._count + numpy.arange(len(several))
        self._count += len(several)
        entries = numpy.flatnonzero(sizes[where] > 1)
        tails, heads = members[entries], indicator[where[entries]]
        never = numpy.full(len(entries), math.inf)
        self._arcs.append((tails, heads, never) if source else (heads, tails, never))
        return distinct, indicator

    def solve(self) -> Cut:
        """The sides with the least sum of prices.

        Raises:
            InternalError: the solver reports anything but an optimum.
        """
        import numpy
        from ortools.graph.python.max_flow import SimpleMaxFlow

        tails, heads, prices, constant = self._all_arcs()
        count = self._count
        capacities, scale, rounding = _scaled(prices)
        solver = SimpleMaxFlow()
        arcs = solver.add_arcs_with_capacity(tails, heads, capacities)
        source, sink = count, count + 1
        solver.add_arc_with_capacity(source, sink, 0)
        status = solver.solve(source, sink)
        if status != solver.OPTIMAL:
            raise InternalError("HET-I001", f"the maximum-flow solver ended with status {status}", where="minimum cut")
        on_source = numpy.ones(count + 2, dtype=bool)
        on_source[numpy.array(solver.get_sink_side_min_cut(), dtype=numpy.int64)] = False
        from_source = tails == source
        slack = numpy.zeros(count)
        slack[heads[from_source]] = (capacities - solver.flows(arcs))[from_source] / scale
        return Cut(on_source[: self.variables], constant + solver.optimal_flow() / scale, rounding,
                   slack[: self.variables])

    def _all_arcs(self) -> tuple[Integers, Integers, Floats, float]:
        """Tails, heads and prices with the side prices as arcs of the terminals, and what is paid in any case."""
        import numpy

        count = self._count
        on_source, on_sink = _summed(self._on_source, count), _summed(self._on_sink, count)
        always = numpy.minimum(on_source, on_sink)
        from_source, to_sink = numpy.flatnonzero(on_sink > always), numpy.flatnonzero(on_source > always)
        arcs = [*self._arcs,
                (numpy.full(len(from_source), count), from_source, (on_sink - always)[from_source]),
                (to_sink, numpy.full(len(to_sink), count + 1), (on_source - always)[to_sink])]
        tails, heads, prices = (numpy.concatenate(part) for part in zip(*arcs, strict=True))
        return tails, heads, prices, self.constant + math.fsum(always.tolist())


def _summed(terms: list[tuple[Integers, Floats]], count: int) -> Floats:
    """Sum of the prices of each variable."""
    import numpy

    if not terms:
        return numpy.zeros(count)
    variables, prices = (numpy.concatenate(part) for part in zip(*terms, strict=True))
    return numpy.bincount(variables, weights=prices, minlength=count).astype(numpy.float64)


def _scaled(prices: Floats) -> tuple[Integers, float, float]:
    """Integer capacities (rounded down, so that no cut gets dearer), their scale, and the sum that rounding took."""
    import numpy

    finite = numpy.isfinite(prices)
    total = float(prices[finite].sum())
    # A power of two: scaling itself is exact.
    scale = 2.0 ** math.floor(math.log2(_SCALED_TOTAL / total)) if total > 0.0 else 1.0
    exact = numpy.where(finite, prices, 0.0) * scale
    capacities = numpy.floor(exact).astype(numpy.int64)
    rounding = float((exact - capacities).sum()) / scale
    capacities[~finite] = int(capacities.sum()) + 1
    return capacities, scale, rounding
