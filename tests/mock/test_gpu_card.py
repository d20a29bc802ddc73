"""Programs on a card: IREE's modules and raw launches on one memory. IREE runs on the processor; no card."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.gpu import tools
from hetcc.backends.gpu.drivers.hip import HipDriver
from hetcc.backends.gpu.drivers.memory import CardMemory
from hetcc.backends.gpu.drivers.program import CardProgram
from hetcc.backends.gpu.kernels.launches import Launch, LaunchPlan, Scalar, Tensor
from hetcc.backends.gpu.program_file import KernelCall, ModuleCall, ProgramFile, value_numbers
from hetcc.errors import ToolError, UserError
from hetcc.ir import (
    CacheUpdate,
    DType,
    Graph,
    Node,
    OperatorClass,
    Provenance,
    Role,
    SourceOperator,
    TensorType,
    Value,
)
from hetcc.plan.plan import LaunchStep, PhasePlan
from hetcc.runtime.real_gpu import RealGpu

from corpus.fake_card import FakeCard, code_for, with_hidden

pytest.importorskip("iree.runtime")
pytest.importorskip("iree.compiler")

COUNT = 16
KIND = TensorType((COUNT,), DType.FLOAT32)
TYPES = ("*fp32", "*fp32", "*fp32", "fp32")
ADD_ONE = """func.func @main(%0: tensor<16xf32>) -> tensor<16xf32> {
  %1 = arith.constant dense<1.0> : tensor<16xf32>
  %2 = arith.addf %0, %1 : tensor<16xf32>
  return %2 : tensor<16xf32>
}
"""


def scale(card: FakeCard, given: tuple[Any, ...], grid: tuple[int, int, int]) -> None:
    """scratch = x; y = scratch * factor."""
    x, scratch, y, factor, *_ = given
    card.array(scratch, COUNT)[:] = card.array(x, COUNT)
    card.array(y, COUNT)[:] = card.array(scratch, COUNT) * numpy.float32(factor)


@pytest.fixture(scope="module")
def add_one(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder: Path = tmp_path_factory.mktemp("module")
    (folder / "add.mlir").write_text(ADD_ONE, encoding="utf-8")
    outcome = tools.run_compiler(folder / "add.mlir", folder / "add.vmfb", tools.target_named("llvm-cpu"))
    assert outcome.ok, outcome
    return (folder / "add.vmfb").read_bytes()


def card(addresses: bool = True) -> tuple[FakeCard, CardMemory]:
    """A card; IREE may give the addresses of its memory, as its HIP driver does, or not, as its CUDA driver."""
    found = FakeCard("hip", {"scale": (with_hidden(*TYPES), scale)}, foreign_memory=addresses)
    return found, (CardMemory if addresses else Silent)(HipDriver(found), iree_driver="local-sync")


class Silent(CardMemory):
    """IREE exports nothing."""

    def _exported(self, view: Any) -> tuple[Any, int]:
        raise RuntimeError("UNAVAILABLE: not supported for export")


def node(name: str, inputs: tuple[str, ...], output: str) -> Node:
    return Node(name, SourceOperator("aten", "mul", "Tensor"), OperatorClass.ELEMENTWISE, inputs, (output,),
                provenance=Provenance(f"model.layers.0.{name}"))


def region() -> Graph:
    """out = cache * 5; times = x * 3; plus = times + 1 (IREE); again = plus * 2, the new contents of the cache."""
    nodes = (node("out/mul", ("cache",), "out"), node("times/mul", ("x",), "times"),
             node("plus/add", ("times",), "plus"), node("again/mul", ("plus",), "again"))
    values = {name: Value(name, KIND, role) for name, role in (
        ("x", Role.INPUT), ("cache", Role.CACHE), ("out", Role.ACTIVATION), ("times", Role.ACTIVATION),
        ("plus", Role.ACTIVATION), ("again", Role.ACTIVATION))}
    return Graph("decode/r0", nodes, values, ("x",), ("out", "again"), ("cache",), (CacheUpdate("cache", "again"),))


def kernel(place: int, source: str, result: str, factor: float, numbers: dict[str, int]) -> KernelCall:
    code = code_for("scale", TYPES)
    launch = Launch("none", "scale", (("p0", Tensor("x", DType.FLOAT32)), ("p1", Tensor("s", DType.FLOAT32, True)),
                                      ("p2", Tensor("y", DType.FLOAT32, True)), ("p3", Scalar(factor, "fp32"))), (),
                    (1, 1, 1))
    return KernelCall("Scale", (place,), LaunchPlan((launch,), (("s", KIND),)), (code.file_name,),
                      (("x", numbers[source]), ("y", numbers[result])), (code.facts(),))


def files(add_one: bytes, target: str = "gfx90a") -> dict[str, bytes]:
    numbers = value_numbers(region())
    program = ProgramFile(target, (
        kernel(0, "cache", "out", 5.0, numbers), kernel(1, "x", "times", 3.0, numbers),
        ModuleCall("add.vmfb", (2,), (2,), (numbers["plus"],)), kernel(3, "plus", "again", 2.0, numbers)))
    code = code_for("scale", TYPES)
    return {"gpu/r0.json": program.to_bytes(), "gpu/add.vmfb": add_one, f"gpu/{code.file_name}": code.content}


@pytest.mark.parametrize("addresses", [True, False])
def test_modules_and_kernels_work_on_one_memory_across_steps(add_one: bytes, addresses: bool) -> None:
    found, memory = card(addresses)
    gpu = RealGpu(memory.driver, memory)
    gpu.load(region(), files(add_one), "gpu/r0.json")
    gpu.put("cache", numpy.zeros(COUNT, numpy.float32))
    old = numpy.zeros(COUNT, numpy.float32)
    for step in range(4):
        x = numpy.arange(COUNT, dtype=numpy.float32) + step
        gpu.put("x", x)
        evidence = gpu.launch("decode/r0")
        numpy.testing.assert_array_equal(gpu.get("out"), old * 5)
        old = (x * 3 + 1) * 2
        numpy.testing.assert_array_equal(gpu.get("cache"), old)
    assert evidence.engine == "iree and triton gfx90a"
    assert memory.gives_addresses == addresses
    # Without addresses: the cache once; at every step x to the kernel, its product to IREE, IREE's sum to a kernel.
    assert memory.copies_of_results == (0 if addresses else 1 + 3 * 4)
    assert sum(entry[0] == "load" for entry in found.log) == 1, "one code object, whoever launches it"


@pytest.mark.parametrize("addresses", [True, False])
def test_memory_is_used_again_instead_of_growing(add_one: bytes, addresses: bool) -> None:
    found, memory = card(addresses)
    program = CardProgram(region(), files(add_one), "gpu/r0.json", memory)
    memory.bind("cache", numpy.zeros(COUNT, numpy.float32))
    sizes = []
    for _ in range(8):
        memory.bind("x", numpy.ones(COUNT, numpy.float32))
        program.step()
        sizes.append(memory.pool.bytes_allocated)
    assert sizes[2:] == [sizes[2]] * 6
    memory.drop(["x", "cache", "out", "times", "plus", "again"])
    del program
    memory.settle()
    gc.collect()
    memory.pool.trim()
    assert found.memory == {} and memory.pool.bytes_allocated == 0 and memory.size_bytes == 0


def test_iree_is_called_only_after_what_was_launched(add_one: bytes) -> None:
    found, memory = card()
    program = CardProgram(region(), files(add_one), "gpu/r0.json", memory)
    memory.bind("cache", numpy.zeros(COUNT, numpy.float32))
    memory.bind("x", numpy.ones(COUNT, numpy.float32))
    found.log.clear()
    program.step()
    words = [entry[0] for entry in found.log if entry[0] in ("launch", "finish_stream")]
    assert words == ["launch", "launch", "finish_stream", "launch"], "one wait, before the module in the middle"


def test_a_result_without_a_usable_address_is_copied_once(add_one: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    _, memory = card()
    memory.bind("x", numpy.arange(COUNT, dtype=numpy.float32))
    (view,) = memory.call(memory.load(add_one), (("x", False),), 1)
    memory.keep("y", view, DType.FLOAT32)
    rightly = memory._exported
    monkeypatch.setattr(memory, "_exported", lambda one: (None, 8) if one is view else rightly(one))
    assert memory.address_of("y") == memory.address_of("y") != 8
    assert memory.copies_of_results == 1
    numpy.testing.assert_array_equal(memory.fetch("y"), numpy.arange(COUNT, dtype=numpy.float32) + 1)


UPDATE = """func.func @main(%0: tensor<64x16xf32>, %1: tensor<1x16xf32>) -> tensor<64x16xf32> {
  %2 = tensor.insert_slice %1 into %0[7, 0] [1, 16] [1, 1] : tensor<1x16xf32> into tensor<64x16xf32>
  return %2 : tensor<64x16xf32>
}
"""


def test_iree_updates_a_cache_in_place_and_kernels_see_it(tmp_path: Path) -> None:
    (tmp_path / "update.mlir").write_text(UPDATE, encoding="utf-8")
    outcome = tools.run_compiler(tmp_path / "update.mlir", tmp_path / "m.vmfb", tools.target_named("llvm-cpu"))
    assert outcome.ok, outcome
    _, memory = card()
    memory.bind_zeros("cache", TensorType((64, 16), DType.FLOAT32))
    memory.bind("x", numpy.ones((1, 16), numpy.float32))
    before = memory.address_of("cache")
    for _ in range(2):
        (view,) = memory.call(memory.load((tmp_path / "m.vmfb").read_bytes()), (("cache", False), ("x", False)), 1)
        memory.keep("new", view, DType.FLOAT32)
        memory.rename("new", "cache")
        del view
    assert memory.address_of("cache") == before
    assert memory.fetch("cache").sum(1).nonzero()[0].tolist() == [7]


def test_memory_that_iree_has_seen_is_not_handed_out_again(add_one: bytes) -> None:
    _, memory = card()
    memory.bind("x", numpy.zeros(COUNT, numpy.float32))
    seen = memory.address_of("x")
    view = memory.view("x")
    memory.drop(["x"])
    assert memory.reserve("y", KIND) != seen and view is not None
    unseen = memory.address_of("y")
    memory.drop(["y"])
    assert memory.reserve("z", KIND) == unseen


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 5), (1, 1, 1, 1, 1, 1, 1, 2)])
@pytest.mark.parametrize("addresses", [True, False])
def test_every_type_and_shape_goes_in_and_out(dtype: str, shape: tuple[int, ...], addresses: bool) -> None:
    import ml_dtypes

    _, memory = card(addresses)
    random = numpy.random.default_rng(7)
    kind = numpy.dtype(getattr(ml_dtypes, dtype)) if dtype == "bfloat16" else numpy.dtype(dtype)
    array = random.integers(0, 2, shape).astype(kind)
    memory.bind("x", array)
    numpy.testing.assert_array_equal(memory.fetch("x"), array)
    assert memory.fetch("x").dtype == kind and "x" in memory and memory.size_bytes == array.nbytes
    if array.size:
        seen = memory._runtime.DeviceArray(memory._device, memory.view("x")).to_host()
        assert seen.shape == shape and seen.tobytes() == array.tobytes()
        memory.keep("y", memory.view("x"), memory._values["x"].kind.dtype)
        assert memory.address_of("y") % 16 == 0
        numpy.testing.assert_array_equal(memory.fetch("y"), array)


def test_an_array_may_be_changed_after_the_card_was_waited_for() -> None:
    _, memory = card()
    given = numpy.asfortranarray(numpy.arange(6, dtype=numpy.float32).reshape(2, 3))
    memory.bind("x", given)
    memory.settle()
    given[:] = 9
    numpy.testing.assert_array_equal(memory.fetch("x"), numpy.arange(6, dtype=numpy.float32).reshape(2, 3))


def test_many_arrays_are_not_all_kept_until_the_first_launch() -> None:
    found, memory = card()
    for number in range(200):
        memory.bind(f"w{number}", numpy.full(4, number, numpy.float32))
    assert sum(entry[0] == "finish_stream" for entry in found.log) == 3
    numpy.testing.assert_array_equal(memory.fetch("w199"), numpy.full(4, 199, numpy.float32))


def test_with_several_streams_memory_is_used_again_only_after_the_card() -> None:
    found, memory = card()
    memory.bind("x", numpy.zeros(4, numpy.float32))
    memory.on(memory.driver.new_stream())
    memory.drop(["x"])
    found.log.clear()
    memory.bind("y", numpy.ones(4, numpy.float32))
    assert [entry[0] for entry in found.log] == ["finish", "copy_in"]
    memory.bind_zeros("z", TensorType((4,), DType.FLOAT32))
    assert memory.fetch("z").tolist() == [0, 0, 0, 0] and memory.fetch("y").tolist() == [1, 1, 1, 1]


def phase_of(*launches: tuple[str, str, tuple[int, ...]]) -> PhasePlan:
    """A phase of launches (region, stream, waits); all it needs to be scheduled."""
    steps = tuple(LaunchStep(region=name, stream=stream, waits=waits, inputs=(), outputs=(), predicted_time_s=0.0)
                  for name, stream, waits in launches)
    return PhasePlan.model_construct(phase="decode", steps=steps)


def test_steps_run_on_the_streams_of_the_plan(add_one: bytes) -> None:
    """The second step runs on another stream and waits for the first through an event."""
    found, memory = card()
    gpu = RealGpu(memory.driver, memory)
    for name in ("decode/r0", "decode/r1"):
        gpu.load(replace(region(), name=name), files(add_one), "gpu/r0.json")
    gpu.schedule(phase_of(("r0", "gpu.0", ()), ("r1", "gpu.1", (0,))))
    for name in ("x", "cache"):
        gpu.put(name, numpy.zeros(COUNT, numpy.float32))
    found.log.clear()
    gpu.launch("decode/r0")
    gpu.launch("decode/r1")
    streams = [entry[2] for entry in found.log if entry[0] == "launch"]
    assert len(set(streams[:3])) == len(set(streams[3:])) == 1 and streams[0] != streams[3]
    words = [entry[0] for entry in found.log if entry[0] in ("record", "wait")]
    assert words == ["record", "wait"]


def test_a_failed_kernel_names_its_operators_and_their_place(add_one: bytes) -> None:
    found, memory = card()
    found.kernels = {}
    program = CardProgram(region(), files(add_one), "gpu/r0.json", memory)
    for name in ("x", "cache"):
        memory.bind(name, numpy.zeros(COUNT, numpy.float32))
    with pytest.raises(ToolError, match="hipModuleGetFunction") as caught:
        program.step()
    assert caught.value.code == "HET-G002"
    assert caught.value.where == "Scale for out/mul in model.layers.0.out/mul: scale"


@pytest.mark.parametrize("target", ["sm_80", "llvm-cpu"])
def test_a_program_for_another_make_is_refused(add_one: bytes, target: str) -> None:
    with pytest.raises(UserError, match=f"the program is for {target}, which a card of hip does not run"):
        CardProgram(region(), files(add_one, target), "gpu/r0.json", card()[1])


def test_damaged_files_are_refused(add_one: bytes) -> None:
    given = files(add_one)
    program = ProgramFile.from_bytes(given["gpu/r0.json"], "")
    first = program.calls[0]
    assert isinstance(first, KernelCall)
    short = replace(program, calls=(replace(first, files=(), code=()),))
    with pytest.raises(UserError, match="Scale has 1 launches and 0 code objects"):
        CardProgram(region(), {**given, "gpu/r0.json": short.to_bytes()}, "gpu/r0.json", card()[1])
    with pytest.raises(UserError, match=r"'gpu/add\.vmfb' is missing"):
        CardProgram(region(), {name: data for name, data in given.items() if name != "gpu/add.vmfb"}, "gpu/r0.json",
                    card()[1])


def test_what_is_not_there() -> None:
    _, memory = card()
    with pytest.raises(UserError, match="'x' has no value on the GPU"):
        memory.fetch("x")
    with pytest.raises(UserError, match="element type complex64 is not supported"):
        memory.bind("x", numpy.zeros(1, numpy.complex64))
