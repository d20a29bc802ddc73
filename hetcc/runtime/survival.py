"""A request that outlives a device: what has to be remembered of it, and how it goes on elsewhere.

A step that fails in the middle leaves caches half changed. Those that are only appended to need no care: the same step
made again writes the same rows, and nobody reads them before (``hetcc.ir.appends``). Counters go back to what they
were before the step. All others are copied before every step of a plan that can go on; or, where caches are
recomputable, every step since the caches were empty is made again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy

from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph
from hetcc.ir.appends import Append, appends_of
from hetcc.plan.plan import Plan

Array = numpy.ndarray


def driver_codes(plan: Plan) -> dict[str, str]:
    """By error code of a driver that says that its device failed: that device."""
    return {spec.fault_code: spec.name for spec in plan.devices if spec.fault_code}


@dataclass(frozen=True)
class Recovery:
    """A request that went on without a device."""

    phase: str
    step: int
    """Steps of the request that were done before."""
    device: str
    error: str
    """What the driver said."""
    variant: str
    """Plan that goes on."""
    caches: str
    """``shadowed`` or ``recomputable``."""
    steps_repeated: int
    """Steps made again, the one that failed among them."""
    measured_time_s: float = 0.0
    """On this machine, from the fault to the result."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        return (f"warning: the {self.device} failed in step {self.step} of the request ({self.phase}): {self.error}; "
                f"'{self.variant}' goes on from {self.caches} caches, {self.steps_repeated} step"
                f"{'s' if self.steps_repeated > 1 else ''} repeated")


class DeviceLost(ToolError):
    """A step failed because its device did.

    Args:
        device: which one.
        said: the error as it is raised when nothing can go on.
        cause: of the driver.
    """

    def __init__(self, device: str, said: ToolError, cause: ToolError) -> None:
        super().__init__(said.code, said.what, where=said.where, fix=said.fix)
        self.device, self.cause = device, cause


@dataclass
class RequestLog:
    """What a request has been fed since its caches were empty, in order."""

    entries: list[tuple[str, Mapping[str, Array]]] = field(default_factory=list)
    """(phase, its inputs), or ("", a cache with what was written to it)."""

    @property
    def steps(self) -> int:
        """Steps so far."""
        return sum(bool(phase) for phase, _ in self.entries)


def tell(text: str) -> None:
    """Something nobody may miss, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


Warn = Callable[[str], None]


def fragile_caches(graph: Graph, counted: frozenset[str]) -> tuple[str, ...]:
    """Caches that a step made twice would change twice, those in ``counted`` left out."""
    appended = appends_of(graph)
    return tuple(update.cache for update in graph.updates
                 if update.value != update.cache and update.cache not in appended and update.cache not in counted)


def rows_of(append: Append | None, counts: Mapping[str, int]) -> tuple[slice, ...]:
    """Where the rows are that a step has appended, by the counters before it; everything if that is not known."""
    if append is None or append.counter not in counts:
        return ()
    first = counts[append.counter]
    return (*(slice(None),) * append.axis, slice(first, first + append.rows))


def check_survivable(lost: DeviceLost, single: Sequence[str], *, has_variant: bool, may_be_lost: bool) -> None:
    """Refuse to go on where the request was lost with its device.

    Args:
        lost: the device.
        single: caches that only it held.
        has_variant: whether the plan can go on without it.
        may_be_lost: whether a plan could, if it was asked to.

    Raises:
        ToolError: the error of the step, saying what keeps the request from going on.
    """
    if has_variant and not single:
        return
    why = (f"its cache '{single[0]}' is single" + (f", and {len(single) - 1} more" if len(single) > 1 else "")
           if single else f"the plan has no variant without the {lost.device}")
    fix = f"compile with --caches shadowed or --caches recomputable, so that requests outlive the {lost.device}" \
        if may_be_lost else lost.fix
    raise ToolError(lost.code, f"{lost.what}; the request cannot go on: {why}", where=lost.where,
                    fix=fix) from lost.cause


def check_name(name: str, known: Mapping[str, object]) -> None:
    """Refuse a cache that is not there.

    Raises:
        UserError: HET-B004.
    """
    if name not in known:
        raise UserError("HET-B004", f"the bundle has no cache '{name}'",
                        fix=f"it has {', '.join(sorted(known)[:4])} ...")


__all__ = ["DeviceLost", "Recovery", "RequestLog", "Warn", "check_name", "check_survivable",
           "driver_codes", "fragile_caches", "rows_of", "tell"]
