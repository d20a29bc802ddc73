"""The streaming kernel as data: typed stages over named loops, with buffers addressed by strides.

One *instance* is one pass over the rows of the table; the *key* loops run over those rows; what remains of a stream
per row is its *lanes* (query heads, for example). Every stage is one of eight records; the same records are executed
by the functional model, turned into RTL, and priced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

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


class NumberFormat(Enum):
    """How the factors of an inner product with the table are held; see docs/fpga.md, "Number formats"."""

    FP32 = "fp32"
    """As they are: the policy ``exact``."""
    BF16 = "bf16"
    """Rounded to bfloat16; products are exact in binary32 and added in binary32."""
    INT16 = "int16"
    """Integers times one power of two per row and per stationary vector; added exactly."""
    INT8 = "int8"

    @property
    def integer_bits(self) -> int:
        """Bits of an integer format, 0 of a floating point one."""
        return {"int16": 16, "int8": 8}.get(self.value, 0)


class BufferRole(Enum):
    """How the kernel uses a buffer."""

    INPUT = "input"
    TABLE = "table"
    """Resident between runs; read and appended to."""
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Buffer:
    """A dense array in device memory."""

    name: str
    role: BufferRole
    element: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Element ``offset + sum(index[axis] * stride)`` of a buffer, for every point of the loops."""

    buffer: str
    offset: int
    """In elements."""
    strides: tuple[tuple[str, int], ...]
    """(axis name, stride in elements) for each loop the address depends on; sorted by name."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The output of another stage as an operand."""

    stage: str
    port: str = "out"
    """``out``; of a top-k ``values`` or ``indices``."""


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
class Map:
    """Apply a function element by element; operands broadcast over the loops they do not depend on."""

    name: str
    function: str
    """add, sub, mul, neg, abs, relu, max, min, where, or cast."""
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
class Store:
    """Write a stream to memory."""

    name: str
    source: Stream
    target: Access
    axes: tuple[str, ...]
    """Loops of the stream."""
    element: DType
    """Element type in memory; integers are converted."""


@dataclass(frozen=True, slots=True)
class Export:
    """Copy the table, as it is after the appends, to an output."""

    name: str
    table: str
    target: str
    """Buffer names."""


Stage = Append | Scan | InnerProduct | Map | Reduce | TopK | Store | Export
STAGE_KINDS: Mapping[str, type] = {
    kind.__name__: kind for kind in (Append, Scan, InnerProduct, Map, Reduce, TopK, Store, Export)
}
_PARTS: Mapping[str, type] = {kind.__name__: kind for kind in (Axis, Access, Stream, Immediate, Buffer)}
_ENUMS: Mapping[str, type[Enum]] = {"DType": DType, "BufferRole": BufferRole,
                                          "NumberFormat": NumberFormat}


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

    def __post_init__(self) -> None:
        made: set[str] = set()
        buffers = {buffer.name for buffer in self.buffers}
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
        body = {"format": FORMAT, **_encode_fields(self)}
        return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

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
            return StageGraph(**{key: _decode(value) for key, value in body.items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged {FORMAT} file: {error}") from error


def operands_of(stage: Stage) -> tuple[Stream | Access, ...]:
    """Everything a stage reads."""
    if isinstance(stage, Append):
        return (stage.table, stage.positions, stage.updates)
    if isinstance(stage, Scan):
        return (stage.table,)
    if isinstance(stage, InnerProduct):
        return (stage.source, stage.stationary)
    if isinstance(stage, Map):
        return tuple(operand for operand in stage.operands if not isinstance(operand, Immediate))
    if isinstance(stage, Export):
        return (Access(stage.table, 0, ()),)
    return (stage.source,)


def _encode_fields(record: Any) -> dict[str, Any]:
    return {entry.name: _encode(getattr(record, entry.name)) for entry in fields(record)}


def _encode(value: Any) -> Any:
    if isinstance(value, Enum):
        return {"enum": type(value).__name__, "value": value.value}
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    if isinstance(value, Immediate):
        return {"kind": "Immediate", "value": float(value.value).hex()}
    if is_dataclass(value):
        return {"kind": type(value).__name__, **_encode_fields(value)}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(part) for part in value)
    if not isinstance(value, dict):
        return value
    if "enum" in value:
        return _ENUMS[value["enum"]](value["value"])
    kind = value["kind"]
    if kind == "Immediate":
        return Immediate(float.fromhex(value["value"]))
    rest = {key: _decode(part) for key, part in value.items() if key != "kind"}
    return (STAGE_KINDS.get(kind) or _PARTS[kind])(**rest)
