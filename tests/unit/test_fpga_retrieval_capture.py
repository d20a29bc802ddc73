"""Retrieval as programs bring it: captured modules become streaming kernels, by their operator classes alone."""

from __future__ import annotations

import numpy
import pytest
import torch

from hetcc.backends.contract import Supported
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.rtl import limits
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.support import walk
from hetcc.capture.model import CaptureRequest
from hetcc.capture.program import TorchProgram, graph_of
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of
from hetcc.workloads import capture_workload


class Threshold(torch.nn.Module):
    """Positions of the rows that pass, and their number."""

    def forward(self, query: torch.Tensor, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        passes = pooled @ query >= 0.25
        return torch.nonzero_static(passes, size=5, fill_value=-1), passes.sum()


class Kept(torch.nn.Module):
    """The best of the rows that pass, with the rows themselves."""

    def forward(self, query: torch.Tensor, pooled: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        scores = query @ pooled.transpose(1, 2)
        kept = torch.where(scores > 0.0, scores, torch.finfo(torch.float32).min)[:, 0]
        return torch.gather(values, 1, kept.topk(3, dim=-1).indices.unsqueeze(-1).expand(-1, -1, 6))


class Indexed(torch.nn.Module):
    """A flat index that belongs to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("documents", torch.randn(40, 8))

    def forward(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = (query @ self.documents.T).topk(4)
        return found.values, found.indices


def composed(graph: Graph) -> StageGraph:
    assert all(isinstance(verdict, Supported) for node, verdict in walk(graph).verdicts.items()
               if graph.node_by_name[node].operator_class.value not in ("view", "create"))
    found = compose(graph)
    assert isinstance(found, StageGraph), found
    assert limits.check(found) is None
    return found


@pytest.mark.parametrize(("name", "stages"), [
    ("flat-inner-product", ["Scan", "InnerProduct", "TopK", "Store", "Store"]),
    ("forward-index", ["Scan", "Lookup", "Scan", "Map", "Reduce", "TopK", "Store", "Store"]),
])
def test_built_in_retrieval_workloads_are_one_kernel(name: str, stages: list[str]) -> None:
    _, graph = capture_workload(CaptureRequest(f"workload:{name}", batch=2, context=4096))
    assert [type(stage).__name__ for stage in composed(graph).stages] == stages


@pytest.mark.parametrize("module", [Threshold(), Kept(), Indexed()])
def test_a_captured_module_gives_what_torch_gives(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        # Without ties, whose order torch leaves open.
        return torch.randn(shape, generator=generator)

    inputs = {"Threshold": {"query": normal(4), "pooled": normal(20, 4)}, "Indexed": {"query": normal(2, 8)},
              "Kept": {"query": normal(2, 1, 4), "pooled": normal(2, 20, 4), "values": normal(2, 20, 6)}}
    given = inputs[type(module).__name__]
    request = CaptureRequest("module")
    region = graph_of(TorchProgram(module.eval(), given, {}), request)
    graph = composed(region)
    if isinstance(module, Indexed):
        module.documents.copy_(normal(40, 8))
        given = {**given, **{name: module.documents for name in interface_of(region) if name not in given}}
    buffers = {}
    for name, buffer in zip((*interface_of(region), *region.outputs), graph.buffers, strict=True):
        array = given[name].numpy() if name in given else numpy.zeros(buffer.shape, storage_type(buffer.element))
        buffers[buffer.name] = array.reshape(-1).copy()
    execute(graph, buffers)
    expected = module(*inputs[type(module).__name__].values())
    found = [buffers[buffer.name].reshape(buffer.shape) for buffer in graph.buffers[-len(region.outputs):]]
    for got, wanted in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert numpy.allclose(got, wanted.numpy(), rtol=1e-5, atol=0)
