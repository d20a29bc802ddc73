"""Repeated layers are captured once and instantiated, because torch.export grows faster than linearly.

The model is first looked at with all its layers (built on the meta device, which costs nothing): layers with equal
structure and equal per-layer settings are of one *kind*. Only a prefix of the layers, long enough to hold a
representative of each kind that has a predecessor, is then exported; the remaining layers are copies of their kind's
representative with module paths, weights and caches renamed. Whenever the captured prefix does not have the shape this
needs, the whole model is exported instead.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hetcc.capture.source import counts_layers
from hetcc.ir import CacheUpdate, Graph, Node, Provenance, Role, Value, live_nodes


@dataclass(frozen=True)
class LayerPattern:
    """The sequence of layer kinds of a model."""

    container: str
    """Module path of the list of layers, such as ``model.layers``."""
    kinds: tuple[str, ...]
    """Kind of each layer; equal strings mean interchangeable structure."""

    def prefix_length(self) -> int:
        """Layers to capture: the shortest prefix in which each kind used after the first layer occurs after it."""
        needed = set(self.kinds[1:])
        for length in range(1, len(self.kinds) + 1):
            if needed <= set(self.kinds[1:length]):
                return length
        return len(self.kinds)


def find_pattern(model: Any) -> LayerPattern | None:
    """The layer pattern of a transformers model, or None when it has no single list of hidden layers."""
    import torch

    config = counts_layers(model.config)
    count = getattr(config, "num_hidden_layers", None)
    lists = [(name, module) for name, module in model.named_modules()
             if isinstance(module, torch.nn.ModuleList) and len(module) == count]
    if not isinstance(count, int) or not lists:
        return None
    container, layers = min(lists, key=lambda pair: pair[0].count("."))
    per_layer = [value for value in config.to_dict().values() if isinstance(value, list) and len(value) == count]
    kinds = tuple(_fingerprint(layer, [settings[position] for settings in per_layer])
                  for position, layer in enumerate(layers))
    return LayerPattern(container, kinds)


def _fingerprint(layer: Any, settings: Sequence[Any]) -> str:
    """Structure of a layer: classes, plain settings but for its own position, and tensor shapes."""
    parts = [repr(settings)]
    for path, module in layer.named_modules():
        plain = sorted((key, value) for key, value in vars(module).items()
                       if isinstance(value, (bool, int, float, str)) and not key.startswith("_") and key != "layer_idx")
        parts.append(f"{path}:{type(module).__name__}:{plain}")
        tensors = {**module._parameters, **module._buffers}
        parts.extend(f"{key}:{tuple(value.shape)}:{value.dtype}" for key, value in tensors.items() if value is not None)
    return "|".join(parts)


@dataclass(frozen=True)
class _Template:
    """One captured layer, ready to be copied."""

    path: str
    nodes: tuple[Node, ...]
    carried_in: tuple[str, ...]
    """Values of the preceding layer (or of the prologue, for the first) it reads, in order of first use."""
    carried_out: tuple[str, ...]
    """Its values read by what follows it."""


def instantiate(prefix: Graph, pattern: LayerPattern) -> Graph | None:
    """The whole model's Graph from the Graph of its first layers, or None when the prefix cannot be continued."""
    length = pattern.prefix_length()
    total = len(pattern.kinds)
    if length >= total:
        return prefix
    sections = _split_sections(prefix, pattern.container, length)
    if sections is None:
        return None
    prologue, layers, epilogue = sections
    templates = _templates(prefix, pattern.container, layers, epilogue)
    if templates is None:
        return None
    representative = {pattern.kinds[position]: templates[position] for position in range(length - 1, 0, -1)}
    copies = _Copies(prefix, pattern.container)
    nodes = [*prologue, *(node for layer in layers for node in layer)]
    carried = templates[-1].carried_out
    for position in range(length, total):
        template = representative[pattern.kinds[position]]
        copied, carried = copies.copy(template, position, carried)
        nodes.extend(copied)
    renames = dict(zip(templates[-1].carried_out, carried, strict=True))
    nodes.extend(replace(node, inputs=tuple(renames.get(name, name) for name in node.inputs)) for node in epilogue)
    return copies.assemble(nodes, renames)


