"""Rewriting an exported program before it is converted: new nodes with the place and the value they would have."""

from __future__ import annotations

from typing import Any


class Rewriter:
    """Base of rewrites that go through the calls of a graph in order and put others in their place."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.here: Any = None
        """The node that is being rewritten; new ones stand before it."""
        values = (node.meta.get("val") for node in graph.nodes if node.op == "placeholder")
        self.mode: Any = next((value.fake_mode for value in values if hasattr(value, "fake_mode")), None)

    def run(self) -> None:
        """Rewrite the graph and drop what is then unused."""
        if self.mode is None:
            return
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self.here = node
                self.rewrite(node)
        self.graph.eliminate_dead_code()

    def rewrite(self, node: Any) -> None:
        """Rewrite one call."""
        raise NotImplementedError

    def call(self, operator: Any, *arguments: Any, **keywords: Any) -> Any:
        """A new call of ``operator`` before the one that is being rewritten."""
        from torch.fx.node import map_arg

        with self.graph.inserting_before(self.here):
            node = self.graph.call_function(operator, arguments, keywords)
        node.meta = {key: self.here.meta[key] for key in ("nn_module_stack", "stack_trace") if key in self.here.meta}
        values = map_arg((arguments, keywords), lambda part: part.meta["val"])
        with self.mode:
            node.meta["val"] = operator(*values[0], **values[1])
        return node


def extent_of(extent: Any) -> int | None:
    """A whole number that is known or has but one value within its bounds; None if only running the model can tell."""
    if isinstance(extent, int):
        return extent
    known: int | None = extent.node.maybe_as_int()
    if known is None:
        bounds = extent.node.shape_env.bound_sympy(extent.node.expr)
        known = int(bounds.lower) if bounds.lower == bounds.upper else None
    return known
