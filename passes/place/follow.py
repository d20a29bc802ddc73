"""What goes along with clusters that were put on a device by rule or by hand."""

from __future__ import annotations

from collections.abc import Collection

from hetcc.plan.placement import PlacementProblem


def with_followers(
    problem: PlacementProblem, chosen: Collection[str], device: str, elsewhere: Collection[str] = (),
) -> set[str]:
    """``chosen`` and every cluster that only they read and that ``device`` takes.

    That is how a memory follows those who scan it: a cache lives where it is updated, and moving it costs all its
    bytes. What was put ``elsewhere`` by name stays there, and so does what is read only for its sake.
    """
    found = set(chosen)
    readers: dict[str, set[str]] = {}
    for tensor in problem.tensors:
        readers.setdefault(tensor.producer, set()).update(tensor.consumers)
    for cluster in reversed(problem.clusters):
        used_by = readers.get(cluster.name, set())
        if cluster.name not in elsewhere and device in cluster.costs and used_by and used_by <= found:
            found.add(cluster.name)
    return found
