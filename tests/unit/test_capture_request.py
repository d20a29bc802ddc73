"""A request means the same from every folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetcc.capture.model import CaptureRequest
from hetcc.errors import UserError


def test_files_and_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of model types and of weights that are no folder stay as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.py").touch()
    (tmp_path / "net.onnx").touch()
    (tmp_path / "weights").mkdir()
    assert CaptureRequest("made.py:make").located().model == f"{tmp_path}/made.py:make"
    assert CaptureRequest("net.onnx").located().model == f"{tmp_path}/net.onnx"
    assert CaptureRequest("llama", weights="weights").located().weights == f"{tmp_path}/weights"
    unplaced = (CaptureRequest("llama", weights="random:0"), CaptureRequest("absent.py:make"), CaptureRequest("o/p"))
    for request in unplaced:
        assert request.located() == request


@pytest.mark.parametrize(("field", "value"), [("context", 0), ("batch", 0), ("prompt", -1)])
def test_sizes_have_limits(field: str, value: int) -> None:
    """HET-C003 names the option and its value."""
    with pytest.raises(UserError, match=rf"HET-C003.*--{field} is {value}"):
        CaptureRequest("llama", **{field: value})
