"""What runs a plan's devices: emulations on this machine, or real cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hetcc.backends.fpga.xrt.faults import Fault, FaultyXrt
from hetcc.backends.gpu.tools import ENGINES, target_named
from hetcc.errors import UserError
from hetcc.plan.plan import Plan, RegionSpec
from hetcc.runtime.devices import EmulatedFpga, EmulatedGpu, HostDevice, RuntimeDevice, SimulatedFpga

FPGA_ENGINES = ("model", "rtl")


def check_fpga(name: str) -> None:
    """Refuse what runs no FPGA.

    Raises:
        UserError: HET-U001.
    """
    if name not in FPGA_ENGINES:
        raise UserError("HET-U001", f"--fpga is {' or '.join(FPGA_ENGINES)}, not '{name}'")


@dataclass(frozen=True)
class Engines:
    """Which of a bundle's code is run, and by what."""

    gpu: str = ""
    """Target whose code is run: one that is emulated here, or the chip of a card that is here. Empty: the first of the
    bundle's targets that is emulated."""
    fpga: str = "model"
    """``model``, the bit-exact functional model, or ``rtl``, the emitted Verilog simulated with Verilator."""
    faults: tuple[Fault, ...] = ()
    """Runs of the emulated FPGA that are to fail, to see what becomes of the request."""

    def chosen_for(self, plan: Plan) -> Engines:
        """The same with nothing left open.

        Raises:
            UserError: HET-B005, the bundle holds no code for the target; HET-G001, there is no such target.
        """
        if self.gpu:
            target_named(self.gpu)
        check_fpga(self.fpga)
        if self.faults and self.fpga != "model":
            raise UserError("HET-U001", "--fault is for the emulated FPGA", fix="leave out --fpga rtl")
        runnable = [target for target in plan.targets if target in (ENGINES if not self.gpu else {self.gpu})]
        if not runnable and plan.targets:
            wanted = self.gpu or "any target that is emulated here"
            raise UserError("HET-B005", f"the bundle has no code for {wanted}; it has code for "
                            f"{', '.join(plan.targets)}",
                            fix=f"compile with --target {self.gpu or 'llvm-cpu'} as well"
                            + ("" if self.gpu else ", or name the chip of a card with --gpu"))
        return replace(self, gpu=runnable[0] if runnable else "")

    def devices(self) -> Mapping[str, RuntimeDevice]:
        """The devices, by name.

        Raises:
            ToolError: HET-T001, a driver is missing.
        """
        xrt = FaultyXrt(self.faults) if self.faults else None
        fpga = SimulatedFpga() if self.fpga == "rtl" else EmulatedFpga(xrt)
        return {"gpu": self._gpu(), "fpga": fpga, "host": HostDevice()}

    def entry_of(self, region: RegionSpec) -> str:
        """Path of the file that the device of a region loads."""
        if region.device != "gpu" or not region.entry:
            return region.entry
        return f"{region.entry.rpartition('.json')[0].rpartition('.')[0]}.{self.gpu}.json"

    def _gpu(self) -> RuntimeDevice:
        if not self.gpu or self.gpu in ENGINES:
            return EmulatedGpu()
        from hetcc.runtime.real_gpu import RealGpu, open_card

        return RealGpu(open_card("hip" if self.gpu.startswith("gfx") else "cuda"))
