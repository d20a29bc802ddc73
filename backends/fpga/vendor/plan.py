"""What of a bundle goes to the vendor's tools: the files of every kernel, and which kernels share an xclbin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hetcc.backends.fpga.costs.unit_resources import NAMES, Resources
from hetcc.errors import UserError

PACKING_FILE = "fpga/packing.json"
_KERNEL_FILES = ("kernel.v", "kernel.xml", "package_kernel.tcl")


@dataclass(frozen=True)
class HardwarePlan:
    """The inputs of a build."""

    files: Mapping[str, bytes]
    """Path in the build -> contents."""
    packs: Mapping[str, tuple[str, ...]]
    """Kernels of each xclbin."""
    estimated: Mapping[str, Resources]
    """By kernel."""
    platform: str

    @property
    def kernels(self) -> tuple[str, ...]:
        """All kernels."""
        return tuple(sorted(self.estimated))


def hardware_plan(files: Mapping[str, bytes], where: str) -> HardwarePlan:
    """The inputs of a build.

    Args:
        files: of the bundle, those below ``fpga/`` at least.
        where: the bundle, for messages.

    Raises:
        UserError: HET-B005, there is no FPGA code in it, or a kernel without Verilog.
    """
    if PACKING_FILE not in files:
        raise UserError("HET-B005", "the bundle holds no FPGA kernels", where=where,
                        fix="compile with --weights, and with --place STAGE=fpga if the placement keeps all on the GPU")
    packing = json.loads(files[PACKING_FILE])
    found: dict[str, bytes] = {}
    reports = {path.rpartition("/")[0]: json.loads(files[path]) for path in files
               if path.startswith("fpga/") and path.endswith("/report.json")}
    folders = {str(report["kernel"]): folder for folder, report in reports.items()}
    packs, estimated = {}, {}
    for one in packing["xclbins"]:
        members = tuple(str(kernel["kernel"]) for kernel in one["kernels"])
        packs[str(one["name"])] = members
        found[f"{one['name']}/link.cfg"] = files[f"fpga/{one['name']}/link.cfg"]
        for kernel in one["kernels"]:
            name = str(kernel["kernel"])
            _check_verilog(files, folders[name], reports[folders[name]], where)
            found |= {f"kernels/{name}/{file}": files[f"{folders[name]}/{file}"] for file in _KERNEL_FILES}
            estimated[name] = Resources(**{field: float(kernel["resources"][field]) for field in NAMES})
    return HardwarePlan(found, packs, estimated, str(reports[next(iter(folders.values()))]["platform"]))


def _check_verilog(files: Mapping[str, bytes], folder: str, report: Mapping[str, Any], where: str) -> None:
    if f"{folder}/kernel.v" not in files:
        raise UserError("HET-B005", f"kernel {report['kernel']} has no Verilog: {report['without_verilog_because']}",
                        where=where,
                        fix="compile without --no-verilog; what the RTL library cannot build stays emulated")


__all__ = ["PACKING_FILE", "HardwarePlan", "hardware_plan"]
