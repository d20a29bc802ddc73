"""Which regions of a plan do not compose into a kernel, asked of the short model: equal regions have one answer."""

from __future__ import annotations

from types import MappingProxyType

from hetcc.passes.schedule import build_regions
from hetcc.plan.placement import Cost, Placement, Region
from hetcc.planning import refused_regions
from hetcc.predict.expansion import Expansion
from hetcc.predict.sizing import SizedModel


def refused_clusters(model: SizedModel, expansion: Expansion, placement: Placement) -> list[tuple[str, str, str]]:
    """(cluster of the whole model, device, reason) for clusters of streaming regions that no kernel can be made of."""
    if all(region.device != "fpga" for region in placement.regions):
        return []
    by_layer: dict[int | None, list[Region]] = {}
    for region in placement.regions:
        by_layer.setdefault(expansion.layer_of_cluster[region.clusters[0]], []).append(region)
    patterns: dict[int | None, dict[tuple[tuple[str, tuple[str, ...]], ...], list[Region]]] = {}
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for layer, regions in by_layer.items():
        short = [(region.device, tuple(expansion.short_of[name] for name in region.clusters)) for region in regions]
        for key, region in zip(short, regions, strict=True):
            alike.setdefault(key, []).extend(region.clusters)
        stand_in = expansion.layer_of[layer] if layer is not None and expansion.layer_of else layer
        patterns.setdefault(stand_in, {}).setdefault(tuple(short), regions)
    found = []
    for turn in range(max(len(distinct) for distinct in patterns.values())):
        chosen = [list(distinct)[min(turn, len(distinct) - 1)] for distinct in patterns.values()]
        for device, clusters, reason in _refused(model, [key for keys in chosen for key in keys]):
            found += [(name, device, reason) for name in alike.pop((device, clusters), [])]
    return found


def _refused(model: SizedModel, keys: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...], str]]:
    """(device, clusters, reason) of the regions of one placement of the short model that are refused."""
    regions = tuple(Region(f"r{place:05d}_{device}", device, clusters) for place, (device, clusters) in enumerate(keys))
    device_of = {name: region.device for region in regions for name in region.clusters}
    placement = Placement(MappingProxyType(device_of), regions, Cost(), 0.0, 0.0, "short")
    programs, _ = build_regions(model.tagged.graph, model.clustering, placement)
    reasons = refused_regions(programs)
    return [(region.device, region.clusters, reasons[region.name]) for region in regions if region.name in reasons]
