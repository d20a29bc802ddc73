"""The streaming programs of a plan, found on the short model: equal regions are one program, made or refused as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hetcc.passes.schedule import RegionProgram, build_regions
from hetcc.plan.placement import Cost, Placement, Region
from hetcc.planning import refused_regions
from hetcc.predict.expansion import Expansion
from hetcc.predict.sizing import SizedModel

Key = tuple[str, tuple[str, ...]]
"""Device and the short model's clusters of a region: what regions of the whole model are equal by."""


def key_of(region: Region, expansion: Expansion) -> Key:
    """What a region of the whole model is known by."""
    return region.device, tuple(expansion.short_of[name] for name in region.clusters)


def region_programs(model: SizedModel, expansion: Expansion, placement: Placement) -> dict[Key, RegionProgram]:
    """The program of every different streaming region, as the short model has it; none without such regions."""
    if all(region.device != "fpga" for region in placement.regions):
        return {}
    by_layer: dict[int | None, list[Region]] = {}
    for region in placement.regions:
        by_layer.setdefault(expansion.layer_of_cluster[region.clusters[0]], []).append(region)
    patterns: dict[int | None, dict[tuple[Key, ...], None]] = {}
    for layer, regions in by_layer.items():
        stand_in = expansion.layer_of[layer] if layer is not None and expansion.layer_of else layer
        patterns.setdefault(stand_in, {}).setdefault(tuple(key_of(region, expansion) for region in regions), None)
    found: dict[Key, RegionProgram] = {}
    for turn in range(max(len(distinct) for distinct in patterns.values())):
        chosen = [list(distinct)[min(turn, len(distinct) - 1)] for distinct in patterns.values()]
        found = {**_programs(model, [key for keys in chosen for key in keys]), **found}
    return found


def refused_clusters(programs: Mapping[Key, RegionProgram], expansion: Expansion,
                     placement: Placement) -> list[tuple[str, str, str]]:
    """(cluster of the whole model, device, reason) for clusters of streaming regions that no kernel can be made of.

    Args:
        programs: of ``region_programs``.
        expansion: of the model.
        placement: of the whole model.
    """
    named = {key: replace(program, name=str(place)) for place, (key, program) in enumerate(programs.items())}
    reasons = refused_regions(tuple(named.values()))
    keys = [(key_of(region, expansion), region) for region in placement.regions]
    return [(name, region.device, reasons[named[key].name]) for key, region in keys
            if key in named and named[key].name in reasons for name in region.clusters]


def _programs(model: SizedModel, keys: list[Key]) -> dict[Key, RegionProgram]:
    """The streaming programs of one placement of the short model."""
    regions = tuple(Region(f"r{place:05d}_{device}", device, clusters) for place, (device, clusters) in enumerate(keys))
    device_of = {name: region.device for region in regions for name in region.clusters}
    placement = Placement(MappingProxyType(device_of), regions, Cost(), 0.0, 0.0, "short")
    programs, _ = build_regions(model.tagged.graph, model.clustering, placement)
    key_by_name = {region.name: (region.device, region.clusters) for region in regions}
    return {key_by_name[program.name]: program for program in programs if program.device == "fpga"}
