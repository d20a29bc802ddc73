"""From a placement to steps, transfers and buffers."""

from hetcc.passes.schedule.buffers import allocate
from hetcc.passes.schedule.regions import RegionProgram, build_regions
from hetcc.passes.schedule.steps import PricedStep, build_steps

__all__ = ["PricedStep", "RegionProgram", "allocate", "build_regions", "build_steps"]
