"""Regions to compiled GPU modules: each distinct program once, in child processes, from a cache when it is there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.gpu import tools
from hetcc.backends.gpu.importer import ERROR_SUFFIX
from hetcc.backends.gpu.store import ModuleStore
from hetcc.ir import Graph
from hetcc.ir.serialize import graph_to_bytes
from hetcc.ir.subgraph import digest_of

ENGINE = "iree llvm-cpu (emulated gpu)"
DEFAULT_TARGETS = ("gfx90a", "llvm-cpu")
Progress = Callable[[int, int, str], None]
"""Called with (programs done, programs in all, name of a region of the last one)."""
_Modules = Mapping[str, bytes]


@dataclass(frozen=True)
class _Job:
    """One distinct program."""

    digest: str
    region: Graph
    name: str


def emit(region: Graph, name: str, targets: Sequence[str] = DEFAULT_TARGETS) -> EmittedRegion | Rejected:
    """Compiles one region; see :func:`emit_many`."""
    return emit_many({name: region}, targets, jobs=1)[name]


def emit_many(
    regions: Mapping[str, Graph], targets: Sequence[str] = DEFAULT_TARGETS, *, jobs: int | None = None,
    progress: Progress | None = None, store: ModuleStore | None = None, compiler: str = "",
) -> dict[str, EmittedRegion | Rejected]:
    """Compiles regions by name, for every target.

    Regions with equal digests are compiled once and get the same files. A region that the importer or the compiler does
    not take, crashes on or does not finish is ``Rejected`` with the reason; the others are unaffected.

    Args:
        regions: region by name.
        targets: names of :data:`hetcc.backends.gpu.tools.TARGETS`; a program is runnable here if ``llvm-cpu`` is one.
        jobs: child processes at a time; by default one per processor.
        progress: told about every finished program.
        store: where compiled modules are kept; by default the user's cache folder.
        compiler: stands in for iree-compile in tests.

    Raises:
        UserError: HET-G001, an unknown target.
        ToolError: HET-T001, torch-mlir or iree-compile is not installed; HET-T002, iree-compile does not work at all.
    """
    chosen = [tools.target_named(target) for target in targets]
    tools.require_tools()
    digests = {name: digest_of(region) for name, region in regions.items()}
    distinct = {digests[name]: _Job(digests[name], region, name) for name, region in reversed(list(regions.items()))}
    run = _Emission(chosen, jobs or os.cpu_count() or 1, progress, store or ModuleStore(), compiler)
    results = run.all(list(distinct.values())[::-1])
    return {name: _emitted(digest, results[digest], chosen) for name, digest in digests.items()}


def _emitted(digest: str, result: _Modules | Rejected, targets: Sequence[tools.Target]) -> EmittedRegion | Rejected:
    if isinstance(result, Rejected):
        return result
    files = {_file_name(digest, target): result[target] for target in sorted(result)}
    runnable = next((target for target in targets if target.emulates), targets[0])
    engine = ENGINE if runnable.emulates else f"iree {runnable.name}"
    return EmittedRegion(engine, files, _file_name(digest, runnable.name))


def _file_name(digest: str, target: str) -> str:
    return f"{digest[:24]}.{target}.vmfb"


def module_key(digest: str, target: tools.Target) -> str:
    """Cache key of a program: its digest, the flags and the versions of all tools that decide its bytes."""
    facts = [digest, target.name, list(tools.COMMON_FLAGS), list(target.flags), tools.toolchain_identity()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class _Emission:
    """One call of :func:`emit_many`."""

    def __init__(self, targets: Sequence[tools.Target], jobs: int, progress: Progress | None, store: ModuleStore,
                 compiler: str) -> None:
        self.targets = targets
        self.jobs = jobs
        self.progress = progress
        self.store = store
        self.compiler = compiler
        self.done = 0
        self.total = 0

    def all(self, programs: Sequence[_Job]) -> dict[str, _Modules | Rejected]:
        """Modules by target, or the rejection, by digest."""
        self.total = len(programs)
        results: dict[str, _Modules | Rejected] = {}
        missing: list[_Job] = []
        for program in programs:
            found = self._stored(program)
            if found is None:
                missing.append(program)
            else:
                results[program.digest] = found
                self._finished(program)
        if missing:
            with tempfile.TemporaryDirectory(prefix="hetcc-gpu-") as folder, ThreadPoolExecutor(self.jobs) as pool:
                for batch in pool.map(lambda part: self._import(part, Path(folder)), _dealt(missing, self.jobs)):
                    results.update(batch)
                ready = [program for program in missing if program.digest not in results]
                compiled = pool.map(lambda program: self._compile(program, Path(folder)), ready)
                for program, result in zip(ready, compiled, strict=True):
                    results[program.digest] = result
                    self._finished(program)
                if any(isinstance(result, Rejected) for result in results.values()):
                    tools.probe_compiler(self.targets, Path(folder))
        return results

    def _finished(self, program: _Job) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, program.name)

    def _stored(self, program: _Job) -> _Modules | None:
        found = {target.name: self.store.get(module_key(program.digest, target)) for target in self.targets}
        return {name: data for name, data in found.items() if data is not None} if all(found.values()) else None

    def _import(self, programs: Sequence[_Job], folder: Path) -> dict[str, Rejected]:
        """Writes ``DIGEST.mlir`` for each program; the rejections of those that have none.

        A crash takes the child with it: the first program without a result is to blame, the rest get a new child.
        """
        rejected: dict[str, Rejected] = {}
        waiting = list(programs)
        for program in waiting:
            (folder / f"{program.digest}.json").write_bytes(graph_to_bytes(program.region, provenance=False))
        while waiting:
            pairs = [(folder / f"{program.digest}.json", folder / f"{program.digest}.mlir") for program in waiting]
            outcome = tools.run_importer(pairs)
            unsettled = []
            for program, (_, destination) in zip(waiting, pairs, strict=True):
                complaint = Path(f"{destination}{ERROR_SUFFIX}")
                if complaint.is_file():
                    reason = complaint.read_text(encoding="utf-8")
                    rejected[program.digest] = _rejection("torch-mlir does not import the region", reason)
                elif not destination.is_file():
                    unsettled.append(program)
            if unsettled:
                reason = outcome.reason or "the importer wrote nothing"
                rejected[unsettled[0].digest] = _rejection("torch-mlir does not import the region", reason)
            waiting = unsettled[1:]
        for program in programs:
            if program.digest in rejected:
                self._finished(program)
        return rejected

    def _compile(self, program: _Job, folder: Path) -> _Modules | Rejected:
        modules: dict[str, bytes] = {}
        for target in self.targets:
            key = module_key(program.digest, target)
            stored = self.store.get(key)
            if stored is None:
                destination = folder / f"{program.digest}.{target.name}.vmfb"
                outcome = tools.run_compiler(folder / f"{program.digest}.mlir", destination, target,
                                             program=self.compiler)
                if not outcome.ok:
                    return _rejection(f"iree-compile does not compile the region for {target.name}", outcome.reason)
                stored = destination.read_bytes()
                self.store.put(key, stored)
            modules[target.name] = stored
        return modules


def _rejection(rule: str, reason: str) -> Rejected:
    return Rejected(rule, "compiles", " ".join(reason.split())[:400])


def _dealt(programs: Sequence[_Job], hands: int) -> list[Sequence[_Job]]:
    """The programs in at most ``hands`` parts of about equal work."""
    ordered = sorted(programs, key=lambda program: -len(program.region.nodes))
    return [part for part in (ordered[start::hands] for start in range(hands)) if part]
