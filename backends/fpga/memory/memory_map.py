"""Where the arguments of a kernel are: registers, AXI masters, HBM pseudo-channels, stripes, and the mailbox.

Masters: ``gmem0`` serves what is small (stationary operands, new rows and their positions, results, the mailbox);
each scanned table has masters of its own, one per stripe; so has each operand that differs by row. A master has the
pseudo-channel of its number to itself.

How a table in several parts is dealt out to them is told by ``layout``.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetcc.backends.fpga.memory.layout import layout_of
from hetcc.backends.fpga.stages.stage_graph import Access, Gather, Map, Scan, StageGraph

HBM_BANKS = 32
HBM_BANK_BYTES = 512 * 2**20
FIRST_ARGUMENT_OFFSET = 0x10
POINTER_STRIDE = 12
"""Register bytes of a 64-bit argument: two words and one reserved, as high-level synthesis lays them out."""
READ_BUFFER_BEATS = 512
"""Of a table's master: bursts in flight cover the latency of the memory at a beat per cycle."""
MAILBOX = "mailbox"
MAILBOX_BYTES = 4096
DOORBELL_OFFSET = 0
RELOAD_OFFSET = 4
"""Beside the doorbell: bit 0 says that memory holds another table than the one kept on chip."""
ANSWER_OFFSET = 64
ANSWER_BYTES = 16
STOP = 0xFFFFFFFF
"""Doorbell value that ends the persistent mode."""
STATUS_COMPLETED = 0
STATUS_POSITION = 1
"""A row was to be appended outside its table; nothing was written."""
MODE = "mode"
MODE_ONCE = 0
MODE_PERSISTENT = 1
MODE_RELOAD = 2
"""Added to either: memory holds another table than the one kept on chip."""


@dataclass(frozen=True, slots=True)
class Master:
    """One 512-bit AXI4 master."""

    number: int
    writes: bool
    bank: int
    """HBM pseudo-channel it is connected to."""

    @property
    def name(self) -> str:
        """As in ``m_axi_<name>``."""
        return f"gmem{self.number}"


@dataclass(frozen=True, slots=True)
class Argument:
    """One kernel argument."""

    position: int
    name: str
    buffer: str
    """Buffer of the stage graph; empty for the mailbox and for scalars."""
    stripe: int
    stripes: int
    master: int
    """Number of the master, -1 for a scalar."""
    offset: int
    """Of its register."""


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """All arguments of a kernel, pointers first and in buffer order, then the mailbox, then the mode."""

    masters: tuple[Master, ...]
    arguments: tuple[Argument, ...]

    def of_buffer(self, name: str) -> tuple[Argument, ...]:
        """The arguments of a buffer, by stripe."""
        return tuple(argument for argument in self.arguments if argument.buffer == name and argument.master >= 0
                     and argument.name != MAILBOX)

    def named(self, name: str) -> Argument:
        """The argument of that name."""
        return next(argument for argument in self.arguments if argument.name == name)

    @property
    def pointers(self) -> tuple[Argument, ...]:
        """Arguments that are buffers of the card."""
        return tuple(argument for argument in self.arguments if argument.master >= 0)

    @property
    def banks(self) -> tuple[int, ...]:
        """HBM pseudo-channel of each pointer."""
        return tuple(self.masters[argument.master].bank for argument in self.pointers)


def side_accesses(graph: StageGraph) -> tuple[Access, ...]:
    """Operands that differ by row, in stage order."""
    keys = {axis.name for axis in graph.keys}
    return tuple(part for stage in graph.of_kind(Map) for part in stage.operands
                 if isinstance(part, Access) and {name for name, _ in part.strides} & keys)


def memory_map(graph: StageGraph) -> MemoryMap:
    """The memory map of a kernel, its table in as many parts as were chosen (one, if nothing was)."""
    masters = [Master(0, True, 0)]
    home: dict[str, list[int]] = {}
    for scan in graph.of_kind(Scan):
        if scan.table.buffer not in home:
            stripes = layout_of(graph, scan.table.buffer).stripes
            home[scan.table.buffer] = list(range(len(masters), len(masters) + stripes))
            masters += [Master(number, True, number % HBM_BANKS) for number in home[scan.table.buffer]]
    for access in side_accesses(graph):
        if access.buffer not in home:
            home[access.buffer] = [len(masters)]
            masters.append(Master(len(masters), False, len(masters) % HBM_BANKS))
    for stage in graph.of_kind(Gather):
        if stage.table.buffer not in home:
            home[stage.table.buffer] = [len(masters)]
            masters.append(Master(len(masters), True, len(masters) % HBM_BANKS))
    found: list[Argument] = []
    for buffer in graph.buffers:
        numbers = home.get(buffer.name, [0])
        for stripe, number in enumerate(numbers):
            name = buffer.name if len(numbers) == 1 else f"{buffer.name}_{stripe}"
            found.append(_pointer(len(found), name, buffer.name, stripe, len(numbers), number))
    found.append(_pointer(len(found), MAILBOX, "", 0, 1, 0))
    found.append(Argument(len(found), MODE, "", 0, 1, -1, FIRST_ARGUMENT_OFFSET + POINTER_STRIDE * len(found)))
    return MemoryMap(tuple(masters), tuple(found))


def _pointer(position: int, name: str, buffer: str, stripe: int, stripes: int, master: int) -> Argument:
    return Argument(position, name, buffer, stripe, stripes, master,
                    FIRST_ARGUMENT_OFFSET + POINTER_STRIDE * position)


__all__ = ["ANSWER_BYTES", "ANSWER_OFFSET", "DOORBELL_OFFSET", "HBM_BANKS", "HBM_BANK_BYTES", "MAILBOX",
           "MAILBOX_BYTES", "MODE", "MODE_ONCE", "MODE_PERSISTENT", "MODE_RELOAD", "READ_BUFFER_BEATS", "RELOAD_OFFSET",
           "STATUS_COMPLETED", "STATUS_POSITION", "STOP", "Argument", "Master", "MemoryMap", "memory_map",
           "side_accesses"]
