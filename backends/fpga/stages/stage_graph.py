"""The streaming kernel as data: typed stages over named loops, with buffers addressed by strides.

One *instance* is one pass over the rows of the table; the *key* loops run over those rows; what remains of a stream
per row is its *lanes* (query heads, for example). Every stage is a record of one of a few kinds; the same records are
executed by the functional model, turned into RTL, and priced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

from hetcc.backends.fpga.stages.number_format import NumberFormat
from hetcc.backends.fpga.stages.stage_json import decode, encode_fields
from hetcc.errors import InternalError
from hetcc.ir import DType

FORMAT = "hetcc-stages-1"


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop of the kernel."""

    name: str
    """``i*`` instances, ``k*`` rows of the table, ``l*`` lanes and everything else (selected entries, new rows)."""
    extent: int
    """Trip count, at least 2 (loops of one are dropped)."""


class BufferRole(Enum):
    """How the kernel uses a buffer."""

    INPUT = "input"
    TABLE = "table"
    """Resident between runs; read and appended to."""
    WEIGHT = "weight"
    """A model parameter whose rows are scanned; the same in every run."""
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Buffer:
    """A dense array in device memory."""

    name: str
    role: BufferRole
    element: DType
    shape: tuple[int, ...]
    packing: Packing | None = None
    """Of a weight that the host converts before it writes it: what from (``packed``)."""


@dataclass(frozen=True, slots=True)
class Access:
    """Element ``offset + sum(index[axis] * stride)`` of a buffer, for every point of the loops."""

    buffer: str
    offset: int
    """In elements."""
    strides: tuple[tuple[str, int], ...]
    """(axis name, stride in elements) for each loop the address depends on; sorted by name."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What the rows of a packed weight are made from."""

    element: DType
    """Of the argument."""
    shape: tuple[int, ...]
    """Of the argument."""
    source: Access
    """Elements of the argument, by row and place within it."""
    rows: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    """Loops within a row, slowest first."""
    bits: int
    """Of an integer; 0: binary32 numbers."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The output of another stage as an operand."""

    stage: str
    port: str = "out"
    """``out``; of a top-k ``values`` or ``indices``, of a compaction ``indices`` or ``count``."""


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number known when the kernel is made, exact in binary32."""

    value: float


Operand = Stream | Access | Immediate


@dataclass(frozen=True, slots=True)
class Append:
    """Write new rows into the table before it is scanned; later rows win where positions repeat."""

    name: str
    table: Access
    """Addressed by the loops of ``axes`` that run within a row or over tables."""
    row_stride: int
    """Elements between neighbouring rows."""
    rows: int
    """Rows of the table; a position outside is refused."""
    positions: Access
    updates: Access
    axes: tuple[Axis, ...]
    """Loops of ``updates``, slowest first; those ``positions`` depends on count the new rows."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Read the rows of the table in order, one burst per instance."""

    name: str
    table: Access
    element: DType
    lanes: tuple[str, ...]
    """Axes within a row."""


@dataclass(frozen=True, slots=True)
class InnerProduct:
    """Contract the lanes of a stream with a stationary operand held on chip."""

    name: str
    source: Stream
    stationary: Access
    over: tuple[str, ...]
    lanes: tuple[str, ...]
    """Axes of the result beside instances and keys."""
    element: DType
    format: NumberFormat = NumberFormat.FP32
    """Of both factors."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Entries of an operand on chip at a stream of positions; a negative one counts from the end, outside is NaN."""

    name: str
    source: Stream
    table: Access
    over: tuple[str, ...]
    """The loop over the entries, which ends here."""
    lanes: tuple[str, ...]
    element: DType


@dataclass(frozen=True, slots=True)
class Map:
    """Apply a function element by element; operands broadcast over the loops they do not depend on."""

    name: str
    function: str
    """add, sub, mul, neg, abs, relu, max, min, where, cast; of flags: ge, gt, le, lt, and, or, not."""
    operands: tuple[Operand, ...]
    lanes: tuple[str, ...]
    element: DType


@dataclass(frozen=True, slots=True)
class Reduce:
    """Combine lanes, or neighbouring rows, by the aligned pairwise tree."""

    name: str
    function: str
    """sum, max or min."""
    source: Stream
    over: tuple[str, ...]
    lanes: tuple[str, ...]
    element: DType


@dataclass(frozen=True, slots=True)
class TopK:
    """The k best entries over all rows of an instance, best first, the lower index first among equals."""

    name: str
    source: Stream
    k: int
    largest: bool
    over: tuple[str, ...]
    """Key axes that remain in the source, slowest first; the index is their row-major position."""
    selected: str
    """The loop over the entries of the result; empty when k is 1."""
    element: DType


@dataclass(frozen=True, slots=True)
class Compact:
    """The rows of an instance whose flag is set, in order; rows beyond the capacity are dropped but counted."""

    name: str
    source: Stream
    """Of booleans. Ports: ``indices`` (of the rows) and ``count`` (of all that are set)."""
    capacity: int
    """Entries of ``indices``; 0 when only the count is wanted."""
    fill: int
    """What stands behind the last index."""
    over: tuple[str, ...]
    """Key axes of the source, slowest first; the index is their row-major position."""
    selected: str
    """The loop over the entries; empty when there is at most one."""
    element: DType = DType.BOOL


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Softmax of a stream over all rows of an instance, then the sum of another table's rows weighted by it."""

    name: str
    source: Stream
    """Of scores, one row of lanes per row."""
    values: Stream
    """Of a scan over the same rows."""
    over: tuple[str, ...]
    """All key axes, slowest first."""
    lanes: tuple[str, ...]
    """Those of the scores, then those of the values."""
    zero_when_masked: bool
    """Whether an instance whose scores are all minus infinity gives zeros; else it gives NaN."""
    element: DType


