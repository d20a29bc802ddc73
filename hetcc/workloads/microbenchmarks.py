"""Tiny programs of one operator class each, with sizes as settings: what a device profile is fitted to.

Every program repeats its operator ``copies`` times on data of its own. Few copies are read again before a last-level
cache has forgotten them; many copies come from memory in every step, as the weights of a model do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hetcc.errors import UserError
from hetcc.ir import Graph

Inputs = dict[str, Any]


def capture_microbenchmark(kind: str, settings: Mapping[str, int], name: str) -> Graph:
    """The graph of one program; no tensor is filled, however large.

    Args:
        kind: one of ``MICROBENCHMARKS``.
        settings: its sizes; all of them.
        name: of the graph.

    Raises:
        UserError: HET-C001, there is no such program; HET-C002, it has other settings.
    """
    from dataclasses import replace

    from torch._subclasses.fake_tensor import FakeTensorMode

    from hetcc.capture.model import CaptureRequest
    from hetcc.capture.program import TorchProgram, graph_of

    if kind not in MICROBENCHMARKS:
        raise UserError("HET-C001", f"there is no microbenchmark '{kind}'", where=name,
                        fix="use one of " + ", ".join(MICROBENCHMARKS))
    try:
        with FakeTensorMode():
            module, inputs, caches = _made(MICROBENCHMARKS[kind](**settings))
            program = TorchProgram(module.eval().requires_grad_(False), inputs, caches)
            return replace(graph_of(program, CaptureRequest(name)), name=name)
    except TypeError as error:
        raise UserError("HET-C002", f"microbenchmark '{kind}' cannot be made of {dict(settings)}: {error}",
                        where=name) from error


def _made(made: Any) -> tuple[Any, Inputs, dict[str, int]]:
    module, inputs, *caches = made
    return module, inputs, caches[0] if caches else {}


def _each(copies: int, operator: Callable[..., Any], **examples: Any) -> Any:
    """``operator`` on ``copies`` sets of inputs; every set is memory of its own, so none makes another one recent."""
    import torch

    class Each(torch.nn.Module):
        def forward(self, **given: Any) -> Any:
            found = [operator(*(given[f"{name}{index}"] for name in examples)) for index in range(copies)]
            return [part for one in found for part in (one if isinstance(one, (tuple, list)) else (one,))]

    return Each(), {f"{name}{index}": torch.zeros_like(example) for index in range(copies)
                    for name, example in examples.items()}


def projection(rows: int, depth: int, columns: int, copies: int) -> Any:
    """Products with weights, one after another: ``depth`` to ``columns`` and back."""
    import torch

    sides = [(depth, columns), (columns, depth)]
    layers = torch.nn.Sequential(*(torch.nn.Linear(*sides[index % 2], bias=False) for index in range(copies)))
    return layers, {"input": torch.zeros(rows, depth)}


def matmul(heads: int, groups: int, entries: int, width: int, copies: int, apply: int) -> Any:
    """Products of activations as in attention: one query per head against ``entries`` keys, or weights with values.

    ``groups`` tables are shared by ``heads`` heads.
    """
    import torch

    def product(left: Any, table: Any) -> Any:
        wide = table[:, None].expand(-1, heads // groups, -1, -1).reshape(heads, entries, width)
        return torch.matmul(left, wide if apply else wide.transpose(1, 2))

    left = torch.zeros(heads, 1, entries if apply else width)
    return _each(copies, product, left=left, table=torch.zeros(groups, entries, width))


def elementwise(elements: int, copies: int) -> Any:
    """Sums of two vectors."""
    import torch

    return _each(copies, lambda first, second: first + second, first=torch.zeros(elements),
                 second=torch.zeros(elements))


def _rows(operator: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(rows: int, width: int, copies: int) -> Any:
        import torch

        return _each(copies, operator, data=torch.zeros(rows, width))

    return make


def _torch(name: str, *arguments: Any, **keywords: Any) -> Callable[[Any], Any]:
    def call(data: Any) -> Any:
        import torch

        return getattr(torch, name)(data, *arguments, **keywords)

    return call


def _normalized(data: Any) -> Any:
    import torch

    return torch.nn.functional.layer_norm(data, data.shape[-1:])


def _copied(data: Any) -> Any:
    import torch

    return data.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def topk(rows: int, width: int, selected: int, copies: int) -> Any:
    """The largest entries of each row."""
    import torch

    return _each(copies, lambda data: torch.topk(data, selected, dim=-1), data=torch.zeros(rows, width))


def gather(entries: int, taken: int, width: int, copies: int) -> Any:
    """Whole rows of a table by index."""
    import torch

    index = torch.zeros(taken, dtype=torch.int64)
    return _each(copies, lambda table, index: torch.nn.functional.embedding(index, table),
                 table=torch.zeros(entries, width), index=index)


def scatter(entries: int, taken: int, copies: int) -> Any:
    """Single elements put into a vector by index."""
    import torch

    index = torch.zeros(taken, dtype=torch.int64)
    return _each(copies, lambda data, index, source: torch.scatter(data, 0, index, source),
                 data=torch.zeros(entries), index=index, source=torch.zeros(taken))


def cache_update(entries: int, rows: int, width: int, copies: int) -> Any:
    """New rows of a cache, in place."""
    import torch

    names = [f"cache{index}" for index in range(copies)]

    class Update(torch.nn.Module):
        def forward(self, position: Any, **given: Any) -> Any:
            return tuple(given[name].index_copy(0, position, given[f"{name}_rows"]) for name in names)

    inputs = {"position": torch.zeros(rows, dtype=torch.int64)}
    for name in names:
        inputs |= {name: torch.zeros(entries, width), f"{name}_rows": torch.zeros(rows, width)}
    return Update(), inputs, {name: place for place, name in enumerate(names)}


def concat(elements: int, copies: int) -> Any:
    """Two vectors one behind the other."""
    import torch

    return _each(copies, lambda first, second: torch.cat([first, second]), first=torch.zeros(elements),
                 second=torch.zeros(elements))


def convolution(channels: int, length: int, taps: int, copies: int) -> Any:
    """A filter per channel along the sequence, as state-space models have it."""
    import torch

    return _each(copies, lambda data, weight: torch.nn.functional.conv1d(data, weight, groups=channels),
                 data=torch.zeros(1, channels, length), weight=torch.zeros(channels, 1, taps))


MICROBENCHMARKS: Mapping[str, Callable[..., Any]] = {
    "projection": projection, "matmul": matmul, "elementwise": elementwise,
    "reduction": _rows(_torch("sum", dim=-1)), "softmax": _rows(_torch("softmax", dim=-1)),
    "normalization": _rows(_normalized), "cumulative": _rows(_torch("cumsum", dim=-1)), "gather": gather,
    "scatter": scatter, "cache_update": cache_update, "topk": topk, "sort": _rows(_torch("sort", dim=-1)),
    "concat": concat, "copy": _rows(_copied), "convolution": convolution,
}
"""By the class of their operator; ``projection`` is a product with a weight."""


__all__ = ["MICROBENCHMARKS", "capture_microbenchmark"]
