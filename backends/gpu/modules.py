"""Programs to compiled modules: each distinct one once, in child processes, from the cache when it is there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hetcc.backends.contract import Rejected
from hetcc.backends.gpu import tools
from hetcc.backends.gpu.importer import ERROR_SUFFIX
from hetcc.backends.gpu.refusals import Refusals, may_pass_again
from hetcc.backends.gpu.resources import spilled_registers
from hetcc.ir import Graph
from hetcc.ir.serialize import graph_to_bytes
from hetcc.store import Store

Progress = Callable[[int, int, str], None]
"""Called with (programs done, programs in all, name of the last one)."""
Modules = Mapping[str, bytes]
"""Compiled module by target."""
_IMPORT_RULE = "torch-mlir does not import the region"
_NODES_PER_IMPORTER = 1000
"""Fewer are imported sooner than another child process has loaded torch, for which it needs several seconds."""


@dataclass(frozen=True)
class Job:
    """One distinct program and the targets it is compiled for."""

    digest: str
    program: Graph
    name: str
    targets: tuple[tools.Target, ...]


def module_key(digest: str, target: tools.Target) -> str:
    """Cache key of a program: its digest, the flags and the versions of all tools that decide its bytes."""
    facts = [digest, target.name, list(tools.COMMON_FLAGS), list(target.flags), list(target.retries),
             tools.toolchain_identity()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compile_modules(
    jobs: Sequence[Job], processes: int | None = None, progress: Progress | None = None,
    store: Store | None = None, compiler: str = "",
) -> dict[str, Modules | Rejected]:
    """Compiles programs; by digest, the modules by target or why there are none.

    A program that the importer or the compiler does not take, crashes on or does not finish is ``Rejected``; the others
    are unaffected. What was rejected before, with the same tools, is not tried again.

    Args:
        jobs: distinct programs.
        processes: child processes at a time; by default one per processor.
        progress: told about every finished program.
        store: where compiled modules are kept; by default the user's cache folder.
        compiler: stands in for iree-compile in tests.

    Raises:
        ToolError: HET-T002, iree-compile does not work at all.
    """
    return _Compilation(processes or os.cpu_count() or 1, progress, store or Store(), compiler).all(jobs)


class _Compilation:
    """One call of :func:`compile_modules`."""

    def __init__(self, processes: int, progress: Progress | None, store: Store, compiler: str) -> None:
        self.processes = processes
        self.progress = progress
        self.store = store
        self.compiler = compiler
        self.refusals = Refusals(store, compiler, tools.IMPORT_TIMEOUT_S, tools.COMPILE_TIMEOUT_S)
        self.lasting: dict[str, Rejected] = {}
        """By key: new refusals that will be the same the next time."""
        self.done = 0
        self.total = 0

    def all(self, jobs: Sequence[Job]) -> dict[str, Modules | Rejected]:
        """Modules by target, or the rejection, by digest."""
        self.total = len(jobs)
        results: dict[str, Modules | Rejected] = {}
        missing: list[Job] = []
        for job in jobs:
            found = self._stored(job)
            if found is None:
                missing.append(job)
                continue
            results[job.digest] = found
            self._finished(job, " (refused before; --fresh tries it again)" if isinstance(found, Rejected) else "")
        if missing:
            with tempfile.TemporaryDirectory(prefix="hetcc-gpu-") as folder, ThreadPoolExecutor(self.processes) as pool:
                hands = min(self.processes, 1 + sum(len(job.program.nodes) for job in missing) // _NODES_PER_IMPORTER)
                for batch in pool.map(lambda dealt: self._import(dealt, Path(folder)), _dealt(missing, hands)):
                    results.update(batch)
                ready = [job for job in missing if job.digest not in results]
                compiled = pool.map(lambda job: self._compile(job, Path(folder)), ready)
                for job, result in zip(ready, compiled, strict=True):
                    results[job.digest] = result
                    self._finished(job)
                if any(isinstance(results[job.digest], Rejected) for job in missing):
                    targets = {target.name: target for job in missing for target in job.targets}
                    tools.probe_compiler(tuple(targets.values()), Path(folder))
                    self.refusals.put(self.lasting)
        return results

    def _finished(self, job: Job, remark: str = "") -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, job.name + remark)

    def _stored(self, job: Job) -> Modules | Rejected | None:
        found: dict[str, bytes] = {}
        for target in job.targets:
            key = module_key(job.digest, target)
            data = self.store.get(key)
            if data is None:
                return self.refusals.get(key)
            found[target.name] = data
        return found

    def _refused(self, job: Job, targets: Sequence[tools.Target], rule: str, reason: str, *,
                 complained: bool) -> Rejected:
        rejected = Rejected(rule, "compiles", " ".join(reason.split())[:400])
        if not may_pass_again(reason, complained=complained):
            self.lasting.update((module_key(job.digest, target), rejected) for target in targets)
        return rejected

    def _import(self, jobs: Sequence[Job], folder: Path) -> dict[str, Rejected]:
        """Writes ``DIGEST.mlir`` for each job; the rejections of those that have none.

        A crash takes the child with it: the first job without a result is to blame, the rest get a new child.
        """
        rejected: dict[str, Rejected] = {}
        waiting = list(jobs)
        for job in waiting:
            (folder / f"{job.digest}.json").write_bytes(graph_to_bytes(job.program, provenance=False))
        while waiting:
            pairs = [(folder / f"{job.digest}.json", folder / f"{job.digest}.mlir") for job in waiting]
            outcome = tools.run_importer(pairs)
            unsettled = []
            for job, (_, destination) in zip(waiting, pairs, strict=True):
                complaint = Path(f"{destination}{ERROR_SUFFIX}")
                if complaint.is_file():
                    rejected[job.digest] = self._refused(job, job.targets, _IMPORT_RULE,
                                                         complaint.read_text(encoding="utf-8"), complained=True)
                elif not destination.is_file():
                    unsettled.append(job)
            if unsettled:
                reason = outcome.reason or "the importer wrote nothing"
                blamed = unsettled[0]
                rejected[blamed.digest] = self._refused(blamed, blamed.targets, _IMPORT_RULE, reason, complained=False)
            waiting = unsettled[1:]
        for job in jobs:
            if job.digest in rejected:
                self._finished(job)
        return rejected

    def _compile(self, job: Job, folder: Path) -> Modules | Rejected:
        modules: dict[str, bytes] = {}
        for target in job.targets:
            key = module_key(job.digest, target)
            stored = self.store.get(key)
            if stored is None:
                compiled = self._compile_for(job, target, folder)
                if isinstance(compiled, Rejected):
                    return compiled
                stored = compiled
                self.store.put(key, stored)
            modules[target.name] = stored
        return modules

    def _compile_for(self, job: Job, target: tools.Target, folder: Path) -> bytes | Rejected:
        """The module for one target; of several ways to compile it, the first that spills the fewest registers."""
        best: tuple[int, bytes] | None = None
        for extra in ((), *target.retries):
            destination = folder / f"{job.digest}.{target.name}.vmfb"
            outcome = tools.run_compiler(folder / f"{job.digest}.mlir", destination, target, program=self.compiler,
                                         extra=extra)
            if not outcome.ok:
                if best is not None:
                    continue  # a way that was only tried for fewer spills
                rule = f"iree-compile does not compile the region for {target.name}"
                return self._refused(job, (target,), rule, outcome.reason, complained=True)
            module = destination.read_bytes()
            spilled = spilled_registers(module) if target.retries else 0
            if best is None or spilled < best[0]:
                best = spilled, module
            if not spilled:
                break
        assert best is not None
        return best[1]


def _dealt(jobs: Sequence[Job], hands: int) -> list[Sequence[Job]]:
    """The jobs in at most ``hands`` parts of about equal work."""
    ordered = sorted(jobs, key=lambda job: -len(job.program.nodes))
    return [part for part in (ordered[start::hands] for start in range(hands)) if part]
