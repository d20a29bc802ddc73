"""What each kernel of a GPU file takes: registers, spills, shared memory, threads, and how many fit on a core.

The numbers are read from the code objects themselves, with no tool of a vendor:

* AMD: the ``AMDGPU`` note (msgpack, ``amdhsa.kernels``) of a ``.hsaco``; an IREE module holds one ELF file per group
  of kernels, found by its first bytes.
* NVIDIA: the ``.nv.info`` sections of a ``.cubin``. Their layout is not documented; it was compared with what
  ``cuobjdump --dump-resource-usage`` prints, and a test compares it again.
* NVIDIA through IREE: the module holds PTX, which the driver compiles when it loads the module. Its registers are
  unknown until then, unless the ``ptxas`` of the Triton wheel is asked what it would make of it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hetcc.backends.gpu import elf, tools
from hetcc.backends.gpu.kernels.code_object import CodeObject
from hetcc.backends.gpu.occupancy import ARCHITECTURES, Occupancy, occupancy_of
from hetcc.errors import ToolError

MANIFEST_NAME = "gpu/manifest.json"
_AMD_CHIPS = {0x3F: "gfx90a", 0x4C: "gfx942"}
"""Low byte of an ELF file's flags -> chip (LLVM, "User Guide for AMDGPU Backend", EF_AMDGPU_MACH)."""
_VALUE, _MOST_THREADS, _REQUIRED_THREADS, _FRAME_SIZE, _PARAMETER, _REGISTERS = 4, 0x05, 0x10, 0x11, 0x17, 0x2F
_RESERVED_SHARED_BYTES = 1024
_PTX = re.compile(rb"\.version \d+\.\d+\s+\.target (sm_\d+\w?)[^\0]+")
_PTX_ENTRY = re.compile(rb"\.entry\s+([\w$.]+)\s*\(")
_PTX_THREADS = re.compile(rb"\.(?:reqntid|maxntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")


@dataclass(frozen=True, slots=True)
class KernelResources:
    """What one kernel takes. Numbers that only the driver will know are None."""

    kernel: str
    target: str
    source: str
    """Where the numbers are from: ``hsaco``, ``cubin``, ``ptx`` or ``ptx through ptxas``."""
    threads: int | None
    """Most threads per block."""
    registers: int | None
    """Vector registers of a thread; on AMD with the accumulation registers, which share the file."""
    accumulation_registers: int
    scalar_registers: int
    """Of a wave; 0 on NVIDIA, which does not say."""
    spilled_vector_registers: int
    spilled_scalar_registers: int
    stack_bytes: int | None
    """Private memory of a thread. NVIDIA names no spills: there they are in this number."""
    shared_bytes: int
    """Of a block, static and (for Triton's kernels) dynamic."""
    occupancy: Occupancy | None

    @property
    def spills(self) -> bool:
        """Whether registers are kept in memory."""
        on_stack = self.target.startswith("sm_") and bool(self.stack_bytes)
        return on_stack or self.spilled_vector_registers + self.spilled_scalar_registers > 0


def resources_of(data: bytes, dynamic_shared_bytes: int = 0, assemble_ptx: bool = False) -> tuple[KernelResources, ...]:
    """The kernels in a code object or in an IREE module, in order.

    Args:
        data: contents of a ``.hsaco``, ``.cubin`` or ``.vmfb`` file.
        dynamic_shared_bytes: what a launch asks for on top of what the kernels declare.
        assemble_ptx: ask ptxas what it makes of PTX, if it is installed.

    Raises:
        ToolError: HET-T002, a code object is damaged.
    """
    found = [kernel for image in elf.images(data, elf.AMDGPU) for kernel in _amd_kernels(image)]
    found += [kernel for image in elf.images(data, elf.CUDA) for kernel in _cuda_kernels(image)]
    found += [kernel for text in _PTX.finditer(data) for kernel in _ptx_kernels(text, assemble_ptx)]
    return tuple(_with_occupancy(kernel, dynamic_shared_bytes) for kernel in found)


def _with_occupancy(kernel: KernelResources, dynamic_shared_bytes: int) -> KernelResources:
    shared_bytes = kernel.shared_bytes + dynamic_shared_bytes
    if kernel.registers is None or kernel.threads is None or kernel.target not in ARCHITECTURES:
        return replace(kernel, shared_bytes=shared_bytes)
    return replace(kernel, shared_bytes=shared_bytes, occupancy=occupancy_of(
        kernel.target, kernel.threads, kernel.registers, shared_bytes, kernel.scalar_registers))


def _amd_metadata(image: elf.Elf) -> list[dict[str, Any]]:
    for owner, _, contents in image.notes():
        if owner == "AMDGPU":
            kernels: list[dict[str, Any]] = elf.unpack_msgpack(contents)["amdhsa.kernels"]
            return kernels
    return []


def _amd_kernels(image: elf.Elf) -> Iterator[KernelResources]:
    chip = _AMD_CHIPS.get(image.flags & 0xFF, f"amdgpu {image.flags & 0xFF:#x}")
    for kernel in _amd_metadata(image):
        yield KernelResources(
            kernel[".name"], chip, "hsaco", kernel[".max_flat_workgroup_size"], kernel[".vgpr_count"],
            kernel.get(".agpr_count", 0), kernel[".sgpr_count"], kernel.get(".vgpr_spill_count", 0),
            kernel.get(".sgpr_spill_count", 0), kernel[".private_segment_fixed_size"],
            kernel[".group_segment_fixed_size"], None)


