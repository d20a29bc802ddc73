"""``hetcc calibrate``: measure, fit, and check the fit on sizes it has not seen."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hetcc.bench.cases import QUICK_STEPS, STEPS, Case, StepCase, cases
from hetcc.bench.check import Check, Residual, checks_of
from hetcc.bench.engine import Engine
from hetcc.bench.measure import Budget, measure
from hetcc.bench.programs import Program, prepare
from hetcc.cost_model.calibrate import Observation, fit_profile, predicted_s
from hetcc.cost_model.device import load_device
from hetcc.cost_model.draft import Draft, Facts, device_of, profile_data
from hetcc.cost_model.roofline import Roofline, fit_roofline
from hetcc.errors import UserError
from hetcc.stopwatch import silent

STEP = "decode step"
_CPU_TEMPLATE = "host"
_CACHE_SIZES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Request:
    """What to calibrate."""

    device: str = "cpu"
    """``cpu``, ``hip`` or ``cuda``."""
    template: str = ""
    """Profile that lends what is not measured; for a card its own, for the processor ``host``."""
    kinds: tuple[str, ...] = ()
    """Operator classes; none: all."""
    quick: bool = False
    steps: bool = True
    """Whether whole decode steps are checked too."""
    budget_s: float = 120.0
    command: str = "hetcc calibrate"
    """For the sources of the numbers."""


@dataclass(frozen=True)
class Calibration:
    """A fitted profile and how well it does."""

    facts: Facts
    draft: Draft
    roofline: Roofline
    checks: tuple[Check, ...]
    """Per class, and for whole steps; held-out sizes only."""
    residuals: tuple[Residual, ...]
    refused: dict[str, str] = field(default_factory=dict)
    """Cases that have no code, and why."""
    rounds: int = 0
    load: tuple[float, float] = (0.0, 0.0)
    """Processes that were ready to run, one-minute mean, before and after measuring."""
    clock: str = ""
    seconds: float = 0.0

    @property
    def profile(self) -> dict[str, Any]:
        """The profile as written to a file."""
        return profile_data(self.draft, self.facts)


def calibrate(request: Request, engine: Engine, progress: Callable[[str], None] = silent,
              today: datetime.date | None = None) -> Calibration:
    """Measure, fit and check.

    Args:
        request: what.
        engine: the device.
        progress: told what is going on.
        today: for the sources; by default the date.

    Raises:
        UserError: HET-U001 for an unknown class, HET-M001 for an unknown template, HET-M003 if nothing could be fitted.
        ToolError: HET-T001 or HET-T002, a tool is missing or failed.
    """
    started = time.monotonic()
    facts = facts_of(request, today or datetime.datetime.now(tz=datetime.UTC).date())
    wanted: list[Case | StepCase] = [*cases(request.kinds, quick=request.quick)]
    if request.steps:
        wanted += QUICK_STEPS if request.quick else STEPS
    programs, refused = prepare(wanted, engine, progress)
    before = os.getloadavg()[0]
    timings = measure({one.case.name: one.step for one in programs}, engine, Budget(request.budget_s), progress)
    load = (before, os.getloadavg()[0])
    observed = [(one.case, _observation(one, timings[one.case.name].time_s, timings[one.case.name].spread))
                for one in programs]
    progress("fit")
    found = fit_and_check(observed, facts)
    rounds = max((len(timing.samples_s) for timing in timings.values()), default=0)
    return replace(found, refused=refused, rounds=rounds, load=load, clock=engine.clock_name,
                   seconds=time.monotonic() - started)


def fit_and_check(observed: Sequence[tuple[Case | StepCase, Observation]], facts: Facts) -> Calibration:
    """The fit to what may be fitted, and its errors on the rest.

    Raises:
        UserError: HET-M003, nothing could be fitted.
    """
    fitted = [one for case, one in observed if isinstance(case, Case) and case.fitted]
    draft = fit_profile(fitted, facts)
    roofline = fit_roofline(fitted)
    device = device_of(draft, facts)
    residuals = tuple(Residual(one.kind, one.name, isinstance(case, Case) and case.fitted, one.time_s, one.spread,
                               predicted_s(one, device), roofline.predicted_s(one)) for case, one in observed)
    return Calibration(facts, draft, roofline, checks_of(residuals), residuals)


def facts_of(request: Request, today: datetime.date) -> Facts:
    """Names and sources of the profile; a machine is described by its processor, never by its name."""
    template = load_device(request.template or _CPU_TEMPLATE)
    if request.device == "cpu":
        source = f"{request.command}; one thread of {processor_name()}, IREE llvm-cpu"
        title = "One thread of this machine's processor, running hetcc's GPU code (emulated GPU)"
        return Facts("local-llvm-cpu", title, source, today, template, "llvm-cpu", last_level_cache_bytes())
    if not request.template or not template.code_target:
        raise UserError("HET-U001", f"--device {request.device} needs the profile of the card",
                        fix="name it with --gpu; what cannot be measured comes from there")
    units = int(template.compute_units.value) if template.compute_units is not None else 1
    return Facts(f"{template.name}-calibrated", f"{template.title}, as measured with hetcc's code",
                 f"{request.command}; {template.title}", today, template, template.code_target, compute_units=units)


def processor_name() -> str:
    """The processor, without anything that tells which machine it is in."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def last_level_cache_bytes(folder: Path = _CACHE_SIZES) -> int:
    """Size of the largest cache that the operating system names, 0 if it names none."""
    units = {"K": 1 << 10, "M": 1 << 20}
    found = [0]
    for entry in folder.glob("index*/size") if folder.is_dir() else ():
        text = entry.read_text(encoding="utf-8").strip()
        if text[:-1].isdigit() and text[-1:] in units:
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found)


def _observation(program: Program, time_s: float, spread: float) -> Observation:
    kind = program.case.kind if isinstance(program.case, Case) else STEP
    return Observation(kind, program.case.name, program.clusters, time_s, spread)


__all__ = ["STEP", "Calibration", "Request", "calibrate", "facts_of", "fit_and_check", "last_level_cache_bytes",
           "processor_name"]
