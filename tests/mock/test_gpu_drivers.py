"""The drivers of real GPUs against a strict stand-in for their C libraries. No card was used."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.gpu.drivers.contract import bytes_of
from hetcc.backends.gpu.drivers.cuda import CUDA, CudaDriver
from hetcc.backends.gpu.drivers.hip import HIP, HipDriver
from hetcc.backends.gpu.drivers.library import Interface, LibraryDriver, is_installed, open_library
from hetcc.backends.gpu.drivers.order import StepOrder
from hetcc.backends.gpu.kernels.code_object import Parameter
from hetcc.errors import InternalError, ToolError, UserError
from hetcc.ir import Graph, Node, OperatorClass, Provenance, SourceOperator
from hetcc.plan.plan import RegionSpec
from hetcc.runtime.real_gpu import launch_failed, open_card

from corpus.fake_card import CONTEXT, NO_CARD, FakeCard, code_for, with_hidden

DRIVERS: dict[str, tuple[type[LibraryDriver], str, int]] = {
    "hip": (HipDriver, "gfx90a", 0x3F), "cuda": (CudaDriver, "sm_80", 80)}
both = pytest.mark.parametrize("kind", ["hip", "cuda"])


def scale(card: FakeCard, given: tuple[Any, ...], grid: tuple[int, int, int]) -> None:
    """y = x * factor, for n elements."""
    x, y, count, factor, *hidden = given
    assert hidden == [0, 0]
    card.array(y, count)[:] = card.array(x, count) * numpy.float32(factor)


TYPES = ("*fp32", "*fp32", "i32", "fp32")
KERNELS = {"scale": (with_hidden(*TYPES), scale)}


def opened(kind: str, **settings: Any) -> tuple[FakeCard, LibraryDriver]:
    driver, _, chip = DRIVERS[kind]
    card = FakeCard(kind, **{"kernels": KERNELS, "chip": chip, **settings})
    return card, driver(card)


def code(kind: str, **settings: Any):
    _, target, chip = DRIVERS[kind]
    return code_for("scale", TYPES, target, chip, **settings)


# ---- arguments


@both
def test_arguments_are_packed_byte_for_byte(kind: str) -> None:
    types = ("*bf16", "i32", "i64", "fp16", "bf16", "fp32", "fp64", "i1", "i8", "u8", "i16")
    seen: list[tuple[Any, ...]] = []
    card, driver = opened(kind, kernels={"mixed": (with_hidden(*types), lambda card, given, grid: seen.append(given))})
    _, target, chip = DRIVERS[kind]
    values = (0x1234_5678_9ABC_DEF0, -2, -(1 << 40), 1.5, 1.00390625, -0.25, 1e300, 1, -1, 255, -300)
    driver.launch(code_for("mixed", types, target, chip), values, (3, 2, 1))
    expected = (struct.pack("<Q", values[0]), b"\xfe\xff\xff\xff", struct.pack("<q", values[2]), b"\x00\x3e",
                b"\x80\x3f", b"\x00\x00\x80\xbe", struct.pack("<d", 1e300), b"\x01", b"\xff", b"\xff", b"\xd4\xfe",
                bytes(8), bytes(8))
    assert card.launched[0].raw == expected
    driver.synchronize()
    assert seen == [(*values[:4], 1.0, *values[5:], 0, 0)]  # 1.00390625 lies between two bfloat16s: ties to even


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    import ml_dtypes

    random = numpy.random.default_rng(3)
    values = [1.00390625, 1.01171875, -1.01171875, 0.0, -0.0, 3.4e38, float("inf"), float("nan"), 1e-40,
              *random.standard_normal(200).astype(numpy.float32).tolist()]
    for value in values:
        wanted = numpy.array(value, numpy.float32).astype(ml_dtypes.bfloat16)
        assert bytes_of(Parameter("x", "bf16"), value) == wanted.tobytes(), value


@both
def test_a_launch_has_its_grid_block_shared_memory_and_stream(kind: str) -> None:
    card, driver = opened(kind)
    stream = driver.new_stream()
    driver.launch(code(kind, shared_bytes=40_000, warps=2), (1, 2, 0, 1.0), (7, 5, 3), stream)
    launched = card.launched[0]
    assert (launched.grid, launched.shared_bytes, launched.stream) == ((7, 5, 3), 40_000, stream)
    assert launched.block == ((128, 1, 1) if kind == "hip" else (64, 1, 1))


@both
def test_an_empty_grid_launches_nothing(kind: str) -> None:
    card, driver = opened(kind)
    driver.launch(code(kind), (1, 2, 0, 1.0), (4, 0, 1))
    assert card.launched == []


@both
@pytest.mark.parametrize(("values", "said"), [
    ((1, 2, 3), "3 arguments for a kernel that takes 4"), ((1, 2, 1 << 31, 1.0), "cannot be passed as i32"),
    ((1, 2, "n", 1.0), "cannot be passed as i32"), ((-1, 2, 3, 1.0), r"-1 cannot be passed as \*fp32"),
])
def test_wrong_arguments_are_refused_before_the_driver_sees_them(kind: str, values: Any, said: str) -> None:
    card, driver = opened(kind)
    with pytest.raises(UserError, match=said) as caught:
        driver.launch(code(kind), values, (1, 1, 1))
    assert caught.value.code == "HET-R002" and card.launched == []


def test_cuda_is_asked_for_much_shared_memory_once_per_kernel() -> None:
    card, driver = opened("cuda")
    big = code("cuda", shared_bytes=100_000)
    for _ in range(2):
        driver.launch(big, (1, 2, 0, 1.0), (1, 1, 1))
    assert [entry for entry in card.log if entry[0] == "limit"] == [("limit", 8, 100_000)]
    assert [entry[0] for entry in card.log].count("load") == 1
    driver.launch(code("cuda", shared_bytes=48 << 10), (1, 2, 0, 1.0), (1, 1, 1))
    assert len(card.launched) == 3


# ---- numbers, streams and events


@both
def test_a_kernel_runs_on_what_was_copied_in(kind: str) -> None:
    card, driver = opened(kind)
    given = numpy.arange(100, dtype=numpy.float32)
    x, y = driver.allocate(given.nbytes), driver.allocate(given.nbytes)
    assert x % 256 == 0
    driver.copy_in(x, given)
    driver.launch(code(kind), (x, y, 100, 2.5), (1, 1, 1))
    out = numpy.zeros(100, numpy.float32)
    driver.copy_out(out, y)
    assert not out.any(), "the stand-in is late on purpose"
    driver.synchronize(0)
    numpy.testing.assert_array_equal(out, given * numpy.float32(2.5))
    driver.zero(y, 400)
    driver.copy(x, y, 400)
    driver.copy_out(out, x)
    driver.synchronize()
    assert not out.any()
    driver.free(x)
    driver.free(y)
    assert card.memory == {}


@both
def test_calls_reach_the_card_from_a_thread_whose_context_was_changed(kind: str) -> None:
    card, driver = opened(kind)
    address = driver.allocate(16)
    card.current = None
    driver.zero(address, 16)
    driver.synchronize()
    assert card.current == (CONTEXT if kind == "cuda" else 0)


STEPS = (("compute", ()), ("copy", (0,)), ("compute", (0,)), None, ("compute", (1, 2, 3)), ("copy", (3,)))


def test_steps_wait_for_events_of_other_streams_only() -> None:
    card, driver = opened("hip")
    order = StepOrder(driver, STEPS)
    assert [entry for entry in card.log if entry[0].startswith("new")] == [
        ("new_stream", 1), ("new_stream", 1), ("new_event", 2), ("new_event", 2)]
    card.log.clear()
    for position in (0, 1, 2, 4, 5):
        order.begin(position)
        order.end(position)
    compute, copy = order.streams["compute"], order.streams["copy"]
    first, second = (entry[1] for entry in card.log if entry[0] == "record")
    assert card.log == [("record", first, compute), ("wait", copy, first), ("record", second, copy),
                        ("wait", compute, second)]


@both
def test_events_keep_the_order_of_streams(kind: str) -> None:
    _, driver = opened(kind)
    given, out = numpy.full(8, 3, numpy.float32), numpy.zeros(8, numpy.float32)
    x, y = driver.allocate(32), driver.allocate(32)
    order = StepOrder(driver, (("copy", ()), ("compute", (0,)), ("copy", (1,))))
    for _ in range(2):
        driver.copy_in(x, given, order.begin(0))
        order.end(0)
        driver.launch(code(kind), (x, y, 8, 2.0), (1, 1, 1), order.begin(1))
        order.end(1)
        driver.copy_out(out, y, order.begin(2))
        order.end(2)
        driver.synchronize(order.streams["copy"])
        numpy.testing.assert_array_equal(out, given * 2)
        given += 1


@pytest.mark.parametrize("steps", [[("a", (0,))], [("a", ()), ("a", (2,)), ("a", ())]])
def test_a_step_cannot_wait_for_itself_or_a_later_one(steps: Any) -> None:
    with pytest.raises(InternalError, match="which is not before it"):
        StepOrder(opened("hip")[1], steps)


def test_a_step_of_another_device_has_no_stream() -> None:
    with pytest.raises(InternalError, match="step 0 is not a step of this card"):
        StepOrder(opened("hip")[1], [None]).begin(0)


@both
def test_closing_gives_everything_back(kind: str) -> None:
    card, driver = opened(kind)
    driver.new_stream()
    driver.new_event()
    driver.launch(code(kind), (1, 2, 0, 1.0), (1, 1, 1))
    driver.close()
    words = [entry[0] for entry in card.log]
    assert words[words.index("drop_event"):] == ["drop_event", "drop_stream", "unload"] + (
        ["release"] if kind == "cuda" else [])


# ---- errors


@both
def test_a_refused_call_has_the_drivers_name_and_text(kind: str) -> None:
    _, driver = opened(kind, capacity_bytes=1000)
    with pytest.raises(ToolError) as caught:
        driver.allocate(2000)
    call = "hipMalloc" if kind == "hip" else "cuMemAlloc_v2"
    assert caught.value.code == "HET-G002"
    assert caught.value.what == f"{call} failed with ERROR_OUT_OF_MEMORY: out of memory"
    assert caught.value.where == "2000 bytes"


@both
def test_a_code_object_for_another_chip_is_refused_at_load(kind: str) -> None:
    _, driver = opened(kind, chip=0x4C)
    with pytest.raises(ToolError, match="ModuleLoadData failed with ERROR_NO_BINARY_FOR_GPU") as caught:
        driver.launch(code(kind), (1, 2, 0, 1.0), (1, 1, 1))
    assert caught.value.where == "scale"


@both
def test_a_kernel_that_is_not_in_the_code_object(kind: str) -> None:
    _, driver = opened(kind, kernels={})
    with pytest.raises(ToolError, match="ModuleGetFunction failed with ERROR_NOT_FOUND"):
        driver.launch(code(kind), (1, 2, 0, 1.0), (1, 1, 1))


@both
def test_a_failed_launch_says_which_kernel_and_grid(kind: str) -> None:
    _, driver = opened(kind)
    with pytest.raises(ToolError) as caught:
        driver.launch(code(kind, warps=64), (1, 2, 0, 1.0), (9, 1, 1))
    assert "LaunchKernel failed with ERROR_INVALID_VALUE" in caught.value.what
    assert caught.value.where.startswith("scale, grid 9 x 1 x 1, ")


@both
@pytest.mark.parametrize(("cards", "ordinal", "said"), [
    (0, 0, "NO_DEVICE"), (1, 1, "it has 1, number 1 was asked for")])
def test_no_card(kind: str, cards: int, ordinal: int, said: str) -> None:
    driver, _, chip = DRIVERS[kind]
    with pytest.raises(ToolError, match=said) as caught:
        driver(FakeCard(kind, cards=cards, chip=chip), ordinal)
    assert caught.value.code == "HET-T001" and NO_CARD == 100


@both
def test_an_old_driver_says_what_it_lacks(kind: str) -> None:
    missing = {"hip": "hipModuleLaunchKernel", "cuda": "cuLaunchKernel"}[kind]
    with pytest.raises(ToolError, match=f"has no {missing}") as caught:
        DRIVERS[kind][0](FakeCard(kind, lacking=(missing,)))
    assert caught.value.code == "HET-T002"


def test_a_driver_that_is_not_installed() -> None:
    nowhere = Interface("hip", ("libhetcc-no-such-driver.so",), {}, "install ROCm")
    assert not is_installed(nowhere)
    with pytest.raises(ToolError, match=r"no libhetcc-no-such-driver\.so") as caught:
        open_library(nowhere)
    assert (caught.value.code, caught.value.fix) == ("HET-T001", "install ROCm")


@both
def test_without_the_driver_a_card_cannot_be_opened(kind: str) -> None:
    if is_installed(HIP if kind == "hip" else CUDA):
        pytest.skip("this machine has the driver")
    with pytest.raises(ToolError, match="driver is not installed"):
        open_card(kind)


def test_a_failed_launch_names_step_node_and_module_path() -> None:
    nodes = tuple(Node(name, SourceOperator("aten", "mm", "default"), OperatorClass.MATMUL, (), (),
                       provenance=Provenance(path)) for name, path in (("a/mm", "model.layers.3.attn"), ("b/mm", "x")))
    graph = Graph("decode", nodes, {}, (), ())
    spec = RegionSpec.model_construct(name="r7", device="gpu", nodes=("a/mm", "b/mm"))
    error = launch_failed(ToolError("HET-G002", "hipModuleLaunchKernel failed with X: y", where="scale", fix="look"),
                          12, spec, graph)
    assert error.code == "HET-R004"
    assert error.what == "step 12 failed on the gpu: hipModuleLaunchKernel failed with X: y"
    assert error.where == "region r7: a/mm ... b/mm in model.layers.3.attn; scale" and error.fix == "look"


# ---- the types against the vendors' own headers


C_TYPES = {"int": ctypes.c_int, "unsigned int": ctypes.c_uint, "unsigned": ctypes.c_uint, "size_t": ctypes.c_size_t,
           "unsigned char": ctypes.c_ubyte, "hipError_t": ctypes.c_int, "CUresult": ctypes.c_int,
           "CUdevice": ctypes.c_int, "CUfunction_attribute": ctypes.c_int, "CUdeviceptr": ctypes.c_uint64}
HEADERS = {"hip": ("amd/include/hip/hip_runtime_api.h", HIP), "cuda": ("nvidia/include/cuda.h", CUDA)}


def declared(header: str, symbol: str) -> list[str]:
    """Types of a function's arguments in a C header, without the names."""
    found = re.search(rf"\b{symbol}\s*\(([^;]*?)\)\s*;", header)
    assert found, symbol
    text = re.sub(r"__dparm\([^)]*\)", "", found[1])
    parts = [" ".join(part.split()) for part in text.split(",")]
    named = [part.replace("const ", "") for part in parts if part != "void"]
    return [re.sub(r"\s*\b(?!int$|char$|unsigned$)\w+$", "", part) for part in named]


def bits(type_: Any) -> tuple[int, bool]:
    """What matters for a call: how many bytes, and whether it is a pointer (or stands for one)."""
    return ctypes.sizeof(type_), type_ in (ctypes.c_void_p, ctypes.c_char_p) or issubclass(type_, ctypes._Pointer)


@both
def test_types_agree_with_the_headers_in_the_triton_wheel(kind: str) -> None:
    triton = pytest.importorskip("triton.backends")
    name, interface = HEADERS[kind]
    header = (Path(triton.__file__).parent / name).read_text(encoding="utf-8")
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    for symbol, types in interface.functions.values():
        wanted = [C_TYPES.get(found, ctypes.c_void_p) for found in declared(header, symbol.removesuffix("_v2"))]
        assert [bits(type_) for type_ in types] == [bits(type_) for type_ in wanted], symbol
