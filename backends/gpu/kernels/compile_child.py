"""Triton functions to code objects. Run as a child process: a compiler may take its process with it.

``python -m hetcc.backends.gpu.kernels.compile_child REQUEST.json`` compiles what the request lists, one after another.
For each it writes ``OUT`` (a code object as ``CodeObject.to_bytes`` gives it) or
``OUT.error`` with the reason why there is none. A kernel that takes too long ends the process with SIGALRM, whatever
the compiler is doing.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from hetcc.backends.gpu.kernels.code_object import HIDDEN_PARAMETERS, CodeObject, Parameter

ERROR_SUFFIX = ".error"


def _refusals() -> tuple[type[Exception], ...]:
    """What Triton raises for what it does not take; anything else ends the child and counts as a crash."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import TritonError

    return (CompilationError, TritonError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError,
            NameError, RuntimeError, SyntaxError, TypeError, ValueError)


def _source(job: dict[str, Any], function: Any) -> Any:
    """What ``triton.compile`` takes: every parameter typed or constant, pointers marked as aligned."""
    from triton.compiler import ASTSource

    types, constants = dict(job["arguments"]), dict(job["constants"])
    unknown = (set(types) | set(constants)) ^ set(function.arg_names)
    if unknown:
        raise ValueError(f"{job['function']} takes ({', '.join(function.arg_names)}); not matched: "
                         f"{', '.join(sorted(unknown))}")
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    aligned = {(position,): [["tt.divisibility", job["alignment"]]]
               for position, kind in enumerate(signature.values()) if kind.startswith("*")}
    return ASTSource(function, signature, constants, aligned)


def _compile(job: dict[str, Any]) -> bytes:
    import triton
    from triton.backends.compiler import GPUTarget

    target = job["target"]
    chip = target["name"] if target["backend"] == "hip" else int(target["name"].removeprefix("sm_"))
    module = importlib.import_module(f"{job['package']}.{job['module']}")
    function = getattr(module, job["function"])
    compiled = triton.compile(_source(job, function), options={"num_warps": job["warps"], "num_stages": job["stages"]},
                              target=GPUTarget(target["backend"], chip, target["threads_per_warp"]))
    facts = compiled.metadata
    wanted = max(getattr(facts, "global_scratch_size", 0) or 0, facts.profile_scratch_size or 0)
    if wanted:
        raise ValueError(f"it asks for {wanted} bytes of global scratch per block, which the loader does not hand out")
    types = dict(job["arguments"])
    visible = [Parameter(name, types[name]) for name in function.arg_names if name in types]
    hidden = [Parameter(name, kind) for name, kind in HIDDEN_PARAMETERS]
    return CodeObject(compiled.asm[target["kind"]], target["kind"], target["name"], facts.name, (*visible, *hidden),
                      facts.shared, facts.num_warps, facts.num_warps * target["threads_per_warp"]).to_bytes()


def _without_identity() -> None:
    """Keeps Triton from reading all of its own 400 MB into a cache key: this child's cache starts empty anyway."""
    from triton.runtime import cache

    cache.triton_key = lambda: "child"


def _compile_to(job: dict[str, Any]) -> None:
    destination = Path(job["out"])
    try:
        data = _compile(job)
    except _refusals() as error:
        cause = error.__cause__ if error.__cause__ is not None and not str(error).strip() else error
        reason = f"{type(cause).__name__}: {_last_lines(str(cause))}"
        Path(f"{destination}{ERROR_SUFFIX}").write_text(reason, encoding="utf-8")
        return
    unfinished = destination.with_suffix(".part")
    unfinished.write_bytes(data)
    unfinished.replace(destination)


def _last_lines(text: str) -> str:
    """The end of a message: Triton prints the source line first and what is wrong with it after."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^\t")]
    return " ".join(lines[-6:])


def main(arguments: list[str]) -> int:
    """The child process's entry point."""
    if len(arguments) != 1:
        sys.stderr.write(f"usage: python -m {__name__} REQUEST.json\n")
        return 2
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _without_identity()
    for job in request["jobs"]:
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        _compile_to(job)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
