"""Descriptions of kernels as XML: ``kernel.xml`` for packaging, and what an ``.xclbin`` tells XRT of its kernels.

Both hold the same ports and arguments; only what is around them differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from hetcc.backends.fpga.memory.memory_map import Argument, MemoryMap
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.xrt.xclbin import UNIT_ADDRESS_STEP, unit_address

_SCALAR, _GLOBAL = 0, 1


@dataclass(frozen=True, slots=True)
class Described:
    """A kernel to be described."""

    name: str
    graph: StageGraph
    memory: MemoryMap


def kernel_document(described: Described) -> bytes:
    """``kernel.xml``, as ``package_xo`` reads it."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<root versionMajor="1" versionMinor="6">\n'
        f'  <kernel {_head(described.name)}>\n    <ports>\n{_ports(described.memory)}    </ports>\n'
        f'    <args>\n{_arguments(described)}    </args>\n  </kernel>\n</root>\n'
    ).encode()


def embedded_metadata(kernels: Sequence[Described], platform: str, clock_hz: float) -> bytes:
    """The XML of an emulation ``.xclbin``.

    Args:
        kernels: in the order of their compute units.
        platform: name of the platform.
        clock_hz: of all of them.
    """
    bodies = "".join(
        f'  <kernel {_head(one.name)}>\n{_ports(one.memory)}{_arguments(one)}'
        f'    <instance name="{one.name}_1"><addrRemap base="{unit_address(place):#x}" range="{UNIT_ADDRESS_STEP:#x}" '
        'port="s_axi_control"/></instance>\n  </kernel>\n' for place, one in enumerate(kernels))
    mega = f"{clock_hz / 1e6:.1f}MHz"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<project name="{kernels[0].name}"><platform vendor="xilinx" '
        f'boardid="u55c" name="{platform}"><device name="fpga0"><core name="OCL_REGION_0" target="csim">\n'
        f'  <kernelClocks><clock port="DATA_CLK" frequency="{mega}"/><clock port="KERNEL_CLK" frequency="500.0MHz"/>'
        f'</kernelClocks>\n{bodies}</core></device></platform></project>\n'
    ).encode()


def _head(name: str) -> str:
    return (f'name="{name}" language="ip_c" vlnv="hetcc:kernel:{name}:1.0" attributes="" '
            'preferredWorkGroupSizeMultiple="0" workGroupSize="1" interrupt="true" hwControlProtocol="ap_ctrl_hs"')


def _ports(memory: MemoryMap) -> str:
    slave = '      <port name="s_axi_control" mode="slave" range="0x1000" dataWidth="32" portType="addressable" '
    return slave + 'base="0x0"/>\n' + "".join(
        f'      <port name="m_axi_{master.name}" mode="master" range="0xFFFFFFFFFFFFFFFF" dataWidth="512" '
        'portType="addressable" base="0x0"/>\n' for master in memory.masters)


def _arguments(described: Described) -> str:
    return "".join(_argument(described, argument) for argument in described.memory.arguments)


def _argument(described: Described, argument: Argument) -> str:
    """One ``arg``: a pointer through its master, or a scalar through the control port."""
    start = f'      <arg name={quoteattr(argument.name)} id="{argument.position}" offset="{argument.offset:#x}" '
    if argument.master < 0:
        return start + (f'addressQualifier="{_SCALAR}" port="s_axi_control" size="0x4" hostOffset="0x0" '
                        'hostSize="0x4" type="uint"/>\n')
    kind = described.graph.buffer(argument.buffer).element.value if argument.buffer else "uint"
    master = described.memory.masters[argument.master].name
    return start + (f'addressQualifier="{_GLOBAL}" port="m_axi_{master}" size="0x8" hostOffset="0x0" hostSize="0x8" '
                    f'type="{kind}*"/>\n')


__all__ = ["Described", "embedded_metadata", "kernel_document"]