def _attributes(contents: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, value) of a ``.nv.info`` section: format, attribute, then a value of 2 bytes or its length."""
    at = 0
    while at + 4 <= len(contents):
        form, attribute, number = struct.unpack_from("<BBH", contents, at)
        size = number if form == _VALUE else 0
        yield attribute, contents[at + 4:at + 4 + size] if form == _VALUE else contents[at + 2:at + 4]
        at += 4 + size


def _cuda_kernels(image: elf.Elf) -> Iterator[KernelResources]:
    contents = {section.name: image.content(section) for section in image.sections}
    sizes = {section.name: section.size for section in image.sections}
    # From compute capability 9.0 on a kernel's section counts what the system reserves in every block.
    reserved = _RESERVED_SHARED_BYTES if ".nv.shared.reserved.0" in sizes else 0
    per_symbol: dict[int, dict[str, int]] = {_REGISTERS: {}, _FRAME_SIZE: {}}
    for attribute, value in _attributes(contents.get(".nv.info", b"")):
        if attribute in per_symbol:
            symbol, number = struct.unpack("<II", value)
            per_symbol[attribute][image.symbols[symbol]] = number
    for name, own in contents.items():
        if not name.startswith(".nv.info."):
            continue
        kernel = name.removeprefix(".nv.info.")
        needed = [value for attribute, value in _attributes(own) if attribute in (_MOST_THREADS, _REQUIRED_THREADS)]
        x, y, z = struct.unpack("<III", needed[0]) if needed else (0, 0, 0)
        yield KernelResources(
            kernel, _cuda_chip(image), "cubin", x * y * z or None, per_symbol[_REGISTERS].get(kernel), 0, 0, 0, 0,
            per_symbol[_FRAME_SIZE].get(kernel), max(sizes.get(f".nv.shared.{kernel}", 0) - reserved, 0), None)


def _cuda_chip(image: elf.Elf) -> str:
    """The chip is in the low byte of the flags, or in the second byte for files of newer CUDA versions."""
    low, second = image.flags & 0xFF, image.flags >> 8 & 0xFF
    return next((f"sm_{number}" for number in (low, second) if f"sm_{number}" in ARCHITECTURES), f"sm_{low}")


def _ptx_kernels(text: re.Match[bytes], assemble: bool) -> Iterator[KernelResources]:
    target = text[1].decode()
    if assemble:
        cubin = tools.run_ptxas(text[0], target)
        if cubin is not None:
            for kernel in _cuda_kernels(elf.Elf(cubin)):
                yield replace(kernel, source="ptx through ptxas")
            return
    for entry in _PTX_ENTRY.finditer(text[0]):
        threads = _PTX_THREADS.search(text[0], entry.end(), text[0].index(b"{", entry.end()))
        count = 1
        for number in threads.groups() if threads else ():
            count *= int(number or 1)
        yield KernelResources(entry[1].decode(), target, "ptx", count if threads else None, None, 0, 0, 0, 0, None, 0,
                              None)


def argument_sizes(data: bytes, kernel: str) -> tuple[int, ...]:
    """Bytes of each argument of a kernel of a code object, in order: what a launch passes, Triton's own pointers too.

    What AMD's runtime passes on its own, such as the number of blocks, is not among them.

    Raises:
        ToolError: HET-T002, it is no code object, or none that holds the kernel.
    """
    image = elf.Elf(data)
    for entry in _amd_metadata(image) if image.machine == elf.AMDGPU else ():
        if entry[".name"] == kernel:
            return tuple(part[".size"] for part in entry.get(".args", ())
                         if not part[".value_kind"].startswith("hidden_"))
    for section in image.sections:
        if section.name == f".nv.info.{kernel}":
            found = [struct.unpack("<IHHI", value) for attribute, value in _attributes(image.content(section))
                     if attribute == _PARAMETER]
            return tuple(packed >> 18 for _, _, _, packed in sorted(found, key=lambda row: row[1]))
    raise ToolError("HET-T002", f"a code object holds no kernel '{kernel}'", fix="compile the model again")


def spilling(files: Mapping[str, bytes | CodeObject]) -> list[tuple[str, KernelResources]]:
    """(file, kernel) of every kernel that keeps registers in memory."""
    return [(name, kernel) for name, kernels in _by_file(files) for kernel in kernels if kernel.spills]


def spilled_registers(data: bytes) -> int:
    """Registers that the kernels of a code object or module keep in memory."""
    return sum(kernel.spilled_vector_registers + kernel.spilled_scalar_registers for kernel in resources_of(data))


def manifest(files: Mapping[str, bytes | CodeObject], assemble_ptx: bool = False) -> bytes:
    """Contents of :data:`MANIFEST_NAME`: per file, per kernel, what it takes. Same files, same bytes.

    Args:
        files: by path in the bundle. A code object of Triton's knows its dynamic shared memory; bytes do not.
        assemble_ptx: see :func:`resources_of`. The answer then depends on which ptxas is installed.
    """
    document = {"schema": 1, "files": {
        name: [{**asdict(kernel), "spills": kernel.spills} for kernel in kernels]
        for name, kernels in _by_file(files, assemble_ptx)}}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _by_file(files: Mapping[str, bytes | CodeObject], assemble_ptx: bool = False
             ) -> Iterable[tuple[str, tuple[KernelResources, ...]]]:
    for name in sorted(files):
        file = files[name]
        if isinstance(file, CodeObject):
            yield name, resources_of(file.content, file.shared_bytes)
        else:
            yield name, resources_of(file, assemble_ptx=assemble_ptx)
