"""Captures that the compiles of one process share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from hetcc import capture, pipeline
from hetcc.capture.model import CapturedModel, CaptureRequest
from hetcc.store import Store

_CAPTURED: dict[CaptureRequest, CapturedModel] = {}


@contextlib.contextmanager
def captures_shared() -> Iterator[None]:
    """Equal requests give equal graphs (tests/null proves it), so compiles of one model may share its capture."""
    def remembering(request: CaptureRequest, progress: Callable[[str], None], store: Store) -> CapturedModel:
        del store
        if request not in _CAPTURED:
            _CAPTURED[request] = capture.capture(request, progress)
        return _CAPTURED[request]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_capture", remembering)
        yield
