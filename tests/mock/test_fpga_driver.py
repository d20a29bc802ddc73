"""The driver against the emulator, and the emulator against what real XRT 2.13 was seen to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import chosen
from hetcc.backends.fpga.emit import emit, emit_stages
from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.program import ENGINE, StreamProgram, load_program
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.backends.fpga.xrt.driver import KernelDriver
from hetcc.backends.fpga.xrt.emulator import (
    CommandState,
    EmulatedXrt,
    EmulatedXrtWithContexts,
    LenientXrt,
    SyncDirection,
)
from hetcc.backends.fpga.xrt.xclbin import pack, unpack
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph

REGION = sample.weighted_scan(1, 1, 2, 4, 16, 4)
TO_DEVICE, FROM_DEVICE = SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE, SyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE


def arguments_of(region: Graph, seed: int = 0) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    found = {name: random.standard_normal(region.type_of(name).shape).astype(numpy.float32)
             for name in (*region.inputs, *region.caches)}
    found["positions"] = numpy.array([5], numpy.int64)
    return found


def program(xrt: Any = EmulatedXrt) -> StreamProgram:
    return load_program(emit(REGION, "region").files, REGION, xrt)


@pytest.fixture
def opened(tmp_path: Path) -> SimpleNamespace:
    """A strict and a lenient card with the kernel loaded, through pyxrt's own calls."""
    files = emit(REGION, "region").files
    path = tmp_path / "kernel.xclbin"
    path.write_bytes(next(content for name, content in files.items() if name.endswith(".xclbin")))
    name = unpack(path.read_bytes()).kernel

    def card(xrt: Any) -> SimpleNamespace:
        device = xrt.device(0)
        identity = device.load_xclbin(str(path))
        return SimpleNamespace(xrt=xrt, device=device, uuid=identity, kernel=xrt.kernel(device, identity, name))

    return SimpleNamespace(path=path, name=name, strict=card(EmulatedXrt), lenient=card(LenientXrt))


def buffers_for(card: SimpleNamespace, count: int = 7) -> list[Any]:
    return [card.xrt.bo(card.device, 4096, card.xrt.bo.normal, card.kernel.group_id(at)) for at in range(count)]


# ---- the program


@pytest.mark.parametrize("xrt", [EmulatedXrt, EmulatedXrtWithContexts, LenientXrt])
def test_every_interface_gives_the_same_answer(xrt: Any) -> None:
    arguments = arguments_of(REGION)
    loaded = program(xrt)
    result = loaded.run(arguments)
    reference = program().run(arguments)
    assert loaded.engine == ENGINE
    assert loaded.executed_stages == 9
    assert set(result) == {REGION.outputs[0], REGION.updates[0].value}
    assert all(numpy.array_equal(result[name], reference[name]) for name in reference)


def test_a_bound_cache_stays_on_the_card() -> None:
    arguments = arguments_of(REGION)
    keys = arguments.pop("keys")
    loaded = program()
    loaded.bind_cache("keys", keys)
    for position in (5, 6):
        arguments["positions"] = numpy.array([position], numpy.int64)
        result = loaded.run(arguments)
    assert set(result) == {REGION.outputs[0]}
    expected = keys.copy()
    expected[:, [5, 6]] = arguments["rows"]
    assert numpy.array_equal(loaded.read_cache("keys"), expected)
    assert loaded.runs == 2
    assert loaded.executed_stages == 18


def test_the_folder_and_the_files_are_the_same_program(tmp_path: Path) -> None:
    emitted = emit(REGION, "region")
    for name, content in emitted.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    arguments = arguments_of(REGION)
    from_folder = load_program((tmp_path / emitted.entry).parent, REGION).run(arguments)
    assert all(numpy.array_equal(from_folder[name], value) for name, value in program().run(arguments).items())


