"""Tables kept on chip: the core, the choice, the host's side, and whole kernels on simulated memory."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import Budget, choice_report, choose, rate_of
from hetcc.backends.fpga.costs.cycles import estimate_cycles
from hetcc.backends.fpga.costs.cycles_resident import block_bank, ultra_bank
from hetcc.backends.fpga.costs.kernel_cycles import kernel_cycles
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
from hetcc.backends.fpga.costs.unit_resources import CARD, MARGIN, NAMES
from hetcc.backends.fpga.formats import with_policy
from hetcc.backends.fpga.memory import memory_map as places
from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.memory.resident import Residency, residency_of, resident_limit, resident_table
from hetcc.backends.fpga.rtl.limits import check
from hetcc.backends.fpga.samples import scans as sample
from hetcc.backends.fpga.stages import numbers
from hetcc.backends.fpga.stages.functional import append_rows, execute
from hetcc.backends.fpga.stages.stage_graph import BufferRole, Parallelism, Scan, StageGraph
from hetcc.ir import Graph
from hetcc.report.hardware_text import hardware_lines


def kernel(region: Graph, policy: str, parallel: Parallelism | None) -> StageGraph:
    composed = compose(region)
    made = with_policy(composed, policy) if isinstance(composed, StageGraph) else composed
    assert isinstance(made, StageGraph), made
    return replace(made, parallel=parallel)


def contents(graph: StageGraph, seed: int, pattern: str = "random") -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    found: dict[str, numpy.ndarray] = {}
    for buffer in graph.buffers:
        count, kind = math.prod(buffer.shape), numbers.storage_type(buffer.element)
        if buffer.role is BufferRole.OUTPUT:
            found[buffer.name] = numpy.zeros(count, kind)
        elif not buffer.element.is_floating:
            found[buffer.name] = random.permutation(8)[:count].astype(kind)
        elif pattern == "tied":
            found[buffer.name] = random.integers(-1, 2, count).astype(kind)
        elif pattern == "-inf":
            found[buffer.name] = numpy.full(count, -math.inf, kind)
        else:
            found[buffer.name] = random.standard_normal(count).astype(kind)
    return found


# ---- the core alone


class CoreBench:
    """Fills the banks of a core, then runs instances."""

    def __init__(self, graph: StageGraph, lanes: int) -> None:
        from hetcc.backends.fpga.rtl.cores.resident import ResidentCore
        from hetcc.backends.fpga.rtl.units.library import Library

        self.graph, self.core = graph, ResidentCore(graph, Library(shared=False), lanes)

    def simulate(self, script: Callable[[Any], Any]) -> None:
        from amaranth.sim import Simulator

        simulator = Simulator(self.core)
        simulator.add_clock(1e-6)
        simulator.add_testbench(script)
        simulator.run()

    async def fill(self, context: Any, table: numpy.ndarray, rows: range | list[int]) -> None:
        core = self.core
        for row in rows:
            words = table.reshape(-1, core.row_words)[row]
            for port, value in ((core.row_valid, 1), (core.row_number, row),
                                (core.row_data, int.from_bytes(words.tobytes(), "little"))):
                context.set(port, value)
            await context.tick()
        context.set(core.row_valid, 0)

    async def instance(self, context: Any, stimulus: Any, base: int) -> tuple[list[int], int]:
        core = self.core
        context.set(core.base, base)
        context.set(core.start, 1)
        await context.tick()
        context.set(core.start, 0)
        loads, chosen = [int.from_bytes(one.tobytes(), "little") for one in stimulus.load], []
        sides = [[int.from_bytes(one.tobytes(), "little") for one in words] for words in stimulus.sides]
        for cycles in range(20_000):
            context.set(core.load_valid, int(bool(loads)))
            context.set(core.load_data, loads[0] if loads else 0)
            context.set(core.out_ready, int(cycles % 3 > 0))
            for at, words in enumerate(sides):
                context.set(core.side_valid[at], int(bool(words) and cycles % 5 > 0))
                context.set(core.side_data[at], words[0] if words else 0)
            if loads and context.get(core.load_ready):
                loads.pop(0)
            for at, words in enumerate(sides):
                if context.get(core.side_valid[at]) and context.get(core.side_ready[at]):
                    words.pop(0)
            if context.get(core.out_valid) and context.get(core.out_ready):
                chosen.append(context.get(core.out_index))
            await context.tick()
            if context.get(core.done):
                return chosen, cycles
        raise TimeoutError


@pytest.mark.parametrize(("make", "policy", "parallel"), [
    (lambda: sample.single_scan(16, 37, 5), "quantised:int16", Parallelism(1, 4, 1, 4, 0)),
    pytest.param(lambda: sample.single_scan(16, 33, 3), "exact", Parallelism(1, 2, 1, 1, 1), marks=pytest.mark.slow),
    pytest.param(lambda: sample.weighted_scan(2, 1, 4, 16, 32, 4), "quantised:int8", Parallelism(2, 4, 1, 0, 4),
                 marks=pytest.mark.slow),
    pytest.param(lambda: sample.single_scan(16, 20, 4), "quantised:bf16", Parallelism(1, 1, 1, 0, 1),
                 marks=pytest.mark.slow),
    pytest.param(lambda: sample.block_scan(1, 16, 4, 4, 2), "exact", Parallelism(1, 2, 1, 2, 0),
                 marks=pytest.mark.slow),
])
def test_rows_from_banks_give_the_bits_of_the_model(make: Callable[[], Graph], policy: str,
                                                    parallel: Parallelism) -> None:
    from hetcc.backends.fpga.rtl.simulation.stimulus import stimuli

    graph = kernel(make(), policy, parallel)
    assert resident_limit(graph, parallel.together) is None
    bench = CoreBench(graph, parallel.lanes)
    table = graph.of_kind(Scan)[0].table.buffer
    outputs = [buffer for buffer in graph.buffers if buffer.role is BufferRole.OUTPUT]
    indices = next(buffer.name for buffer in outputs if not buffer.element.is_floating)
    first, second = contents(graph, 1), contents(graph, 2, "tied")
    second[table] = first[table].copy()
    append_rows(graph, first)
    changed = second[table].reshape(-1, bench.core.row_words)
    changed[3] = numpy.linspace(-2, 2, changed.shape[1])
    append_rows(graph, second)
    every = range(bench.core.held.rows)

    async def script(context: Any) -> None:
        await bench.fill(context, first[table], every)
        for buffers in (first, second):
            if buffers is second:
                # Nothing but the rows that differ is written for the second run.
                rows = [row for row in every if (second[table] != first[table]).reshape(len(every), -1)[row].any()]
                assert 3 in rows and len(rows) < len(every)
                await bench.fill(context, second[table], rows)
            expected = {name: array.copy() for name, array in buffers.items()}
            execute(graph, expected)
            got: list[int] = []
            each = math.prod(axis.extent for axis in graph.instances) // max(
                bench.core.held.depth // bench.core.held.segment_depth, 1)
            for at, stimulus in enumerate(stimuli(graph, buffers, bench.core)):
                got += (await bench.instance(context, stimulus, at // each * bench.core.held.segment_depth))[0]
            assert got == expected[indices].reshape(-1).tolist()

    bench.simulate(script)


def test_banks_have_room_for_all_segments() -> None:
    graph = kernel(sample.weighted_scan(2, 1, 4, 16, 32, 4), "quantised:int8", None)
    held = residency_of(graph, 4)
    assert (held.row_bits, held.depth, held.segment_depth, held.rows) == (16 * 8 + 8, 16, 8, 64)


# ---- whole kernels in Verilator, with a host that changes buffers between runs


_CHANGES = """
    char name[32];
    snprintf(name, sizeof name, "change%u.bin", (unsigned)run);
    if (FILE* change = fopen(name, "rb")) {
      uint64_t head[3];
      while (fread(head, 8, 3, change) == 3) {
        if (head[0] == REGISTER) { lite_write((uint32_t)head[1], (uint32_t)head[2]); continue; }
        if (head[0] == FURTHER) { Region further; further.base = head[1]; further.bytes.resize(head[2]);
                                  head[0] = regions.size(); regions.push_back(further); }
        if (fread(regions[head[0]].bytes.data(), 1, head[2], change) != head[2]) return 2;
      }
      fclose(change);
    }
