"""Models from ``.onnx`` files: the program, its sizes and where its weights lie. Nothing here needs torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hetcc.capture.model import CapturedModel, CaptureRequest, Phase, WeightReference, source_file
from hetcc.errors import UserError
from hetcc.ir import DType, Graph, OperatorClass, Role
from hetcc.onnx.caches import named_like_caches
from hetcc.onnx.load import LoadedOnnx, load_graph
from hetcc.onnx.read import read_interface

SIZE_NAMES: tuple[tuple[str, str], ...] = (
    ("batch", r"(?:batch|bsz|b|n)(?:_?size|_?dim)?"),
    ("context", r".*(?:context|cache|past|total|max|kv|history|memory).*"),
    ("tokens", r".*(?:seq|token|query|length|prompt).*|s|t|l"),
)
"""Pattern of the whole name (in lower case) of a symbolic dimension, and what it then is unless ``--set`` says
otherwise: the batch, the entries of the caches, or the tokens of one step. The first that matches counts."""


@dataclass(frozen=True)
class OnnxModel:
    """A model file with all its sizes settled."""

    loaded: LoadedOnnx
    phase: Phase
    request: CaptureRequest
    """The request, with batch, context and element type as the file has them."""
    sizes: Mapping[str, int]


def capture_onnx(request: CaptureRequest) -> CapturedModel:
    """Capture the program of an ``.onnx`` file; its weights come with it.

    Raises:
        UserError: HET-C001 no such file, HET-C002 a setting that is no size of the model, HET-C003 a size that is
            missing or impossible, HET-C005 weights asked for from elsewhere or missing, HET-C007 several phases,
            HET-C008 and HET-C009 as in :func:`hetcc.onnx.load.load_graph`.
    """
    model = load_model(request)
    loaded = model.loaded
    description = {
        "model_class": loaded.path.name,
        "sizes": " ".join(f"{name}={size}" for name, size in model.sizes.items()) or "all fixed in the file",
    }
    references = {name: _reference(loaded, name) for name in loaded.weights if name not in loaded.constants}
    return CapturedModel(model.request, {model.phase.value: loaded.graph}, loaded.constants, references, {},
                         description)


def load_model(request: CaptureRequest) -> OnnxModel:
    """Read the file a request names; errors as in :func:`capture_onnx`."""
    path = source_file(request.model, ".onnx")
    if path is None:
        raise UserError("HET-C001", f"'{request.model}' is no .onnx file", fix="give the path of one")
    if len(request.phases) > 1:
        raise UserError("HET-C007", "an .onnx file holds one program, not "
                        + " and ".join(phase.value for phase in request.phases), where=str(path),
                        fix="give at most one --phase, and compile one bundle per file")
    if request.weights not in ("", "checkpoint"):
        raise UserError("HET-C005", f"the weights of an .onnx file lie in it, not in '{request.weights}'",
                        where=str(path), fix="leave --weights out")
    sizes = sizes_of(path, request)
    loaded = load_graph(path, sizes, name=request.model)
    graph = loaded.graph
    phase = request.phases[0] if request.phases else Phase.DECODE if graph.caches else Phase.ENCODE
    settled = replace(request, batch=_batch_of(graph, request), context=_context_of(graph, request), prompt=0,
                      dtype=_dtype_of(graph, request))
    graph = replace(graph, name=f"{request.model}:{phase.value}")
    return OnnxModel(replace(loaded, graph=graph), phase, settled, sizes)


def sizes_of(path: Path, request: CaptureRequest) -> dict[str, int]:
    """Size of each symbolic dimension: what ``--set`` says, else what :data:`SIZE_NAMES` makes of its name.

    Raises:
        UserError: HET-C002, a setting names no symbolic dimension or is no whole number above 0.
    """
    interface = read_interface(path)
    symbols = interface.symbols
    steps = named_like_caches(interface.inputs, interface.outputs)
    phase = request.phases[0] if request.phases else Phase.DECODE if steps else Phase.ENCODE
    found = {name: size for name in symbols if (size := _default_size(name, phase, request)) is not None}
    for name, text in request.overrides:
        if name not in symbols:
            raise UserError("HET-C002", f"the model has no size '{name}'", where=f"--set {name}={text}",
                            fix=f"its sizes are {', '.join(symbols)}" if symbols else "all its sizes are fixed")
        if not text.isdecimal() or int(text) < 1:
            raise UserError("HET-C002", f"'{text}' is no size", where=f"--set {name}={text}",
                            fix="give a whole number above 0")
        found[name] = int(text)
    return found


def _default_size(name: str, phase: Phase, request: CaptureRequest) -> int | None:
    kind = next((kind for kind, pattern in SIZE_NAMES if re.fullmatch(pattern, name.lower())), None)
    if kind == "tokens":
        return {Phase.DECODE: 1, Phase.PREFILL: request.prompt_tokens, Phase.ENCODE: request.context}[phase]
    return {"batch": request.batch, "context": request.context}.get(kind or "")


def memory_axes(graph: Graph) -> dict[str, int]:
    """Axis of each cache along which entries are written, as far as the program shows it."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        cache = node.operand("data")
        if node.operator_class is OperatorClass.CACHE_UPDATE and cache in graph.caches:
            found.setdefault(cache, node.integer("axis"))
    return found


def _leading(graph: Graph) -> tuple[int, ...]:
    """Shape of the first input that has a batch and a token axis."""
    return next((shape for name in graph.inputs if len(shape := graph.type_of(name).shape) > 1), ())


def _batch_of(graph: Graph, request: CaptureRequest) -> int:
    return _leading(graph)[0] if _leading(graph) else request.batch


def _context_of(graph: Graph, request: CaptureRequest) -> int:
    """Entries of the longest memory; without one, the tokens of a step."""
    extents = [graph.type_of(cache).shape[axis] for cache, axis in memory_axes(graph).items()]
    if extents:
        return max(extents)
    return _leading(graph)[1] if _leading(graph) and not graph.caches else request.context


def _dtype_of(graph: Graph, request: CaptureRequest) -> DType:
    """Element type of most weights."""
    elements: Counter[DType] = Counter()
    for value in graph.values.values():
        if value.role is Role.PARAMETER:
            elements[value.type.dtype] += value.type.elements
    return elements.most_common(1)[0][0] if elements else request.dtype


def _reference(loaded: LoadedOnnx, name: str) -> WeightReference:
    location = loaded.weights[name]
    embedded = location.offset is None
    return WeightReference(str((loaded.path.parent / location.file).resolve()), location.tensor, location.type.shape,
                           location.type.dtype.value, "onnx" if embedded else "raw", location.offset or 0)


__all__ = ["SIZE_NAMES", "OnnxModel", "capture_onnx", "load_model", "memory_axes", "sizes_of"]