def _split_sections(
    graph: Graph, container: str, length: int,
) -> tuple[list[Node], list[list[Node]], list[Node]] | None:
    """(prologue, layers, epilogue); None when nodes outside the layers sit between two of them.

    Nodes that need no layer and that no layer needs (views of the weights of the head) stay on the side of the layers
    where they were captured.
    """
    layers: list[list[Node]] = [[] for _ in range(length)]
    prologue: list[Node] = []
    epilogue: list[Node] = []
    from_layers: set[str] = set()
    from_epilogue: set[str] = set()
    pattern = re.compile(re.escape(container) + r"\.(\d+)(?:\.|$)")
    for node in graph.nodes:
        match = pattern.match(node.provenance.module_path)
        if match:
            if from_epilogue.intersection(node.inputs):
                return None
            layers[int(match[1])].append(node)
            from_layers.update(node.outputs)
        elif from_layers.intersection(node.inputs) or from_epilogue.intersection(node.inputs):
            epilogue.append(node)
            from_epilogue.update(node.outputs)
        else:
            prologue.append(node)
    if not all(layers):
        return None
    early = {node.name for node in live_nodes(prologue, (name for layer in layers for node in layer
                                                         for name in node.inputs))}
    early.update(node.name for node in itertools.takewhile(lambda node: node is not layers[0][0], graph.nodes))
    late = {node.name for node in prologue if node.name not in early} | {node.name for node in epilogue}
    return ([node for node in prologue if node.name in early], layers,
            [node for node in graph.nodes if node.name in late])


def _templates(
    graph: Graph, container: str, layers: list[list[Node]], epilogue: list[Node],
) -> list[_Template] | None:
    """A template per captured layer; None when layers hand over anything but the same values to their successor."""
    home = {value: position for position, layer in enumerate(layers) for node in layer for value in node.outputs}
    followers = [*layers[1:], epilogue]
    templates: list[_Template] = []
    for position, (layer, following) in enumerate(zip(layers, followers, strict=True)):
        carried_in = tuple(dict.fromkeys(value for node in layer for value in node.inputs
                                         if value in home and home[value] != position))
        if any(home[value] != position - 1 for value in carried_in):
            return None
        carried_out = tuple(dict.fromkeys(value for node in following for value in node.inputs
                                          if home.get(value) == position))
        templates.append(_Template(f"{container}.{position}", tuple(layer), carried_in, carried_out))
    last_only = {value for node in epilogue for value in node.inputs if value in home}
    if any(home[value] != len(layers) - 1 for value in last_only):
        return None
    shapes = {tuple(str(graph.type_of(value)) for value in template.carried_out) for template in templates}
    same_length = {len(template.carried_in) for template in templates[1:]} == {len(templates[0].carried_out)}
    unambiguous = len(templates[0].carried_out) == 1
    return templates if len(shapes) == 1 and same_length and unambiguous else None


class _Copies:
    """Copies templates and collects the values, caches and updates the copies bring along."""

    def __init__(self, prefix: Graph, container: str) -> None:
        self.prefix = prefix
        self.container = container
        self.values: dict[str, Value] = dict(prefix.values)
        self.caches = list(prefix.caches)
        self.updates = list(prefix.updates)

    def copy(self, template: _Template, position: int, carried: tuple[str, ...]) -> tuple[list[Node], tuple[str, ...]]:
        """Nodes of one more layer and what it hands on."""
        old = int(template.path.rsplit(".", 1)[1])
        source, target = f"{template.path}", f"{self.container}.{position}"
        old_cache, new_cache = f"cache.layers.{old}.", f"cache.layers.{position}."
        carried_names = dict(zip(template.carried_in, carried, strict=True))

        def renamed(name: str) -> str:
            if name in carried_names:
                return carried_names[name]
            value = self.prefix.values.get(name)
            if name == source or name.startswith((source + ".", source + "/")):
                return target + name[len(source):]
            if value is not None and value.role is Role.CACHE and name.startswith(old_cache):
                return new_cache + name[len(old_cache):]
            return name

        copies = []
        for node in template.nodes:
            copies.append(replace(
                node, name=renamed(node.name), inputs=tuple(map(renamed, node.inputs)),
                outputs=tuple(map(renamed, node.outputs)), provenance=_moved(node.provenance, source, target)))
            for name in (*node.inputs, *node.outputs):
                if renamed(name) not in self.values:
                    self.values[renamed(name)] = replace(self.prefix.values[name], name=renamed(name))
        self.caches.extend(renamed(name) for name in self.prefix.caches if name.startswith(old_cache))
        for name in self.prefix.caches:
            if name.startswith(old_cache):
                self.values[renamed(name)] = replace(self.prefix.values[name], name=renamed(name))
        self.updates.extend(CacheUpdate(renamed(update.cache), renamed(update.value)) for update in self.prefix.updates
                            if update.cache.startswith(old_cache))
        return copies, tuple(map(renamed, template.carried_out))

    def assemble(self, nodes: list[Node], renames: Mapping[str, str]) -> Graph:
        """The finished Graph."""
        prefix = self.prefix
        outputs = tuple(renames.get(name, name) for name in prefix.outputs)
        kept = live_nodes(nodes, (*outputs, *(update.value for update in self.updates)))
        used = {*prefix.inputs, *self.caches, *outputs,
                *(name for node in kept for name in (*node.inputs, *node.outputs))}
        values = {name: value for name, value in self.values.items() if name in used}
        return Graph(prefix.name, kept, values, prefix.inputs, outputs, tuple(self.caches), tuple(self.updates))


def _moved(provenance: Provenance, source: str, target: str) -> Provenance:
    return replace(provenance, module_path=target + provenance.module_path[len(source):])
