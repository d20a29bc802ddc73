"""Everything a compile depends on. Equal options and equal inputs give equal bundles."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hetcc.capture.model import CaptureRequest
from hetcc.errors import UserError
from hetcc.plan.placement import Objective

EMIT_CHOICES = ("auto", "always", "never")
REWRITES = ("narrow-to-selection", "reassociate")
"""Rewriting passes that can be left out."""
ROBUSTNESS_DRAWS = 64
POLICIES = ("exact", "quantised:int8", "quantised:int16", "quantised:bf16")
"""How the FPGA's products with tables are computed; any but the first changes results, and is only taken when asked."""
CACHE_POLICIES = ("single", "shadowed", "recomputable")
"""What becomes of the caches of an FPGA that is lost."""
FPGA_LAUNCHES = ("start", "doorbell")
"""How a kernel is made to run: started every time, or told to look while it runs all the time."""
FALLBACK_CHOICES = ("fallback", "warn", "error")


@dataclass(frozen=True)
class PlacementChoice:
    """How devices are chosen."""

    partitioner: str = "optimal"
    forced: tuple[tuple[str, str], ...] = ()
    """``--place`` pairs: a stage name or a pattern of cluster and node names -> device."""
    file: Path | None = None
    """A placement made elsewhere."""
    objective: Objective = field(default_factory=Objective)
    caches: str = "single"
    """One of ``CACHE_POLICIES``, for what the FPGA holds."""


@dataclass(frozen=True)
class EmissionOptions:
    """What code is generated for."""

    targets: tuple[str, ...] = ()
    """GPU targets; empty: the one that the GPU's profile names, and ``llvm-cpu`` to run here."""
    verilog: bool = True
    on_unsupported: str = "warn"
    """``fallback`` (say nothing), ``warn`` or ``error`` when the host has to run something."""
    policy: str = "exact"
    """One of ``POLICIES``; kernels without a product of table rows stay exact."""


@dataclass(frozen=True)
class CompileOptions:
    """One compile.

    Raises:
        UserError: HET-U001, a choice that does not exist.
    """

    request: CaptureRequest
    gpu: str = "mi210"
    fpga: str = "u55c"
    host: str = "host"
    baseline: str = "tuned"
    links: str = "published"
    """Set of links between the devices, by name."""
    choice: PlacementChoice = field(default_factory=PlacementChoice)
    ignore_capacity: bool = False
    robustness_samples: int = ROBUSTNESS_DRAWS
    """Draws of all uncertain numbers to see how sure the placement is; 0: none. Not for forced placements."""
    emit: str = "auto"
    """``auto`` generates code when weights are bound; ``always`` and ``never`` say so themselves."""
    emission: EmissionOptions = field(default_factory=EmissionOptions)
    without_rewrites: tuple[str, ...] = ()
    """Names of rewriting passes to leave out."""
    fpga_launch: str = "start"
    """One of ``FPGA_LAUNCHES``."""
    fresh: bool = False
    """Capture, prove and compile everything anew, refusals of the tools included, and replace what the cache holds."""

    def __post_init__(self) -> None:
        for name in self.without_rewrites:
            if name not in REWRITES:
                raise UserError("HET-U001", f"--no-rewrite is '{name}'", fix=f"use one of {', '.join(REWRITES)}")
        for name, value, choices in (("emit", self.emit, EMIT_CHOICES),
                                     ("on-unsupported", self.emission.on_unsupported, FALLBACK_CHOICES),
                                     ("policy", self.emission.policy, POLICIES),
                                     ("caches", self.choice.caches, CACHE_POLICIES),
                                     ("fpga-launch", self.fpga_launch, FPGA_LAUNCHES)):
            if value not in choices:
                raise UserError("HET-U001", f"--{name} is '{value}'", fix=f"use one of {', '.join(choices)}")