@pytest.mark.parametrize(("change", "text"), [
    (lambda found: found.pop("mask"), "argument 'mask' is missing"),
    (lambda found: found.update(mask=found["mask"].astype(numpy.float64)), "float64"),
    (lambda found: found.update(mask=found["mask"][..., :-1]), "expected float32[1, 1, 16]"),
])
def test_wrong_arguments_are_named(change: Any, text: str) -> None:
    arguments = arguments_of(REGION)
    change(arguments)
    with pytest.raises(UserError, match="HET-R002") as caught:
        program().run(arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize("position", [16, -1, 2**40])
def test_a_row_outside_the_table_is_a_coded_error_and_nothing_is_written(position: int) -> None:
    arguments = arguments_of(REGION)
    keys = arguments.pop("keys")
    arguments["positions"] = numpy.array([position], numpy.int64)
    loaded = program()
    loaded.bind_cache("keys", keys)
    with pytest.raises(UserError, match="HET-R002") as caught:
        loaded.run(arguments)
    assert "outside its table" in str(caught.value)
    assert numpy.array_equal(loaded.read_cache("keys"), keys)


def test_unknown_caches_and_damaged_files_are_refused() -> None:
    loaded = program()
    with pytest.raises(UserError, match="HET-R002"):
        loaded.bind_cache("values", numpy.zeros(3, numpy.float32))
    with pytest.raises(UserError, match="HET-R002"):
        loaded.read_cache("keys")
    files = {name: content[:-1] for name, content in emit(REGION, "region").files.items()}
    with pytest.raises(UserError, match="HET-B003"):
        load_program(files, REGION)
    with pytest.raises(UserError, match="HET-B003"):
        load_program({}, REGION)
    for stages in (b"", b"{}", b'{"format": "hetcc-stages-1"}', b'{"format": "hetcc-stages-0"}', b"[1"):
        with pytest.raises(UserError, match="HET-B003"):
            load_program({"emulation.xclbin": pack("k", (0,), b"", stages)}, REGION)


def test_a_compute_unit_with_nothing_behind_it_never_completes(tmp_path: Path) -> None:
    path, graph = tmp_path / "empty.xclbin", chosen(composed(REGION))
    path.write_bytes(pack("empty", memory_map(graph).banks, b"<project/>", b""))
    driver = KernelDriver(EmulatedXrt, path, "empty", graph)
    with pytest.raises(ToolError, match="HET-F002"):
        driver.run()
    with pytest.raises(ToolError, match="HET-F002"):
        driver.ring()


# ---- parts and the persistent mode


def composed(region: Graph) -> StageGraph:
    graph = compose(region)
    assert isinstance(graph, StageGraph), graph
    return graph


def driver_of(graph: StageGraph, folder: Path, xrt: Any = EmulatedXrt) -> tuple[KernelDriver, dict[str, int]]:
    """A driver of a kernel on the emulator, and the place of each buffer."""
    made = emit_stages(graph, with_verilog=False)
    path = folder / "kernel.xclbin"
    path.write_bytes(made.files[made.entry])
    return (KernelDriver(xrt, path, unpack(path.read_bytes()).kernel, graph),
            {buffer.name: at for at, buffer in enumerate(graph.buffers)})


def filled(driver: KernelDriver, graph: StageGraph, position: int) -> dict[str, numpy.ndarray]:
    """Contents of all buffers, written to the card."""
    random = numpy.random.default_rng(7)
    found = {}
    for place, buffer in enumerate(graph.buffers):
        floats = buffer.element.is_floating
        found[buffer.name] = (random.standard_normal(buffer.shape).astype(numpy.float32) if floats else
                              numpy.full(buffer.shape, position, storage_type(buffer.element)))
        driver.write(place, found[buffer.name])
    return found


@pytest.mark.parametrize("parallel", [Parallelism(1, 3, 9), Parallelism(1, 1, 2), Parallelism(2, 5, 10)])
def test_a_table_in_parts_is_read_appended_to_and_read_back(parallel: Parallelism, tmp_path: Path) -> None:
    graph = replace(composed(sample.weighted_scan(1, 1, 2, 32, 50, 4)), parallel=parallel)
    assert len(memory_map(graph).of_buffer(table_of(graph))) == parallel.stripes
    driver, places = driver_of(graph, tmp_path)
    contents = filled(driver, graph, 17)
    expected = {name: array.reshape(-1).copy() for name, array in contents.items()}
    execute(graph, expected)
    assert driver.run().status == 0
    for name, place in places.items():
        assert driver.read(place).tobytes() == expected[name].tobytes(), name
    assert driver.read(places[table_of(graph)]).tobytes() != contents[table_of(graph)].tobytes()


def table_of(graph: StageGraph) -> str:
    return next(buffer.name for buffer in graph.buffers if buffer.role is BufferRole.TABLE)


def test_a_kernel_that_listens_answers_every_doorbell(tmp_path: Path) -> None:
    graph = chosen(composed(REGION))
    driver, places = driver_of(graph, tmp_path)
    filled(driver, graph, 3)
    with pytest.raises(ToolError, match="does not listen"):
        driver.ring()
    driver.listen()
    with pytest.raises(ToolError, match="listens already"):
        driver.listen()
    assert [driver.ring().sequence for _ in range(3)] == [1, 2, 3]
    position = next(buffer.name for buffer in graph.buffers if not buffer.element.is_floating)
    driver.write(places[position], numpy.full(graph.buffer(position).shape, 16, numpy.int64))
    with pytest.raises(UserError, match="outside its table"):
        driver.ring()
    driver.write(places[position], numpy.full(graph.buffer(position).shape, 4, numpy.int64))
    assert driver.ring().sequence == 5
    driver.dismiss()
    driver.dismiss()
    assert driver.run().sequence == 0


def test_a_doorbell_nobody_hears_is_an_error(tmp_path: Path) -> None:
    driver, _ = driver_of(chosen(composed(REGION)), tmp_path)
    driver.listen()
    driver.device.unit.listening = False
    with pytest.raises(ToolError, match="no answer to doorbell 1"):
        driver.ring(timeout_ms=1)


# ---- what real XRT does, and what strict mode refuses


def test_names_and_files_are_checked_as_xrt_does(tmp_path: Path, opened: SimpleNamespace) -> None:
    card = opened.strict
    with pytest.raises(RuntimeError, match="No such kernel 'x': Invalid argument"):
        card.xrt.kernel(card.device, card.uuid, "x")
    with pytest.raises(RuntimeError, match="No compute units matching"):
        card.xrt.kernel(card.device, card.uuid, opened.name + ":{other}")
    with pytest.raises(RuntimeError, match="xclbin id mismatch: Invalid argument"):
        card.xrt.kernel(card.device, "another", opened.name)
    with pytest.raises(RuntimeError, match="Failed to open file"):
        card.device.load_xclbin(str(tmp_path / "none"))
    (tmp_path / "bad").write_bytes(b"xclbin2\0 and then nothing")
    with pytest.raises(RuntimeError, match="Invalid xclbin"):
        card.device.load_xclbin(str(tmp_path / "bad"))
    with pytest.raises(IndexError):
        card.kernel.group_id(99)


def test_buffers_have_bounds_and_two_sides(opened: SimpleNamespace) -> None:
    card = opened.strict
    buffer = card.xrt.bo(card.device, 16, card.xrt.bo.normal, 0)
    with pytest.raises(RuntimeError, match="past buffer size"):
        buffer.write(numpy.zeros(17, numpy.uint8), 0)
    with pytest.raises(RuntimeError, match="past buffer size"):
        buffer.read(16, 1)
    with pytest.raises(TypeError):
        buffer.sync(TO_DEVICE)
    with pytest.raises(RuntimeError, match="no host buffer"):
        card.xrt.bo(card.device, 16, card.xrt.bo.device_only, 0).map()
    buffer.write(numpy.arange(16, dtype=numpy.uint8), 0)
    buffer.sync(FROM_DEVICE, 16, 0)
    assert not buffer.read(16, 0).any(), "what was never synchronised is not on the card"
    part = card.xrt.bo(buffer, 4, 8)
    part.write(numpy.full(4, 7, numpy.uint8), 0)
    part.sync(TO_DEVICE, 4, 0)
    assert buffer.device_memory.tolist() == [0] * 8 + [7] * 4 + [0] * 4


def test_a_strided_array_is_refused_only_in_strict_mode(opened: SimpleNamespace) -> None:
    strided = numpy.arange(16, dtype=numpy.uint8)[::2]
    strict, lenient = (card.xrt.bo(card.device, 16, 0, 0) for card in (opened.strict, opened.lenient))
    with pytest.raises(ValueError, match="non-contiguous"):
        strict.write(strided, 0)
    lenient.write(strided, 0)


@pytest.mark.parametrize("bad", [1.5, 2**31, True])
def test_set_arg_takes_what_a_register_holds(opened: SimpleNamespace, bad: object) -> None:
    run = opened.strict.xrt.run(opened.strict.kernel)
    with pytest.raises(TypeError):
        run.set_arg(0, bad)
    with pytest.raises(IndexError):
        run.set_arg(9, 1)


def test_calling_a_kernel_with_too_few_arguments_keeps_old_registers(opened: SimpleNamespace) -> None:
    strict, lenient = opened.strict, opened.lenient
    with pytest.raises(TypeError):
        strict.kernel(*buffers_for(strict)[:3])
    first = buffers_for(lenient)
    assert lenient.kernel(*first).wait() is CommandState.ERT_CMD_STATE_COMPLETED
    # The stale value of the earlier run stands in, and the run "succeeds".
    assert lenient.kernel(*buffers_for(lenient)[:3]).wait() is CommandState.ERT_CMD_STATE_COMPLETED
    assert lenient.kernel(1.5).wait() is CommandState.ERT_CMD_STATE_COMPLETED


def test_the_wrong_bank_is_refused_or_silently_copied(opened: SimpleNamespace) -> None:
    strict, lenient = opened.strict, opened.lenient
    other = next(place for place in range(6) if strict.kernel.group_id(place) != strict.kernel.group_id(6))
    wrong = strict.xrt.bo(strict.device, 4096, 0, strict.kernel.group_id(6))
    with pytest.raises(RuntimeError, match="bank"):
        strict.xrt.run(strict.kernel).set_arg(other, wrong)
    buffers = buffers_for(lenient)
    buffers[6] = lenient.xrt.bo(lenient.device, 4096, 0, lenient.kernel.group_id(other))
    buffers[6].device_memory[:] = 255
    assert lenient.kernel(*buffers).wait() is CommandState.ERT_CMD_STATE_COMPLETED
    assert (buffers[6].device_memory == 255).all(), "the results went to a copy"


def test_exclusive_kernels_exclude(opened: SimpleNamespace) -> None:
    xrt, device = EmulatedXrt, EmulatedXrt.device(0)
    identity = device.load_xclbin(str(opened.path))
    xrt.kernel(device, identity, opened.name, xrt.kernel.exclusive)
    with pytest.raises(RuntimeError, match="Conflicting access mode"):
        xrt.kernel(device, identity, opened.name, xrt.kernel.exclusive)


def test_waiting_on_a_run_that_was_never_started_is_reported(opened: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="never started"):
        opened.strict.xrt.run(opened.strict.kernel).wait()


def test_bfloat16_tables_keep_their_type() -> None:
    import ml_dtypes

    from hetcc.ir import DType, Role

    b = sample.RegionBuilder()
    cache = b.feed("keys", 8, 4, dtype=DType.BFLOAT16, role=Role.CACHE)
    turned = b.view("permute", cache, 4, 8, permutation=(1, 0))
    from hetcc.ir import OperatorClass

    score = b.node(OperatorClass.MATMUL, (b.feed("query", 1, 4, dtype=DType.BFLOAT16), turned), 1, 8,
                   dtype=DType.BFLOAT16, operator="mm", attributes={"lhs": 0, "rhs": 1})
    values, indices = b.topk(score, 3)
    b.values[values] = type(b.values[values])(values, type(b.values[values].type)((1, 3), DType.BFLOAT16))
    region = b.graph(values, indices)
    random = numpy.random.default_rng(3)
    keys = random.standard_normal((8, 4)).astype(ml_dtypes.bfloat16)
    query = random.standard_normal((1, 4)).astype(ml_dtypes.bfloat16)
    result = load_program(emit(region, "r").files, region).run({"keys": keys, "query": query})
    scores = (query.astype(numpy.float32) @ keys.astype(numpy.float32).T).astype(ml_dtypes.bfloat16)
    assert result[values].dtype == ml_dtypes.bfloat16
    assert numpy.array_equal(result[values][0], numpy.sort(scores[0])[::-1][:3])
