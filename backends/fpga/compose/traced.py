"""What the tracer knows about a value: where it comes from, which loops its axes are, and what it is to the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hetcc.backends.fpga.stages.axes import Atom, Group, Layout
from hetcc.ir import DType, Node


class Kind(Enum):
    """What a value is to a streaming kernel."""

    OPERAND = "operand"
    """Fed from outside, read through an address pattern."""
    RESIDENT = "resident table"
    """A cache or a view of one."""
    STREAM = "stream"
    """Computed from the rows of a table."""
    SELECTION = "selection"
    """Values or indices of a top-k over a stream."""
    WEIGHTS = "softmax"
    """Softmax of a stream along its rows."""
    SUMMARY = "weighted sum"
    """Rows of a table, weighted by a softmax and added up: no rows are left."""

    @property
    def is_derived(self) -> bool:
        """Whether the value depends on a table."""
        return self is not Kind.OPERAND


@dataclass(frozen=True, slots=True)
class Leaf:
    """Elements of a buffer."""

    buffer: str
    """Value name."""
    offset: int
    """In elements."""
    strides: tuple[tuple[Atom, int], ...]
    """Stride in elements of each atom the address depends on."""
    updated: bool = False
    """Of a cache: whether rows were appended in this region before."""


@dataclass(frozen=True, eq=False, slots=True)
class Computed:
    """The result of one stage."""

    stage: str
    """``contract``, ``map``, ``reduce`` or ``topk``."""
    function: str
    operands: tuple[Traced | float, ...]
    over: Group = ()
    """Loops that end here."""
    node: Node | None = None
    port: str = "out"
    element: DType = DType.FLOAT32


@dataclass(frozen=True, eq=False, slots=True)
class Traced:
    """A value as the tracer sees it. Views share ``origin`` and differ in ``layout``."""

    kind: Kind
    layout: Layout
    element: DType
    origin: Leaf | Computed
    keys: Group | None = None
    """Row loops of the table the value comes from; None while no operator has told which they are."""


@dataclass(frozen=True, slots=True)
class AppendRecord:
    """One cache update."""

    node: Node
    cache: str
    axis: int
    positions: Traced
    updates: Traced
