"""Running regions on the host, and noticing when torch computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from hetcc.backends.contract import Rejected, Supported
from hetcc.backends.host.program import TORCH_ENGINE, array_of, load_host_program, tensor_of, torch_guard
from hetcc.backends.host.support import HostSupport
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, Node, OperatorClass, SourceOperator
from tests.unit.aten_programs import arrays_for, capture, graph_of_calls

torch = pytest.importorskip("torch")


def step(x, position, cache):
    cache.index_copy_(0, position, x)
    return cache.sum(0)


EXAMPLES = (torch.ones(1, 4), torch.tensor([2]), torch.zeros(3, 4))


def test_a_region_gives_outputs_and_new_cache_contents() -> None:
    region = capture(step, EXAMPLES, caches=(2,))
    arrays = arrays_for(region, EXAMPLES)
    program = load_host_program(region)
    results = program.run(arrays)
    assert program.engine == TORCH_ENGINE
    assert results[region.outputs[0]].tolist() == [1.0] * 4
    assert results[region.updates[0].value].sum() == 4
    assert arrays["cache2"].sum() == 0, "arguments stay as they were"


def test_a_missing_argument_is_said() -> None:
    region = capture(step, EXAMPLES, caches=(2,))
    with pytest.raises(UserError, match="x0"):
        load_host_program(region).run({})


def test_selections_and_empties_are_defined() -> None:
    ties = torch.tensor([[1.0, 3.0, 3.0, 3.0]] * 2)
    region, arrays = graph_of_calls([("topk.default", (ties, 2)), ("sort.default", (ties, -1, True)),
                                     ("empty.memory_format", ([3],)), ("topk.default", (ties, 2, -1, False))])
    results = load_host_program(region).run(arrays)
    indices = [results[name].tolist()[0] for name in results if name.endswith(":1")]
    assert indices == [[1, 2], [1, 2, 3, 0], [0, 1]]
    assert results["empty.memory_format#2:0"].tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", list(DType))
def test_arrays_and_tensors_keep_their_bits(dtype: DType) -> None:
    tensor = torch.tensor([0, 1, 1, 0]).to(getattr(torch, dtype.value)).reshape(2, 2)
    array = array_of(tensor.T)
    assert array.dtype.name == dtype.value
    assert array_of(tensor_of(array)).tobytes() == array.tobytes()
    array.flags.writeable = False
    assert tensor_of(array).dtype == tensor.dtype
    assert tensor_of(array_of(tensor[0, 0])).shape == ()


def test_the_guard_counts_what_torch_does() -> None:
    with torch_guard() as use:
        torch.ones(2) + 1
    assert use.count == sum(use.operators.values())
    assert any("add" in name for name in use.operators)
    with torch_guard() as use:
        numpy.ones(2) + 1
    assert use.count == 0


def test_the_guard_needs_no_torch() -> None:
    code = ("import sys\nfrom hetcc.backends.host.program import torch_guard\nwith torch_guard() as use: pass\n"
            "assert use.count == 0\nassert 'torch' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_onnx_regions_run_too(tmp_path: Path) -> None:
    from hetcc.onnx.load import load_graph
    from tests.unit.onnx_calls import save_program

    arrays = save_program(tmp_path / "calls.onnx")
    region = load_graph(tmp_path / "calls.onnx").graph
    program = load_host_program(region)
    assert program.engine.endswith("(host)")
    results = program.run(arrays)
    name = next(node for node in region.nodes if node.operator.name == "Relu").outputs[0]
    source = next(node for node in region.nodes if node.operator.name == "Relu").inputs[0]
    numpy.testing.assert_array_equal(results[name], numpy.maximum(arrays[source], 0))


def test_the_host_takes_whatever_can_be_rebuilt() -> None:
    node = Node("n", SourceOperator("aten", "fft_fft", "default"), OperatorClass.OPAQUE, (), ())
    graph = Graph("g", (), {}, (), ())
    assert HostSupport().verdict(graph, node) == Supported("torch")
    onnx = Node("n", SourceOperator("onnx", "Loop", "18"), OperatorClass.OPAQUE, (), ())
    assert HostSupport().verdict(graph, onnx) == Supported("onnxruntime")
    strange = Node("n", SourceOperator("a.b", "c"), OperatorClass.OPAQUE, (), ())
    assert isinstance(HostSupport().verdict(graph, strange), Rejected)
