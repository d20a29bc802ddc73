"""The text files around a kernel: metadata, memory connections, packaging script and Makefile for the vendor's tools.

None of these was run through Vivado or ``v++`` here; docs/fpga.md says so where their use is described.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from hetcc.backends.fpga.stage_graph import BufferRole, StageGraph

PLATFORM = "xilinx_u55c_gen3x16_xdma_3_202210_1"
PART = "xcu55c-fsvh2892-2L-e"
HBM_BANKS = 32
_ADDRESS_BYTES = 8
_FIRST_ARGUMENT_OFFSET = 0x10


def banks_of(graph: StageGraph) -> tuple[int, ...]:
    """The HBM bank of each argument: tables and large operands spread out, one bank each while there are banks."""
    return tuple(position % HBM_BANKS for position in range(len(graph.buffers)))


def kernel_xml(graph: StageGraph, kernel: str, clock_hz: float) -> bytes:
    """Kernel metadata, in the form embedded in an ``.xclbin`` and read by packaging."""
    ports = "".join(
        f'    <port name="m_axi_{position}" mode="master" range="0xFFFFFFFFFFFFFFFF" dataWidth="512"/>\n'
        for position in range(len(graph.buffers)))
    arguments = "".join(
        f'    <arg name={quoteattr(buffer.name)} addressQualifier="1" id="{position}" port="m_axi_{position}" '
        f'size="0x8" offset="{_FIRST_ARGUMENT_OFFSET + position * 12:#x}" hostSize="{_ADDRESS_BYTES:#x}" '
        f'type="{buffer.element.value}*"/>\n' for position, buffer in enumerate(graph.buffers))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<project name="{kernel}"><platform name="{PLATFORM}"><device name="fpga0"><core name="core0" target="hw">\n'
        f'  <kernelClocks><clock port="ap_clk" frequency="{clock_hz / 1e6:.0f}MHz"/></kernelClocks>\n'
        f'  <kernel name="{kernel}" language="ip_c" hwControlProtocol="ap_ctrl_hs">\n'
        '    <port name="s_axi_control" mode="slave" range="0x1000" dataWidth="32"/>\n'
        f'{ports}{arguments}'
        f'    <instance name="{kernel}_1"><addrRemap base="0x800000" port="s_axi_control"/></instance>\n'
        '  </kernel>\n</core></device></platform></project>\n'
    ).encode()


def connectivity(graph: StageGraph, kernel: str, clock_hz: float) -> bytes:
    """The ``--config`` file of ``v++ --link``."""
    lines = ["[connectivity]", f"nk={kernel}:1:{kernel}_1"]
    lines += [f"sp={kernel}_1.m_axi_{position}:HBM[{bank}]" for position, bank in enumerate(banks_of(graph))]
    lines += ["", "[clock]", f"defaultFreqHz={int(clock_hz)}", ""]
    return "\n".join(lines).encode()


def package_script(kernel: str) -> bytes:
    """Vivado Tcl that packages ``kernel.v`` as an RTL kernel object."""
    return (
        f"# vivado -mode batch -source package_kernel.tcl\n"
        f"create_project -force package ./package -part {PART}\n"
        "add_files kernel.v\n"
        f"set_property top {kernel} [current_fileset]\n"
        "update_compile_order -fileset sources_1\n"
        "ipx::package_project -root_dir ./ip -vendor hetcc -library kernel -taxonomy /KernelIP -import_files\n"
        "set core [ipx::current_core]\n"
        "set_property sdx_kernel true $core\n"
        "set_property sdx_kernel_type rtl $core\n"
        "ipx::update_checksums $core\n"
        "ipx::save_core $core\n"
        f"package_xo -force -xo_path {kernel}.xo -kernel_name {kernel} -ip_directory ./ip -kernel_xml kernel.xml\n"
    ).encode()


def makefile(kernel: str) -> bytes:
    """Two steps: package the kernel, link it for the platform."""
    return (
        f"KERNEL := {kernel}\nPLATFORM ?= {PLATFORM}\n\n"
        "all: $(KERNEL).xclbin\n\n"
        "$(KERNEL).xo: kernel.v kernel.xml package_kernel.tcl\n\tvivado -mode batch -source package_kernel.tcl\n\n"
        "$(KERNEL).xclbin: $(KERNEL).xo connectivity.cfg\n"
        "\tv++ --link --target hw --platform $(PLATFORM) --config connectivity.cfg --output $@ $<\n\n"
        "clean:\n\trm -rf package ip _x $(KERNEL).xo $(KERNEL).xclbin\n\n.PHONY: all clean\n"
    ).encode()


def interface(graph: StageGraph) -> list[dict[str, object]]:
    """Argument order, roles, shapes and banks, for reports and host code."""
    return [
        {"argument": position, "name": buffer.name, "role": buffer.role.value, "element": buffer.element.value,
         "shape": list(buffer.shape), "bank": f"HBM[{bank}]", "resident": buffer.role is BufferRole.TABLE}
        for position, (buffer, bank) in enumerate(zip(graph.buffers, banks_of(graph), strict=True))
    ]


__all__ = ["PART", "PLATFORM", "banks_of", "connectivity", "interface", "kernel_xml", "makefile", "package_script"]
