"""From the clusters of a few layers to those of the whole model: which stands for which, and under which name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hetcc.errors import InternalError
from hetcc.plan.placement import PlacementProblem, Tensor


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
        self.short_layer: Mapping[str, int | None] = {
            cluster.name: self.position_of(cluster.layer) for cluster in problem.clusters}
        """Layer of the short model by its cluster."""
        self.clusters = self._expand_clusters(problem)
        self.tensors = self._expand_tensors(problem)
        self.short_of: Mapping[str, str] = {copy.name: problem.clusters[copy.original].name for copy in self.clusters}
        """The short model's cluster by cluster of the whole model."""
        self.layer_of_cluster: Mapping[str, int | None] = {copy.name: copy.layer for copy in self.clusters}

    def position_of(self, layer: str) -> int | None:
        """Position of a layer, by its path, among the layers that repeat; None for other paths."""
        inside = layer.startswith(self.container + ".") if self.container else False
        return int(layer[len(self.container) + 1:]) if inside else None

    def renamed(self, name: str, short: int, whole: int) -> str:
        """A name inside layer ``short`` as it is inside layer ``whole``; other names as they are."""
        source = f"{self.container}.{short}"
        if name == source or name.startswith((source + ".", source + "/")):
            return f"{self.container}.{whole}{name[len(source):]}"
        return name

    def _name_in(self, cluster: str, whole: int | None) -> str:
        short = self.short_layer[cluster]
        return cluster if short is None or whole is None else self.renamed(cluster, short, whole)

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
            position = self.short_layer[cluster.name]
            members.setdefault(position, []).append(place)
            seen_layer = seen_layer or position is not None
            if position is None:
                nodes = self._in_all_layers(cluster.nodes)
                (tail if seen_layer else head).append(_Copy(cluster.name, place, None, nodes))
        layers = []
        for whole, short in enumerate(self.layer_of):
            for place in members.get(short, ()):
                cluster = problem.clusters[place]
                layers.append(_Copy(self.renamed(cluster.name, short, whole), place, whole,
                                    tuple(self.renamed(name, short, whole) for name in cluster.nodes)))
        return (*head, *layers, *tail)

    def _in_all_layers(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of the whole model; what is inside a layer (a view of an outside value) occurs in every layer."""
        by_layer: dict[int | None, list[str]] = {}
        for name in names:
            by_layer.setdefault(self._layer_of_name(name), []).append(name)
        return (*by_layer.get(None, ()), *(self.renamed(name, short, whole)
                                           for whole, short in enumerate(self.layer_of)
                                           for name in by_layer.get(short, ())))

    def _layer_of_name(self, name: str) -> int | None:
        """The short model's layer a name is inside of."""
        if not name.startswith(self.container + "."):
            return None
        number = name[len(self.container) + 1:].split(".")[0].split("/")[0]
        return int(number) if number.isdigit() else None

    def _expand_tensors(self, problem: PlacementProblem) -> tuple[_Copy, ...]:
        made: dict[str, list[int]] = {}
        for place, tensor in enumerate(problem.tensors):
            made.setdefault(tensor.producer, []).append(place)
        found = []
        for copy in self.clusters:
            producer = problem.clusters[copy.original].name
            short = self.short_layer[producer]
            if copy.layer is None or short is None:
                found += self._from_outside(problem, copy.name, made.get(producer, []))
                continue
            for place in made.get(producer, ()):
                tensor = problem.tensors[place]
                found.append(_Copy(self.renamed(tensor.name, short, copy.layer), place, copy.layer,
                                   (copy.name, *self._consumers(tensor, short, copy.layer))))
        return tuple(found)

    def _from_outside(self, problem: PlacementProblem, producer: str, places: Sequence[int]) -> list[_Copy]:
        """The values of a cluster outside the layers, the largest first; views inside a layer occur in every layer."""
        by_layer: dict[int | None, list[int]] = {}
        for place in places:
            home = self._layer_of_name(problem.tensors[place].name) if self.layer_of else None
            by_layer.setdefault(home, []).append(place)
        found = [_Copy(problem.tensors[place].name, place, None,
                       (producer, *self._consumers(problem.tensors[place], None, None)))
                 for place in by_layer.get(None, ())]
        for whole, short in enumerate(self.layer_of):
            found += [_Copy(self.renamed(problem.tensors[place].name, short, whole), place, whole,
                            (producer, *self._consumers(problem.tensors[place], short, whole)))
                      for place in by_layer.get(short, ())]
        return sorted(found, key=lambda one: -problem.tensors[one.original].size_bytes)

    def _consumers(self, tensor: Tensor, short: int | None, whole: int | None) -> list[str]:
        """Who reads the tensor in the whole model, in program order."""
        if not self.layer_of:
            return list(tensor.consumers)
        last = len(self.layer_of) - 1
        by_layer: dict[int | None, list[str]] = {}
        for name in tensor.consumers:
            by_layer.setdefault(self.short_layer[name], []).append(name)
        outside = by_layer.pop(None, [])
        if short is None or whole is None:
            return [self._name_in(name, position) for position, stand_in in enumerate(self.layer_of)
                    for name in by_layer.get(stand_in, ())] + outside
        if any(position not in (short, short + 1) for position in by_layer if position is not None) \
                or (outside and whole != last):
            raise InternalError("HET-I001", "a layer hands a value past its successor", where=tensor.name)
        return [self._name_in(name, whole) for name in by_layer.get(short, ())] + [
            self._name_in(name, whole + 1) for name in by_layer.get(short + 1, ())] + outside
