"""A device that was made up, with all its numbers known, and times of programs on it."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import replace

from hetcc.cost_model.calibrate import Observation, predicted_s
from hetcc.cost_model.device import load_device
from hetcc.cost_model.draft import ClassDraft, Draft, Facts, device_of
from hetcc.cost_model.work import Product, Work
from hetcc.ir import DType, OperatorClass

FACTS = Facts("made", "A device that was made up", "a test, on no machine", datetime.date(2026, 1, 1),
              load_device("host"), on_chip_bytes=32 << 20)
TRUTH = Draft(5e9, 9e9, usable=0.5, overlap=4.0, region_s=20e-6, launch_s=3e-6, matrix_flops=25e9, vector_flops=1e9,
              granule=2.0, classes={
                  "projection": ClassDraft(1.0, 0.9),
                  "elementwise": ClassDraft(0.8, 50.0),
                  "gather": ClassDraft(0.5, 1.0, latency_s=4e-6, sizes=((1 << 10, 0.3), (1 << 20, 1.0)))})


def projection(rows: int, side: int, copies: int) -> Observation:
    """Products of ``rows`` with square weights, each read again after all others."""
    weight = 4 * side * side
    traffic = copies * weight
    work = Work(2 * rows * side * side, weight + 4 * rows * side, 4 * rows * side, weight // 4,
                Product(1, rows, side, side, True), recent=((weight, traffic - weight),))
    return observed("projection", f"p{rows}x{side}x{copies}", work, OperatorClass.MATMUL, copies)


def moved(kind: OperatorClass, size_bytes: int, copies: int) -> Observation:
    """Traffic of one class, a twelfth of a flop per byte if it does arithmetic."""
    flops = size_bytes // 12 if kind is OperatorClass.ELEMENTWISE else 0
    work = Work(flops, size_bytes // 2, size_bytes // 2)
    return observed(kind.value, f"{kind.value}{size_bytes}x{copies}", work, kind, copies)


def observed(kind: str, name: str, work: Work, operator: OperatorClass, copies: int) -> Observation:
    """What ``TRUTH`` says the program takes."""
    blank = Observation(kind, name, (((work, operator, DType.FLOAT32),),) * copies, 1.0)
    return replace(blank, time_s=predicted_s(blank, device_of(TRUTH, FACTS)))


def everything() -> list[Observation]:
    """What is fitted."""
    sizes = [256 << step for step in range(0, 13, 2)]
    cut = ((1, 4), (1, 20), (16, 4))
    return [*(projection(rows, side, copies) for side in (128, 512, 1024) for rows, copies in cut),
            *(moved(OperatorClass.ELEMENTWISE, size, copies) for size, copies in itertools.product(sizes, (1, 16))),
            *(moved(OperatorClass.GATHER, size, 4) for size in sizes)]


def held_out() -> list[Observation]:
    """What is not."""
    return [projection(1, 384, 6), projection(1, 768, 24), projection(16, 768, 4),
            moved(OperatorClass.ELEMENTWISE, 3000, 8), moved(OperatorClass.ELEMENTWISE, 300_000, 4),
            moved(OperatorClass.GATHER, 12_000, 4), moved(OperatorClass.GATHER, 3_000_000, 4)]
