"""What a finished placement costs. Shares no code with the placers, so that it can convict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hetcc.errors import InternalError
from hetcc.plan.placement import Cost, PlacementProblem, Region


def score(problem: PlacementProblem, device_of: Mapping[str, str], regions: Sequence[Region]) -> Cost:
    """Clusters on their devices, tensors to each further device once, launches, less fusion savings.

    Args:
        problem: prices.
        device_of: device by cluster name, for every cluster.
        regions: every cluster in exactly one, on its device.

    Raises:
        InternalError: the regions do not fit the assignment.
    """
    region_of = _region_of(problem, device_of, regions)
    time_s = energy_j = 0.0
    for cluster in problem.clusters:
        price = cluster.costs[device_of[cluster.name]]
        time_s += price.time_s
        energy_j += price.energy_j
    for region in regions:
        price = problem.launch[region.device]
        time_s += price.time_s
        energy_j += price.energy_j
    for tensor in problem.tensors:
        if not tensor.consumers:
            continue
        source = device_of[tensor.producer]
        places = {region_of[consumer] for consumer in tensor.consumers}
        if places == {region_of[tensor.producer]}:
            if source in tensor.fusion_saving:
                price = tensor.fusion_saving[source]
                time_s -= price.time_s
                energy_j -= price.energy_j
            continue
        for destination in sorted({regions[place].device for place in places}):
            if destination != source:
                price = tensor.transfer[source, destination]
                time_s += price.time_s
                energy_j += price.energy_j
    return Cost(time_s, energy_j)


def bytes_moved(problem: PlacementProblem, device_of: Mapping[str, str]) -> int:
    """Bytes that cross links, each tensor counted once per destination device."""
    total = 0
    for tensor in problem.tensors:
        destinations = {device_of[consumer] for consumer in tensor.consumers}
        total += tensor.size_bytes * len(destinations - {device_of[tensor.producer]})
    return total


def memory_use(problem: PlacementProblem, device_of: Mapping[str, str]) -> dict[str, int]:
    """Bytes of weights and caches that live on each device; every device of the problem is listed."""
    use = dict.fromkeys(problem.devices, 0)
    for cluster in problem.clusters:
        use[device_of[cluster.name]] += cluster.resident_bytes
    return use


def _region_of(
    problem: PlacementProblem, device_of: Mapping[str, str], regions: Sequence[Region],
) -> dict[str, int]:
    region_of: dict[str, int] = {}
    for index, region in enumerate(regions):
        for name in region.clusters:
            if name in region_of or device_of.get(name) != region.device:
                raise InternalError("HET-I001", f"cluster '{name}' is in two regions or not on '{region.device}'",
                                    where=region.name)
            region_of[name] = index
    if len(region_of) != len(problem.clusters):
        raise InternalError("HET-I001", f"{len(problem.clusters) - len(region_of)} clusters are in no region",
                            where=problem.name)
    return region_of
