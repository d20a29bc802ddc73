"""How many blocks of a kernel fit on one core of a GPU, from what one block takes.

The limits belong to the architecture, not to a card. Sources: AMD, "AMD Instinct MI200 / MI300 Instruction Set
Architecture" (registers and local data share) and LLVM, "User Guide for AMDGPU Backend" (granules, waves and scalar
registers); NVIDIA, "CUDA C++ Programming Guide", table of technical specifications per compute capability, and the
allocation granules of the occupancy calculator that comes with CUDA (``cuda_occupancy.h``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Architecture:
    """What one core (compute unit, streaming multiprocessor) has to share among blocks."""

    name: str
    threads_per_warp: int
    schedulers: int
    """Parts of a core with registers of their own: SIMDs, sub-partitions."""
    warps_per_scheduler: int
    blocks: int
    registers_per_scheduler: int
    """32-bit registers of all lanes together. On CDNA2 and CDNA3 accumulation registers are among them."""
    register_granule: int
    """Registers of one lane (AMD) or of one warp (NVIDIA) are handed out in multiples of this."""
    granule_is_per_lane: bool
    registers_per_thread: int
    shared_bytes: int
    shared_granule_bytes: int
    reserved_shared_bytes: int = 0
    """Taken from each block's share by the system."""


_GFX90A = Architecture("gfx90a", threads_per_warp=64, schedulers=4, warps_per_scheduler=8, blocks=16,
                       registers_per_scheduler=512 * 64, register_granule=8, granule_is_per_lane=True,
                       registers_per_thread=512, shared_bytes=64 << 10, shared_granule_bytes=512)
_SM_80 = Architecture("sm_80", threads_per_warp=32, schedulers=4, warps_per_scheduler=16, blocks=32,
                      registers_per_scheduler=65536 // 4, register_granule=256, granule_is_per_lane=False,
                      registers_per_thread=255, shared_bytes=164 << 10, shared_granule_bytes=128,
                      reserved_shared_bytes=1024)
ARCHITECTURES = {chip.name: chip for chip in (
    _GFX90A, replace(_GFX90A, name="gfx942"), _SM_80,
    replace(_SM_80, name="sm_89", warps_per_scheduler=12, blocks=24, shared_bytes=100 << 10),
    replace(_SM_80, name="sm_90", shared_bytes=228 << 10))}
"""sm_89 is what IREE compiles for in place of sm_90."""
_SCALAR_STEPS = ((80, 10), (88, 9), (100, 8))
"""CDNA: (scalar registers of a wave, waves per SIMD that fit with them); 7 waves fit with any number."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What is resident on one core when the kernel fills it."""

    blocks: int
    """Blocks per core; 0 if not even one fits."""
    warps: int
    """Warps (waves) per core."""
    most_warps: int
    limited_by: str
    """``registers``, ``scalar registers``, ``shared memory``, ``blocks`` or ``warps``."""


def occupancy_of(target: str, threads: int, registers: int, shared_bytes: int, scalar_registers: int = 0) -> Occupancy:
    """Blocks and warps that fit on one core.

    Args:
        target: name of an architecture in :data:`ARCHITECTURES`.
        threads: of one block.
        registers: of one thread; on AMD vector and accumulation registers together.
        shared_bytes: of one block, static and dynamic.
        scalar_registers: of one wave; AMD alone.
    """
    chip = ARCHITECTURES[target]
    warps = -(-threads // chip.threads_per_warp)
    most_warps = chip.schedulers * chip.warps_per_scheduler
    per_warp = (_padded(max(registers, 1), chip.register_granule) * chip.threads_per_warp if chip.granule_is_per_lane
                else _padded(max(registers, 1) * chip.threads_per_warp, chip.register_granule))
    room = {"warps": most_warps // warps, "blocks": chip.blocks if warps > 1 else max(chip.blocks, most_warps // warps),
            "registers": _blocks(chip, warps, chip.registers_per_scheduler // per_warp)}
    if not chip.granule_is_per_lane:
        room["blocks"] = chip.blocks
    else:
        room["scalar registers"] = _blocks(chip, warps, next(
            (waves for limit, waves in _SCALAR_STEPS if scalar_registers <= limit), 7))
    if shared_bytes:
        taken = _padded(shared_bytes + chip.reserved_shared_bytes, chip.shared_granule_bytes)
        room["shared memory"] = chip.shared_bytes // taken
    if registers > chip.registers_per_thread:
        room["registers"] = 0
    reason = min(room, key=lambda name: room[name])
    return Occupancy(room[reason], room[reason] * warps, most_warps, reason)


def _blocks(chip: Architecture, warps: int, per_scheduler: int) -> int:
    """Blocks that fit when each scheduler holds so many warps: a block's warps are dealt out evenly."""
    if warps >= chip.schedulers:
        return per_scheduler // -(-warps // chip.schedulers)
    return per_scheduler * chip.schedulers // warps


def _padded(number: int, granule: int) -> int:
    return -(-number // granule) * granule