@dataclass(frozen=True, slots=True)
class Gather:
    """The rows of a table that a selection names, copied as they are; a negative index counts from the end."""

    name: str
    source: Stream
    """Indices of a top-k or a compaction."""
    table: Access
    """Addressed by the loops within a row and over instances."""
    row_stride: int
    rows: int
    """Of the table; every index is within."""
    selected: str
    lanes: tuple[str, ...]
    """Loops within a row, slowest first."""
    element: DType


@dataclass(frozen=True, slots=True)
class Store:
    """Write a stream to memory."""

    name: str
    source: Stream
    target: Access
    axes: tuple[str, ...]
    element: DType
    """In memory; integers are converted."""


@dataclass(frozen=True, slots=True)
class Export:
    """Copy the table, as it is after the appends, to an output."""

    name: str
    table: str
    target: str
    """Buffer names."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How wide the hardware of a kernel is; its results do not depend on it."""

    lanes: int = 1
    """Results of the first inner product per cycle and row."""
    together: int = 1
    """Rows that pass together."""
    stripes: int = 1
    """Parts of the scanned table, each behind a master and a memory channel of its own."""
    block_banks: int = 0
    """Of a table kept on chip: banks in block RAM, each of which gives a row per step (``memory/resident.py``)."""
    ultra_banks: int = 0
    """The same in ultra RAM; none of either: every scan reads the table from memory."""


Stage = Append | Scan | InnerProduct | Lookup | Map | Reduce | TopK | WeightedSum | Compact | Gather | Store | Export
STAGE_KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Stage)}
_PARTS: Mapping[str, type] = {kind.__name__: kind for kind in (Axis, Access, Stream, Immediate, Buffer, Packing,
                                                         Parallelism)}
_ENUMS: Mapping[str, type[Enum]] = {kind.__name__: kind for kind in (DType, BufferRole, NumberFormat)}


@dataclass(frozen=True, slots=True)
class StageGraph:
    """A streaming kernel.

    Buffers come in call order: the arguments of the region in the order of ``interface_of``, then its outputs.
    """

    instances: tuple[Axis, ...]
    keys: tuple[Axis, ...]
    lanes: tuple[Axis, ...]
    buffers: tuple[Buffer, ...]
    stages: tuple[Stage, ...]
    """In an order in which every operand is made before it is used."""
    parallel: Parallelism | None = None
    """None: not chosen yet (``choice.chosen``)."""

    def __post_init__(self) -> None:
        made, buffers = set[str](), {buffer.name for buffer in self.buffers}
        for stage in self.stages:
            for operand in operands_of(stage):
                known = operand.stage in made if isinstance(operand, Stream) else operand.buffer in buffers
                if not known:
                    raise InternalError("HET-I001", f"stage '{stage.name}' reads {operand}, which nothing provides")
            if stage.name in made:
                raise InternalError("HET-I001", f"two stages are named '{stage.name}'")
            made.add(stage.name)

    def axis(self, name: str) -> Axis:
        """The loop of that name."""
        return next(axis for axis in (*self.instances, *self.keys, *self.lanes) if axis.name == name)

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name."""
        return next(buffer for buffer in self.buffers if buffer.name == name)

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def of_kind(self, kind: Callable[..., Stage]) -> tuple[Any, ...]:
        """All stages of one record type, in order."""
        return tuple(stage for stage in self.stages if type(stage) is kind)

    def to_json(self) -> bytes:
        """Canonical bytes: equal kernels give equal bytes."""
        return (json.dumps({"format": FORMAT, **encode_fields(self)}, indent=1, sort_keys=True, allow_nan=False)
                + "\n").encode()

    @staticmethod
    def from_json(text: bytes) -> StageGraph:
        """The kernel that :meth:`to_json` wrote.

        Raises:
            ValueError: not such a file, or another version of it.
        """
        body = json.loads(text)
        if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
            raise ValueError(f"not a {FORMAT} file")
        try:
            return StageGraph(**{key: decode(value, {**STAGE_KINDS, **_PARTS}, _ENUMS) for key, value in body.items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged {FORMAT} file: {error}") from error


def row_words(graph: StageGraph) -> int:
    """Elements of a row of the scanned table."""
    return math.prod(graph.axis(name).extent for scan in graph.of_kind(Scan)[:1] for name in scan.lanes)


def operands_of(stage: Stage) -> tuple[Stream | Access, ...]:
    """Everything a stage reads."""
    if isinstance(stage, Append):
        return (stage.table, stage.positions, stage.updates)
    if isinstance(stage, Scan):
        return (stage.table,)
    if isinstance(stage, InnerProduct):
        return (stage.source, stage.stationary)
    if isinstance(stage, (Lookup, Gather)):
        return (stage.source, stage.table)
    if isinstance(stage, WeightedSum):
        return (stage.source, stage.values)
    if isinstance(stage, Map):
        return tuple(operand for operand in stage.operands if not isinstance(operand, Immediate))
    return (Access(stage.table, 0, ()),) if isinstance(stage, Export) else (stage.source,)
