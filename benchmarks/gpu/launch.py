"""Runs the launches of kernel operations on torch tensors through Triton's JIT."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from hetcc.backends.gpu.kernels.launches import LaunchPlan, Tensor

KERNELS = "hetcc.backends.gpu.kernels"


def bind(plan: LaunchPlan, tensors: Mapping[str, Any]) -> Callable[[], None]:
    """A function that launches the plan on ``tensors`` (by role and scratch name), in order, on the current stream."""
    prepared = []
    for launch in plan.launches:
        function = getattr(importlib.import_module(f"{KERNELS}.{launch.module}"), launch.function)
        arguments = {parameter: tensors[given.name] if isinstance(given, Tensor) else given.value
                     for parameter, given in launch.arguments}
        options = {"num_warps": launch.warps, "num_stages": launch.stages}
        prepared.append((function[launch.grid], {**arguments, **dict(launch.constants), **options}))

    def run() -> None:
        for start, arguments in prepared:
            start(**arguments)

    return run


def target_of(torch: Any) -> str:
    """The kernel target of the current device: the newest one that its code runs on.

    Raises:
        LookupError: no kernels for this device.
    """
    if torch.version.hip:
        name = str(torch.cuda.get_device_properties(0).gcnArchName).split(":")[0]
        if name in ("gfx90a", "gfx942"):
            return name
    else:
        name = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
        major = int(name[3:-1])
        if major in (8, 9):
            return f"sm_{major}0"
    raise LookupError(f"no kernels are tuned for {name}")
