"""From the prices of a few layers to the placement problem of the whole model: equal layers have equal prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hetcc.errors import InternalError
from hetcc.passes.contract import ClusterFacts
from hetcc.passes.estimate import CostTable
from hetcc.plan.placement import Cluster, PlacementProblem, Tensor


@dataclass(frozen=True, slots=True)
class _Copy:
    """A cluster or tensor of the whole model and the one of the short model that stands for it."""

    name: str
    original: int
    layer: int | None
    """Position of its layer in the whole model; None outside the layers."""
    names: tuple[str, ...] = ()
    """Nodes of a cluster; the producer and then the consumers of a tensor."""


class Expansion:
    """How a short problem becomes the problem of all layers; found once, used for every size of one structure.

    Args:
        problem: of the short model.
        container: module path of the list of layers.
        layer_of: by layer of the whole model, the layer of the short model that stands for it; empty: it is whole.
    """

    def __init__(self, problem: PlacementProblem, container: str, layer_of: Sequence[int]) -> None:
        self.container = container
        self.layer_of = tuple(layer_of)
        self._layer = {cluster.name: self._position(cluster.layer) for cluster in problem.clusters}
        self.clusters = self._expand_clusters(problem)
        self.tensors = self._expand_tensors(problem)
        self.short_of: Mapping[str, str] = {copy.name: problem.clusters[copy.original].name for copy in self.clusters}
        """The short model's cluster by cluster of the whole model."""
        self.layer_of_cluster: Mapping[str, int | None] = {copy.name: copy.layer for copy in self.clusters}

    def _position(self, layer: str) -> int | None:
        inside = layer.startswith(self.container + ".") if self.container else False
        return int(layer[len(self.container) + 1:]) if inside else None

    def _renamed(self, name: str, short: int, whole: int) -> str:
        source = f"{self.container}.{short}"
        if name == source or name.startswith((source + ".", source + "/")):
            return f"{self.container}.{whole}{name[len(source):]}"
        return name

    def _name_in(self, cluster: str, whole: int | None) -> str:
        short = self._layer[cluster]
        return cluster if short is None or whole is None else self._renamed(cluster, short, whole)

    def _expand_clusters(self, problem: PlacementProblem) -> tuple[_Copy, ...]:
        """Outside clusters keep their side of the layers; layers follow each other in order."""
        if not self.layer_of:
            return tuple(_Copy(cluster.name, place, None, cluster.nodes)
                         for place, cluster in enumerate(problem.clusters))
        members: dict[int | None, list[int]] = {}
        head: list[_Copy] = []
        tail: list[_Copy] = []
        seen_layer = False
        for place, cluster in enumerate(problem.clusters):
            position = self._layer[cluster.name]
            members.setdefault(position, []).append(place)
            seen_layer = seen_layer or position is not None
            if position is None:
                (tail if seen_layer else head).append(_Copy(cluster.name, place, None, cluster.nodes))
        layers = []
        for whole, short in enumerate(self.layer_of):
            for place in members.get(short, ()):
                cluster = problem.clusters[place]
                layers.append(_Copy(self._renamed(cluster.name, short, whole), place, whole,
                                    tuple(self._renamed(name, short, whole) for name in cluster.nodes)))
        return (*head, *layers, *tail)

    def _expand_tensors(self, problem: PlacementProblem) -> tuple[_Copy, ...]:
        made: dict[str, list[int]] = {}
        for place, tensor in enumerate(problem.tensors):
            made.setdefault(tensor.producer, []).append(place)
        found = []
        for copy in self.clusters:
            producer = problem.clusters[copy.original].name
            for place in made.get(producer, ()):
                tensor = problem.tensors[place]
                short = self._layer[producer]
                name = tensor.name if copy.layer is None or short is None else self._renamed(tensor.name, short,
                                                                                              copy.layer)
                found.append(_Copy(name, place, copy.layer,
                                   (copy.name, *self._consumers(tensor, short, copy.layer))))
        return tuple(found)

    def _consumers(self, tensor: Tensor, short: int | None, whole: int | None) -> list[str]:
        """Who reads the tensor in the whole model, in program order."""
        if not self.layer_of:
            return list(tensor.consumers)
        last = len(self.layer_of) - 1
        by_layer: dict[int | None, list[str]] = {}
        for name in tensor.consumers:
            by_layer.setdefault(self._layer[name], []).append(name)
        outside = by_layer.pop(None, [])
        if short is None or whole is None:
            return [self._name_in(name, position) for position, stand_in in enumerate(self.layer_of)
                    for name in by_layer.get(stand_in, ())] + outside
        if any(position not in (short, short + 1) for position in by_layer if position is not None) \
                or (outside and whole != last):
            raise InternalError("HET-I001", "a layer hands a value past its successor", where=tensor.name)
        return [self._name_in(name, whole) for name in by_layer.get(short, ())] + [
            self._name_in(name, whole + 1) for name in by_layer.get(short + 1, ())] + outside

    def table(self, short: CostTable) -> CostTable:
        """The priced problem of the whole model."""
        if not self.layer_of:
            return short
        own = short.problem
        clusters = tuple(
            Cluster(copy.name, copy.names, own.clusters[copy.original].costs,
                    own.clusters[copy.original].layer if copy.layer is None else f"{self.container}.{copy.layer}",
                    own.clusters[copy.original].resident_bytes) for copy in self.clusters)
        tensors = tuple(
            replace(own.tensors[copy.original], name=copy.name, producer=copy.names[0], consumers=copy.names[1:])
            for copy in self.tensors)
        problem = replace(own, clusters=clusters, tensors=tensors)
        estimates = {copy.name: short.estimates[own.clusters[copy.original].name] for copy in self.clusters}
        stages = {copy.name: stage for copy in self.clusters
                  if (stage := short.facts.stage.get(own.clusters[copy.original].name)) is not None}
        intensity = {copy.name: estimates[copy.name].work.intensity for copy in self.clusters}
        return CostTable(estimates, problem, ClusterFacts(stages, intensity))
