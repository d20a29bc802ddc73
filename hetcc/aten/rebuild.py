"""From a region of the aten domain back to a torch program that can be run or exported.

The program takes ``interface_of(region)`` in that order and returns the region's outputs followed by the new value of
each updated cache, in the order of ``region.updates``; a value that is both is returned once. It is functional: no
argument is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from hetcc.errors import InternalError, UserError
from hetcc.ir import Argument, DType, Graph, Node, Operand
from hetcc.ir.subgraph import interface_of

# ``view`` was legal for the strides the capture saw; a region is fed contiguous tensors, for which the same program may
# need a copy where the original needed none.
_RESHAPES = frozenset({"view", "_unsafe_view"})
_DROPPED_KEYWORDS = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})


def torch_dtype_of(dtype: DType) -> Any:
    """The torch dtype of a DType."""
    import torch

    return getattr(torch, dtype.value)


def result_names_of(region: Graph) -> tuple[str, ...]:
    """Value names of what a region returns: outputs, then the new contents of updated caches, each once."""
    return tuple(dict.fromkeys((*region.outputs, *(update.value for update in region.updates))))


def operator_of(node: Node) -> Any:
    """The torch operator overload a node names.

    Raises:
        UserError: HET-C009, the node is not of a torch domain or this torch does not know the operator.
    """
    import torch

    source = node.operator
    if source.domain == "aten" and source.name in _RESHAPES:
        return torch.ops.aten.reshape.default
    try:
        packet = getattr(getattr(torch.ops, source.domain), source.name)
        return getattr(packet, source.overload or "default")
    except AttributeError:
        raise UserError("HET-C009", f"torch {torch.__version__} has no operator {source}", where=node.name,
                        fix="run the model with the torch version it was captured with") from None


def rebuild(region: Graph) -> Any:
    """The region as a ``torch.fx.GraphModule``.

    Raises:
        UserError: HET-C009 as in :func:`operator_of`.
        InternalError: HET-I001, a node declares more outputs than its operator has.
    """
    import torch

    graph = torch.fx.Graph()
    bound: dict[str, Any] = {name: graph.placeholder(f"a{position}")
                             for position, name in enumerate(interface_of(region))}
    for node in region.nodes:
        _append(graph, node, bound)
    graph.output(tuple(bound[name] for name in result_names_of(region)))
    return torch.fx.GraphModule(torch.nn.Module(), graph)


def _append(graph: Any, node: Node, bound: dict[str, Any]) -> None:
    """Adds the call of ``node`` and binds its outputs."""
    import operator

    target = operator_of(node)
    inputs = tuple(bound[name] for name in node.inputs)
    keywords = {name: _argument(value, inputs) for name, value in node.keywords if name not in _DROPPED_KEYWORDS}
    arguments = tuple(_argument(value, inputs) for value in node.arguments)
    call = graph.call_function(target, arguments, keywords)
    for name, position in zip(node.outputs, _result_positions(node, target), strict=True):
        bound[name] = call if position is None else graph.call_function(operator.getitem, (call, position))


def _result_positions(node: Node, target: Any) -> tuple[int | None, ...]:
    """Where each output stands in what the operator returns; None when it returns one bare tensor."""
    returns = target._schema.returns
    if len(returns) == 1 and str(returns[0].type) == "Tensor":
        if len(node.outputs) != 1:
            raise InternalError("HET-I001", f"{node.operator} returns one tensor, not {len(node.outputs)}",
                                where=node.name)
        return (None,)
    if len(returns) > 1 and len(node.outputs) > len(returns):
        raise InternalError("HET-I001", f"{node.operator} returns {len(returns)} tensors, not {len(node.outputs)}",
                            where=node.name)
    return tuple(range(len(node.outputs)))


def _argument(value: Argument, inputs: tuple[Any, ...]) -> Any:
    if isinstance(value, Operand):
        return inputs[value.index]
    if isinstance(value, DType):
        return torch_dtype_of(value)
    if isinstance(value, tuple):
        return [_argument(part, inputs) for part in value]
    return value


def fake_arguments(region: Graph) -> tuple[Any, ...]:
    """One empty tensor per name of ``interface_of(region)``; fake inside a ``FakeTensorMode``."""
    import torch

    return tuple(torch.empty(kind.shape, dtype=torch_dtype_of(kind.dtype))
                 for kind in map(region.type_of, interface_of(region)))


@contextlib.contextmanager
def fake_mode() -> Iterator[None]:
    """Inside, tensors have shapes and no storage, and nothing is recorded for gradients."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


def trace(region: Graph, replacements: dict[Any, Callable[..., Any]] | None = None) -> Any:
    """The region traced on fake tensors into a flat functional ``GraphModule`` without dead code.

    Args:
        region: the region, of the aten domain.
        replacements: operator overload -> function of the same signature whose own operators take its place.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with fake_mode():
        module = make_fx(rebuild(region), decomposition_table=dict(replacements or {}))(*fake_arguments(region))
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def to_exported_program(region: Graph) -> Any:
    """The region as a ``torch.export.ExportedProgram`` over fake tensors (weights and caches are user inputs)."""
    import torch

    with fake_mode():
        return torch.export.export(rebuild(region), fake_arguments(region), strict=False)
