"""Running compiled regions: residency, caches in place, shared modules, and what is refused."""

from __future__ import annotations

import time

import numpy
import pytest

from hetcc.backends.contract import EmittedRegion
from hetcc.backends.gpu.emit import emit_many
from hetcc.backends.gpu.memory import GpuMemory
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.gpu.tools import ENGINES
from hetcc.backends.host.program import load_host_program, torch_guard
from hetcc.errors import ToolError, UserError
from hetcc.ir import DType, Graph, Role, TensorType, Value
from hetcc.ir.subgraph import extract
from tests.unit.aten_programs import arrays_for, capture

torch = pytest.importorskip("torch")
pytest.importorskip("torch_mlir")
pytest.importorskip("iree.runtime")

SMALL, LARGE = 16_384, 1_048_576
"""Tokens of 128 floats: 8 MiB and 512 MiB."""


def append(x, position, cache, length):
    """Appends a row, reads some of the cache after it, counts the rows."""
    cache.index_copy_(2, position, x)
    length.add_(1)
    return cache[:, :, :64].sum(2) + x[:, :, 0]


def append_examples(tokens: int):
    return (torch.ones(1, 1, 1, 128), torch.tensor([7]), torch.zeros(1, 1, tokens, 128), torch.tensor(5))


def decode(x, position, cache, weight):
    """One attention step over a cache that the step itself appends to."""
    cache.index_copy_(2, position, x)
    scores = torch.matmul(x @ weight, cache.transpose(2, 3)).softmax(-1)
    return torch.matmul(scores, cache)


def decode_examples():
    torch.manual_seed(0)
    return (torch.randn(1, 2, 1, 8), torch.tensor([3]), torch.randn(1, 2, 16, 8), torch.randn(8, 8))


@pytest.fixture(scope="module")
def regions() -> dict[str, Graph]:
    shapes = {"small": append_examples(SMALL), "large": append_examples(LARGE)}
    found = {name: capture(append, examples, caches=(2, 3)) for name, examples in shapes.items()}
    found["decode"] = capture(decode, decode_examples(), caches=(2,))
    both = found["decode"]
    found["published"] = Graph("published", both.nodes, both.values, both.inputs,
                               (*both.outputs, both.updates[0].value), both.caches, both.updates)
    found["views"] = capture(lambda x: (x.reshape(6), x.transpose(0, 1)), (torch.randn(2, 3),))
    found["bytes"] = capture(lambda x, position, cache: cache.index_copy_(0, position, x)[:2] + 1,
                             (torch.ones(1, 4).char(), torch.tensor([1]), torch.zeros(8, 4).char()), caches=(2,))
    found["narrow"] = capture(lambda x: (x * 2, x > 0), (torch.randn(4).to(torch.bfloat16),))
    found["empty"] = Graph("empty", (), {"cache": Value("cache", TensorType((2,), DType.FLOAT32), Role.CACHE)}, (), (),
                           ("cache",))
    return found


@pytest.fixture(scope="module")
def emitted(regions: dict[str, Graph]) -> dict[str, EmittedRegion]:
    results = emit_many(regions, ("llvm-cpu",), jobs=1)
    for name, result in results.items():
        assert isinstance(result, EmittedRegion), (name, result)
    return {name: result for name, result in results.items() if isinstance(result, EmittedRegion)}


def load(name: str, regions, emitted, memory: GpuMemory | None = None) -> GpuProgram:
    entry = emitted[name]
    return GpuProgram(regions[name], entry.files, entry.entry, memory or GpuMemory("local-sync"))


def best_time_s(program: GpuProgram) -> float:
    program.step()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        program.step()
        times.append(time.perf_counter() - started)
    return min(times)


def test_a_step_does_not_copy_the_cache(regions, emitted) -> None:
    times = {}
    for name, tokens in (("small", SMALL), ("large", LARGE)):
        program = load(name, regions, emitted)
        for key, array in arrays_for(regions[name], append_examples(tokens)).items():
            program.memory.bind(key, array)
        times[name] = best_time_s(program)
        if name == "large":
            started = time.perf_counter()
            program.memory.fetch("cache2")
            copy_s = time.perf_counter() - started
        assert program.memory.fetch("cache2").sum() == 128
        assert program.memory.fetch("cache3") == 5 + 6
    assert times["large"] < copy_s / 10, "the step took as long as a copy of the cache would"
    assert times["large"] < 8 * times["small"] + 1e-3, "32 times the cache must not cost more"


def test_several_steps_equal_the_host(regions, emitted) -> None:
    region = regions["decode"]
    arrays = arrays_for(region, decode_examples())
    program, host = load("decode", regions, emitted), load_host_program(region)
    for name, array in arrays.items():
        program.memory.bind(name, array)
    for position in range(3, 7):
        arrays["x1"] = numpy.array([position])
        arrays["x0"] = arrays["x0"] * 0.5 + position
        program.memory.bind("x1", arrays["x1"])
        program.memory.bind("x0", arrays["x0"])
        program.step()
        expected = host.run(arrays)
        arrays["cache2"] = expected[region.updates[0].value]
        numpy.testing.assert_allclose(program.memory.fetch(region.outputs[0]), expected[region.outputs[0]], 1e-5, 1e-5)
        numpy.testing.assert_array_equal(program.memory.fetch("cache2"), arrays["cache2"])


