"""What the tables say is taken compiles and computes, on the emulated GPU, what torch or onnxruntime computes.

Many operators are packed into one program, so that all of them cost one compilation. Their code is kept in
the user's cache under what it was made from: the graph, the importer's text, the versions of the tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.contract import EmittedRegion, Supported
from hetcc.backends.gpu.emit import emit_many
from hetcc.backends.gpu.memory import GpuMemory, arguments_written
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.gpu.support import ATEN_OPERATORS, ONNX_OPERATORS, GpuSupport
from hetcc.backends.host.program import load_host_program
from hetcc.ir import Graph
from tests.unit import aten_calls, onnx_calls
from tests.unit.aten_programs import graph_of_calls

torch = pytest.importorskip("torch")
pytest.importorskip("torch_mlir")
pytest.importorskip("iree.runtime")

TOLERANCE = 2e-5
COARSE = {"float16": 2e-3, "bfloat16": 2e-2}


def run_on_gpu(region: Graph, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Results on the emulated GPU; fails if an argument changed."""
    emitted = emit_many({"program": region}, ("llvm-cpu",), jobs=1)["program"]
    assert isinstance(emitted, EmittedRegion), emitted
    program = GpuProgram(region, emitted.files, emitted.entry, GpuMemory("local-sync"))
    results = program.run(arguments)
    for name in region.inputs:
        equal = numpy.array_equal(program.memory.fetch(name).astype("f8"), arguments[name].astype("f8"), equal_nan=True)
        assert equal, f"{name} was overwritten"
    return results


def assert_same(found: Mapping[str, numpy.ndarray], expected: Mapping[str, numpy.ndarray]) -> None:
    different = []
    for name, reference in expected.items():
        result = found[name]
        tolerance = COARSE.get(reference.dtype.name, TOLERANCE)
        same_type = result.dtype == reference.dtype and result.shape == reference.shape
        if not same_type or not numpy.allclose(result.astype("f8"), reference.astype("f8"), tolerance, tolerance,
                                               equal_nan=True):
            different.append((name, result.dtype, result.ravel()[:4], reference.ravel()[:4]))
    assert not different


def double_precision(calls: list[Any]) -> dict[str, numpy.ndarray]:
    """Results of the calls made in float64 where all of a call's inputs are float32, by output name."""
    found = {}
    for position, (label, arguments, *rest) in enumerate(calls):
        tensors = [part for part in arguments if isinstance(part, torch.Tensor)]
        name, _, overload = label.partition(".")
        if not tensors or rest or any(tensor.dtype != torch.float32 for tensor in tensors):
            continue
        if name in ("empty_like", "new_empty", "topk", "sort"):
            continue
        if any(isinstance(part, list) and part and isinstance(part[0], torch.Tensor) for part in arguments):
            continue
        doubled = [part.double() if isinstance(part, torch.Tensor) else part for part in arguments]
        returned = getattr(getattr(torch.ops.aten, name), overload)(*doubled)
        for index, part in enumerate([returned] if isinstance(returned, torch.Tensor) else returned):
            found[f"{label}#{position}:{index}"] = part.numpy()
    return found


def test_every_aten_operator_of_the_table() -> None:
    calls = aten_calls.all_calls() + aten_calls.short_calls() + aten_calls.selection_calls()[-4:]
    region, arguments = graph_of_calls(calls)
    assert all(isinstance(GpuSupport().verdict(region, node), Supported) for node in region.nodes)
    found = run_on_gpu(region, arguments)
    assert_same(found, load_host_program(region).run(arguments))
    precise = double_precision(calls)
    assert len(precise) > 60
    for name, reference in precise.items():
        numpy.testing.assert_allclose(found[name].astype("f8"), reference.astype("f8"), TOLERANCE, TOLERANCE,
                                      err_msg=name)


@pytest.mark.slow
def test_selections_on_hard_rows() -> None:
    region, arguments = graph_of_calls(aten_calls.selection_calls())
    assert_same(run_on_gpu(region, arguments), load_host_program(region).run(arguments))


def test_the_table_is_what_was_tested() -> None:
    calls = aten_calls.all_calls() + aten_calls.selection_calls()
    assert {call[0].partition(".")[0] for call in calls} == ATEN_OPERATORS


@pytest.mark.parametrize("newer", [False, True], ids=["version-20", "version-24"])
def test_every_onnx_operator_of_the_table(tmp_path: Path, newer: bool) -> None:
    pytest.importorskip("onnxruntime")
    from hetcc.onnx.load import load_graph

    calls, version = (onnx_calls.newer_calls(), 24) if newer else (onnx_calls.onnx_calls(), 20)
    arguments = onnx_calls.save_program(tmp_path / "calls.onnx", calls, version)
    region = load_graph(tmp_path / "calls.onnx").graph
    added = {call[0] for call in onnx_calls.newer_calls()}
    expected = added if newer else ONNX_OPERATORS - added - {"IndexCopy"}
    assert {node.operator.name for node in region.nodes} == expected
    assert all(isinstance(GpuSupport().verdict(region, node), Supported) for node in region.nodes)
    assert_same(run_on_gpu(region, arguments), load_host_program(region).run(arguments))


def test_what_may_be_overwritten_is_known() -> None:
    region, _ = graph_of_calls(aten_calls.memory_calls())
    writers = {"index_put", "index_copy", "scatter", "slice_scatter", "select_scatter"}
    expected = {node.inputs[0] for node in region.nodes if node.operator.name in writers}
    assert set(arguments_written(region)) == expected
