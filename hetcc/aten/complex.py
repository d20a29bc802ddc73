"""Complex numbers of an exported program become pairs of real ones, which every back end has.

Rotary embeddings are the place where language models use them. A complex value of shape ``s`` is held as a real one of
shape ``s + (2,)``, the layout of ``view_as_real``, so that views between both are nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hetcc.aten.rewriting import Rewriter

_Rule = Callable[["_Pairs", Any, Any], Any]


def without_complex(program: Any) -> None:
    """Rewrite the graph of ``program`` in place; operators without a rule keep their complex results.

    Args:
        program: ``torch.export.ExportedProgram`` after ``run_decompositions``.
    """
    if any(is_complex(node) for node in program.graph.nodes):
        _Pairs(program.graph).run()


def is_complex(node: Any) -> bool:
    """Whether a node of an exported program makes a complex tensor."""
    value: Any = getattr(node, "meta", {}).get("val")
    return hasattr(value, "is_complex") and bool(value.is_complex())


class _Pairs(Rewriter):
    """Holds, by complex node, the real node that stands for it."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)
        self.pair_of: dict[Any, Any] = {}

    def rewrite(self, node: Any) -> None:
        import torch

        aten = torch.ops.aten
        packet = getattr(node.target, "overloadpacket", None)
        held = [part for part in node.all_input_nodes if is_complex(part)]
        if any(part not in self.pair_of for part in held):
            return
        if held and str(node.target).startswith("aten._assert"):
            self.graph.erase_node(node)  # of the type a value had
        elif is_complex(node):
            rule = _RULES.get(getattr(packet, "__name__", ""))
            pair = rule(self, aten, node) if rule is not None else None
            if pair is not None:
                self.pair_of[node] = pair
        elif held and packet in (aten.view_as_real, aten.real, aten.imag):
            pair = self.pair_of[held[0]]
            new = pair if packet is aten.view_as_real else self.part(pair, int(packet is aten.imag))
            node.replace_all_uses_with(new)

    def part(self, pair: Any, which: int) -> Any:
        """The real (0) or imaginary (1) part of a pair."""
        import torch

        return self.call(torch.ops.aten.select.int, pair, -1, which)

    def joined(self, real: Any, imaginary: Any) -> Any:
        """The pair of two parts."""
        import torch

        aten = torch.ops.aten
        shape = torch.broadcast_shapes(real.meta["val"].shape, imaginary.meta["val"].shape)
        parts = [self.call(aten.unsqueeze.default, part if part.meta["val"].shape == shape else
                           self.call(aten.expand.default, part, list(shape)), -1) for part in (real, imaginary)]
        return self.call(aten.cat.default, parts, -1)


def _same(pairs: _Pairs, aten: Any, node: Any) -> Any:
    """``view_as_complex`` of a pair; the same of a complex number that is copied."""
    source = node.args[0]
    if node.target.overloadpacket is aten.view_as_complex:
        return source
    return pairs.pair_of.get(source) if node.meta["val"].dtype == source.meta["val"].dtype else None


def _polar(pairs: _Pairs, aten: Any, node: Any) -> Any:
    length, angle = node.args
    return pairs.joined(*(pairs.call(aten.mul.Tensor, length, pairs.call(turn, angle))
                          for turn in (aten.cos.default, aten.sin.default)))


def _complex(pairs: _Pairs, aten: Any, node: Any) -> Any:
    return pairs.joined(*node.args)


def _product(pairs: _Pairs, aten: Any, node: Any) -> Any:
    left, right = node.args
    if not all(is_complex(part) for part in (left, right)):
        return _scaled(pairs, aten, node)
    (a, b), (c, d) = [[pairs.part(pairs.pair_of[part], which) for which in (0, 1)] for part in (left, right)]
    multiply = aten.mul.Tensor
    return pairs.joined(
        pairs.call(aten.sub.Tensor, pairs.call(multiply, a, c), pairs.call(multiply, b, d)),
        pairs.call(aten.add.Tensor, pairs.call(multiply, a, d), pairs.call(multiply, b, c)))


def _scaled(pairs: _Pairs, aten: Any, node: Any) -> Any:
    """A complex number times or over a real one."""
    left, right = node.args
    if is_complex(right) and node.target.overloadpacket is aten.mul:
        left, right = right, left
    if is_complex(right) or not is_complex(left) or isinstance(right, complex) or node.kwargs:
        return None
    if hasattr(right, "meta"):
        right = pairs.call(aten.unsqueeze.default, right, -1)
    return pairs.call(node.target, pairs.pair_of[left], right)


def _sum(pairs: _Pairs, aten: Any, node: Any) -> Any:
    if not all(is_complex(part) for part in node.args[:2]) or node.kwargs:
        return None
    return pairs.call(node.target, *(pairs.pair_of[part] for part in node.args))


def _along(pairs: _Pairs, aten: Any, node: Any) -> Any:
    """Operators whose second argument is one axis: counted from the end, it moves by one."""
    source, *rest = node.args
    axis = rest[0] if rest else None
    if not isinstance(axis, int):
        return None
    return pairs.call(node.target, pairs.pair_of[source], axis - 1 if axis < 0 else axis, *rest[1:], **node.kwargs)


def _reshaped(pairs: _Pairs, aten: Any, node: Any) -> Any:
    """Operators whose second argument is a shape."""
    return pairs.call(node.target, pairs.pair_of[node.args[0]], [*node.args[1], 2], *node.args[2:], **node.kwargs)


def _viewed(pairs: _Pairs, aten: Any, node: Any) -> Any:
    return pairs.call(aten.view.default, pairs.pair_of[node.args[0]], [*node.meta["val"].shape, 2])


def _permuted(pairs: _Pairs, aten: Any, node: Any) -> Any:
    rank = len(node.args[1])
    return pairs.call(node.target, pairs.pair_of[node.args[0]], [*(axis % rank for axis in node.args[1]), rank])


def _swapped(pairs: _Pairs, aten: Any, node: Any) -> Any:
    rank = node.meta["val"].dim()
    return pairs.call(node.target, pairs.pair_of[node.args[0]], *(axis % rank for axis in node.args[1:]))


def _joined_along(pairs: _Pairs, aten: Any, node: Any) -> Any:
    sources: Sequence[Any] = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else 0
    if not all(is_complex(source) for source in sources):
        return None
    return pairs.call(node.target, [pairs.pair_of[source] for source in sources], axis - 1 if axis < 0 else axis)


_RULES: dict[str, _Rule] = {
    "view_as_complex": _same, "clone": _same, "_to_copy": _same, "alias": _same, "detach": _same,
    "polar": _polar, "complex": _complex, "mul": _product, "div": _scaled, "add": _sum, "sub": _sum,
    "unsqueeze": _along, "squeeze": _viewed, "slice": _along, "select": _along, "index_select": _along,
    "view": _reshaped, "_unsafe_view": _reshaped, "reshape": _reshaped, "expand": _reshaped,
    "permute": _permuted, "transpose": _swapped, "cat": _joined_along,
}
"""By name of the complex operator: the pair that takes its place, None where it cannot be said."""
