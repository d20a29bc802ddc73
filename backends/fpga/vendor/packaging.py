"""The text files around a kernel: metadata, memory connections, packaging script and Makefile for the vendor's tools.

None of these was run through Vivado or ``v++`` here; docs/fpga_build.md says so where their use is described.
"""

from __future__ import annotations

from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.stages.stage_graph import BufferRole, StageGraph
from hetcc.backends.fpga.xrt.metadata import Described, embedded_metadata, kernel_document

PLATFORM = "xilinx_u55c_gen3x16_xdma_3_202210_1"
PART = "xcu55c-fsvh2892-2L-e"
CONTROL_BYTES = 4096


def banks_of(graph: StageGraph) -> tuple[int, ...]:
    """The HBM pseudo-channel of each buffer of the stage graph, in order (``memory_map``)."""
    memory = memory_map(graph)
    return tuple(memory.masters[memory.of_buffer(buffer.name)[0].master].bank for buffer in graph.buffers)


def kernel_xml(graph: StageGraph, kernel: str) -> bytes:
    """Kernel metadata as packaging reads it."""
    return kernel_document(Described(kernel, graph, memory_map(graph)))


def xclbin_metadata(graph: StageGraph, kernel: str, clock_hz: float) -> bytes:
    """Metadata of a file with this kernel alone, as XRT reads it."""
    return embedded_metadata((Described(kernel, graph, memory_map(graph)),), PLATFORM, clock_hz)


def connectivity(graph: StageGraph, kernel: str, clock_hz: float) -> bytes:
    """The ``--config`` file of ``v++ --link``: a pseudo-channel for every master, and the region beside the HBM."""
    lines = ["[connectivity]", f"nk={kernel}:1:{kernel}_1", f"slr={kernel}_1:SLR0"]
    lines += [f"sp={kernel}_1.m_axi_{master.name}:HBM[{master.bank}]" for master in memory_map(graph).masters]
    lines += ["", "[clock]", f"defaultFreqHz={int(clock_hz)}", ""]
    return "\n".join(lines).encode()


def package_script(graph: StageGraph, kernel: str) -> bytes:
    """Vivado Tcl that packages ``kernel.v`` as an RTL kernel object."""
    masters = "".join(f"ipx::associate_bus_interfaces -busif m_axi_{master.name} -clock ap_clk $core\n"
                      for master in memory_map(graph).masters)
    return (
        f"# vivado -mode batch -source package_kernel.tcl\n"
        f"create_project -force package ./package -part {PART}\n"
        "add_files kernel.v\n"
        f"set_property top {kernel} [current_fileset]\n"
        "update_compile_order -fileset sources_1\n"
        "ipx::package_project -root_dir ./ip -vendor hetcc -library kernel -taxonomy /KernelIP -import_files\n"
        "set core [ipx::current_core]\n"
        "ipx::infer_bus_interface ap_clk xilinx.com:signal:clock_rtl:1.0 $core\n"
        "ipx::infer_bus_interface ap_rst_n xilinx.com:signal:reset_rtl:1.0 $core\n"
        "ipx::infer_bus_interface interrupt xilinx.com:signal:interrupt_rtl:1.0 $core\n"
        "ipx::associate_bus_interfaces -busif s_axi_control -clock ap_clk $core\n"
        f"{masters}"
        "ipx::associate_bus_interfaces -clock ap_clk -reset ap_rst_n $core\n"
        f"{_register_script(graph)}"
        "set_property sdx_kernel true $core\n"
        "set_property sdx_kernel_type rtl $core\n"
        "set_property xpm_libraries {} $core\n"
        "set_property supported_families {} $core\n"
        "set_property auto_family_support_level level_2 $core\n"
        "ipx::create_xgui_files $core\n"
        "ipx::update_checksums $core\n"
        "ipx::check_integrity -kernel $core\n"
        "ipx::save_core $core\n"
        f"package_xo -force -xo_path {kernel}.xo -kernel_name {kernel} -ip_directory ./ip -kernel_xml kernel.xml\n"
    ).encode()


def _register_script(graph: StageGraph) -> str:
    """The register map in the form Vivado keeps with the core."""
    memory = memory_map(graph)
    lines = ["set map [ipx::get_memory_maps s_axi_control -of_objects $core]",
             "if {$map eq \"\"} {",
             "  set map [ipx::add_memory_map s_axi_control $core]",
             "  set bus [ipx::get_bus_interfaces s_axi_control -of_objects $core]",
             "  set_property slave_memory_map_ref s_axi_control $bus",
             "}",
             "set block [ipx::add_address_block reg0 $map]",
             f"set_property range {CONTROL_BYTES} $block"]
    registers = [("CTRL", 0x0, 32), ("GIER", 0x4, 32), ("IP_IER", 0x8, 32), ("IP_ISR", 0xC, 32)]
    registers += [(argument.name, argument.offset, 64 if argument.master >= 0 else 32)
                  for argument in memory.arguments]
    for name, offset, bits in registers:
        lines += [f"set register [ipx::add_register {name} $block]",
                  f"set_property address_offset {offset:#x} $register", f"set_property size {bits} $register"]
    for argument in memory.pointers:
        lines += [f"set register [ipx::get_registers {argument.name} -of_objects $block]",
                  "set parameter [ipx::add_register_parameter ASSOCIATED_BUSIF $register]",
                  f"set_property value m_axi_{memory.masters[argument.master].name} $parameter"]
    return "\n".join(lines) + "\n"


def makefile(kernel: str) -> bytes:
    """Two steps: package the kernel, link it for the platform."""
    return (
        f"KERNEL := {kernel}\nPLATFORM ?= {PLATFORM}\nTARGET ?= hw\n\n"
        "all: $(KERNEL).xclbin\n\n"
        "$(KERNEL).xo: kernel.v kernel.xml package_kernel.tcl\n\tvivado -mode batch -source package_kernel.tcl\n\n"
        "$(KERNEL).xclbin: $(KERNEL).xo connectivity.cfg\n"
        "\tv++ --link --target $(TARGET) --platform $(PLATFORM) --config connectivity.cfg --save-temps \\\n"
        "\t\t--output $@ $<\n\n"
        "clean:\n\trm -rf package ip _x $(KERNEL).xo $(KERNEL).xclbin\n\n.PHONY: all clean\n"
    ).encode()


def interface(graph: StageGraph) -> list[dict[str, object]]:
    """Buffers in call order: roles, shapes, and the bank of each part, for reports and host code."""
    memory = memory_map(graph)
    return [
        {"argument": position, "name": buffer.name, "role": buffer.role.value, "element": buffer.element.value,
         "shape": list(buffer.shape), "banks": [f"HBM[{memory.masters[part.master].bank}]"
                                                for part in memory.of_buffer(buffer.name)],
         "resident": buffer.role is BufferRole.TABLE}
        for position, buffer in enumerate(graph.buffers)
    ]


def registers(graph: StageGraph) -> list[dict[str, object]]:
    """The register and memory map, for reports and host code."""
    memory = memory_map(graph)
    return [{"register": f"{argument.offset:#x}", "name": argument.name,
             "master": f"m_axi_{memory.masters[argument.master].name}" if argument.master >= 0 else None,
             "bank": f"HBM[{memory.masters[argument.master].bank}]" if argument.master >= 0 else None}
            for argument in memory.arguments]


__all__ = ["CONTROL_BYTES", "PART", "PLATFORM", "banks_of", "connectivity", "interface", "kernel_xml", "makefile",
           "package_script", "registers", "xclbin_metadata"]
