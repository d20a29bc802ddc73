"""Which line of a model's own code an error comes from, for messages."""

from __future__ import annotations

import traceback
from pathlib import PurePath

_LIBRARIES = ("torch", "hetcc", "huggingface_hub", "numpy")
_PLUMBING = ("utils", "modeling_utils.py", "configuration_utils.py", "integrations", "cache_utils.py",
             "masking_utils.py", "auto")
"""Parts of transformers that run on behalf of a model's file."""
_DATA_DEPENDENT = ("DataDependentOutputException", "GuardOnDataDependentSymNode", "DynamicOutputShapeException")


def place_of(error: BaseException) -> str:
    """``file:line in function: source text`` of the innermost frame that is a model's own; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = PurePath(frame.filename).parts
        if parts and not any(name in parts for name in (*_LIBRARIES, *_PLUMBING)):
            text = " ".join((frame.line or "").split())
            return f"{parts[-1]}:{frame.lineno} in {frame.name}: {text}".rstrip(": ")
    return ""


def line_of(error: BaseException) -> str:
    """What an error says, on one line; torch's names of its own errors are put in words."""
    if is_data_dependent(error):
        return "the model takes a Python number from a tensor, which only running it can tell"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return f"{type(error).__name__}: {first}" if first and isinstance(error, (KeyError, IndexError)) else (
        first or type(error).__name__)


def is_data_dependent(error: BaseException) -> bool:
    """Whether tracing stopped because control flow or a size depends on what is in a tensor."""
    return type(error).__name__ in _DATA_DEPENDENT


def missing_packages(error: ImportError) -> str:
    """What an import error says on one line, without the advice on restarting that transformers adds."""
    advice = "Please note that you may need to restart your runtime after installation."
    return " ".join(str(error).replace(advice, "").split())