def test_torch_computes_nothing_during_a_step(regions, emitted) -> None:
    program = load("decode", regions, emitted)
    for name, array in arrays_for(regions["decode"], decode_examples()).items():
        program.memory.bind(name, array)
    with torch_guard() as use:
        program.step()
        program.memory.fetch(regions["decode"].outputs[0])
    assert use.count == 0


def test_a_cache_that_is_also_an_output_is_one_array(regions, emitted) -> None:
    region = regions["published"]
    program = load("published", regions, emitted)
    results = program.run(arrays_for(region, decode_examples()))
    assert set(results) == set(region.outputs)
    assert program.memory.view("cache2") is program.memory.view(region.updates[0].value)


def test_regions_hand_values_over_on_the_device(regions) -> None:
    whole = regions["decode"]
    cut = next(position for position, node in enumerate(whole.nodes) if "softmax" in node.operator.name)
    names = [node.name for node in whole.nodes]
    parts = {"first": extract(whole, names[:cut], "first"), "second": extract(whole, names[cut:], "second")}
    results = emit_many(parts, ("llvm-cpu",), jobs=1)
    memory = GpuMemory("local-sync")
    arrays = arrays_for(whole, decode_examples())
    for name, array in arrays.items():
        memory.bind(name, array)
    for name, part in parts.items():
        entry = results[name]
        assert isinstance(entry, EmittedRegion)
        GpuProgram(part, entry.files, entry.entry, memory).step()
    expected = load_host_program(whole).run(arrays)[whole.outputs[0]]
    numpy.testing.assert_allclose(memory.fetch(whole.outputs[0]), expected, 1e-5, 1e-5)


def test_views_and_narrow_types_and_integer_caches(regions, emitted) -> None:
    x = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    flat, turned = load("views", regions, emitted).run({"x0": x}).values()
    assert flat.tolist() == x.ravel().tolist()
    assert turned.tolist() == x.T.tolist()
    given = arrays_for(regions["narrow"], (torch.tensor([1.5, -1, 0, 2]).bfloat16(),))
    narrow = load("narrow", regions, emitted).run(given)
    doubled, positive = narrow.values()
    assert doubled.dtype.name == "bfloat16"
    assert doubled.astype("f4").tolist() == [3.0, -2.0, 0.0, 4.0]
    assert positive.dtype == numpy.bool_
    assert positive.tolist() == [True, False, False, True]
    program = load("bytes", regions, emitted)
    program.run({"x0": numpy.full((1, 4), -3, numpy.int8), "x1": numpy.array([5]),
                 "cache2": numpy.zeros((8, 4), numpy.int8)})
    assert program.memory.fetch("cache2").sum() == -12


def test_a_region_without_work_runs(regions, emitted) -> None:
    program = load("empty", regions, emitted)
    assert program.run({"cache": numpy.ones(2, numpy.float32)}) == {}
    assert program.memory.fetch("cache").tolist() == [1.0, 1.0]


def test_equal_modules_are_loaded_once(regions, emitted) -> None:
    memory = GpuMemory("local-sync")
    modules = {name: next(data for path, data in emitted[name].files.items() if path.endswith(".vmfb"))
               for name in ("views", "decode")}
    assert memory.load(modules["views"]) is memory.load(bytes(bytearray(modules["views"])))
    assert memory.load(modules["decode"]) is not memory.load(modules["views"])
    first = load("views", regions, emitted, memory)
    assert first.engine == ENGINES["llvm-cpu"]
    assert all("emulated" in engine for engine in ENGINES.values())


def test_shared_arrays_are_not_copied() -> None:
    memory = GpuMemory("local-sync")
    room = numpy.zeros(1024 + 16, numpy.float32)
    offset = (-room.ctypes.data % 64) // 4
    aligned, crooked = room[offset:offset + 1024], room[offset + 1:offset + 1001]
    for name, array in (("shared", aligned), ("copied", crooked)):
        memory.bind(name, array, share=True)
    room += 1
    assert memory.fetch("shared").sum() == 1024
    assert memory.fetch("copied").sum() == 0
    assert memory.size_bytes == 4 * 2024
    memory.drop(["shared", "absent"])
    assert "shared" not in memory


def test_what_is_missing_or_of_another_type_is_said(regions, emitted) -> None:
    program = load("views", regions, emitted)
    with pytest.raises(UserError, match="'x0' has no value"):
        program.step()
    with pytest.raises(ToolError, match="refused a call"):
        program.run({"x0": numpy.zeros((9, 9), numpy.float32)})
    with pytest.raises(UserError, match="complex64"):
        program.memory.bind("x0", numpy.zeros(2, numpy.complex64))
    with pytest.raises(ToolError, match="cannot load"):
        program.memory.load(b"not a module")


def test_a_fresh_cache_is_zero() -> None:
    memory = GpuMemory("local-sync")
    memory.bind_zeros("cache", TensorType((2, 3), DType.BFLOAT16))
    assert memory.fetch("cache").astype("f4").tolist() == [[0.0] * 3] * 2
