"""The shortest model that stands for all layers of a model: what is needed to price it, at a fraction of its nodes.

Two layers of one kind cost the same when their neighbours are of the same kinds too: nothing but one value passes from
a layer to the next (``layers`` refuses models for which that is not so), so what a layer reads, writes and fuses
depends on itself and on who reads its result. The short model is the shortest prefix of the layers in which every
(kind before, kind, kind after) of the whole model occurs, ends included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hetcc.capture.model import CaptureRequest, Phase, source_file
from hetcc.capture.remembered import CaptureMemory, surroundings
from hetcc.copies import in_copies, processors
from hetcc.ir import Graph
from hetcc.store import Store
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

    Make it before torch or transformers are imported: only then is anything read from the store or kept there.

    Args:
        request: the model; its own batch and context are not looked at.
        progress: told what is going on.
        store: where short models of transformers are kept and looked up; None: nowhere.

    Raises:
        UserError: as ``capture``.
    """

    def __init__(self, request: CaptureRequest, progress: Callable[[str], None], store: Store | None = None) -> None:
        self.request = request
        self.progress = progress
        self.count = 0
        """Short models asked for, captured or kept."""
        self._store = store
        self._around = surroundings()
        self._ready: dict[tuple[int, int], ShortModel] = {}
        self._coming: Iterator[tuple[CaptureRequest, ShortModel]] = iter(())
        self._source: Any = None
        self._pattern: Any = None

    def at(self, batch: int, context: int) -> ShortModel:
        """The short model at a size."""
        request = replace(self.request, batch=batch, context=context)
        self.count += 1
        if request.model.startswith(PREFIX):
            phase, graph = capture_workload(request)
            return ShortModel(graph, phase, "", ())
        if not self._is_transformers():
            return self._whole(request)
        found = self._prepared(batch, context) or self._kept(request)
        if found is None:
            found = self._hugging_face(request, self.progress)
            self._keep(request, found)
        return found

    def prepare(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Begin to capture sizes that will be asked for, in that order, on all processors.

        Does nothing where that saves nothing, nor in a process that had torch loaded before: it may have threads that
        a copy of it would wait for in vain.
        """
        if not self._is_transformers() or not self._around:
            return
        requests = [replace(self.request, batch=batch, context=context) for batch, context in dict.fromkeys(sizes)]
        missing = []
        for request in requests:
            kept = self._kept(request)
            if kept is None:
                missing.append(request)
            else:
                self._ready[request.batch, request.context] = kept
        if len(missing) < 2 or processors() < 2:
            return
        self._open(missing[0])
        self.progress(f"capturing {len(missing)} sizes, {processors()} at a time")
        captured = in_copies(lambda place: self._hugging_face(missing[place], _silent), len(missing), least=2)
        self._coming = zip(missing, captured, strict=True)

    def _prepared(self, batch: int, context: int) -> ShortModel | None:
        """A model that was prepared, as soon as it is there; those asked for later are captured meanwhile."""
        while (batch, context) not in self._ready and (arrived := next(self._coming, None)) is not None:
            request, model = arrived
            self._keep(request, model)
            self._ready[request.batch, request.context] = model
        return self._ready.pop((batch, context), None)

    def forget(self) -> None:
        """Wait for captures that are under way; what was prepared and not asked for is gone."""
        self._coming = iter(())
        self._ready.clear()

    def _is_transformers(self) -> bool:
        model = self.request.model
        return not (model.startswith(PREFIX) or ".py:" in model or source_file(model, ".onnx")
                    or source_file(model, ".pt2"))

    def _whole(self, request: CaptureRequest) -> ShortModel:
        from hetcc.capture import capture

        graphs = capture(request, self.progress).graphs
        phase, graph = next(iter(graphs.items()))
        return ShortModel(graph, phase, "", ())

    def _memory(self, request: CaptureRequest) -> CaptureMemory:
        return CaptureMemory(request, self._store, "short capture", self._around)

    def _kept(self, request: CaptureRequest) -> ShortModel | None:
        known = self._memory(request).read()
        if known is None:
            return None
        (phase, graph), = known.graphs.items()
        layers = known.description["layer_of"]
        return ShortModel(graph, phase, known.description["container"], tuple(map(int, layers.split())))

    def _keep(self, request: CaptureRequest, model: ShortModel) -> None:
        self._memory(request).write({model.phase: model.graph}, {
            "container": model.container, "layer_of": " ".join(map(str, model.layer_of))})

    def _open(self, request: CaptureRequest) -> None:
        from hetcc import capture as door

        if self._source is None:
            self._source, self._pattern = door.open_model(request)

    def _hugging_face(self, request: CaptureRequest, progress: Callable[[str], None]) -> ShortModel:
        from hetcc import capture as door
        from hetcc.capture.layers import LayerPattern, instantiate

        self._open(request)
        source, pattern = self._source, self._pattern
        phase = (request.phases or ((Phase.DECODE,) if source.is_decoder else (Phase.ENCODE,)))[0]
        if pattern is not None:
            length, layer_of = shortest(pattern.kinds)
            prefix_length = pattern.prefix_length()
            if length < len(pattern.kinds):
                prefix = door.capture_prefix(source, pattern, phase, request, progress)
                graph = prefix and instantiate(prefix, LayerPattern(pattern.container, pattern.kinds[:length]))
                if graph is not None and prefix_length <= length:
                    return ShortModel(graph, phase.value, pattern.container, layer_of)
        return ShortModel(door.capture_phase(source, phase, request, progress), phase.value, "", ())


def _silent(_: str) -> None:
    """Progress of a copy of this process, which has no screen of its own."""
