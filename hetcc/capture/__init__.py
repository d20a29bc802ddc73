"""From a model's name to graphs. The only room, with aten, workloads and the host back end, that knows torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from hetcc.capture.model import CapturedModel, CaptureRequest, Phase, WeightReference, source_file
from hetcc.capture.remembered import CaptureMemory, Remembered
from hetcc.errors import ToolError, UserError
from hetcc.garbage import uncollected
from hetcc.ir import Graph
from hetcc.store import Store

__all__ = ["CaptureRequest", "CapturedModel", "Phase", "WeightReference", "capture"]

Progress = Callable[[str], None]


def _silent(message: str) -> None:
    del message


def capture(request: CaptureRequest, progress: Progress = _silent, store: Store | None = None) -> CapturedModel:
    """Capture every phase ``request`` asks for.

    Args:
        request: the model and its sizes.
        progress: told what is going on.
        store: where graphs of transformers models are kept and looked up; without it they are captured anew.

    Raises:
        UserError: HET-C001 to HET-C009; the text says what to change.
        ToolError: HET-T001, the model's code needs a package that is not installed.
    """
    if source_file(request.model, ".onnx"):
        from hetcc.capture.onnx_door import capture_onnx

        return capture_onnx(request)
    if source_file(request.model, ".pt2") or ".py:" in request.model:
        from hetcc.capture.program import capture_program

        return capture_program(request)
    return _capture_hugging_face(request, progress, store)


def _quiet_transformers() -> None:
    """No network look-ups and no load reports: a plan must not depend on a hub being reachable.

    What torch logs while it traces in vain comes back as an error with its place in the model.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch  # noqa: F401 - sets the levels of its loggers while it is loaded
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _capture_hugging_face(request: CaptureRequest, progress: Progress, store: Store | None) -> CapturedModel:
    memory = CaptureMemory(request, store)
    known = memory.read()
    if known is not None:
        progress("the graphs were captured before and are read from the cache")
        if not request.weights:
            return CapturedModel(request, known.graphs, description=known.description)
    with uncollected():  # loads the libraries and the model's own code
        _quiet_transformers()
        import torch
        import transformers

        from hetcc.capture.source import resolve
        from hetcc.capture.weights import BoundWeights, bind_weights, check_weights

        progress("reading the configuration")
        source = resolve(request)
    check_weights(request, source)
    if known is None:
        phases = request.phases or ((Phase.DECODE,) if source.is_decoder else (Phase.ENCODE,))
        check_phases(source, request)
        known = Remembered(
            {phase.value: capture_phase(source, phase, request, progress) for phase in phases},
            {"model_class": source.model_class.__name__, "torch": torch.__version__,
             "transformers": transformers.__version__})
        memory.write(known.graphs, known.description)
    bound = BoundWeights()
    if request.weights:
        progress("binding weights")
        bound = bind_weights(request, source, known.graphs.values())
    return CapturedModel(request, known.graphs, bound.constants, bound.references, bound.generated, known.description)


def open_model(request: CaptureRequest) -> tuple[Any, Any]:
    """A transformers model by its configuration, and the pattern of its layers (None: it has none)."""
    _quiet_transformers()
    import torch

    from hetcc.capture.layers import find_pattern
    from hetcc.capture.source import resolve

    source = resolve(request)
    check_phases(source, request)
    with torch.device("meta"):
        return source, find_pattern(_build(source, request))


def check_phases(source: Any, request: CaptureRequest) -> None:
    """Refuse phases a model does not have.

    Raises:
        UserError: HET-C007.
    """
    for phase in request.phases:
        if (phase is Phase.ENCODE) == source.is_decoder:
            right = "prefill or decode" if source.is_decoder else "encode"
            raise UserError("HET-C007", f"{source.model_class.__name__} has no phase '{phase.value}'",
                            fix=f"use --phase {right}")


def capture_phase(source: Any, phase: Phase, request: CaptureRequest, progress: Progress) -> Graph:
    """One phase: the shortest prefix of layers if the rest are copies, else everything."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from hetcc.aten.simplify import tidy
    from hetcc.capture.export import export_phase
    from hetcc.capture.layers import find_pattern, instantiate

    with torch.device("meta"):
        pattern = find_pattern(_build(source, request))
    if pattern is not None and pattern.prefix_length() < len(pattern.kinds):
        prefix = capture_prefix(source, pattern, phase, request, progress)
        graph = instantiate(prefix, pattern) if prefix is not None else None
        if graph is not None:
            return graph
    progress(f"capturing {phase.value}: the whole model")
    with FakeTensorMode():
        return tidy(export_phase(_build(source, request), phase, request))


def capture_prefix(source: Any, pattern: Any, phase: Phase, request: CaptureRequest,
                   progress: Progress) -> Graph | None:
    """The model's first layers, one of each kind among them; None if they are other than in the whole model."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from hetcc.aten.simplify import tidy
    from hetcc.capture.export import export_phase
    from hetcc.capture.layers import find_pattern

    length = pattern.prefix_length()
    with FakeTensorMode():
        try:
            model = _build(source.shortened(length), request)
        except (AttributeError, NotImplementedError, UserError):
            return None  # the count follows from other settings, or layers refer to later ones
        captured = find_pattern(model)
        if captured is None or captured.kinds != pattern.kinds[:length]:
            return None
        progress(f"capturing {phase.value}: {length} of {len(pattern.kinds)} layers, the others repeat them")
        return tidy(export_phase(model, phase, request))


def _build(source: Any, request: CaptureRequest) -> Any:
    from hetcc.capture.blame import line_of, missing_packages, place_of
    from hetcc.capture.source import INCOMPLETE_FIX

    name = source.model_class.__name__
    try:
        return source.build_shapes()
    except ImportError as error:
        raise ToolError("HET-T001", f"{name} needs a package that is not installed: {missing_packages(error)}",
                        where=place_of(error), fix="install it; the text-only type of a model family often needs none"
                        ) from error
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError, AttributeError, KeyError, IndexError) as error:
        given = " ".join(f"--set {key}={value}" for key, value in request.overrides)
        fits = "change the settings so that they fit each other" if request.overrides else ""
        lacks = "" if source.directory is not None else INCOMPLETE_FIX
        raise UserError("HET-C002", f"{name} cannot be built: {line_of(error)}",
                        where="; ".join(filter(None, (given, place_of(error)))),
                        fix="; or ".join(filter(None, (fits, lacks)))) from error
