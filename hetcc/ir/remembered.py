"""Answers of the numeric check of rewrites, kept on disk: the same two programs are compared once."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

from hetcc.ir.graph import Graph
from hetcc.ir.proof import Checker, CheckRequest, CheckResult
from hetcc.ir.subgraph import digest_of, interface_of
from hetcc.store import Store, key_of, text_digest

_LIBRARIES = ("ml_dtypes", "numpy", "onnx", "torch")


def remembering(store: Store) -> Callable[[Checker], Checker]:
    """Wraps a check: a question that was asked before, in any process, is answered from the store.

    A key holds both programs, which of their values are one, what is compared and how inputs are drawn, the text of
    the check (its tolerances and trials are in it) and the versions of the libraries that run it.
    """
    def wrap(check: Checker) -> Checker:
        def answer(request: CheckRequest) -> CheckResult:
            key = question_of(request)
            known = _read(store.get_document(key))
            if known is None:
                known = check(request)
                store.put_document(key, [known.agrees, known.relative_error.hex(), known.detail])
            return known

        return answer

    return wrap


def question_of(request: CheckRequest) -> str:
    """The key of a question: equal keys ask for the same comparison of the same programs, whatever they are called."""
    before, after = interface_of(request.before), interface_of(request.after)
    place = {name: number for number, name in enumerate(dict.fromkeys((*before, *after)))}
    return key_of(
        "proof", digest_of(request.before), digest_of(request.after), [place[name] for name in before],
        [place[name] for name in after], [_outputs(request.before, request.compared),
                                          _outputs(request.after, request.compared)],
        place.get(request.indices, -1), request.extent, sorted(place.get(name, -1) for name in request.mask_inputs),
        _identity(tuple(sorted({node.operator.domain for node in (*request.before.nodes, *request.after.nodes)}))))


def _outputs(graph: Graph, compared: tuple[str, ...]) -> list[int]:
    """Where the compared values stand among what a program returns."""
    return [graph.outputs.index(name) for name in compared]


@cache
def _identity(domains: tuple[str, ...]) -> list[Any]:
    """What runs the programs: versions, and hetcc's own text."""
    versions = []
    for library in _LIBRARIES:
        try:
            versions.append(importlib.metadata.version(library))
        except importlib.metadata.PackageNotFoundError:
            versions.append("")
    return [text_digest("ir", "aten", "onnx"), list(domains), versions, platform.machine()]


def _read(document: Any) -> CheckResult | None:
    """What was kept, or None when there is nothing or it is damaged."""
    try:
        agrees, error, detail = document
        return CheckResult(bool(agrees), float.fromhex(error), str(detail))
    except (TypeError, ValueError):
        return None


__all__ = ["question_of", "remembering"]
