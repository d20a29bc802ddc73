"""What ``hetcc predict`` answers: the plan of a model at each size, its figures with ranges, and how sure it is."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hetcc import planning
from hetcc.capture.short import ShortCapture
from hetcc.copies import in_copies
from hetcc.garbage import uncollected
from hetcc.ir import Stage
from hetcc.options import CompileOptions
from hetcc.passes.estimate import CostTable, DeviceSet
from hetcc.passes.place import finish, load_placer
from hetcc.passes.place.score import bytes_moved, memory_use
from hetcc.passes.robustness import Robustness, robustness
from hetcc.plan.placement import Placement
from hetcc.predict.loads import counted, kept_apart
from hetcc.predict.ranges import Figure, Terms, figure, ratio, terms_of
from hetcc.predict.refusals import refused_clusters, region_programs
from hetcc.predict.sizing import SizedModel, Sizes
from hetcc.predict.whole import WholeModel
from hetcc.sharing import Shared
from hetcc.store import Store

_OUTSIDE = "outside"


@dataclass(frozen=True)
class Prediction:
    """The plan of one size and its figures."""

    batch: int
    context: int
    phase: str
    captured: bool
    """Whether this size was captured itself."""
    placement: Placement
    gpu_only: Placement
    latency_s: Figure
    gpu_only_latency_s: Figure
    speedup: Figure
    memory_speedup: Figure
    """Of memory processing: the tagged stages, and what the placement adds in launches and transfers."""
    memory_share: Figure
    """Of the GPU-only time."""
    energy_j: Figure
    """Above idle power."""
    gpu_only_energy_j: Figure
    energy_ratio: Figure
    """GPU-only energy over the plan's."""
    stages: dict[str, dict[str, float]]
    """By stage: share of its clusters on each device."""
    link_bytes: int
    fits: bool
    robustness: Robustness | None

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds, joules, shares."""
        sure = self.robustness
        return {
            "kind": "predicted", "batch": self.batch, "context": self.context, "phase": self.phase,
            "captured": self.captured, "latency_s": self.latency_s.to_json(),
            "gpu_only_latency_s": self.gpu_only_latency_s.to_json(), "speedup": self.speedup.to_json(),
            "memory_speedup": self.memory_speedup.to_json(), "memory_share": self.memory_share.to_json(),
            "energy_j": self.energy_j.to_json(), "gpu_only_energy_j": self.gpu_only_energy_j.to_json(),
            "energy_ratio": self.energy_ratio.to_json(), "stages": self.stages, "link_bytes": self.link_bytes,
            "regions": dict(Counter(region.device for region in self.placement.regions)), "fits": self.fits,
            "reconfiguration_s": self.placement.reconfiguration.time_s,
            "partition": {"partitioner": self.placement.partitioner, "objective": self.placement.objective,
                          "lower_bound": self.placement.lower_bound, "gap": self.placement.gap},
            "robustness": None if sure is None else {
                "samples": sure.samples, "seed": sure.seed, "stays_optimal": sure.stays_optimal, "low": sure.low,
                "high": sure.high, "parameters": sure.parameters, "proved": sure.proved,
                "flips": [{"number": name, "share_of_ends": share} for name, share in sure.flips]},
        }


def predict_sizes(options: CompileOptions, devices: DeviceSet, batches: Sequence[int], contexts: Sequence[int], *,
                  samples: int, progress: Callable[[str], None]) -> list[Prediction]:
    """A prediction per pair of batch and context, batches outermost.

    Args:
        options: model, devices and placement as for a compile; its own batch and context are not looked at.
        devices: profiles and back ends.
        batches: sequences per step.
        contexts: entries each cache holds.
        samples: draws of the robustness; 0 leaves it out.
        progress: told what is going on.

    Raises:
        UserError: as ``pipeline.compile_model``.
    """
    store = Store(fresh=options.fresh)
    sizes = Sizes(ShortCapture(options.request, progress, store), options.without_rewrites, store)
    with uncollected():
        sizes.cover(batches, contexts)
    # What capturing left in memory does not become garbage any more; looking through it costs more than the prices.
    gc.collect()
    gc.freeze()
    try:
        return _predict_all(sizes, options, devices, (batches, contexts), samples, progress)
    finally:
        gc.unfreeze()


def _predict_all(sizes: Sizes, options: CompileOptions, devices: DeviceSet, ranges: tuple[Sequence[int], Sequence[int]],
                 samples: int, progress: Callable[[str], None]) -> list[Prediction]:
    batches, contexts = ranges
    whole: dict[tuple[str, ...], WholeModel] = {}
    pairs = [(batch, context) for batch in batches for context in contexts]

    def predicted(place: int) -> Prediction:
        model = sizes.at(pairs[place])
        # Names of nodes may hold sizes, so captures of one structure may still differ in them.
        structure = tuple(node.name for node in model.tagged.graph.nodes)
        if structure not in whole:
            whole[structure] = WholeModel(model, devices, options.choice.objective)
        return _predict(model, whole[structure], devices, options, pairs[place], samples)

    found = []
    progress(f"pricing: {len(pairs)} sizes")
    for prediction in in_copies(predicted, len(pairs)):
        found.append(prediction)
        progress(f"priced: batch {prediction.batch}, context {prediction.context}, {len(found)} of {len(pairs)}")
    return found


def _predict(model: SizedModel, whole: WholeModel, devices: DeviceSet, options: CompileOptions, size: tuple[int, int],
             samples: int) -> Prediction:
    placed = _place(model, whole, devices, options)
    table, placement, gpu_only = placed.table, placed.placement, placed.gpu_only
    planning.check_amdahl(table, placement, gpu_only)
    alone = terms_of(table, gpu_only, gpu_only, devices)
    same = (placement.device_of, placement.regions) == (gpu_only.device_of, gpu_only.regions)
    terms = alone if same else terms_of(table, placement, gpu_only, devices)
    use = memory_use(table.problem, placement.device_of)
    fits = all(use[device] <= limit for device, limit in table.problem.capacities_bytes.items())
    sure = robustness(table, placement, devices, samples) if samples and not options.choice.forced else None
    return Prediction(
        *size, model.phase, model.captured, placement, gpu_only,
        latency_s=figure(lambda at: at(terms.time_s), terms.time_s),
        gpu_only_latency_s=figure(lambda at: at(alone.time_s), alone.time_s),
        speedup=figure(lambda at: ratio(at(alone.time_s), at(terms.time_s)), alone.time_s, terms.time_s),
        memory_speedup=_memory_speedup(terms, alone),
        memory_share=figure(lambda at: ratio(at(alone.time_s) - at(alone.rest_s), at(alone.time_s)), alone.time_s,
                            alone.rest_s),
        energy_j=figure(lambda at: at(terms.energy_j), terms.energy_j),
        gpu_only_energy_j=figure(lambda at: at(alone.energy_j), alone.energy_j),
        energy_ratio=figure(lambda at: ratio(at(alone.energy_j), at(terms.energy_j)), alone.energy_j, terms.energy_j),
        stages=_stages(table, placement), link_bytes=bytes_moved(table.problem, placement.device_of), fits=fits,
        robustness=sure)


def _memory_speedup(terms: Terms, alone: Terms) -> Figure:
    return figure(lambda at: ratio(max(at(alone.time_s) - at(alone.rest_s), 0.0),
                                   max(at(terms.time_s) - at(terms.rest_s), 0.0)),
                  alone.time_s, alone.rest_s, terms.time_s, terms.rest_s)


@dataclass(frozen=True)
class _Placed:
    table: CostTable
    placement: Placement
    gpu_only: Placement
    shared: Shared | None
    """How its kernels are packed; absent if there is one at most."""


def _place(model: SizedModel, whole: WholeModel, devices: DeviceSet, options: CompileOptions) -> _Placed:
    """Place, with what kernels cost each other; where that pays, only what shares an xclbin stays, as in a compile."""
    found = _composed(model, whole, whole.table(model), devices, options)
    choice, card = options.choice, devices.profiles["fpga"]
    while found.shared is not None and found.placement.reconfiguration.time_s and not choice.forced and not choice.file:
        apart = kept_apart(model.phase, found.shared, found.table, found.placement, card)
        again = _composed(model, whole, planning.keep_from(found.table, apart), devices, options)
        if not apart or again.placement.objective >= found.placement.objective:
            break
        found = again
    return found


def _composed(model: SizedModel, whole: WholeModel, table: CostTable, devices: DeviceSet,
              options: CompileOptions) -> _Placed:
    """Place; what does not compose into a kernel is kept from its device and placed anew, as a compile does."""
    while True:
        placement = planning.choose_placement(table, options.choice)
        gpu_only = finish(table.problem, load_placer("gpu-only").place(table.problem, table.facts), "gpu-only",
                          placement.lower_bound)
        programs = region_programs(model, whole.expansion, placement)
        refused = refused_clusters(programs, whole.expansion, placement)
        if not refused:
            break
        table = planning.keep_from(table, refused)
    placement, shared = counted(model.phase, programs, whole, table, placement, options.emission,
                                devices.profiles["fpga"])
    return _Placed(table, placement, gpu_only, shared)


def _stages(table: CostTable, placement: Placement) -> dict[str, dict[str, float]]:
    counts: dict[str, Counter[str]] = {}
    for name, device in placement.device_of.items():
        stage = table.estimates[name].group.stage
        counts.setdefault(stage.value if stage else _OUTSIDE, Counter())[device] += 1
    order = [*(stage.value for stage in Stage), _OUTSIDE]
    return {stage: {device: count / sum(counts[stage].values()) for device, count in sorted(counts[stage].items())}
            for stage in order if stage in counts}


__all__ = ["Prediction", "predict_sizes"]
