"""The shortest model that stands for all layers of a model: what is needed to price it, at a fraction of its nodes.

Two layers of one kind cost the same when their neighbours are of the same kinds too: nothing but one value passes from
a layer to the next (``layers`` refuses models for which that is not so), so what a layer reads, writes and fuses
depends on itself and on who reads its result. The short model is the shortest prefix of the layers in which every
(kind before, kind, kind after) of the whole model occurs, ends included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hetcc.capture.model import CaptureRequest, Phase, source_file
from hetcc.ir import Graph
from hetcc.workloads import PREFIX, capture_workload

_END = "\0end"
Context = tuple[str, str, str]


@dataclass(frozen=True)
class ShortModel:
    """A graph of few layers and how the layers of the whole model map to them."""

    graph: Graph
    phase: str
    container: str
    """Module path of the list of layers; empty: the graph is whole."""
    layer_of: tuple[int, ...]
    """By layer of the whole model: the layer of ``graph`` that stands for it."""


def contexts(kinds: Sequence[str]) -> list[Context]:
    """Per layer: the kinds before, here and after."""
    padded = [_END, *kinds, _END]
    return [(padded[place - 1], padded[place], padded[place + 1]) for place in range(1, len(padded) - 1)]


def shortest(kinds: Sequence[str]) -> tuple[int, tuple[int, ...]]:
    """Length of the shortest prefix that has every context of the whole, and the stand-in of each layer."""
    wanted = contexts(kinds)
    for length in range(1, len(kinds) + 1):
        here = contexts(kinds[:length])
        if set(wanted) <= set(here):
            return length, tuple(here.index(context) if context != (here[place] if place < length else None) else place
                                 for place, context in enumerate(wanted))
    return len(kinds), tuple(range(len(kinds)))


class ShortCapture:
    """Captures one model at several sizes; configuration and layer kinds are looked up once.

    Raises:
        UserError: as ``capture``.
    """

    def __init__(self, request: CaptureRequest, progress: Callable[[str], None]) -> None:
        self.request = request
        self.progress = progress
        self.count = 0
        """Captures made."""
        self._source: Any = None
        self._pattern: Any = None

    def at(self, batch: int, context: int) -> ShortModel:
        """The short model at a size."""
        request = replace(self.request, batch=batch, context=context)
        self.count += 1
        if request.model.startswith(PREFIX):
            phase, graph = capture_workload(request)
            return ShortModel(graph, phase, "", ())
        if source_file(request.model, ".onnx") or source_file(request.model, ".pt2") or ".py:" in request.model:
            return self._whole(request)
        return self._hugging_face(request)

    def _whole(self, request: CaptureRequest) -> ShortModel:
        from hetcc.capture import capture

        graphs = capture(request, self.progress).graphs
        phase, graph = next(iter(graphs.items()))
        return ShortModel(graph, phase, "", ())

    def _hugging_face(self, request: CaptureRequest) -> ShortModel:
        from hetcc import capture as door
        from hetcc.capture.layers import LayerPattern, instantiate

        if self._source is None:
            self._source, self._pattern = door.open_model(request)
        source, pattern = self._source, self._pattern
        phase = (request.phases or ((Phase.DECODE,) if source.is_decoder else (Phase.ENCODE,)))[0]
        if pattern is not None:
            length, layer_of = shortest(pattern.kinds)
            prefix_length = pattern.prefix_length()
            if length < len(pattern.kinds):
                prefix = door.capture_prefix(source, pattern, phase, request, self.progress)
                graph = prefix and instantiate(prefix, LayerPattern(pattern.container, pattern.kinds[:length]))
                if graph is not None and prefix_length <= length:
                    return ShortModel(graph, phase.value, pattern.container, layer_of)
        return ShortModel(door.capture_phase(source, phase, request, self.progress), phase.value, "", ())
