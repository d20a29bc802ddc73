"""Which kernels of a plan share an ``.xclbin``: as few files as resources, memory channels and dies allow.

Every file must stay within the margin of each resource of the card. A table that several kernels of a file work on is
in the same channels for all of them, so that it need not be copied; every part of a table has channels of its own, as
many as its caches fill; what is small shares the channels that are left. A kernel that fits into one die (SLR) is put
there, the one beside the memory first; a larger one is left to the vendor's placer.

A step that needs kernels of several files loads one after the other. Among packings of equally few files the one with
the fewest such loads is taken. All *estimated*: the resources are closed forms (``kernel_resources``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hetcc.backends.fpga.costs.kernel_resources import kernel_resources, total_of
from hetcc.backends.fpga.costs.unit_resources import CARD, MARGIN, NAMES, Resources, together
from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.memory.memory_map import HBM_BANK_BYTES, HBM_BANKS, MemoryMap, memory_map
from hetcc.backends.fpga.stages.stage_graph import BufferRole, StageGraph

DIES = 3
"""SLRs of the card; number 0 is beside the memory."""
_SEARCH_LIMIT = 20_000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Table:
    """A table of a kernel, and which caches it stands for in all regions that the kernel runs."""

    masters: tuple[int, ...]
    """Number of the master of each part."""
    caches: frozenset[str]
    part_bytes: int
    """Of one part of one cache."""


@dataclass(frozen=True)
class Demand:
    """What a kernel needs."""

    kernel: str
    resources: Resources
    memory: MemoryMap
    tables: tuple[Table, ...] = ()

    @property
    def small(self) -> tuple[int, ...]:
        """Masters that serve no table."""
        tables = {master for table in self.tables for master in table.masters}
        return tuple(master.number for master in self.memory.masters if master.number not in tables)


@dataclass(frozen=True)
class Placed:
    """A kernel in a file."""

    demand: Demand
    die: int | None
    """None: larger than what is left of any one die."""
    channels: tuple[tuple[int, int], ...]
    """First and last pseudo-channel of each master."""


@dataclass(frozen=True)
class Pack:
    """One file."""

    name: str
    kernels: tuple[Placed, ...]
    fits: bool
    """Whether it is within the margins; only a kernel alone in its file may not be."""

    @property
    def resources(self) -> Resources:
        """Of all kernels."""
        return together(placed.demand.resources for placed in self.kernels)


@dataclass(frozen=True)
class Packing:
    """All files of a plan."""

    packs: tuple[Pack, ...]
    loads: Mapping[str, int] = field(default_factory=dict)
    """By phase: how often a step that follows its like loads a file."""
    proved: bool = True
    """No packing of fewer files exists, or of as many with fewer loads, by the estimates."""


def demand_of(kernel: str, graph: StageGraph, uses: Iterable[Sequence[str]]) -> Demand:
    """What a kernel needs.

    Args:
        kernel: its name.
        graph: the kernel.
        uses: for every region that it runs, the names of the region's values in the order of the kernel's buffers.
    """
    memory, bound = memory_map(graph), list(uses)
    tables = []
    for position, buffer in enumerate(graph.buffers):
        masters = tuple(argument.master for argument in memory.of_buffer(buffer.name))
        # What is appended to and never scanned goes through the master of all that is small.
        if buffer.role is BufferRole.TABLE and 0 not in masters:
            caches = frozenset(names[position] for names in bound)
            tables.append(Table(masters, caches, layout_of(graph, buffer.name).part_bytes))
    return Demand(kernel, total_of(kernel_resources(graph)), memory, tuple(tables))


def pack(demands: Sequence[Demand], sequences: Mapping[str, Sequence[str]]) -> Packing:
    """The packing with the fewest files, and of those the one with the fewest loads.

    Args:
        demands: one per kernel, names all different.
        sequences: by phase, the kernels in the order in which a step launches them.
    """
    order = sorted(demands, key=lambda one: (-max(one.resources.shares(CARD).values()), one.kernel))
    search = _Search(order, sequences)
    search.run()
    packs = tuple(_packed(f"pack{number}", group) for number, group in enumerate(search.best))
    loads = {phase: count_loads(search.best, sequence) for phase, sequence in sequences.items() if sequence}
    return Packing(packs, loads, search.left > 0)


def count_loads(groups: Sequence[Sequence[Demand]], sequence: Sequence[str]) -> int:
    """How often another file is needed in a step that begins as the step before has ended."""
    home = {one.kernel: number for number, group in enumerate(groups) for one in group}
    files = [home[kernel] for kernel in sequence]
    return sum(one != other for one, other in zip(files, files[1:] + files[:1], strict=True))


class _Search:
    """Puts one kernel after the other into every file it fits, and remembers the best of all."""

    def __init__(self, order: Sequence[Demand], sequences: Mapping[str, Sequence[str]]) -> None:
        self._order, self._sequences = order, sequences
        self.left = _SEARCH_LIMIT
        self.best: list[list[Demand]] = self._first_fit()
        self._price = self._price_of(self.best)

    def run(self) -> None:
        """Search; stops when the limit of tried positions is reached."""
        if self._order and self._price != (1, 0):
            self._try([], 0)

    def _first_fit(self) -> list[list[Demand]]:
        groups: list[list[Demand]] = []
        for one in self._order:
            home = next((group for group in groups if fits((*group, one))), None)
            if home is None:
                groups.append([one])
            else:
                home.append(one)
        return groups

    def _price_of(self, groups: Sequence[Sequence[Demand]]) -> tuple[int, int]:
        return len(groups), sum(count_loads(groups, sequence) for sequence in self._sequences.values())

    def _try(self, groups: list[list[Demand]], at: int) -> None:
        self.left -= 1
        if self.left <= 0 or len(groups) > self._price[0]:
            return
        if at == len(self._order):
            price = self._price_of(groups)
            if price < self._price:
                self.best, self._price = [list(group) for group in groups], price
            return
        one = self._order[at]
        for group in groups:
            if fits((*group, one)):
                group.append(one)
                self._try(groups, at + 1)
                group.pop()
        groups.append([one])
        self._try(groups, at + 1)
        groups.pop()


def fits(group: Sequence[Demand]) -> bool:
    """Whether kernels fit into one file."""
    shares = together(one.resources for one in group).shares(CARD)
    return max(shares.values()) <= MARGIN + _TOLERANCE and _channels(group) is not None


def _packed(name: str, group: Sequence[Demand]) -> Pack:
    found = _channels(group)
    channels = found if found is not None else {one.kernel: _own_channels(one) for one in group}
    dies = _dies(group)
    return Pack(name, tuple(Placed(one, dies[one.kernel], channels[one.kernel]) for one in group), fits(group))


def _own_channels(one: Demand) -> tuple[tuple[int, int], ...]:
    """What the memory map says, for a kernel that needs more than there is."""
    return tuple((master.bank, master.bank) for master in one.memory.masters)


def _channels(group: Sequence[Demand]) -> dict[str, tuple[tuple[int, int], ...]] | None:
    """First and last channel of each master by kernel, or None when there are not enough."""
    found: dict[str, dict[int, tuple[int, int]]] = {one.kernel: {} for one in group}
    free = 0
    # Tables come first and from the top, so that what is small keeps channel 0, which is beside the host's own.
    for shared in _shared_tables(group):
        width = math.ceil(sum(_bytes_of(shared).values()) / HBM_BANK_BYTES)
        for part in range(len(shared[0][1].masters)):
            last = HBM_BANKS - 1 - free
            free += width
            for kernel, table in shared:
                found[kernel][table.masters[part]] = (last - width + 1, last)
    rest = HBM_BANKS - free
    if rest < 1:
        return None
    small = [(one.kernel, master) for one in group for master in one.small]
    for number, (kernel, master) in enumerate(small):
        found[kernel][master] = (number % rest, number % rest)
    return {kernel: tuple(places for _, places in sorted(of.items())) for kernel, of in found.items()}


def _bytes_of(shared: Sequence[tuple[str, Table]]) -> dict[str, int]:
    """Bytes of a part by cache, each cache once."""
    return {cache: table.part_bytes for _, table in shared for cache in table.caches} or {
        "": max(table.part_bytes for _, table in shared)}


def _shared_tables(group: Sequence[Demand]) -> list[list[tuple[str, Table]]]:
    """Tables of all kernels, those together that hold a cache in common and are dealt out to as many parts."""
    found: list[list[tuple[str, Table]]] = []
    for kernel, table in ((one.kernel, table) for one in group for table in one.tables):
        alike = [known for known in found if any(
            table.caches & other.caches and _same_shape(table, other) for _, other in known)]
        for known in alike:
            found.remove(known)
        found.append([*(entry for known in alike for entry in known), (kernel, table)])
    return found


def _same_shape(table: Table, other: Table) -> bool:
    return len(table.masters) == len(other.masters) and table.part_bytes == other.part_bytes


def _dies(group: Sequence[Demand]) -> dict[str, int | None]:
    """Die of each kernel, larger ones first."""
    used = [Resources(0, 0, 0, 0, 0)] * DIES
    found: dict[str, int | None] = {}
    for one in sorted(group, key=lambda one: -max(one.resources.shares(CARD).values())):
        found[one.kernel] = None
        for die in range(DIES):
            filled = used[die].plus(one.resources)
            if max(filled.shares(CARD).values()) * DIES <= MARGIN + _TOLERANCE:
                used[die], found[one.kernel] = filled, die
                break
    return found


def link_config(packed: Pack, clock_hz: float) -> bytes:
    """The ``--config`` file of ``v++ --link`` for a file."""
    lines = ["[connectivity]"]
    for placed in packed.kernels:
        kernel = placed.demand.kernel
        lines.append(f"nk={kernel}:1:{kernel}_1")
        lines += [f"slr={kernel}_1:SLR{placed.die}"] * (placed.die is not None)
        for master, (first, last) in zip(placed.demand.memory.masters, placed.channels, strict=True):
            lines.append(f"sp={kernel}_1.m_axi_{master.name}:HBM[{first if first == last else f'{first}:{last}'}]")
    return "\n".join([*lines, "", "[clock]", f"defaultFreqHz={int(clock_hz)}", ""]).encode()


def to_json(packing: Packing, load_time_s: float, load_energy_j: float) -> dict[str, object]:
    """The document ``fpga/packing.json``.

    Args:
        packing: the packing.
        load_time_s: of loading one file onto the card.
        load_energy_j: the same.
    """
    return {
        "format": "hetcc-packing-1", "basis": "estimated: closed forms, not placed or routed", "margin": MARGIN,
        "proved": packing.proved, "xclbins": [_pack_json(one) for one in packing.packs],
        "loads": {phase: {"per_step": count, "time_s": count * load_time_s, "energy_j": count * load_energy_j}
                  for phase, count in sorted(packing.loads.items())},
        "load_time_s": load_time_s,
    }


def _pack_json(packed: Pack) -> dict[str, object]:
    resources = packed.resources
    return {
        "name": packed.name, "fits": packed.fits, "shares": resources.shares(CARD),
        "resources": {name: getattr(resources, name) for name in NAMES},
        "channels": len(set(_used(packed))),
        "kernels": [_kernel_json(placed) for placed in packed.kernels]}


def _kernel_json(placed: Placed) -> dict[str, object]:
    resources = placed.demand.resources
    return {
        "kernel": placed.demand.kernel, "die": placed.die, "shares": resources.shares(CARD),
        "resources": {name: getattr(resources, name) for name in NAMES},
        "channels": {master.name: list(places) for master, places in
                     zip(placed.demand.memory.masters, placed.channels, strict=True)}}


def _used(packed: Pack) -> Iterator[int]:
    for placed in packed.kernels:
        for first, last in placed.channels:
            yield from range(first, last + 1)


__all__ = ["DIES", "Demand", "Pack", "Packing", "Placed", "Table", "count_loads", "demand_of", "fits", "link_config",
           "pack", "to_json"]