"""
_REGISTER, _FURTHER = 1001, 1002
_EACH_RUN = "for (uint64_t run = 0; run < runs; ++run) {"


class ChangingHost:
    """A built kernel, and a host that writes other contents into buffers before some runs."""

    def __init__(self, graph: StageGraph, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from hetcc.backends.fpga.rtl.simulation import kernel_simulation
        from hetcc.backends.fpga.rtl.verilog import write_kernel

        plain, self._memory = kernel_simulation.bench_text, memory_map(graph)

        def changing(*arguments: Any) -> str:
            text = plain(*arguments)
            assert text.count(_EACH_RUN) == 1
            inserted = _CHANGES.replace("REGISTER", str(_REGISTER)).replace("FURTHER", str(_FURTHER))
            return text.replace(_EACH_RUN, _EACH_RUN + inserted)

        monkeypatch.setattr(kernel_simulation, "bench_text", changing)
        self._graph, self._folder = graph, folder
        kernel_simulation.build_kernel(write_kernel(graph, "kernel_under_test"), "kernel_under_test", graph, folder)

    def change(self, run: int, buffers: dict[str, numpy.ndarray], *, persistent: bool, reload: bool | None,
               moved: str = "") -> None:
        """Before a run; ``reload`` None leaves the mode, and the word beside the doorbell, as they are.

        What is ``moved`` lies at another address from then on.
        """
        content = []
        for at, argument in enumerate(self._memory.pointers):
            if argument.buffer in buffers:
                part = layout_of(self._graph, argument.buffer).deal(buffers[argument.buffer])[argument.stripe]
                head = struct.pack("<QQQ", at, 0, part.size)
                if argument.buffer == moved:
                    address = self._memory.masters[argument.master].bank * places.HBM_BANK_BYTES + 2**28
                    content.append(struct.pack("<QQQ", _REGISTER, argument.offset, address % 2**32)
                                   + struct.pack("<QQQ", _REGISTER, argument.offset + 4, address >> 32))
                    head = struct.pack("<QQQ", _FURTHER, address, part.size)
                content.append(head + part.tobytes())
            if argument.name == places.MAILBOX and persistent and reload is not None:
                raw = struct.pack("<II", run, int(reload))
                content.append(struct.pack("<QQQ", at, 0, len(raw)) + raw)
        if not persistent and reload is not None:
            content.append(struct.pack("<QQQ", _REGISTER, self._memory.named(places.MODE).offset,
                                       places.MODE_RELOAD if reload else 0))
        (self._folder / f"change{run}.bin").write_bytes(b"".join(content))


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize("persistent", [False, True])
def test_a_table_stays_on_chip_between_runs(persistent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended rows are on chip; another table in memory is not until the host says so."""
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import run_kernel

    graph = kernel(sample.weighted_scan(2, 2, 4, 32, 32, 4), "quantised:int16", Parallelism(2, 4, 2, 2, 2))
    host, table = ChangingHost(graph, tmp_path, monkeypatch), graph.of_kind(Scan)[0].table.buffer
    first = contents(graph, 1)
    expected = {name: array.copy() for name, array in first.items()}
    execute(graph, expected)
    states, in_memory, on_chip = [expected], expected[table], expected[table]
    # Other operands and new rows; a table that nobody speaks of; the same, spoken of; once more as at first.
    for run, (swapped, reload) in enumerate([(False, None), (True, None), (False, True), (False, False)], 1):
        buffers = contents(graph, 10 + run, "tied" if run == 2 else "random")
        other = buffers.pop(table)
        host.change(run, {**buffers, **({table: other} if swapped else {})}, persistent=persistent, reload=reload)
        in_memory = other if swapped else in_memory
        seen = {**{name: array.copy() for name, array in buffers.items()},
                table: (in_memory if reload else on_chip).copy()}
        execute(graph, seen)
        behind = {**{name: array.copy() for name, array in buffers.items()}, table: in_memory.copy()}
        append_rows(graph, behind)
        in_memory, on_chip = behind[table], seen[table]
        states.append({**seen, table: in_memory})
    for runs, state in enumerate(states, 1):
        got = {name: array.copy() for name, array in first.items()}
        done = run_kernel(graph, got, tmp_path, runs=runs, persistent=persistent)
        for name, array in state.items():
            assert got[name].tobytes() == array.tobytes(), (runs, name)
    beats = [done.beats_read[argument.master] for argument in memory_map(graph).of_buffer(table)]
    # 64 rows of two words in two stripes, twice; and four rows that were appended in each of the other runs.
    assert beats == [2 * 64 + 3 * 4] * 2
    if persistent:
        return
    # A table at another address is read although nobody says so.
    buffers = contents(graph, 20)
    host.change(len(states), buffers, persistent=False, reload=False, moved=table)
    execute(graph, buffers)
    got = {name: array.copy() for name, array in first.items()}
    run_kernel(graph, got, tmp_path, runs=len(states) + 1)
    for buffer in graph.buffers:
        if buffer.role is BufferRole.OUTPUT:
            assert got[buffer.name].tobytes() == buffers[buffer.name].tobytes()


