"""Who must say that a table kept on chip is another one: the driver does, and the emulator notices when it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.emit import emit_stages
from hetcc.backends.fpga.memory.memory_map import MODE, MODE_PERSISTENT, MODE_RELOAD, memory_map
from hetcc.backends.fpga.memory.resident import resident_table
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages.functional import execute
from hetcc.backends.fpga.stages.numbers import storage_type
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, StageGraph
from hetcc.backends.fpga.xrt.driver import KernelDriver
from hetcc.backends.fpga.xrt.emulator import EmulatedXrt, EmulatedXrtWithContexts, LenientXrt
from hetcc.backends.fpga.xrt.xclbin import unpack
from hetcc.errors import ToolError, UserError


class Card:
    """A driver of a kernel that keeps its table, and what its buffers should hold."""

    def __init__(self, xrt: Any, folder: Path) -> None:
        composed = compose(sample.weighted_scan(2, 1, 2, 16, 32, 4))
        assert isinstance(composed, StageGraph)
        self.graph = replace(composed, parallel=Parallelism(2, 4, 1, 3, 1))
        emitted = emit_stages(self.graph, with_verilog=False)
        path = folder / "emulation.xclbin"
        path.write_bytes(emitted.files[emitted.entry])
        self.driver = KernelDriver(xrt, path, unpack(path.read_bytes()).kernel, self.graph)
        self.places = {buffer.name: at for at, buffer in enumerate(self.graph.buffers)}
        self.table = resident_table(self.graph)
        self.expected: dict[str, numpy.ndarray] = {}

    def contents(self, seed: int) -> dict[str, numpy.ndarray]:
        random, found = numpy.random.default_rng(seed), {}
        for buffer in self.graph.buffers:
            count, kind = int(numpy.prod(buffer.shape)), storage_type(buffer.element)
            found[buffer.name] = (random.standard_normal(count) if buffer.element.is_floating
                                  else random.integers(0, 32, count)).astype(kind)
        return found

    def write(self, seed: int, *, with_table: bool) -> None:
        for name, array in self.contents(seed).items():
            if with_table or name != self.table:
                self.driver.write(self.places[name], array)
                self.expected[name] = array.copy()

    def overwrite_table(self, seed: int) -> numpy.ndarray:
        """Another hand writes the table, past the driver."""
        content = self.contents(seed)[self.table]
        for argument in memory_map(self.graph).of_buffer(self.table):
            self.driver._put(argument.position, content.view(numpy.uint8), 0)
        return content

    def agree(self) -> None:
        """The outputs and the table in memory are those of the model."""
        execute(self.graph, self.expected)
        for buffer in self.graph.buffers:
            if buffer.role in (BufferRole.OUTPUT, BufferRole.TABLE):
                got = self.driver.read(self.places[buffer.name])
                assert got.tobytes() == self.expected[buffer.name].tobytes(), buffer.name

    @property
    def mode(self) -> int:
        unit = self.driver.device.unit
        return int(unit.registers[memory_map(self.graph).named(MODE).position])


@pytest.mark.parametrize("xrt", [EmulatedXrt, EmulatedXrtWithContexts, LenientXrt])
@pytest.mark.parametrize("persistent", [False, True])
def test_the_driver_says_when_the_table_is_another(xrt: Any, persistent: bool, tmp_path: Path) -> None:
    card = Card(xrt, tmp_path)
    if persistent:
        card.driver.listen()
    for seed, with_table in enumerate([True, False, False, True, False]):
        card.write(seed, with_table=with_table)
        if persistent:
            card.driver.ring()
        else:
            card.driver.run()
            assert card.mode == (MODE_RELOAD if with_table else 0)
        card.agree()
    if persistent:
        assert card.mode == MODE_PERSISTENT | MODE_RELOAD
        card.driver.dismiss()


def test_a_driver_that_forgets_is_caught(tmp_path: Path) -> None:
    card = Card(EmulatedXrt, tmp_path)
    card.write(0, with_table=True)
    card.driver.run()
    other = card.overwrite_table(1)
    with pytest.raises(ToolError, match="changed in memory") as caught:
        card.driver.run()
    assert caught.value.code == "HET-F002"
    card.driver.changed(card.places[card.table])
    card.driver.run()
    card.expected[card.table] = other.copy()
    card.agree()


def test_a_card_scans_what_it_has(tmp_path: Path) -> None:
    card = Card(LenientXrt, tmp_path)
    card.write(0, with_table=True)
    card.driver.run()
    card.agree()
    card.overwrite_table(1)
    card.write(2, with_table=False)
    card.driver.run()
    execute(card.graph, card.expected)
    for buffer in card.graph.buffers:
        if buffer.role is BufferRole.OUTPUT:
            assert card.driver.read(card.places[buffer.name]).tobytes() == card.expected[buffer.name].tobytes()


def test_a_refused_run_has_not_read_the_table(tmp_path: Path) -> None:
    card = Card(EmulatedXrt, tmp_path)
    card.write(0, with_table=True)
    positions = next(buffer.name for buffer in card.graph.buffers if not buffer.element.is_floating)
    good = card.expected[positions].copy()
    card.driver.write(card.places[positions], numpy.full_like(good, 32))
    with pytest.raises(UserError, match="HET-R002"):
        card.driver.run()
    card.driver.write(card.places[positions], good)
    card.driver.run()
    assert card.mode == MODE_RELOAD
    card.agree()
    card.write(1, with_table=False)
    card.driver.run()
    assert card.mode == 0
    card.agree()


def test_a_table_at_another_place_is_read_though_nobody_says_so(tmp_path: Path) -> None:
    card = Card(EmulatedXrt, tmp_path)
    card.write(0, with_table=True)
    card.driver.run()
    card.agree()
    argument, driver = memory_map(card.graph).of_buffer(card.table)[0], card.driver
    old = driver._buffers[argument.position]
    driver._buffers[argument.position] = EmulatedXrt.bo(driver.device, old.size(), EmulatedXrt.bo.normal, old.group)
    card.expected[card.table] = card.overwrite_table(5)
    card.write(6, with_table=False)
    driver.run()
    assert card.mode == 0
    card.agree()
