"""One model at many sizes from few captures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hetcc import planning
from hetcc.capture.short import ShortCapture
from hetcc.ir import TaggedGraph
from hetcc.ir.proof import Checker, CheckRequest, CheckResult
from hetcc.ir.remembered import remembering
from hetcc.passes.clusters import Clustering, NodeGroup, form_clusters
from hetcc.passes.tag import TagMemoryPipeline
from hetcc.predict.template import Size, Skeleton, Template, fit, fit_by, skeleton_of, tells_apart, with_numbers
from hetcc.store import Store

_PROBES = 3


@dataclass(frozen=True)
class SizedModel:
    """The short model at one size, normalised, tagged and clustered."""

    tagged: TaggedGraph
    clustering: Clustering
    phase: str
    container: str
    layer_of: tuple[int, ...]
    captured: bool
    """Whether this very size was captured; if not, it follows from captures at other sizes."""


@dataclass(frozen=True)
class _Resized:
    """A size that follows; its model is made when it is asked for, which copies of the process do side by side."""

    alike: SizedModel
    numbers: Sequence[int]

    def model(self) -> SizedModel:
        """The model of ``alike`` with other numbers."""
        return _resized(self.alike, self.numbers)


@dataclass(frozen=True)
class _Sample:
    model: SizedModel
    skeleton: Skeleton


class Sizes:
    """The model at every pair of a batch and a context.

    Captures at both ends give a template (``template``), and one more in the middle if they leave a doubt. Where they
    disagree in structure, or a number follows no simple form, the range is halved; where nothing is left to halve, each
    size is captured. A rewrite is checked numerically once per structure, on shrunk sizes as always. A batch
    of one, which tracing treats specially, is set apart: one capture of it is enough when all its numbers occur in the
    template of the larger batches, and no two of those agree there.
    """

    def __init__(self, capture: ShortCapture, without_rewrites: Sequence[str] = (), store: Store | None = None) -> None:
        self.capture = capture
        self.without_rewrites = without_rewrites
        self.store = store
        self._samples: dict[Size, _Sample] = {}
        self._models: dict[Size, SizedModel | _Resized] = {}
        self._verdicts: dict[object, CheckResult] = {}

    def cover(self, batches: Sequence[int], contexts: Sequence[int]) -> None:
        """Prepare all pairs.

        Raises:
            UserError: what capturing raises.
        """
        batches, contexts = sorted(set(batches)), sorted(set(contexts))
        self.capture.prepare(_foreseen(batches, contexts))
        try:
            self._cover(batches, contexts)
        finally:
            self.capture.forget()

    def _cover(self, batches: Sequence[int], contexts: Sequence[int]) -> Template | None:
        """As ``cover``; the template, if one serves all pairs."""
        if len(batches) > 1 and batches[0] == 1:
            template = self._cover(batches[1:], contexts)
            if template is None or not self._cover_ones(contexts, template):
                self._cover((1,), contexts)
            return None
        sizes = list(itertools.product(batches, contexts))
        template = None
        for probes in _probes(batches, contexts):
            skeletons = [self._sample(size).skeleton for size in probes]
            template = fit(list(zip(probes, skeletons, strict=True)))
            if template is not None or len({one.structure for one in skeletons}) > 1:
                break
        if template is not None:
            for size in sizes:
                self._models[size] = self._at(size, template)
        elif len(sizes) <= _PROBES:
            for size in sizes:
                self._models[size] = self._sample(size).model
        else:
            for part in _parts(batches, contexts):
                self._cover(*part)
        return template

    def _cover_ones(self, contexts: Sequence[int], template: Template) -> bool:
        """A batch of one from a single capture, when all its numbers occur in a template of larger batches."""
        probe = (1, contexts[-1])
        ones = fit_by(template.along_contexts(1), probe, self._sample(probe).skeleton)
        if ones is None:
            return False
        for context in contexts:
            self._models[1, context] = self._at((1, context), ones)
        return True

    def at(self, size: Size) -> SizedModel:
        """The model at a size that was covered."""
        found = self._models[size]
        return found.model() if isinstance(found, _Resized) else found

    def _at(self, size: Size, template: Template) -> SizedModel | _Resized:
        if size in self._samples:
            return self._samples[size].model
        numbers, alike = template.numbers_at(size), self._alike(template)
        if numbers is None or min(numbers, default=0) < min(alike.skeleton.numbers, default=0):
            return self._sample(size).model
        return _Resized(alike.model, numbers)

    def _alike(self, template: Template) -> _Sample:
        """A capture of the structure."""
        return next(one for one in self._samples.values() if one.skeleton.structure == template.structure)

    def _sample(self, size: Size) -> _Sample:
        if size not in self._samples:
            short = self.capture.at(*size)
            graph, _ = planning.normalize(short.graph, self._checked_once, self.without_rewrites)
            tagged, _ = planning.observe_selections(TagMemoryPipeline().run(graph))
            model = SizedModel(tagged, form_clusters(tagged), short.phase, short.container, short.layer_of, True)
            self._samples[size] = _Sample(model, skeleton_of(tagged))
        return self._samples[size]

    def _checked_once(self, check: Checker) -> Checker:
        """The check, asked once per structure of the two programs, and not for what the store knows."""
        check = remembering(self.store)(check) if self.store is not None else check

        def remembered(request: CheckRequest) -> CheckResult:
            key = tuple(skeleton_of(TaggedGraph(graph, {})).structure for graph in (request.before, request.after))
            if key not in self._verdicts:
                self._verdicts[key] = check(request)
            return self._verdicts[key]

        return remembered


def _resized(model: SizedModel, numbers: Sequence[int]) -> SizedModel:
    tagged = with_numbers(model.tagged, numbers)
    nodes = tagged.graph.node_by_name
    groups = tuple(NodeGroup(group.name, tuple(nodes[node.name] for node in group.nodes), group.layer, group.stage)
                   for group in model.clustering.groups)
    free = {name: nodes[name] for name in model.clustering.free}
    return SizedModel(tagged, Clustering(groups, free), model.phase, model.container, model.layer_of, False)


def _foreseen(batches: Sequence[int], contexts: Sequence[int]) -> list[Size]:
    """The sizes that are captured in any case."""
    if len(batches) > 1 and batches[0] == 1:
        return [*_foreseen(batches[1:], contexts), (1, contexts[-1])]
    sizes = list(itertools.product(batches, contexts))
    return sizes if len(sizes) <= 2 else [sizes[0], sizes[-1]]


def _probes(batches: Sequence[int], contexts: Sequence[int]) -> Iterator[tuple[Size, ...]]:
    """The smallest and the largest; then also one of the others, nearest to the middle, that tells all forms apart."""
    sizes = list(itertools.product(range(len(batches)), range(len(contexts))))
    if len(sizes) <= 2:
        return
    ends = ((batches[0], contexts[0]), (batches[-1], contexts[-1]))
    yield ends
    middle = ((len(batches) - 1) / 2, (len(contexts) - 1) / 2)
    for place in sorted(sizes, key=lambda at: (abs(at[0] - middle[0]) + abs(at[1] - middle[1]), at)):
        probe = (batches[place[0]], contexts[place[1]])
        if tells_apart((*ends, probe)):
            yield (*ends, probe)
            return


def _parts(batches: Sequence[int], contexts: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
    if len(contexts) > 1:
        half = (len(contexts) + 1) // 2
        return [(batches, contexts[:half]), (batches, contexts[half:])]
    half = (len(batches) + 1) // 2
    return [(batches[:half], contexts), (batches[half:], contexts)]