@pytest.mark.slow
@pytest.mark.requires_tool("verilator")
@pytest.mark.parametrize(("make", "policy", "parallel"), [
    (lambda: sample.single_scan(16, 37, 5), "quantised:int16", Parallelism(1, 4, 1, 4, 0)),
    (lambda: sample.single_scan(64, 300, 7, masked=False), "quantised:int8", Parallelism(1, 8, 2, 0, 8)),
    (lambda: sample.block_scan(1, 32, 8, 4, 2), "exact", Parallelism(1, 2, 1, 1, 1)),
    (lambda: sample.weighted_scan(1, 3, 2, 16, 40, 4), "quantised:bf16", Parallelism(1, 2, 1, 2, 0)),
])
def test_a_kernel_with_its_table_on_chip_is_the_functional_model(make: Callable[[], Graph], policy: str,
                                                                 parallel: Parallelism, tmp_path: Path) -> None:
    from hetcc.backends.fpga.rtl.simulation.kernel_simulation import APART_CYCLES, build_kernel, run_kernel
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    graph = kernel(make(), policy, parallel)
    build_kernel(write_kernel(graph, "kernel_under_test"), "kernel_under_test", graph, tmp_path)
    for pattern in ("random", "tied", "-inf"):
        for options in ({"runs": 2}, {"runs": 2, "persistent": True}, {"runs": 2, "stall": 0.4, "seed": 3}):
            got = contents(graph, 3, pattern)
            expected = {name: array.copy() for name, array in got.items()}
            execute(graph, expected)
            done = run_kernel(graph, got, tmp_path, **options)  # type: ignore[arg-type]
            for name, array in got.items():
                assert array.tobytes() == expected[name].tobytes(), (pattern, options, name)
    # A single run may meet a refresh or none, so the closed form is compared with the mean of many.
    done = run_kernel(graph, contents(graph, 3), tmp_path, runs=33, apart=APART_CYCLES)
    predicted = kernel_cycles(graph)
    assert numpy.mean(done.cycles[1:]) == pytest.approx(predicted.cycles, rel=0.05)
    assert done.cycles[0] == pytest.approx(predicted.cycles + predicted.fill_cycles, abs=90 + 0.03 * done.cycles[0])


