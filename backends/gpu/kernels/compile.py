"""Launches to code objects: each distinct one once, in child processes, from the cache when it is there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hetcc.backends.contract import Rejected
from hetcc.backends.gpu.kernels import toolchain
from hetcc.backends.gpu.kernels.code_object import CodeObject, size_of
from hetcc.backends.gpu.kernels.compile_child import ERROR_SUFFIX
from hetcc.backends.gpu.kernels.launches import ALIGNMENT_BYTES, Launch
from hetcc.backends.gpu.kernels.toolchain import TritonTarget
from hetcc.backends.gpu.refusals import Refusals, may_pass_again
from hetcc.backends.gpu.resources import argument_sizes
from hetcc.store import Store

KERNEL_TIMEOUT_S = 120.0
_MOST_PER_CHILD = 32
"""So that one crash does not cost much that was waiting behind it."""
Progress = Callable[[int, int, str], None]
"""Called with (kernels done, kernels in all, function of the last one)."""

def compile_launches(
    launches: Sequence[Launch], target: str, *, jobs: int | None = None, store: Store | None = None,
    progress: Progress | None = None, package: str = toolchain.PACKAGE, timeout_s: float = KERNEL_TIMEOUT_S,
) -> dict[str, CodeObject | Rejected]:
    """Compiles launches for one target; those with equal code digests once.

    A kernel that Triton does not take, crashes on or does not finish is ``Rejected`` with the reason, and so is one
    that needs more shared memory or threads than a block may have; the others are unaffected. What was rejected
    before, with the same tools, is not tried again.

    Args:
        launches: what to compile; grids and values of scalars do not matter.
        target: name of a target in :data:`hetcc.backends.gpu.kernels.toolchain.TARGETS`.
        jobs: child processes at a time; by default one per processor.
        store: where code objects are kept; by default the user's cache folder.
        progress: told about every finished kernel.
        package: where the kernel modules are; another one in tests.
        timeout_s: for one kernel.

    Returns:
        the code object or the reason why there is none, by code digest, in the order of the launches.

    Raises:
        UserError: HET-G001, a target Triton has not, or a kernel module that does not exist.
        ToolError: HET-T001, Triton is not installed.
    """
    run = _Compilation(toolchain.triton_target(target), package, store or Store(), progress, timeout_s,
                       jobs or os.cpu_count() or 1)
    return run.all({launch.code_digest: launch for launch in launches})


def code_key(launch: Launch, target: str, package: str = toolchain.PACKAGE) -> str:
    """Cache key of a code object: the launch, the target, Triton's version and the text of all that decides its bytes.

    Raises:
        ToolError: HET-T001, Triton is not installed.
    """
    facts = [launch.code_digest, target, toolchain.triton_version(), toolchain.child_digest(), ALIGNMENT_BYTES,
             toolchain.sources_digest(launch.module, package)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class _Compilation:
    """One call of :func:`compile_launches`."""

    def __init__(self, target: TritonTarget, package: str, store: Store, progress: Progress | None,
                 timeout_s: float, jobs: int) -> None:
        self.target = target
        self.package = package
        self.store = store
        self.progress = progress
        self.timeout_s = timeout_s
        self.jobs = jobs
        rules = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        self.refusals = Refusals(store, timeout_s, repr(target), rules)
        self.fleeting: set[str] = set()
        """Digests of launches whose refusal may be otherwise the next time."""
        self.done = 0
        self.total = 0

    def all(self, launches: Mapping[str, Launch]) -> dict[str, CodeObject | Rejected]:
        """Code objects or rejections by digest."""
        self.total = len(launches)
        keys = {digest: code_key(launch, self.target.name, self.package) for digest, launch in launches.items()}
        results: dict[str, CodeObject | Rejected] = {}
        for digest, key in keys.items():
            stored = self.store.get(key)
            known = CodeObject.from_bytes(stored) if stored is not None else self.refusals.get(key)
            if known is not None:
                results[digest] = self._finished(launches[digest], known)
        missing = [digest for digest in launches if digest not in results]
        if missing:
            with tempfile.TemporaryDirectory(prefix="hetcc-triton-") as folder, ThreadPoolExecutor(self.jobs) as pool:
                batches = _dealt(missing, self.jobs)
                places = [Path(folder) / str(number) for number in range(len(batches))]
                for batch in pool.map(lambda one, place: self._batch(one, place, launches), batches, places):
                    results.update(batch)
            for digest in missing:
                result = results[digest] = self._checked(results[digest])
                if isinstance(result, CodeObject):
                    self.store.put(keys[digest], result.to_bytes())
                elif digest not in self.fleeting:
                    self.refusals.put({keys[digest]: result})
        return {digest: results[digest] for digest in launches}

    def _finished(self, launch: Launch, result: CodeObject | Rejected) -> CodeObject | Rejected:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, launch.function)
        return result

    def _batch(self, digests: Sequence[str], folder: Path, launches: Mapping[str, Launch]
               ) -> dict[str, CodeObject | Rejected]:
        """Compiles in one child; after a crash the rest get a new one, and the first without a result is to blame."""
        folder.mkdir()
        results: dict[str, CodeObject | Rejected] = {}
        waiting = list(digests)
        while waiting:
            request = folder / "request.json"
            request.write_text(json.dumps({"timeout_s": self.timeout_s, "jobs": [
                self._job(launches[digest], folder / f"{digest}.bin") for digest in waiting]}), encoding="utf-8")
            limit_s = self.timeout_s * len(waiting) + 60.0
            outcome = toolchain.run_compiling_child(request, folder / "cache", limit_s)
            unsettled = []
            for digest in waiting:
                result = _read(folder / f"{digest}.bin")
                if result is None:
                    unsettled.append(digest)
                else:
                    results[digest] = self._finished(launches[digest], result)
            if unsettled:
                reason = outcome.reason or "the compiler wrote nothing"
                if reason == "crashed with SIGALRM":
                    reason = f"not finished after {self.timeout_s:g} s"
                blamed = unsettled.pop(0)
                if may_pass_again(reason, complained=False):
                    self.fleeting.add(blamed)
                results[blamed] = self._finished(launches[blamed], _rejection(reason))
            waiting = unsettled
        return results

    def _job(self, launch: Launch, destination: Path) -> dict[str, Any]:
        return {"package": self.package, "module": launch.module, "function": launch.function, "out": str(destination),
                "arguments": [(name, passed.triton_type) for name, passed in launch.arguments],
                "constants": launch.constants, "warps": launch.warps, "stages": launch.stages,
                "alignment": ALIGNMENT_BYTES, "target": {**asdict(self.target), "kind": self.target.kind}}

    def _checked(self, result: CodeObject | Rejected) -> CodeObject | Rejected:
        """A code object that a block of the target can hold and whose arguments are where a launch puts them."""
        if isinstance(result, Rejected):
            return result
        if result.shared_bytes > self.target.shared_limit_bytes:
            return Rejected(f"a block has too much shared memory for {self.target.name}",
                            f"{self.target.shared_limit_bytes} bytes", f"{result.shared_bytes} bytes")
        if result.threads > toolchain.LAUNCH_THREADS_LIMIT:
            return Rejected(f"a block has too many threads for {self.target.name}",
                            f"{toolchain.LAUNCH_THREADS_LIMIT}", f"{result.threads}")
        expected = tuple(size_of(parameter.triton_type) for parameter in result.parameters)
        actual = argument_sizes(result.content, result.symbol)
        if actual != expected:
            return Rejected("the kernel's arguments are not those of the launch", f"sizes {expected}", f"{actual}")
        return result


def _read(path: Path) -> CodeObject | Rejected | None:
    complaint = Path(f"{path}{ERROR_SUFFIX}")
    if complaint.is_file():
        return _rejection(complaint.read_text(encoding="utf-8"))
    return CodeObject.from_bytes(path.read_bytes()) if path.is_file() else None


def _rejection(reason: str) -> Rejected:
    return Rejected("Triton does not compile the kernel", "compiles", " ".join(reason.split())[:400])


def _dealt(digests: Sequence[str], hands: int) -> list[Sequence[str]]:
    """The digests in parts of about equal number: one per child process, more where they would be long."""
    parts = max(min(hands, len(digests)), -(-len(digests) // _MOST_PER_CHILD))
    return [digests[start::parts] for start in range(parts)]
