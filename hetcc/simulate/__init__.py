"""Discrete-event simulation of a plan: what overlaps, who waits for whom, what a step and many requests take.

Everything this room returns is *simulated*: predicted durations put on resources that serve one thing at a time.
"""

from hetcc.simulate.engine import Span, run
from hetcc.simulate.machine import SimulationOptions, schedule_of
from hetcc.simulate.outcome import Simulation, simulate_phase
from hetcc.simulate.task import Schedule, Task

__all__ = ["Schedule", "Simulation", "SimulationOptions", "Span", "Task", "run", "schedule_of", "simulate_phase"]