# ---- the choice, resources and limits


@pytest.mark.parametrize(("rows", "policy", "banks"), [
    (16_384, "quantised:int16", (32, 0)), (65_536, "quantised:int16", (12, 20)), (131_072, "quantised:int16", (0, 0)),
    (131_072, "quantised:int8", (12, 20)),
])
def test_tables_lie_in_block_ram_then_ultra_ram_then_memory(rows: int, policy: str, banks: tuple[int, int]) -> None:
    graph = kernel(sample.single_scan(128, rows, 64, masked=False), policy, None)
    parallel = choose(graph, Budget(on_chip=True))
    assert (parallel.block_banks, parallel.ultra_banks) == banks
    held = replace(graph, parallel=parallel)
    assert max(total_of(kernel_resources(held)).shares(CARD).values()) <= MARGIN
    rate, streamed = rate_of(graph, parallel), choose(graph)
    assert streamed.block_banks + streamed.ultra_banks == 0
    if sum(banks):
        # 4,096 multiplications of 128-element rows per cycle; memory would allow 2.6 rows.
        assert parallel.together == sum(banks) == 32 == round(1 / rate.row_cycles)
        assert kernel_cycles(held).cycles < kernel_cycles(replace(graph, parallel=streamed)).cycles / 5
        report: Any = choice_report(held)
        assert report["table_on_chip"]["bytes"] == held_bytes(graph)
        assert report["rows_per_cycle_memory"] == 32
        assert report["memory_channels"] == 3
        assert f"{held_bytes(graph):,} bytes in" in dict(hardware_lines(report, policy))["on chip"]
    else:
        assert parallel == streamed


