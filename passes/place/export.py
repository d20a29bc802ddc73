"""A placement problem, and a placement if there is one, as a graph that people and other tools can open."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetcc.plan.placement import PlacementProblem
from hetcc.units import format_bytes, format_time

if TYPE_CHECKING:
    import networkx

_COLOURS = ("lightblue", "orange", "lightgrey", "palegreen", "plum", "khaki")


def problem_to_networkx(problem: PlacementProblem, device_of: Mapping[str, str] | None = None) -> networkx.MultiDiGraph:
    """A node per cluster and an edge per tensor and consumer.

    Args:
        problem: what is drawn.
        device_of: device by cluster name; absent: nothing is placed yet.

    Returns:
        nodes with ``layer``, ``resident_bytes``, ``device`` (empty if not placed) and ``time_s_<device>`` for every
        device that is allowed; edges with ``tensor``, ``size_bytes`` and ``crosses``.
    """
    import networkx

    placed = device_of or {}
    graph = networkx.MultiDiGraph(name=problem.name)
    for cluster in problem.clusters:
        times = {f"time_s_{device}": cost.time_s for device, cost in cluster.costs.items()}
        graph.add_node(cluster.name, layer=cluster.layer, resident_bytes=cluster.resident_bytes,
                       device=placed.get(cluster.name, ""), **times)
    for tensor in problem.tensors:
        for consumer in tensor.consumers:
            crosses = bool(placed) and placed[tensor.producer] != placed[consumer]
            graph.add_edge(tensor.producer, consumer, key=tensor.name, tensor=tensor.name,
                           size_bytes=tensor.size_bytes, crosses=crosses)
    return graph


def problem_to_graphml(problem: PlacementProblem, device_of: Mapping[str, str] | None = None) -> str:
    """GraphML text of ``problem_to_networkx``."""
    import networkx

    buffer = io.BytesIO()
    networkx.write_graphml(problem_to_networkx(problem, device_of), buffer)
    return buffer.getvalue().decode("utf-8") + "\n"


def problem_to_dot(problem: PlacementProblem, device_of: Mapping[str, str] | None = None) -> str:
    """DOT text: a box per cluster with its prices, coloured by device; edges that cross devices are bold and red."""
    placed = device_of or {}
    colour = {device: _COLOURS[index % len(_COLOURS)] for index, device in enumerate(problem.devices)}
    lines = [f"digraph {_quoted(problem.name)} {{", "  node [shape=box, style=filled, fillcolor=white];"]
    for cluster in problem.clusters:
        prices = [f"{device} {format_time(cost.time_s)}" for device, cost in cluster.costs.items()]
        fill = f", fillcolor={colour[placed[cluster.name]]}" if cluster.name in placed else ""
        lines.append(f"  {_quoted(cluster.name)} [label={_quoted(cluster.name, *prices)}{fill}];")
    for tensor in problem.tensors:
        for consumer in tensor.consumers:
            crosses = placed.get(tensor.producer) != placed.get(consumer)
            style = ", color=red, penwidth=2" if crosses else ""
            lines.append(f"  {_quoted(tensor.producer)} -> {_quoted(consumer)} "
                         f"[label={_quoted(format_bytes(tensor.size_bytes))}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(*parts: str) -> str:
    r"""A DOT string of several lines: the parts with ``"`` and ``\`` escaped, joined by ``\n``."""
    escaped = (part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for part in parts)
    return '"' + "\\n".join(escaped) + '"'
