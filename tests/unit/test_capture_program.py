"""Factories and exported programs: what they may return, what is refused, and that they run like the module."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from hetcc.backends.host.program import load_host_program
from hetcc.capture import CapturedModel, CaptureRequest, Phase, capture
from hetcc.capture.program import ProgramReference, load_program
from hetcc.capture.reference import reference_of
from hetcc.errors import UserError
from hetcc.ir import Graph, Role
from hetcc.ir.subgraph import interface_of

FACTORIES = '''
import torch


class Counter(torch.nn.Module):
    """Writes its cache in place and reads it."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x, position, memory):
        memory.index_copy_(0, position, self.linear(x))
        return (memory * self.scale).sum(0)


class Shift(torch.nn.Module):
    """Returns new caches; one of them is simply what the other was."""

    def forward(self, x, now, before):
        return x + before, now * 0.5 + x, now


class Echo(torch.nn.Module):
    def forward(self, x):
        return x, x.relu()


class DataDependent(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


def counter(width=4, seed=0):
    torch.manual_seed(seed)
    return Counter(width), {"x": torch.ones(1, width), "position": torch.tensor([1]), "memory": torch.zeros(3, width)}


def shift():
    ones = torch.ones(2, 2)
    return Shift(), {"x": ones, "now": ones.clone(), "before": ones.clone()}, {"now": 1, "before": 2}


def echo():
    return Echo(), {"x": torch.ones(2)}


def data_dependent():
    return DataDependent(), {"x": torch.ones(2)}


def complex_numbers():
    return torch.nn.Identity(), {"input": torch.ones(2, dtype=torch.complex64)}


def too_few():
    return Shift(), {"x": torch.ones(2, 2), "now": torch.ones(2, 2), "before": torch.ones(2, 2)}, {"now": 7}


def nothing():
    return None


def no_names():
    return Echo(), [torch.ones(2)]


not_callable = 3
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("factories") / "made.py"
    path.write_text(FACTORIES)
    return path


def run(graph: Graph, captured: CapturedModel, arrays: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    known = {**captured.generated, **captured.constants, **arrays}
    return load_host_program(graph).run({name: known[name] for name in interface_of(graph)})


def test_inputs_written_in_place_are_caches(file: Path) -> None:
    captured = capture(CaptureRequest(f"{file}:counter", overrides=(("width", "6"), ("seed", "3"))))
    graph = captured.graphs["decode"]
    assert graph.inputs == ("x", "position") and graph.caches == ("memory",) and captured.has_weights
    assert graph.type_of("x").shape == (1, 6), "settings reach the factory"
    assert [update.cache for update in graph.updates] == ["memory"]
    assert graph.values["scale"].role is Role.BUFFER and graph.values["linear.weight"].role is Role.PARAMETER
    torch.manual_seed(3)
    linear = torch.nn.Linear(6, 6)
    x = numpy.arange(6, dtype=numpy.float32)[None]
    results = run(graph, captured, {"x": x, "position": numpy.array([2]), "memory": numpy.zeros((3, 6), "float32")})
    row = linear(torch.from_numpy(x)).detach().numpy()
    numpy.testing.assert_allclose(results[graph.outputs[0]], 2 * row[0], rtol=1e-6)
    numpy.testing.assert_allclose(results[graph.update_of["memory"]][2], row[0], rtol=1e-6)


def test_returned_caches_and_results_nothing_computes(file: Path) -> None:
    captured = capture(CaptureRequest(f"{file}:shift"))
    graph = captured.graphs["decode"]
    assert graph.caches == ("now", "before") and len(graph.outputs) == 1
    assert all(update.value in graph.producer for update in graph.updates), "what a cache was is copied in time"
    assert graph.update_of["before"] == "now.copy"
    arrays = {name: numpy.full((2, 2), value, numpy.float32) for name, value in
              (("x", 1.0), ("now", 4.0), ("before", 8.0))}
    results = run(graph, captured, arrays)
    found = {name: float(results[value][0, 0]) for name, value in (*graph.update_of.items(), ("y", graph.outputs[0]))}
    assert found == {"now": 3.0, "before": 4.0, "y": 9.0}


def test_an_input_that_is_returned(file: Path) -> None:
    captured = capture(CaptureRequest(f"{file}:echo"))
    graph = captured.graphs["encode"]
    assert graph.outputs[0] == "x.copy" and graph.outputs[0] in graph.producer
    results = run(graph, captured, {"x": numpy.array([-1.0, 2.0], numpy.float32)})
    assert [results[name].tolist() for name in graph.outputs] == [[-1.0, 2.0], [0.0, 2.0]]


def test_the_reference_takes_the_same_steps(file: Path) -> None:
    for name in ("counter", "shift", "echo"):
        request = CaptureRequest(f"{file}:{name}")
        reference = reference_of(request)
        assert isinstance(reference, ProgramReference)
        captured = reference.captured
        (phase, graph), = captured.graphs.items()
        done = reference.run(Phase(phase), 1, 0, 3)
        caches = {cache: done.caches[cache] for cache in graph.caches}
        for step in done.steps:
            results = run(graph, captured, {**caches, **step.inputs})
            assert step.outputs.keys() == set(graph.outputs)
            for output, expected in step.outputs.items():
                numpy.testing.assert_allclose(results[output], expected, rtol=1e-5, err_msg=f"{name} {output}")
            caches = {cache: results[graph.update_of[cache]] for cache in graph.caches}


@pytest.mark.parametrize(("name", "overrides", "code", "said"), [
    ("missing", (), "HET-C001", "no function 'missing'"), ("not_callable", (), "HET-C001", "no function"),
    ("nothing", (), "HET-C001", "has to return"), ("no_names", (), "HET-C001", "has to return"),
    ("too_few", (), "HET-C001", "names output 7 as a cache"), ("", (), "HET-C001", "path.py:factory"),
    ("counter", (("depth", "3"),), "HET-C002", "depth"), ("data_dependent", (), "HET-C004", "torch.export stopped"),
    ("complex_numbers", (), "HET-C009", "complex64"),
])
def test_factories_that_cannot_be_captured(file: Path, name: str, overrides: tuple[tuple[str, str], ...], code: str,
                                           said: str) -> None:
    with pytest.raises(UserError) as caught:
        capture(CaptureRequest(f"{file}:{name}", overrides=overrides))
    assert caught.value.code == code and said in caught.value.what


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import no_such_module_anywhere\n")
    with pytest.raises(UserError, match="no_such_module_anywhere") as caught:
        capture(CaptureRequest(f"{file}:make"))
    assert caught.value.code == "HET-C008"


def test_an_exported_program(file: Path, tmp_path: Path) -> None:
    from_factory = capture(CaptureRequest(f"{file}:counter"))
    program = load_program(CaptureRequest(f"{file}:counter"))
    module, inputs = program.module, dict(program.inputs)
    exported = torch.export.export(module, (), kwargs=inputs, strict=False)
    saved = tmp_path / "counter.pt2"
    torch.export.save(exported, str(saved))
    captured = capture(CaptureRequest(str(saved), (Phase.DECODE,)))
    graph, expected = captured.graphs["decode"], from_factory.graphs["decode"]
    assert graph.caches == ("memory",) and set(graph.inputs) == {"x", "position"}
    assert [node.operator for node in graph.nodes] == [node.operator for node in expected.nodes]
    for name, array in from_factory.generated.items():
        numpy.testing.assert_array_equal(captured.generated[name], array)
    arrays = {name: tensor.numpy().copy() for name, tensor in inputs.items()}
    found, wanted = run(graph, captured, arrays), run(expected, from_factory, arrays)
    numpy.testing.assert_allclose(found[graph.outputs[0]], wanted[expected.outputs[0]], rtol=1e-6)
    done = reference_of(CaptureRequest(str(saved), (Phase.DECODE,))).run(Phase.DECODE, 0, 0, 2)
    assert len(done.steps) == 2 and set(done.caches) == {"memory"}


def test_a_file_that_is_no_exported_program(tmp_path: Path) -> None:
    file = tmp_path / "wrong.pt2"
    file.write_bytes(b"PK\x03\x04 but then nothing")
    with pytest.raises(UserError) as caught:
        capture(CaptureRequest(str(file)))
    assert caught.value.code == "HET-C008"