def held_bytes(graph: StageGraph) -> int:
    return residency_of(graph, 32).bits // 8


def test_a_mask_comes_through_its_channel() -> None:
    """A channel brings a word of 16 numbers per 1.44 cycles, whatever the banks give."""
    graph = kernel(sample.single_scan(128, 16_384, 64), "quantised:int16", None)
    parallel = choose(graph, Budget(on_chip=True))
    assert parallel.together == 16 and rate_of(graph, parallel).binds == "memory"
    assert 11 < 1 / rate_of(graph, parallel).row_cycles < 11.2


def test_on_chip_memory_that_is_shared_holds_less() -> None:
    graph = kernel(sample.single_scan(128, 65_536, 64, masked=False), "quantised:int8", None)
    for kernels in (1, 2, 8):
        budget = Budget(on_chip=True).shared(kernels)
        parallel = choose(graph, budget)
        total = total_of(kernel_resources(replace(graph, parallel=parallel)))
        assert all(getattr(total, name) <= getattr(budget.limits, name) for name in NAMES)
        assert (parallel.block_banks + parallel.ultra_banks > 0) == (kernels < 8)


@pytest.mark.parametrize(("make", "together", "rule"), [
    (lambda: sample.single_scan(8, 64, 4), 2, "whole words"),
    (lambda: sample.bound_scan(16, 32, 4), 2, "inner product"),
    (lambda: sample.single_scan(48, 64, 4), 2, "elements of a row"), (lambda: sample.single_scan(16, 64, 4), 3, "step"),
    (lambda: sample.weighted_scan(2, 1, 2, 16, 30, 4), 4, "whole steps"),
    (lambda: sample.weight_product(1, 16, 32), 2, "the same between runs"),
])
def test_what_cannot_be_kept_has_a_limit(make: Callable[[], Graph], together: int, rule: str) -> None:
    graph = kernel(make(), "exact", Parallelism(1, together, 1, together, 0))
    said = check(graph)
    assert said is not None and rule in str(said)


def test_every_bank_gives_a_row() -> None:
    graph = kernel(sample.single_scan(16, 64, 4), "exact", Parallelism(1, 4, 1, 2, 1))
    assert "every bank" in str(check(graph))
    good = replace(graph, parallel=Parallelism(1, 4, 1, 2, 2))
    assert check(good) is None
    assert StageGraph.from_json(good.to_json()) == good
    assert resident_table(good) == good.of_kind(Scan)[0].table.buffer
    assert resident_table(replace(good, parallel=None)) == ""
    assert estimate_cycles(good).bytes_read < estimate_cycles(replace(good, parallel=Parallelism(1, 4, 4))).bytes_read


@pytest.mark.slow
def test_banks_take_what_the_forms_say() -> None:
    from hetcc.backends.fpga.rtl.cores.resident import Bank
    from hetcc.backends.fpga.rtl.simulation.synthesis import synthesise

    units, forms = [], []
    for depth, style, form in ((128, "block", block_bank), (2_048, "block", block_bank), (2_048, "ultra", ultra_bank)):
        bank = Bank(136, depth, style)
        units.append((bank, tuple(getattr(bank, name) for name in (*Bank.INPUTS, *Bank.OUTPUTS))))
        forms.append(form(Residency(136, depth, depth, depth, 1, 1)))
    assert synthesise(units) == forms
