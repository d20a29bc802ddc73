"""What the matchers of kernels share: reading a program by operator classes and data flow, never by names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from hetcc.backends.gpu.kernels.launches import KernelOperation
from hetcc.backends.gpu.partition.strides import Strided, broadcast, is_dense, literal_factor, looks_of
from hetcc.ir import DType, Graph, Node, OperatorClass, TensorType

_RESHAPES = frozenset({"reshape", "unsqueeze", "squeeze", "alias"})
"""Views that leave the elements in their order."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Match:
    """Operators that one kernel operation replaces."""

    operation: KernelOperation
    nodes: tuple[str, ...]
    """Names of the operators it computes."""
    inputs: tuple[tuple[str, str], ...]
    """(role, value): dense tensors whose elements lie as the operation wants them."""
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A value followed back through scaling, one mask, casts and reshapes: ``scale * origin + mask``."""

    origin: str
    nodes: tuple[Node, ...]
    scale: float = 1.0
    mask: str = ""
    """The tensor that is added, if one is."""
    mask_shape: tuple[int, ...] = ()
    """Shape of that addition."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A stack of matrices in memory: how many there are, and how often each is used in turn."""

    base: str
    stack: int
    repeats: int
    factor: float = 1.0
    """What every element is multiplied by."""


class Reader:
    """Questions that matchers ask of one program."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a value."""
        return self.graph.type_of(value).shape

    def dtype(self, value: str) -> DType:
        """Element type of a value."""
        return self.graph.type_of(value).dtype

    def product(self, value: str) -> Node | None:
        """The matrix product without bias that makes ``value``."""
        node = self.graph.producer.get(value)
        plain = node is not None and node.operator_class is OperatorClass.MATMUL and node.operand("bias") is None
        return node if plain else None

    def sides(self, product: Node) -> tuple[str, str]:
        """Left and right operand of a product."""
        return product.inputs[product.integer("lhs")], product.inputs[product.integer("rhs")]

    def walk(self, value: str, *, masks: bool = True) -> Chain:
        """Follow ``value`` back. A factor applied after a mask would scale the mask too; that ends the walk."""
        nodes: list[Node] = []
        scale, mask = 1.0, ""
        mask_shape: tuple[int, ...] = ()
        while (node := self.graph.producer.get(value)) is not None:
            factor = literal_factor(node)
            if node.attribute("kind") in _RESHAPES or is_cast(node):
                value = node.inputs[0]
            elif factor is not None:
                scale *= factor
                value = node.inputs[0]
            elif masks and not mask and scale == 1.0 and (added := self._added(node)) is not None:
                value, mask = added
                mask_shape = self.shape(node.outputs[0])
            else:
                break
            nodes.append(node)
        return Chain(value, tuple(nodes), scale, mask, mask_shape)

    def summands(self, value: str) -> tuple[Chain, Chain] | None:
        """Both sides of the addition that makes ``value``, followed back over layout alone; None if it is none."""
        node = self.graph.producer.get(value)
        if node is None or node.attribute("function") != "add" or len(node.inputs) != 2 or len(node.arguments) > 2 \
                or node.keywords or any(self.shape(side) != self.shape(value) for side in node.inputs):
            return None
        first, second = (self.walk(side, masks=False) for side in node.inputs)
        return (first, second) if first.scale == second.scale == 1.0 else None

    def _added(self, node: Node) -> tuple[str, str] | None:
        """(scores, mask) of an addition: the scores are the side that comes from a product."""
        if node.attribute("function") != "add" or len(node.inputs) != 2 or len(node.arguments) > 2 or node.keywords:
            return None
        shape = self.shape(node.outputs[0])
        sides = [side for side in node.inputs if self.shape(side) == shape and self._is_product(side)]
        if len(sides) != 1:
            return None
        return sides[0], node.inputs[1] if sides[0] == node.inputs[0] else node.inputs[0]

    def _is_product(self, value: str) -> bool:
        """Whether a product, a sum over one, or the sum of two makes ``value``, scaled and reshaped at most."""
        origin = self.walk(value, masks=False).origin
        node = self.graph.producer.get(origin)
        if node is not None and (node.operator_class is OperatorClass.MATMUL or node.attribute("function") == "sum"):
            return True
        parts = self.summands(origin)
        return parts is not None and all(self.product(part.origin) is not None for part in parts)

    def forward(self, value: str) -> tuple[tuple[Node, ...], Node | None]:
        """Casts and reshapes after ``value``, each the only reader, and the one node that reads the last of them."""
        passed: list[Node] = []
        while True:
            readers = self.graph.consumers_of(value)
            if len(readers) != 1 or value in self.graph.results:
                return tuple(passed), None
            if readers[0].attribute("kind") not in _RESHAPES and not is_cast(readers[0]):
                return tuple(passed), readers[0]
            passed.append(readers[0])
            value = readers[0].outputs[0]

    def find(self, value: str, wanted: Callable[[Strided], Found | None], dtype: DType | None = None, *,
             scaled: bool = False) -> tuple[str, Found] | None:
        """The farthest tensor (of ``dtype``) that ``value`` views and that suits, and what ``wanted`` says of it.

        With ``scaled`` literal factors may stand between the two; ``wanted`` finds their product in the look.
        """
        for look in looks_of(self.graph, value, scaled=scaled):
            answer = wanted(look) if dtype in (None, self.dtype(look.base)) else None
            if answer is not None:
                return look.base, answer
        return None

    def elements(self, value: str) -> int:
        """Number of elements of a value."""
        return self.graph.type_of(value).elements

    def in_order(self, value: str, dtype: DType | None = None) -> str | None:
        """The tensor that holds the elements of ``value`` in their order: what it is a reshape of, or itself."""
        found = self.scaled_in_order(value, dtype, scaled=False)
        return found[0] if found else None

    def scaled_in_order(self, value: str, dtype: DType | None = None, *, scaled: bool = True,
                        ) -> tuple[str, float] | None:
        """The same, with the number that each of its elements is multiplied by to make ``value``."""
        return self.find(value, lambda look: (
            look.scale if not look.offset and is_dense(look.factors, self.elements(look.base)) else None), dtype,
            scaled=scaled)

    def matrices(self, value: str, *, transposed: bool, dtype: DType | None = None,
                 scaled: bool = False) -> Rows | None:
        """The stack of matrices that the last two axes of ``value`` run through, the last axes swapped if asked.

        Matrices may repeat: each is used for several neighbours of the stack in turn (grouped heads, queries). With
        ``scaled`` they may be multiplied by literal factors on the way.
        """
        def wanted(look: Strided) -> tuple[int, int, float] | None:
            if look.offset or len(look.axes) < 2:
                return None
            stack = [factor for axis in look.axes[:-2] for factor in axis if factor[0] != 1]
            repeats = 1
            while stack and stack[-1][1] == 0:
                repeats *= stack.pop()[0]
            last = (look.axes[-1], look.axes[-2]) if transposed else (look.axes[-2], look.axes[-1])
            if not is_dense([*stack, *last[0], *last[1]], self.elements(look.base)):
                return None
            count = 1
            for extent, _ in stack:
                count *= extent
            return count, repeats, look.scale

        found = self.find(value, wanted, dtype, scaled=scaled)
        return Rows(found[0], *found[1]) if found else None

    def mask(self, chain: Chain, dims: tuple[int, ...]) -> tuple[str, TensorType] | None:
        """(tensor, type) of a chain's mask as ``dims``, extents full or 1; the last one is full."""
        found = self.find(chain.mask, lambda look: broadcast(look, chain.mask_shape, dims, self.elements(look.base)))
        if found is None or found[1][-1] != dims[-1]:
            return None
        return found[0], TensorType(found[1], self.dtype(found[0]))

    def encloses(self, nodes: Iterable[Node], results: tuple[str, ...]) -> bool:
        """Whether nothing but ``results`` of the nodes is used by anything else."""
        listed = tuple(nodes)
        names = {node.name for node in listed}
        hidden = [output for node in listed for output in node.outputs if output not in results]
        return not any(output in self.graph.results
                       or any(reader.name not in names for reader in self.graph.consumers_of(output))
                       for output in hidden)


def is_cast(node: Node) -> bool:
    """Whether the node only changes the element type."""
    return node.attribute("function") == "cast" and len(node.inputs) == 1
