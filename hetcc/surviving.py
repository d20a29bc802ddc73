"""What a plan says of losing devices: which caches outlive them, what goes on in their place, and at which price."""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.cost_model.transfer import transfer_time_s
from hetcc.options import CompileOptions
from hetcc.passes.shadows import SECOND, stand_in_name
from hetcc.plan.plan import CacheSpec, PhasePlan, SurvivalSpec, TransferStep


def surviving(phase: PhasePlan, stand_ins: Mapping[str, PhasePlan], options: CompileOptions) -> PhasePlan:
    """The phase with the policy of each cache, and what goes on when a device that holds some of them is lost.

    Args:
        phase: as planned.
        stand_ins: plans that need one device less, by name.
        options: of the compile.
    """
    named = {device: stand_in_name(phase.phase, device) for device in sorted({one.device for one in phase.regions})}
    variants = {device: stand_ins[name] for device, name in named.items() if name in stand_ins}
    shadowed = options.choice.caches == "shadowed"
    kept = {"policy": options.choice.caches, "shadow": SECOND if shadowed else ""}
    caches = tuple(cache.model_copy(update=kept) if cache.device in variants else cache for cache in phase.caches)
    return phase.model_copy(update={"caches": caches, "survival": tuple(
        SurvivalSpec(device=device, variant=variant.phase, shadow_time_s=_sent_s(phase, device),
                     recovery_time_s=_recovery_time_s(
                         phase, tuple(cache for cache in caches if cache.device == device), variant, options))
        for device, variant in variants.items())})


def _sent_s(phase: PhasePlan, device: str) -> float:
    """Predicted time of the second copies of what a device holds."""
    return sum(step.predicted_time_s for step in phase.steps
               if isinstance(step, TransferStep) and step.shadow and step.source == device)


def _recovery_time_s(phase: PhasePlan, caches: tuple[CacheSpec, ...], variant: PhasePlan,
                     options: CompileOptions) -> float:
    """Predicted, with full caches: second copies to where the variant has them, or every step again; then the step."""
    step_s = variant.prediction.latency_s
    if options.choice.caches == "recomputable":
        return step_s * (phase.context // max(phase.tokens, 1))
    home = {cache.name: cache.device for cache in variant.caches}
    sizes = {buffer.value: buffer.size_bytes for buffer in phase.buffers if buffer.residency == "cache"}
    return step_s + sum(transfer_time_s(SECOND, home[cache.name], sizes[cache.name], options.links)
                        for cache in caches if cache.shadow and home[cache.name] != SECOND)


__all__ = ["surviving"]
