"""The graph: frozen nodes over named values, in topological order.

Values are named by strings that people can read (``model.layers.3.self_attn.indexer/topk:1``); nodes are stored in an
order in which every input precedes its use. Every constructor validates, so whoever holds a ``Graph`` may trust it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import MappingProxyType

from hetcc.errors import InternalError
from hetcc.ir.operators import OperatorClass, SourceOperator
from hetcc.ir.types import DType, TensorType


class Role(Enum):
    """What a value is to the program; inputs, parameters, buffers, constants and caches have no producer."""

    INPUT = "input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"
    CACHE = "cache"
    ACTIVATION = "activation"

    @property
    def is_weight(self) -> bool:
        """Whether the value is bound from the weight manifest rather than fed or computed."""
        return self in (Role.PARAMETER, Role.BUFFER, Role.CONSTANT)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the program."""

    name: str
    type: TensorType
    role: Role = Role.ACTIVATION


@dataclass(frozen=True, slots=True)
class Operand:
    """Stands in a node's arguments for its ``index``-th input."""

    index: int


Argument = Operand | None | bool | int | float | str | DType | tuple["Argument", ...]
Attribute = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a node came from in the user's model."""

    module_path: str = ""
    """Dotted path of the innermost module, as in ``named_modules``; empty at the top."""
    module_class: str = ""
    """Class name of that module."""
    source: str = ""
    """``file.py:line`` of the statement, without folders; empty if unknown."""

    @property
    def layer(self) -> str:
        """Path of the repeated layer the node belongs to (up to the first numbered component), or empty."""
        parts = self.module_path.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                return ".".join(parts[: position + 1])
        return ""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator application."""

    name: str
    operator: SourceOperator
    operator_class: OperatorClass
    inputs: tuple[str, ...]
    """Value names; a value used twice appears twice only if ``arguments`` name it twice."""
    outputs: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    """Positional arguments of the source operator, inputs replaced by ``Operand``."""
    keywords: tuple[tuple[str, Argument], ...] = ()
    attributes: tuple[tuple[str, Attribute], ...] = ()
    """Normalised attributes of the operator class, sorted by name."""
    provenance: Provenance = field(default_factory=Provenance)

    def attribute(self, name: str, default: Attribute | None = None) -> Attribute | None:
        """The normalised attribute ``name``, or ``default`` when the class does not define it here."""
        for key, value in self.attributes:
            if key == name:
                return value
        return default

    def integer(self, name: str) -> int:
        """The normalised integer attribute ``name``.

        Raises:
            InternalError: the attribute is absent or not an integer.
        """
        value = self.attribute(name)
        if not isinstance(value, int):
            raise InternalError("HET-I001", f"attribute '{name}' of {self.operator} is {value!r}, not an integer",
                                where=self.name)
        return value

    def operand(self, name: str) -> str | None:
        """The input value at the position the attribute ``name`` holds (``data``, ``indices``, ...), if any."""
        position = self.attribute(name)
        return self.inputs[position] if isinstance(position, int) else None


@dataclass(frozen=True, slots=True)
class CacheUpdate:
    """After a step the cache ``cache`` holds what ``value`` was computed to be (in place wherever possible)."""

    cache: str
    value: str


@dataclass(frozen=True)
class Graph:
    """A program over concrete shapes."""

    name: str
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    """Values fed for every step, in call order (caches are not among them)."""
    outputs: tuple[str, ...]
    caches: tuple[str, ...] = ()
    """State that lives across steps, in a stable order."""
    updates: tuple[CacheUpdate, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        self._check()

    def _check(self) -> None:
        available = {name for name, value in self.values.items() if value.role is not Role.ACTIVATION}
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise InternalError("HET-I001", f"two nodes are named '{node.name}'", where=self.name)
            seen.add(node.name)
            for name in node.inputs:
                if name not in available:
                    raise InternalError("HET-I001", f"input '{name}' is used before it is computed", where=node.name)
            for name in node.outputs:
                if name not in self.values or name in available:
                    raise InternalError("HET-I001", f"output '{name}' is undeclared or produced twice", where=node.name)
                available.add(name)
        needed = (*self.outputs, *self.inputs, *self.caches, *(update.value for update in self.updates))
        for name in needed:
            if name not in available:
                raise InternalError("HET-I001", f"value '{name}' has no producer", where=self.name)

    @cached_property
    def node_by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Place of each node in the program order, by name."""
        return MappingProxyType({node.name: place for place, node in enumerate(self.nodes)})

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """Producing node of each activation."""
        return MappingProxyType({name: node for node in self.nodes for name in node.outputs})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Consuming nodes of each used value, in program order, each once."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return MappingProxyType({name: tuple(nodes) for name, nodes in found.items()})

    @cached_property
    def update_of(self) -> Mapping[str, str]:
        """New value of each updated cache, by cache name."""
        return MappingProxyType({update.cache: update.value for update in self.updates})

    @cached_property
    def results(self) -> frozenset[str]:
        """Values that must exist after a step: outputs and new cache contents."""
        return frozenset((*self.outputs, *(update.value for update in self.updates)))

    def type_of(self, name: str) -> TensorType:
        """Type of the value ``name``."""
        return self.values[name].type

    def consumers_of(self, name: str) -> tuple[Node, ...]:
        """Nodes that read the value ``name``; empty when nothing does."""
        return self.consumers.get(name, ())


def live_nodes(nodes: Iterable[Node], results: Iterable[str]) -> tuple[Node, ...]:
    """The nodes of a topologically ordered sequence that some result depends on."""
    needed = set(results)
    kept: list[Node] = []
    for node in reversed(tuple(nodes)):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return tuple(reversed(kept))
