"""Python numbers that a program takes from tensors become tensors again.

A model may ask its cache how many tokens it holds, as a Python number ``n``, and then look up positions ``n`` to
``n + tokens``. What is looked up has a known shape; only where it begins is not known. ``table[n:n + 4]`` is written as
``index_select(table, arange(4) + n)``, and sums with ``n`` take the tensor it came from.
"""

from __future__ import annotations

import operator
from typing import Any

from hetcc.aten.rewriting import Rewriter, extent_of


def without_numbers(program: Any) -> None:
    """Rewrite the graph of ``program`` in place; calls without a rule keep their numbers.

    Args:
        program: ``torch.export.ExportedProgram`` after ``run_decompositions``.
    """
    if any(_is_number(node) for node in program.graph.nodes):
        _Numbers(program.graph).run()


def _is_number(node: Any) -> bool:
    return type(getattr(node, "meta", {}).get("val")).__name__ == "SymInt"


class _Numbers(Rewriter):
    """Holds, by node that makes a number, the 0-d tensor that stands for it."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)
        self.tensor_of: dict[Any, Any] = {}

    def rewrite(self, node: Any) -> None:
        import torch

        packet = getattr(node.target, "overloadpacket", None)
        name = getattr(packet, "__name__", "")
        if packet is torch.ops.aten._local_scalar_dense or packet is torch.ops.aten.item:
            self.tensor_of[node] = node.args[0]
        elif _is_number(node):
            self._computed(node)
        elif any(_is_number(part) for part in node.all_input_nodes) and node.users and _has_fixed_shape(node):
            rule = {"arange": self._range, "slice": self._slice, "select": self._select}.get(name)
            new = rule(node) if rule is not None else self._with_tensors(node, packet)
            if new is not None:
                node.replace_all_uses_with(new)

    def _computed(self, node: Any) -> None:
        """A number that is computed from others."""
        import torch

        target = {operator.add: torch.ops.aten.add.Tensor, operator.sub: torch.ops.aten.sub.Tensor,
                  operator.mul: torch.ops.aten.mul.Tensor, torch.sym_max: torch.ops.aten.maximum.default,
                  torch.sym_min: torch.ops.aten.minimum.default}.get(node.target)
        parts = [self.tensor_of.get(part, part) for part in node.args]
        if target is None or any(_is_number(part) for part in parts):
            return
        self.tensor_of[node] = self.call(target, *(
            part if hasattr(part, "meta") else self.call(torch.ops.aten.full.default, [], part, dtype=torch.int64)
            for part in parts))

    def _positions(self, start: Any, count: int | None) -> Any:
        """``start`` and the whole numbers after it; None if no tensor stands for it."""
        import torch

        start = self.tensor_of.get(start, start)
        if _is_number(start):
            return None
        run = self.call(torch.ops.aten.arange.start_step, 0, count, 1, dtype=torch.int64)
        return self.call(torch.ops.aten.add.Tensor, run, start)

    def _range(self, node: Any) -> Any:
        import torch

        value = node.meta["val"]
        if len(node.args) < 2 or (len(node.args) > 2 and node.args[2] != 1):
            return None
        positions = self._positions(node.args[0], extent_of(value.shape[0]))
        if positions is None or value.dtype == torch.int64:
            return positions
        return self.call(torch.ops.aten._to_copy.default, positions, dtype=value.dtype)

    def _slice(self, node: Any) -> Any:
        import torch

        given: list[Any] = list(node.args)
        source, axis, start, _, step = given + [None, 0, 0, None, 1][len(given):]
        axis %= source.meta["val"].dim()
        positions = self._positions(start or 0, extent_of(node.meta["val"].shape[axis])) if step == 1 else None
        return positions and self.call(torch.ops.aten.index_select.default, source, axis, positions)

    def _select(self, node: Any) -> Any:
        import torch

        source, axis, place = node.args
        positions = self._positions(place, 1)
        row = positions and self.call(torch.ops.aten.index_select.default, source, axis, positions)
        return row and self.call(torch.ops.aten.squeeze.dims, row, [axis])

    def _with_tensors(self, node: Any, packet: Any) -> Any:
        """Arithmetic and comparison of a tensor with a number."""
        if "Tensor" not in getattr(packet, "overloads", list)() or len(node.args) != 2 or node.kwargs:
            return None
        parts = [self.tensor_of.get(part, part) for part in node.args]
        if any(_is_number(part) for part in parts) or not hasattr(parts[0], "meta"):
            return None
        return self.call(packet.Tensor, *parts)


def _has_fixed_shape(node: Any) -> bool:
    shape = getattr(node.meta.get("val"), "shape", None)
    return shape is not None and all(extent_of(extent) is not None for extent in shape)
