"""The Python front door: compile a model, open a bundle, run it, ask it questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy

from hetcc.errors import UserError
from hetcc.ir.serialize import tagged_from_bytes
from hetcc.ir.tags import TaggedGraph
from hetcc.plan.bundle import PLAN_FILE, BundleFiles
from hetcc.plan.placement import Placement, PlacementProblem
from hetcc.plan.plan import Plan, plan_from_bytes
from hetcc.stopwatch import silent

if TYPE_CHECKING:
    from hetcc.pipeline import CompileOptions
    from hetcc.runtime.engines import Engines
    from hetcc.runtime.session import Session
    from hetcc.runtime.trace import RunTrace
    from hetcc.runtime.verify import Verification

Progress = Callable[[str], None]


class Bundle:
    """A compiled model on disk.

    Used with ``with``, it closes its session at the end: kernels that listen are dismissed. Those of a session that
    nobody closes are dismissed when it is forgotten or the process ends.

    Raises:
        UserError: HET-B002, not a bundle; HET-B003, damaged.
    """

    def __init__(self, folder: Path, summary: Mapping[str, Any] | None = None, engines: Engines | None = None) -> None:
        self.files = BundleFiles(folder)
        self.folder = self.files.folder
        self.plan: Plan = plan_from_bytes(self.files.read(PLAN_FILE), str(self.folder))
        self.summary: Mapping[str, Any] = summary or {}
        """The numbers of the compile, when this object came from one."""
        self.engines = engines
        """What runs it; by default what is emulated on this machine."""

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if "session" in self.__dict__:
            self.session.__exit__(kind, error, trace)

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases."""
        return tuple(phase.phase for phase in self.plan.phases)

    def tagged(self, phase: str) -> TaggedGraph:
        """The tagged graph a phase was planned from."""
        self.plan.phase(phase)
        return tagged_from_bytes(self.files.read(f"graphs/{phase}.json"))

    def problem(self, phase: str) -> PlacementProblem:
        """The priced placement problem of a phase."""
        self.plan.phase(phase)
        return PlacementProblem.from_json(json.loads(self.files.read(f"placement/{phase}.problem.json")))

    def placement(self, phase: str) -> Placement:
        """The placement of a phase."""
        self.plan.phase(phase)
        return Placement.from_json(json.loads(self.files.read(f"placement/{phase}.placement.json")))

    def explanation(self, phase: str) -> dict[str, Any]:
        """The decision records of a phase."""
        self.plan.phase(phase)
        document: dict[str, Any] = json.loads(self.files.read(f"reports/{phase}.explain.json"))
        return document

    @cached_property
    def session(self) -> Session:
        """The loaded programs; made at first use and kept, caches included."""
        from hetcc.runtime.session import Session

        return Session(self.files, self.plan, engines=self.engines)

    def run(self, phase: str, inputs: Mapping[str, numpy.ndarray]) -> RunTrace:
        """One step of a phase on the emulated devices; caches carry over to the next step."""
        return self.session.run(phase, inputs)

    def generate(self, ids: Sequence[int], tokens: int, progress: Progress = silent) -> list[int]:
        """``tokens`` greedy tokens after ``ids``, from empty caches."""
        from hetcc.runtime.generate import generate_greedy

        return generate_greedy(self.session, ids, tokens, progress)

    @cached_property
    def reference(self) -> Any:
        """The eager reference with the same weights."""
        from hetcc.capture.reference import reference_of
        from hetcc.report.repro import request_from_bytes

        return reference_of(request_from_bytes(self.files.read("request.json")))

    def verify(self, phase: str, *, seed: int = 0, history: int | None = None, steps: int = 3) -> Verification:
        """Run ``steps`` steps of a phase after ``history`` tokens and compare them with the reference.

        Args:
            phase: which one.
            seed: of the random tokens.
            history: tokens already in the caches; by default half of the context.
            steps: decode steps (other phases take one).

        Raises:
            UserError: HET-B005, the bundle cannot be run; HET-R002, history and steps exceed the cache.
        """
        from hetcc.capture.model import Phase
        from hetcc.runtime.verify import verify_phase

        plan = self.plan.phase(phase)
        session = self.session
        before = plan.context // 2 if history is None else history
        if phase == "decode" and before + steps > plan.context:
            raise UserError("HET-R002", f"{before} tokens of history and {steps} steps need more than the "
                            f"{plan.context} entries of the cache", fix="lower --history or --steps")
        session.reset()
        return verify_phase(session, phase, self.reference.run(Phase(phase), seed, before, steps))


def compile(options: CompileOptions, output: str | Path, *, force: bool = False,  # noqa: A001
            progress: Progress = silent) -> Bundle:
    """Compile a model into the folder ``output`` and open the bundle.

    Args:
        options: what to compile and for which devices; see ``hetcc.pipeline.CompileOptions``.
        output: folder to write; it appears whole or not at all.
        force: replace a bundle that is already there.
        progress: told what is going on.

    Raises:
        UserError: bad input, or the model does not fit (HET-P003).
        ToolError: a code generator is missing or failed.
    """
    from hetcc.pipeline import compile_model

    compiled = compile_model(options, Path(output), force=force, progress=progress)
    return Bundle(Path(output), compiled.summary)


def load(folder: str | Path, engines: Engines | None = None) -> Bundle:
    """Open a bundle.

    Args:
        folder: what ``hetcc compile`` wrote.
        engines: what is to run it; by default what is emulated on this machine.

    Raises:
        UserError: HET-B002, not a bundle; HET-B003, damaged.
    """
    return Bundle(Path(folder), engines=engines)
